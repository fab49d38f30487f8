"""Schedules: one run per period, however many schedulers look, over days that can be rebuilt."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pg_analytics.errors import ErrorCode, ServiceError
from pg_analytics.postgres.pool import Connection, Postgres
from pg_analytics.postgres.regularly import Regularly
from pg_analytics.recompute import store, worker
from pg_analytics.recompute.schedule import Scheduler, change_schedule
from pg_analytics.recompute.schedule_store import ScheduleKey
from pg_analytics.recompute.store import BACKLOG_CHANNEL, Run, Scope
from pg_analytics.recompute.worker import CONNECTIONS, Workers, WorkerSettings
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.catalog import install_builtin_reports
from pg_analytics.snapshots import store as snapshots
from pg_analytics.windows import Window
from tests.conftest import Servers
from tests.events import insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.rebuilding import Connect
from tests.waiting import until_true

pytestmark = pytest.mark.anyio

#: A Wednesday.
TODAY = date(2026, 3, 4)
DAILY = ScheduleKey("volume-by-period", Window.DAY)
WEEKLY = ScheduleKey("top-entities", Window.WEEK)
LONG = timedelta(minutes=10)
TIMEOUT = timedelta(seconds=10)


def scheduler(queue_size: int = 64) -> Scheduler:
    """A scheduler for which it is noon of `TODAY`."""
    return Scheduler(queue_size=queue_size, clock=lambda: datetime(2026, 3, 4, 12, tzinfo=UTC))


async def make_due(connection: Connection, key: ScheduleKey, *, late: timedelta = timedelta(seconds=1)) -> None:
    """Let the run of `key` have been due for so long."""
    await connection.execute(
        "UPDATE aggregate_windows SET next_run_at = clock_timestamp() - $3::interval "
        "WHERE report_slug = $1 AND window_name = $2",
        key.report_slug,
        key.window.value,
        late,
    )


async def next_run_at(connection: Connection, key: ScheduleKey) -> datetime:
    """When the next run of `key` is due."""
    due: datetime = await connection.fetchval(
        "SELECT next_run_at FROM aggregate_windows WHERE report_slug = $1 AND window_name = $2",
        key.report_slug,
        key.window.value,
    )
    return due


async def runs(connection: Connection) -> list[Run]:
    """Every run, oldest first."""
    return [Run.of(row) for row in await connection.fetch("SELECT * FROM recompute_runs ORDER BY requested_at, id")]


async def trail(connection: Connection) -> list[tuple[str, str, Any]]:
    """The audit trail: actor, action and metadata, oldest first."""
    entries = await connection.fetch("SELECT actor, action, metadata FROM audit_entries ORDER BY id")
    return [(entry["actor"], entry["action"], json.loads(entry["metadata"])) for entry in entries]


async def freeze(connection: Connection, kept_from: date) -> None:
    """Let the events before a day have been pruned."""
    await connection.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", kept_from)


# What is entered


async def test_a_schedule_that_is_due_enters_a_run_over_the_last_thirty_days(connection: Connection) -> None:
    await make_due(connection, DAILY)

    await scheduler().look(connection)

    (run,) = await runs(connection)
    assert run.scope == Scope("volume-by-period", Window.DAY, date(2026, 2, 3), TODAY)
    assert (run.requested_by, run.scheduled, run.status) == ("schedule", True, "pending")
    described = {
        "report_slug": "volume-by-period",
        "window": "day",
        "date_from": "2026-02-03",
        "date_to": "2026-03-04",
        "mode": "rebuild",
        "requested_via": "schedule",
    }
    assert await trail(connection) == [("schedule", "recompute.triggered", described)]


async def test_a_schedule_of_weeks_covers_whole_weeks(connection: Connection) -> None:
    await make_due(connection, WEEKLY)

    await scheduler().look(connection)

    (run,) = await runs(connection)
    assert (run.covers.start, run.covers.end) == (date(2026, 2, 2), date(2026, 3, 9))


async def test_nothing_is_entered_before_it_is_due_or_while_it_is_paused(connection: Connection) -> None:
    await make_due(connection, DAILY)
    await change_schedule(connection, DAILY, {"paused": True}, actor="somebody")

    await scheduler().look(connection)

    assert await runs(connection) == []


async def test_a_run_is_announced_to_the_workers(connection: Connection, connect: Connect) -> None:
    heard = asyncio.Event()
    listening = await connect()
    await listening.add_listener(BACKLOG_CHANNEL, lambda *_: heard.set())
    await make_due(connection, DAILY)

    await scheduler().look(connection)

    await asyncio.wait_for(heard.wait(), 30)


@pytest.mark.parametrize(
    "kept_from,daily_from,weekly_from",
    [
        (date(2026, 2, 1), date(2026, 2, 3), date(2026, 2, 3)),
        (date(2026, 2, 2), date(2026, 2, 3), date(2026, 2, 3)),  # the Monday of the first week
        (date(2026, 2, 4), date(2026, 2, 4), date(2026, 2, 9)),
        (date(2026, 3, 2), date(2026, 3, 2), date(2026, 3, 2)),
        (date(2026, 3, 3), date(2026, 3, 3), None),
        (TODAY, TODAY, None),
    ],
)
async def test_a_run_touches_no_frozen_day(
    connection: Connection, kept_from: date, daily_from: date, weekly_from: date | None
) -> None:
    await freeze(connection, kept_from)
    await make_due(connection, DAILY)
    await make_due(connection, WEEKLY)

    await scheduler().look(connection)

    entered = {run.scope.window: run for run in await runs(connection)}
    assert entered[Window.DAY].scope.date_from == daily_from
    assert weekly_from == (entered[Window.WEEK].scope.date_from if Window.WEEK in entered else None)
    assert all(run.covers.start >= kept_from for run in entered.values())
    assert await next_run_at(connection, WEEKLY) > datetime.now(UTC)


# Once per period


async def test_many_schedulers_enter_one_run_per_period(connection: Connection, connect: Connect) -> None:
    keys = [ScheduleKey(slug, window) for slug in ("volume-by-period", "status-counts") for window in Window]
    for key in keys:
        await make_due(connection, key)
    connections = [await connect() for _ in range(8)]

    for _ in range(3):
        await asyncio.gather(*(scheduler().look(each) for each in connections))

    assert len(await runs(connection)) == len(keys)
    assert len(await trail(connection)) == len(keys)


async def test_a_schedule_that_somebody_is_entering_is_passed_over(connection: Connection, connect: Connect) -> None:
    holder = await connect()
    await make_due(connection, DAILY)
    await make_due(connection, WEEKLY)
    async with holder.transaction():
        await holder.fetch("SELECT FROM aggregate_windows WHERE report_slug = $1 FOR UPDATE", DAILY.report_slug)
        await scheduler().look(connection)
        assert [run.scope.report_slug for run in await runs(connection)] == ["top-entities"]

    await scheduler().look(connection)

    assert len(await runs(connection)) == 2


async def test_a_scheduler_that_dies_half_way_leaves_neither_the_run_nor_the_move(
    connection: Connection, connect: Connect
) -> None:
    dying, holder = await connect(), await connect()
    await make_due(connection, DAILY)
    due = await next_run_at(connection, DAILY)
    async with holder.transaction():
        await store.lock_backlog(holder)  # it gets as far as this
        look = asyncio.create_task(scheduler().look(dying))
        waits = "SELECT EXISTS(SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)"
        await until_true(connection, waits, dying.get_server_pid())
        await connection.execute("SELECT pg_terminate_backend($1)", dying.get_server_pid())
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await look

    assert await runs(connection) == []
    assert await next_run_at(connection, DAILY) == due
    await scheduler().look(connection)
    assert len(await runs(connection)) == 1


@pytest.mark.parametrize("minutes", [1, 60, 1440, 525_600])
@pytest.mark.parametrize("periods", [0, 1, 7.5, 1000.5])
async def test_missed_periods_are_not_made_up_for_and_the_beat_is_kept(
    connection: Connection, minutes: int, periods: float
) -> None:
    period = timedelta(minutes=minutes)
    await connection.execute("UPDATE aggregate_windows SET refresh_interval_minutes = $1", minutes)
    await make_due(connection, DAILY, late=period * periods + timedelta(seconds=2))
    due = await next_run_at(connection, DAILY)

    await scheduler().look(connection)

    moved = await next_run_at(connection, DAILY)
    now = await connection.fetchval("SELECT clock_timestamp()")
    assert len(await runs(connection)) == 1
    assert (moved - due) % period == timedelta(0)
    assert now < moved <= now + period


async def test_while_the_last_run_is_still_active_no_second_one_is_entered(connection: Connection) -> None:
    await make_due(connection, DAILY)
    await scheduler().look(connection)
    await make_due(connection, DAILY)

    await scheduler().look(connection)

    assert len(await runs(connection)) == 1
    assert len(await trail(connection)) == 1
    assert await next_run_at(connection, DAILY) > datetime.now(UTC)


async def test_while_the_backlog_is_full_a_schedule_stays_due(connection: Connection) -> None:
    scope = Scope("status-counts", Window.DAY, TODAY, TODAY)
    await store.insert_run(connection, uuid4(), scope, "somebody")
    await make_due(connection, DAILY)
    due = await next_run_at(connection, DAILY)

    await scheduler(queue_size=1).look(connection)
    assert len(await runs(connection)) == 1
    assert await next_run_at(connection, DAILY) == due

    await connection.execute("UPDATE recompute_runs SET status = 'cancelled'")
    await scheduler(queue_size=1).look(connection)
    assert [run.scheduled for run in await runs(connection)] == [False, True]


async def test_a_window_that_is_installed_is_due_an_interval_later(connection: Connection) -> None:
    await connection.execute("DELETE FROM report_definitions WHERE slug = 'top-entities'")

    await install_builtin_reports(connection)

    minutes = await connection.fetch(
        "SELECT refresh_interval_minutes AS minutes, extract(EPOCH FROM next_run_at - now()) / 60 AS away "
        "FROM aggregate_windows WHERE report_slug = 'top-entities'"
    )
    assert [row["minutes"] - 1 < row["away"] <= row["minutes"] for row in minutes] == [True, True]


# What is changed


async def test_a_change_is_audited_with_what_was_before(connection: Connection) -> None:
    changed = await change_schedule(connection, DAILY, {"retention_days": 90}, actor="ada")

    assert changed.retention_days == 90
    before = {"refresh_interval_minutes": 60, "retention_days": None, "paused": False}
    after = before | {"retention_days": 90}
    assert await trail(connection) == [("ada", "schedule.changed", {"before": before, "after": after})]
    resource = await connection.fetchrow("SELECT resource_type, resource_id FROM audit_entries")
    assert tuple(resource or ()) == ("schedule", "volume-by-period/day")


async def test_a_change_to_what_it_is_already_changes_nothing(connection: Connection) -> None:
    before = await connection.fetch("SELECT * FROM aggregate_windows ORDER BY id")

    await change_schedule(connection, DAILY, {"refresh_interval_minutes": 60, "paused": False}, actor="ada")

    assert await connection.fetch("SELECT * FROM aggregate_windows ORDER BY id") == before
    assert await trail(connection) == []


async def test_a_new_interval_begins_at_once(connection: Connection) -> None:
    changed = await change_schedule(connection, DAILY, {"refresh_interval_minutes": 5}, actor="ada")

    assert changed.next_run_at == changed.updated_at + timedelta(minutes=5)


async def test_other_changes_leave_a_run_due_when_it_was(connection: Connection) -> None:
    await make_due(connection, DAILY)
    due = await next_run_at(connection, DAILY)

    await change_schedule(connection, DAILY, {"retention_days": 90}, actor="ada")
    await change_schedule(connection, DAILY, {"paused": True}, actor="ada")

    assert await next_run_at(connection, DAILY) == due


async def test_a_schedule_that_is_resumed_with_a_run_overdue_waits_an_interval(connection: Connection) -> None:
    await make_due(connection, DAILY)
    await change_schedule(connection, DAILY, {"paused": True}, actor="ada")

    resumed = await change_schedule(connection, DAILY, {"paused": False}, actor="ada")

    assert resumed.next_run_at == resumed.updated_at + timedelta(minutes=60)


async def test_a_schedule_that_is_resumed_in_time_keeps_its_beat(connection: Connection) -> None:
    due = await next_run_at(connection, DAILY)
    await change_schedule(connection, DAILY, {"paused": True}, actor="ada")

    assert (await change_schedule(connection, DAILY, {"paused": False}, actor="ada")).next_run_at == due


async def test_the_schedule_of_an_unknown_report_cannot_be_changed(connection: Connection) -> None:
    with pytest.raises(ServiceError) as refused:
        await change_schedule(connection, ScheduleKey("nobody", Window.DAY), {"paused": True}, actor="ada")

    assert refused.value.code is ErrorCode.NOT_FOUND


# A run of a person goes first


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[RedisClient]:
    """A client of Redis."""
    client = RedisClient(servers.redis_url, timeout=TIMEOUT)
    yield client
    await client.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Postgres]:
    """The pool of a worker process."""
    quickly = timedelta(milliseconds=100)
    opened = Postgres(database_url, size=CONNECTIONS + 1, timeout=TIMEOUT, name="worker", lock_timeout=quickly)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_run_that_somebody_asked_for_is_claimed_before_an_older_one_of_a_schedule(
    connection: Connection,
) -> None:
    await make_due(connection, DAILY)
    await scheduler().look(connection)
    asked = await store.insert_run(connection, uuid4(), Scope("top-entities", Window.DAY, TODAY, TODAY), "somebody")

    first = await store.claim_run(connection, LONG)
    second = await store.claim_run(connection, LONG)

    assert first is not None
    assert second is not None
    assert (first.run.id, second.run.scheduled) == (asked.id, True)


async def test_a_run_of_a_schedule_that_is_under_way_lets_somebodys_go_first(
    database_url: str, pool: Postgres, redis: RedisClient, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_SETTLE_S", 0)
    observer, holder = await connect(), await connect()
    await insert(observer, date(2026, 2, 3), 3, last_day=TODAY)
    await make_due(observer, DAILY)
    await scheduler().look(observer)
    (scheduled,) = await runs(observer)
    workers = Workers(database_url, pool, redis, count=1, settings=WorkerSettings(lease=LONG, lock_ttl=LONG))
    async with holder.transaction():
        await snapshots.lock_days(holder, [TODAY, TODAY - timedelta(days=3)])  # both lanes stop at their first chunk
        await workers.start()
        await until_true(observer, "SELECT waiting_for IS NOT NULL FROM recompute_runs WHERE id = $1", scheduled.id)
        asked = await store.insert_run(observer, uuid4(), Scope("top-entities", Window.DAY, TODAY, TODAY), "somebody")

    ended = "SELECT count(*) = 2 FROM recompute_runs WHERE status = 'completed'"
    await until_true(observer, ended)
    await workers.stop()

    first, second = sorted(await runs(observer), key=lambda run: run.finished_at or datetime.max.replace(tzinfo=UTC))
    assert (first.id, second.id) == (asked.id, scheduled.id)
    assert (first.attempt, second.attempt) == (1, 2)  # it was handed back, and went on where it was
    assert second.failures == 0
    await assert_snapshots_equal_events(observer)
    await assert_nothing_stuck(observer)


# The duty


async def test_a_scheduler_at_work_enters_what_becomes_due_and_survives_a_lost_connection(
    connection: Connection, pool: Postgres
) -> None:
    every = timedelta(milliseconds=20)
    duty = Regularly(pool, scheduler().look, every=every, name="scheduler")
    await duty.start()
    entered = "SELECT EXISTS(SELECT FROM recompute_runs WHERE report_slug = $1)"
    await make_due(connection, DAILY)
    await until_true(connection, entered, DAILY.report_slug)

    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await make_due(connection, WEEKLY)
    await until_true(connection, entered, WEEKLY.report_slug)
    await duty.stop()

    assert len(await runs(connection)) == 2
