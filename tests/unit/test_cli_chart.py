"""Charts, compared with what they should look like."""

from datetime import date, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from pg_analytics.cli.chart import draw


def drawn(rows: list[dict[str, Any]], *, window: str = "day", width: int = 40, encoding: str = "utf-8") -> list[str]:
    class File(StringIO):
        @property
        def encoding(self) -> str:  # type: ignore[override]
            return encoding

    console = Console(file=File(), width=width, color_system=None)
    return [line.rstrip() for line in draw(rows, window=window, console=console).plain.splitlines()]


def per_day(*counts: int, first: date = date(2026, 1, 30)) -> list[dict[str, Any]]:
    return [
        {"bucket_date": str(first + timedelta(days=number)), "event_count": count}
        for number, count in enumerate(counts)
        if count
    ]


def test_a_series_is_drawn_as_columns_over_its_dates() -> None:
    assert drawn(per_day(8, 4, 1, 6)) == [
        "event_count  1 to 8 per day, 19 in all",
        "███",
        "███         ▄▄▄",
        "███         ███",
        "███ ███     ███",
        "███ ███     ███",
        "███ ███ ▆▆▆ ███",
        "2026-01-30 2026-02-02",
    ]


def test_a_bucket_without_rows_is_a_gap() -> None:
    assert drawn(per_day(2, 0, 0, 1))[1:7:5] == ["███", "███         ███"]


def test_weeks_stand_beside_each_other() -> None:
    rows = [{"bucket_date": "2026-01-05", "event_count": 1}, {"bucket_date": "2026-01-12", "event_count": 1}]

    assert drawn(rows, window="week")[-2:] == ["███ ███", "2026-01-05 2026-01-12"]


def test_series_share_one_scale_and_the_largest_comes_first() -> None:
    rows = [
        {"bucket_date": "2026-01-05", "source": "adyen", "event_count": 1},
        {"bucket_date": "2026-01-05", "source": "stripe", "event_count": 4},
    ]

    lines = drawn(rows)

    assert lines[0] == "stripe  4 to 4 per day, 4 in all"
    assert lines[1:7] == ["███"] * 6
    assert lines[7] == "adyen  1 to 1 per day, 1 in all"
    assert lines[8:14] == ["", "", "", "", "▄▄▄", "███"]
    assert lines[14] == "2026-01-05"


def test_more_days_than_columns_become_means() -> None:
    lines = drawn(per_day(*[2, 4] * 60), width=60)

    assert lines[1:7] == ["█" * 60] * 6
    assert max(map(len, lines)) <= 60


def test_many_series_stay_on_one_screen() -> None:
    rows = [{"bucket_date": "2026-01-05", "source": f"s{n}", "event_count": n + 1} for n in range(30)]

    lines = drawn(rows)

    assert len(lines) <= 24
    assert lines[-1] == "and 22 more"


def test_other_rows_are_drawn_as_bars() -> None:
    rows = [
        {"status": "success", "event_count": 1000},
        {"status": "failed", "event_count": 500},
        {"status": "pending", "event_count": 1},
    ]

    assert drawn(rows, width=30) == [
        "success ████████████████ 1,000",
        "failed  ████████ 500",
        "pending ▏ 1",
    ]


def test_long_and_wide_labels_keep_the_bars_in_line() -> None:
    rows = [
        {"entity_id": "x" * 200, "event_count": 2},
        {"entity_id": "日本語", "event_count": 2},
        {"entity_id": "\x1b[31m", "event_count": 2},
    ]

    lines = drawn(rows, width=50)

    assert lines[0].startswith("x" * 21 + "... █")
    assert lines[1].startswith("日本語" + " " * 19 + "█")
    assert lines[2].startswith(r"\x1b[31m" + " " * 17 + "█")


def test_only_the_first_bars_are_drawn() -> None:
    rows = [{"entity_id": f"e{n:03}", "event_count": 1000 - n} for n in range(100)]

    lines = drawn(rows)

    assert len(lines) == 21
    assert lines[-1] == "and 80 more"


@pytest.mark.parametrize("rows", [per_day(3, 1), [{"status": "failed", "event_count": 3}]])
def test_plain_characters_where_there_are_no_others(rows: list[dict[str, Any]]) -> None:
    assert "#" in "".join(drawn(rows, encoding="ascii"))
    assert "\n".join(drawn(rows, encoding="ascii")).isascii()


def test_nothing_but_zeros_is_drawn_as_nothing() -> None:
    assert drawn([{"status": "failed", "event_count": 0}]) == ["failed  0"]
