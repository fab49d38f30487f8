"""Properties of calendar arithmetic, over every day that can be asked for."""

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pg_analytics.windows import FIRST_DAY, LAST_DAY, DayRange, Window, month_of, parse_day

DAY = timedelta(days=1)

days = st.dates(FIRST_DAY, LAST_DAY)
windows = st.sampled_from(Window)


@st.composite
def ranges(draw: st.DrawFn, *, longest: int = 1000) -> DayRange:
    """Ranges of at least one day, both ends within what can be asked for."""
    first = draw(days)
    length = draw(st.integers(0, min(longest, (LAST_DAY - first).days)))
    return DayRange.inclusive(first, first + timedelta(days=length))


@given(windows, days)
@example(Window.WEEK, FIRST_DAY)
@example(Window.WEEK, LAST_DAY)
def test_a_day_lies_in_exactly_its_bucket(window: Window, day: date) -> None:
    start = window.bucket_start(day)

    assert start <= day < start + timedelta(days=window.days)
    assert window.bucket_start(start) == start


@given(days)
def test_a_week_starts_on_the_monday_of_its_iso_week(day: date) -> None:
    start = Window.WEEK.bucket_start(day)

    assert start.isocalendar()[:2] == day.isocalendar()[:2]
    assert start.isoweekday() == 1


@given(days)
def test_a_day_is_its_own_bucket(day: date) -> None:
    assert Window.DAY.bucket_start(day) == day


@given(ranges())
def test_an_inclusive_range_holds_both_its_ends_and_ends_a_day_later(asked: DayRange) -> None:
    assert DayRange.inclusive(asked.start, asked.last) == asked
    assert asked.end - asked.last == DAY


@given(ranges())
@example(DayRange.inclusive(LAST_DAY, LAST_DAY))
def test_the_days_of_a_range_ascend_without_a_gap(asked: DayRange) -> None:
    listed = list(asked)

    assert len(listed) == asked.day_count
    assert (listed[0], listed[-1]) == (asked.start, asked.last)
    assert all(later - earlier == DAY for earlier, later in pairwise(listed))


@given(days)
def test_an_empty_range_has_no_days(day: date) -> None:
    empty = DayRange(day, day)

    assert empty.day_count == 0
    assert list(empty) == []


@given(days, days)
def test_a_range_does_not_end_before_it_starts(one: date, other: date) -> None:
    assume(one != other)

    with pytest.raises(ValueError, match="before it starts"):
        DayRange(max(one, other), min(one, other))


@given(ranges(), windows)
@example(DayRange.inclusive(LAST_DAY, LAST_DAY), Window.WEEK)
@example(DayRange.inclusive(FIRST_DAY, FIRST_DAY), Window.WEEK)
def test_whole_buckets_are_exactly_those_that_the_range_touches(asked: DayRange, window: Window) -> None:
    whole = asked.whole_buckets(window)

    assert {window.bucket_start(day) for day in whole} == {window.bucket_start(day) for day in asked}
    assert whole.start == window.bucket_start(whole.start)
    assert whole.day_count == whole.bucket_count(window) * window.days


@given(ranges(), windows)
def test_a_bucket_that_is_there_in_part_counts(asked: DayRange, window: Window) -> None:
    whole = asked.whole_buckets(window)

    parts = [DayRange(whole.start, whole.end - timedelta(days=number)) for number in range(window.days)]
    assert {part.bucket_count(window) for part in parts} == {whole.bucket_count(window)}


@given(ranges(), windows)
def test_widening_twice_is_widening_once(asked: DayRange, window: Window) -> None:
    whole = asked.whole_buckets(window)

    assert whole.whole_buckets(window) == whole


@given(ranges(), windows)
def test_widening_adds_less_than_a_bucket_at_either_end(asked: DayRange, window: Window) -> None:
    whole = asked.whole_buckets(window)

    assert timedelta(0) <= asked.start - whole.start < timedelta(days=window.days)
    assert timedelta(0) <= whole.end - asked.end < timedelta(days=window.days)


@given(ranges())
def test_whole_days_are_the_days_themselves(asked: DayRange) -> None:
    assert asked.whole_buckets(Window.DAY) == asked


@given(ranges(), st.integers(1, 2000))
def test_the_newest_days_are_a_range_at_the_end(asked: DayRange, count: int) -> None:
    newest = asked.newest(count)

    assert newest.end == asked.end
    assert newest.start >= asked.start
    assert newest.day_count == min(count, asked.day_count)


@given(ranges(), windows, st.integers(1, 60))
def test_taking_the_newest_days_again_and_again_covers_every_day_once(
    asked: DayRange, window: Window, chunk_buckets: int
) -> None:
    remaining = asked.whole_buckets(window)
    expected, taken = list(remaining), []
    while remaining.day_count:
        chunk = remaining.newest(chunk_buckets * window.days)
        assert chunk.start == window.bucket_start(chunk.start), "a chunk splits no bucket"
        taken.append(chunk)
        remaining = DayRange(remaining.start, chunk.start)

    assert [day for chunk in reversed(taken) for day in chunk] == expected


@given(days)
def test_a_day_is_read_as_it_is_written(day: date) -> None:
    assert parse_day(day.isoformat()) == day


@given(st.text())
@example("2024-02-30")
@example("2023-02-29")
@example("9999-12-27")
@example("0000-01-01")
@example("2024-W01-1")
@example("20240101")
@example("2024-01-01\n")
@example("\u0662024-01-01")  # an Arabic digit
def test_what_is_no_day_is_not_read(text: str) -> None:
    assume(text not in {day.isoformat() for day in _day_of(text)})

    with pytest.raises(ValueError, match=r"\S"):
        parse_day(text)


@given(st.dates(min_value=LAST_DAY + DAY))
def test_a_day_after_the_last_is_not_read(day: date) -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse_day(day.isoformat())


def _day_of(text: str) -> list[date]:
    """The day, if any, that the standard library sees in `text` and that can be asked for."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return []
    return [day] if FIRST_DAY <= day <= LAST_DAY else []


# Whole months


@given(st.dates(FIRST_DAY, LAST_DAY), st.integers(0, 800))
@example(date(2024, 2, 1), 28)
@example(date(2024, 1, 31), 1)
@example(date(9999, 12, 1), 26)
@example(FIRST_DAY, 800)
def test_the_whole_months_of_a_range_leave_less_than_a_month_before_and_after_them(first: date, days: int) -> None:
    whole = DayRange.inclusive(first, min(first, LAST_DAY - days * DAY) + days * DAY)
    months = whole.whole_months()

    assert whole.start <= months.start <= months.end <= whole.end
    if months.day_count:
        assert months.start.day == months.end.day == 1
        # Nothing before or after them has room for another one.
        assert (months.start - whole.start).days < 31
        assert (whole.end - months.end).days < 31
    else:
        assert months.start == whole.end
        lasts = [day for day in whole if (day + DAY).day == 1]
        assert not any(last.replace(day=1) >= whole.start for last in lasts)


@pytest.mark.parametrize(
    "start, end, months",
    [
        ("2025-11-27", "2026-11-26", ("2025-12-01", "2026-11-01")),
        ("2025-12-01", "2026-12-01", ("2025-12-01", "2026-12-01")),
        ("2024-02-01", "2024-03-01", ("2024-02-01", "2024-03-01")),
        ("2024-02-02", "2024-03-31", ("2024-03-31", "2024-03-31")),
        ("2026-10-27", "2026-11-26", ("2026-11-26", "2026-11-26")),
    ],
)
def test_months_begin_with_the_first_one_that_is_whole(start: str, end: str, months: tuple[str, str]) -> None:
    asked = DayRange(date.fromisoformat(start), date.fromisoformat(end))
    assert asked.whole_months() == DayRange(*map(date.fromisoformat, months))


@given(st.dates(FIRST_DAY, LAST_DAY))
@example(FIRST_DAY)
@example(LAST_DAY)
def test_the_month_of_a_day_is_all_its_days_that_can_be_asked_for(day: date) -> None:
    days = [day.replace(day=1) + n * DAY for n in range(31)]
    assert list(month_of(day)) == [
        other for other in days if other.month == day.month and FIRST_DAY <= other <= LAST_DAY
    ]
