"""The commands that read: tables for people, the service's own JSON for programs, and a chart."""

import subprocess
from datetime import UTC, date, datetime

import asyncpg
import pytest

from pg_analytics.embedded.process import free_port
from tests.acceptance import dataset
from tests.acceptance.command_line import COMMAND, ask, inherited, on_a_terminal, pointing_to
from tests.events import Event, add_source, write
from tests.running import AUTHORISED, Service

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

RANGE = ("--from", dataset.FIRST.isoformat(), "--to", dataset.LAST.isoformat())
PARAMETERS = {"date_from": dataset.FIRST.isoformat(), "date_to": dataset.LAST.isoformat()}
BLOCKS = "▁▂▃▄▅▆▇█"
ESCAPE = "\x1b"


def test_reports_lists_the_catalogue(shared_service: Service) -> None:
    ended = ask(shared_service, "reports")

    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == [
        "slug",
        "status-counts",
        "top-entities",
        "volume-by-period",
    ]


def test_reports_takes_every_parameter_of_the_catalogue(shared_service: Service) -> None:
    ended = ask(
        shared_service,
        *("reports", "--search", "t", "--sort", "slug", "--order", "desc", "--limit", "1", "--offset", "1", "--json"),
    )

    asked = {"search": "t", "sort": "slug", "order": "desc", "limit": "1", "offset": "1"}
    assert ended.json == shared_service.http.get("/reports", params=asked).json()
    assert [report["slug"] for report in ended.json["data"]] == ["status-counts"]


def test_a_list_that_is_not_whole_says_how_to_see_the_rest(shared_service: Service) -> None:
    first = ask(shared_service, "reports", "--limit", "2")
    last = ask(shared_service, "reports", "--limit", "2", "--offset", "2")
    beyond = ask(shared_service, "reports", "--offset", "7")

    assert first.err == "rows 1 to 2 of 3; see more with --offset 2\n"
    assert last.err == "rows 3 to 3 of 3\n"
    assert beyond.err == "no rows: there are only 3\n"


def test_reports_shows_what_a_report_takes(shared_service: Service) -> None:
    ended = ask(shared_service, "reports", "volume-by-period")

    assert ended.code == 0
    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert shown["name"].strip() == "Volume by Period"
    assert shown["allowed_windows"].strip() == "day, week"
    assert shown["breakdowns"].strip() == "period, source"


@pytest.mark.parametrize(
    "arguments, path",
    [
        (["reports"], "/reports"),
        (["reports", "top-entities"], "/reports/top-entities"),
        (["runs"], "/recomputations"),
        (["audit"], "/audit-entries"),
    ],
)
def test_json_is_the_answer_of_the_service_unchanged(shared_service: Service, arguments: list[str], path: str) -> None:
    ended = ask(shared_service, *arguments, "--json")

    assert (ended.code, ended.err) == (0, "")
    assert ended.json == shared_service.http.get(path, headers=AUTHORISED).json()


def test_the_json_of_a_report_is_the_answer_of_the_service_unchanged(shared_service: Service) -> None:
    shared_service.report("top-entities", **PARAMETERS)  # both of the following come from the cache

    ended = ask(shared_service, "run", "top-entities", *RANGE, "--json", "--chart")

    assert (ended.code, ended.err) == (0, "")
    assert ended.json == shared_service.report("top-entities", **PARAMETERS)


def test_run_prints_the_rows_of_a_report(shared_service: Service) -> None:
    ended = ask(shared_service, "run", "status-counts", *RANGE)

    assert ended.code == 0
    header, *rows = (line.split() for line in ended.out.splitlines())
    assert header == ["status", "event_count"]
    counted = dataset.statuses(dataset.EVENTS, "day")
    assert rows == [[row["status"], str(row["event_count"])] for row in counted]
    assert ended.err.startswith("status-counts per day, 2024-02-12 to 2024-03-10, from ")


def test_run_takes_every_parameter_of_a_report(shared_service: Service) -> None:
    ended = ask(
        shared_service,
        *("run", "volume-by-period", "--window", "WEEK", *RANGE, "--breakdown", "source", "--filter", "source=adyen"),
        *("--limit", "2", "--offset", "1", "--json"),
    )

    adyen = [event for event in dataset.EVENTS if event.source == "adyen"]
    assert ended.json["data"]["rows"] == dataset.volume_by_source(adyen, "week")[1:3]
    assert ended.json["meta"]["pagination"] == {"limit": 2, "offset": 1, "total": 4}


@pytest.mark.parametrize(
    "report, name, value", [("volume-by-period", "source", "stripe"), ("status-counts", "status", "failed")]
)
def test_the_common_filters_have_options_of_their_own(
    shared_service: Service, report: str, name: str, value: str
) -> None:
    short = ask(shared_service, "run", report, *RANGE, f"--{name}", value, "--json")
    long = ask(shared_service, "run", report, *RANGE, "--filter", f"{name}={value}", "--json")

    assert short.json["data"]["rows"] == long.json["data"]["rows"] != []


def test_a_report_without_rows_says_so(shared_service: Service) -> None:
    ended = ask(shared_service, "run", "status-counts", "--from", "2001-01-01", "--to", "2001-01-02", "--chart")

    assert (ended.code, ended.out) == (0, "")
    assert ended.err.startswith("no rows: status-counts per day, 2001-01-01 to 2001-01-02")


def test_the_note_says_which_whole_weeks_were_read(shared_service: Service) -> None:
    ended = ask(
        shared_service, "run", "volume-by-period", "--window", "week", "--from", "2024-02-28", "--to", "2024-02-29"
    )

    assert "per week, 2024-02-26 to 2024-03-03" in ended.err


def test_a_chart_is_drawn_on_a_terminal_and_not_into_a_pipe(shared_service: Service) -> None:
    arguments = ("run", "volume-by-period", *RANGE)

    drawn = on_a_terminal(*arguments, environment=pointing_to(shared_service))

    assert any(block in drawn for block in BLOCKS)
    assert max(map(len, drawn.splitlines())) <= 80
    assert not any(block in ask(shared_service, *arguments).out for block in BLOCKS)


def test_a_chart_can_be_asked_for_and_declined(shared_service: Service) -> None:
    arguments = ("run", "volume-by-period", *RANGE)
    declined = on_a_terminal(*arguments, "--no-chart", environment=pointing_to(shared_service))

    assert not any(block in declined for block in BLOCKS)
    assert any(block in ask(shared_service, *arguments, "--chart").out for block in BLOCKS)


def test_no_color_turns_colours_off(shared_service: Service) -> None:
    arguments = ("run", "status-counts", *RANGE)
    green = f"{ESCAPE}[32m"

    assert green in on_a_terminal(*arguments, environment=pointing_to(shared_service))
    assert green not in on_a_terminal(*arguments, environment=pointing_to(shared_service) | {"NO_COLOR": "1"})


def test_a_terminal_without_unicode_gets_plain_characters(shared_service: Service) -> None:
    ended = ask(shared_service, "run", "top-entities", *RANGE, "--chart", PYTHONIOENCODING="ascii")

    assert ended.code == 0
    assert "#" in ended.out
    assert "zo? ?" in ended.out


def test_json_for_a_pipe_without_unicode_loses_nothing(shared_service: Service) -> None:
    ended = ask(shared_service, "run", "top-entities", *RANGE, "--json", PYTHONIOENCODING="ascii")

    assert "zoë ☕" in {row["entity_id"] for row in ended.json["data"]["rows"]}


@pytest.mark.parametrize("extra", [[], ["--json"], ["--help"]])
def test_a_reader_that_leaves_early_is_no_error(shared_service: Service, extra: list[str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "top-entities", *RANGE, *extra],
        env=inherited() | pointing_to(shared_service),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()

    _, err = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_a_full_disk_is_one_line(shared_service: Service) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [*COMMAND, "reports"],
            env=inherited() | pointing_to(shared_service),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 6
    assert done.stderr == "error: the result cannot be written: No space left on device\n"


async def test_what_events_hold_never_steers_the_terminal(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    day = date(2026, 5, 4)
    entity = f"[red]{ESCAPE}]0;title\x07\nnext\u202e"
    await add_source(connection, "shop")
    await write(connection, [Event("e-1", "shop", entity, "success", datetime(2026, 5, 4, 12, tzinfo=UTC))])
    service.recompute("top-entities", "day", day, day)

    shown = on_a_terminal(
        "run",
        "top-entities",
        "--from",
        str(day),
        "--to",
        str(day),
        environment=pointing_to(service) | {"NO_COLOR": "1"},
    )

    assert r"[red]\x1b]0;title\x07\nnext\u202e" in shown
    assert f"{ESCAPE}]" not in shown
    assert "\x07" not in shown
    ended = ask(service, "run", "top-entities", "--from", str(day), "--to", str(day), "--json")
    assert ended.json["data"]["rows"] == [{"entity_id": entity, "event_count": 1}]


def test_a_proxy_is_not_asked_for_a_service_on_this_machine(shared_service: Service) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"

    assert ask(shared_service, "health", HTTP_PROXY=nowhere, ALL_PROXY=nowhere).code == 0


def test_health_shows_the_service_and_its_dependencies(shared_service: Service) -> None:
    ended = ask(shared_service, "health")

    assert (ended.code, ended.err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert {name: shown[name].strip() for name in ("status", "postgres", "redis")} == {
        "status": "ok",
        "postgres": "ok",
        "redis": "ok",
    }
