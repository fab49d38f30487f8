"""The commands of the schedules, and the one that prunes events."""

import os
import pty
import signal
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.windows import DayRange
from tests.acceptance.command_line import COMMAND, PATIENCE_S, ask, inherited, pg_analytics, start
from tests.acceptance.envelopes import succeeded
from tests.conftest import Servers, new_database
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events, snapshot_numbers
from tests.rebuilding import rebuild
from tests.running import AUTHORISED, Service, serving
from tests.waiting import until_true

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

FIRST, BEFORE, LAST = date(2026, 1, 1), date(2026, 1, 6), date(2026, 1, 10)


# Schedules


def test_schedules_are_listed_in_a_table(idle_service: Service) -> None:
    ended = ask(idle_service, "schedules")

    assert ended.code == 0
    head, *rows = ended.out.splitlines()
    assert head.split("  ")[0] == "schedule"
    assert len(rows) == 6
    assert rows[0].startswith("status-counts day ")
    assert {"60 min", "ever", "-"} <= {cell.strip() for cell in rows[0].split("  ")}


def test_schedules_as_json_are_what_the_service_says(idle_service: Service) -> None:
    ended = ask(idle_service, "schedules", "--json")

    assert ended.json == succeeded(idle_service.http.get("/schedules", headers=AUTHORISED))


def test_a_schedule_is_changed_paused_and_resumed(service: Service) -> None:
    schedule = ("volume-by-period", "day")

    changed = ask(service, "schedules", "set", *schedule, "--every", "30", "--retain", "90", "--requested-by", "ada")
    paused = ask(service, "schedules", "pause", *schedule, "--json")
    listed = ask(service, "schedules")
    resumed = ask(service, "schedules", "resume", *schedule, "--json")
    kept = ask(service, "schedules", "set", *schedule, "--retain", "ever", "--json")

    assert (changed.code, paused.code, resumed.code, kept.code) == (0, 0, 0, 0)
    shown = dict(line.split(maxsplit=1) for line in changed.out.splitlines())
    assert (shown["refresh_interval_minutes"].strip(), shown["retention_days"].strip()) == ("30", "90")
    assert [paused.json["data"]["paused"], resumed.json["data"]["paused"]] == [True, False]
    assert kept.json["data"]["retention_days"] is None
    [row] = [line for line in listed.out.splitlines() if line.startswith("volume-by-period day ")]
    assert {"30 min", "90 days", "paused"} <= {cell.strip() for cell in row.split("  ")}
    entries = succeeded(service.http.get("/audit-entries?actor=ada", headers=AUTHORISED))["data"]
    assert [entry["action"] for entry in entries] == ["schedule.changed"]


@pytest.mark.parametrize(
    "arguments,code,said",
    [
        (("set", "nobody", "day", "--every", "5"), ExitCode.NOT_FOUND, "schedule was not found"),
        (("pause", "volume-by-period", "month"), ExitCode.NOT_FOUND, "schedule was not found"),
        (("set", "volume-by-period", "day", "--every", "0"), ExitCode.USAGE, "from 1 to 525600"),
        (("set", "volume-by-period", "day", "--retain", "36601"), ExitCode.USAGE, "from 1 to 36600"),
        (("set", "volume-by-period", "day", "--retain", "never"), ExitCode.USAGE, "never"),
        (("set", "volume-by-period", "day"), ExitCode.USAGE, "nothing to change"),
    ],
)
def test_a_wrong_change_ends_in_one_line(
    idle_service: Service, arguments: tuple[str, ...], code: ExitCode, said: str
) -> None:
    ended = ask(idle_service, "schedules", *arguments)

    assert (ended.code, ended.out) == (code, "")
    assert said in ended.error


# Pruning


async def test_pruning_deletes_the_events_and_leaves_the_reports(
    connection: "asyncpg.Connection[asyncpg.Record]", environment: dict[str, str], tmp_path: Path
) -> None:
    await insert(connection, FIRST, 40, last_day=LAST)
    await rebuild(connection, DayRange.inclusive(FIRST, LAST))
    with serving(environment, tmp_path) as service:
        days = {"date_from": FIRST, "date_to": LAST}
        before = service.report("status-counts", **days)["data"]["rows"]

        dry = pg_analytics("prune", "events", "--before", str(BEFORE), "--dry-run", environment=environment)
        there = await connection.fetchval("SELECT count(*) FROM analytics_events")
        done = pg_analytics("prune", "events", "--before", str(BEFORE), "--yes", environment=environment)
        again = pg_analytics("prune", "events", "--before", str(BEFORE), "--yes", "--json", environment=environment)
        after = service.report("status-counts", **days)["data"]["rows"]

    assert (dry.code, dry.out, there) == (0, f"200 events of days before {BEFORE} would be deleted\n", 400)
    assert (done.code, done.out) == (0, f"200 events deleted; days before {BEFORE} are frozen\n")
    assert again.json == {"data": {"events": 0, "kept_from": str(BEFORE), "late_events": 0}}
    assert after == before
    assert await connection.fetchval("SELECT min(occurred_day) FROM analytics_events") == BEFORE
    assert await connection.fetchval("SELECT DISTINCT actor FROM audit_entries") == "command-line"


async def test_late_events_are_left_and_told_of(
    connection: "asyncpg.Connection[asyncpg.Record]", environment: dict[str, str]
) -> None:
    await insert(connection, FIRST, 5, last_day=LAST)
    pg_analytics("prune", "events", "--before", str(BEFORE), "--yes", environment=environment)
    await insert(connection, FIRST, 2, prefix="late")

    dry = pg_analytics("prune", "events", "--before", str(BEFORE), "--dry-run", "--json", environment=environment)
    done = pg_analytics("prune", "events", "--before", str(LAST), "--yes", environment=environment)

    assert dry.json == {"data": {"events": 0, "late_events": 2}}
    assert done.out == (
        f"20 events deleted; days before {LAST} are frozen; "
        "2 that came later for days that were frozen already are left, and are in no report\n"
    )


@pytest.mark.parametrize("before", ["tomorrow", "2026-1-1", "", "2026-02-30"])
def test_a_date_that_is_none_is_refused(environment: dict[str, str], before: str) -> None:
    ended = pg_analytics("prune", "events", "--before", before, "--yes", environment=environment)

    assert ended.code == ExitCode.USAGE
    assert "--before" in ended.error


async def test_days_that_are_not_over_are_not_pruned(
    connection: "asyncpg.Connection[asyncpg.Record]", environment: dict[str, str]
) -> None:
    await insert(connection, FIRST, 5)
    days_to_come = datetime.now(UTC).date() + timedelta(days=2)

    for more in (["--dry-run"], ["--yes"]):
        ended = pg_analytics("prune", "events", "--before", str(days_to_come), *more, environment=environment)
        assert (ended.code, ended.out) == (ExitCode.USAGE, "")
        assert "must not be after today" in ended.error
    assert await connection.fetchval("SELECT count(*) FROM analytics_events") == 5


async def test_where_nobody_can_be_asked_nothing_is_deleted_without_a_yes(
    connection: "asyncpg.Connection[asyncpg.Record]", environment: dict[str, str]
) -> None:
    await insert(connection, FIRST, 5)

    ended = pg_analytics("prune", "events", "--before", str(BEFORE), environment=environment)

    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert "5 events" in ended.error
    assert "--yes" in ended.err
    assert await connection.fetchval("SELECT count(*) FROM analytics_events") == 5


def prune_on_a_terminal(answer: str, environment: dict[str, str]) -> tuple[int, str]:
    """Answer what it asks; the exit code, and what it said beside its output."""
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "prune", "events", "--before", str(BEFORE)],
        env=inherited() | environment | {"TERM": "dumb"},
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    _, err = process.communicate(timeout=PATIENCE_S)
    os.close(ours)
    os.close(terminal)
    return process.returncode, err


@pytest.mark.parametrize("answer,left", [("y", 0), ("n", 5), ("", 5)])
async def test_on_a_terminal_it_asks_first(
    connection: "asyncpg.Connection[asyncpg.Record]", environment: dict[str, str], answer: str, left: int
) -> None:
    await insert(connection, FIRST, 5)
    code, err = prune_on_a_terminal(answer, environment)

    assert f"Delete 5 events of days before {BEFORE} for good? [y/N]" in err
    assert code == (ExitCode.OK if left == 0 else ExitCode.FAILED)
    assert await connection.fetchval("SELECT count(*) FROM analytics_events") == left


async def test_a_database_without_the_schema_is_told_to_be_migrated(servers: Servers) -> None:
    async with new_database(servers.database_url) as url:
        ended = pg_analytics("prune", "events", "--before", str(BEFORE), "--yes", environment={"DATABASE_URL": url})

    assert (ended.code, ended.out) == (ExitCode.FAILED, "")
    assert "pg-analytics migrate" in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_pruning_that_is_broken_off_has_pruned_whole_days_and_goes_on(
    connection: "asyncpg.Connection[asyncpg.Record]",
    environment: dict[str, str],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    await insert(connection, FIRST, 20, last_day=date(2026, 6, 30))
    await rebuild(connection, DayRange(FIRST, date(2026, 7, 1)))
    before, stop = date(2026, 6, 1), date(2026, 3, 1)
    frozen = await snapshot_numbers(connection, before=before)
    holder = await asyncpg.connect(environment["DATABASE_URL"])
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM analytics_events WHERE occurred_day = $1 FOR UPDATE", stop)
    arguments = ("prune", "events", "--before", str(before), "--yes")
    process = start(*arguments, environment=environment, log=tmp_path / "log")
    waits = "SELECT EXISTS(SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')"
    await until_true(connection, waits)  # it has come to that day, and half-way through its chunk

    process.send_signal(number)

    assert process.wait(PATIENCE_S) == (ExitCode.INTERRUPTED if number is signal.SIGINT else -signal.SIGKILL)
    await transaction.rollback()
    await holder.close()
    kept_from = await connection.fetchval("SELECT kept_from FROM horizons WHERE subject = 'events'")
    assert FIRST < kept_from <= stop
    gone = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%setup'"
    await until_true(connection, f"SELECT NOT EXISTS({gone})")
    assert await connection.fetchval("SELECT min(occurred_day) FROM analytics_events") == kept_from
    await assert_snapshots_equal_events(connection, frozen=frozen)
    if number is signal.SIGINT:
        assert (
            "the days that were done are frozen, and no other day has lost an event" in (tmp_path / "log").read_text()
        )

    assert pg_analytics(*arguments, environment=environment).code == 0

    assert await connection.fetchval("SELECT min(occurred_day) FROM analytics_events") == before
    await assert_snapshots_equal_events(connection, frozen=frozen)


async def test_a_database_whose_events_were_all_pruned_is_not_seeded(
    connection: "asyncpg.Connection[asyncpg.Record]", environment: dict[str, str]
) -> None:
    await insert(connection, FIRST, 5)
    pg_analytics("prune", "events", "--before", str(BEFORE), "--yes", environment=environment)

    assert pg_analytics("seed", "--json", environment=environment).json == {"data": {"events": 0}}
