"""Processes that are killed, frozen and stopped in the middle of a run: the run goes on, and the numbers are right.

Where exactly a process is hit is no matter of luck: a trigger of the test's own parks it at one statement of its run,
by a lock that the test holds. One test hits it at random moments on top.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path
from random import Random

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.windows import DayRange
from tests.acceptance.processes import Starter
from tests.conftest import Servers
from tests.events import insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.proxy import Proxy
from tests.report_oracle import REPORTS, Asked, expected
from tests.running import Service
from tests.waiting import until_parked, until_true
from tests.working import assert_progress_was_contiguous, watch_progress

pytestmark = pytest.mark.anyio

#: Three chunks.
DAYS = DayRange(date(2026, 1, 5), date(2026, 1, 26))
IN_THE_MIDDLE = date(2026, 1, 14)

#: Table, event and condition of the write at which a process is hit, by what it does there.
PLACES = {
    "claims the run": ("recompute_runs", "UPDATE", "NEW.attempt > OLD.attempt"),
    "takes the log": ("event_changes", "DELETE", f"OLD.occurred_day = '{IN_THE_MIDDLE}'"),
    "writes its numbers": ("rollup_entity", "INSERT", f"NEW.day = '{IN_THE_MIDDLE}'"),
    "moves the versions": ("report_definitions", "UPDATE", "NEW.version = 3"),
    "records its progress": ("recompute_runs", "UPDATE", f"NEW.remaining_until <= '{IN_THE_MIDDLE}'"),
    "completes the run": ("recompute_runs", "UPDATE", "NEW.status = 'completed'"),
    "tells of the end": ("audit_entries", "INSERT", "NEW.action = 'recompute.completed'"),
}
_PARK = """
    CREATE OR REPLACE FUNCTION park() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(4711);
        RETURN coalesce(NEW, OLD);
    END
    $$;
    CREATE TRIGGER park BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION park();
"""

#: The session of a killed process may take a moment to notice.
_NO_TRANSACTION = """
    SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL
"""


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Starter]:
    """Starts processes, for which whoever is silent for a second has lost its run."""
    starter = Starter({**environment, "RECOMPUTE_LEASE": "1s"}, tmp_path)
    yield starter
    starter.close()


@pytest.fixture
async def observer(connection: Connection) -> Connection:
    """A connection to a database with three weeks of events that no run has seen."""
    await insert(connection, DAYS.start, 30, last_day=DAYS.last)
    return connection


@asynccontextmanager
async def parking(database_url: str, place: str) -> AsyncIterator[None]:
    """Parks whoever comes to `place`, for the length of a block."""
    table, event, condition = PLACES[place]
    holder = await asyncpg.connect(database_url)
    try:
        await holder.execute(_PARK.format(table=table, event=event, condition=condition))
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(4711)")
            yield
    finally:
        await holder.close()


async def assert_all_is_well(observer: Connection, service: Service, run_id: str, *trail: str) -> None:
    """The run has completed once, its trail tells what happened, and every number is right, to the outside too."""
    entries = await observer.fetch("SELECT action FROM audit_entries WHERE resource_id = $1 ORDER BY id", run_id)
    assert [entry["action"].removeprefix("recompute.") for entry in entries] == ["triggered", *trail, "completed"]
    run = service.run(run_id)
    assert run["summary"]["bucket_count"] == run["progress"]["buckets_done"] == run["progress"]["buckets_total"]
    for slug, (breakdowns, _) in REPORTS.items():
        asked = Asked(
            slug=slug, window="day", date_from=DAYS.start, date_to=DAYS.last, breakdown=breakdowns[0], limit=1000
        )
        answer = service.report(slug, date_from=DAYS.start, date_to=DAYS.last, limit=1000)
        assert answer["data"]["rows"] == (await expected(observer, asked)).rows
    await assert_snapshots_equal_events(observer)
    await until_true(observer, _NO_TRANSACTION)
    await assert_nothing_stuck(observer)


@pytest.mark.parametrize("place", PLACES)
async def test_a_service_killed_anywhere_in_a_run_leaves_a_run_that_the_next_one_ends(
    start: Starter, observer: Connection, database_url: str, place: str
) -> None:
    async with parking(database_url, place):
        killed = start.service()
        run_id = killed.trigger("volume-by-period", "day", DAYS.start, DAYS.last)
        await until_parked(observer)
        killed.kill()

    service = start.service()
    assert service.wait_until_ended(run_id)["status"] == "completed"

    rescued = [] if place == "claims the run" else ["rescued"]
    await assert_all_is_well(observer, service, run_id, *rescued)


async def test_a_worker_killed_before_it_could_tell_redis_of_new_numbers_leaves_nobody_with_old_ones(
    start: Starter, observer: Connection, servers: Servers
) -> None:
    service = start.service(RECOMPUTE_WORKERS="0")
    assert service.report("volume-by-period", date_from=DAYS.start, date_to=DAYS.last)["data"]["rows"] == []
    with Proxy(servers.redis_url) as redis:
        redis.hang()
        killed = start.worker(REDIS_URL=redis.url, REDIS_TIMEOUT="1m")
        run_id = service.trigger("volume-by-period", "day", DAYS.start, DAYS.last)
        await until_true(observer, "SELECT remaining_until < covers_until FROM recompute_runs")
        killed.kill()

    start.worker()
    assert service.wait_until_ended(run_id)["status"] == "completed"
    await assert_all_is_well(observer, service, run_id, "rescued")


async def test_a_run_survives_any_number_of_kills_at_random_moments_while_events_arrive(
    start: Starter, observer: Connection
) -> None:
    random = Random(4711)
    year = DayRange(DAYS.end - timedelta(days=364), DAYS.end)
    await insert(observer, year.start, 200, last_day=year.last, prefix="more")
    await watch_progress(observer)
    service = start.service(RECOMPUTE_WORKERS="0")
    run_id = service.trigger("top-entities", "day", year.start, year.last)
    for kill in range(4):
        worker = start.worker()
        goal = year.end - timedelta(days=80 * kill + random.randrange(10, 60))
        reached = "SELECT attempt = $1 AND remaining_until <= $2 FROM recompute_runs"
        await until_true(observer, reached, kill + 1, goal)
        worker.kill()
        assert service.run(run_id)["status"] == "running"
        await insert(observer, goal, 20, last_day=goal + timedelta(days=5), prefix=f"late-{kill}")

    start.worker()
    assert service.wait_until_ended(run_id)["status"] == "completed"
    assert service.run(run_id)["attempt"] == 5
    await assert_progress_was_contiguous(observer)
    service.recompute("top-entities", "day", year.start, year.last)  # for what arrived behind the run's back
    await assert_all_is_well(observer, service, run_id, *["rescued"] * 4)


async def test_a_worker_frozen_beyond_its_lease_writes_nothing_when_it_thaws(
    start: Starter, observer: Connection, database_url: str
) -> None:
    service = start.service(RECOMPUTE_WORKERS="0")
    frozen = start.worker()
    async with parking(database_url, "writes its numbers"):
        run_id = service.trigger("volume-by-period", "day", DAYS.start, DAYS.last)
        await until_parked(observer)
        frozen.process.send_signal(signal.SIGSTOP)
        start.worker()
        await until_true(observer, "SELECT attempt = 2 FROM recompute_runs")
        frozen.process.send_signal(signal.SIGCONT)
        # Whatever it does now, with its numbers all but written: the run is in other hands.

    assert service.wait_until_ended(run_id)["status"] == "completed"
    assert service.run(run_id)["attempt"] == 2
    await assert_all_is_well(observer, service, run_id, "rescued")
    assert frozen.process.poll() is None
    assert '"event":"run_completed"' not in frozen.log()


async def test_a_worker_that_stays_frozen_holds_nobody_up_for_long(
    start: Starter, observer: Connection, database_url: str
) -> None:
    service = start.service(RECOMPUTE_WORKERS="0")
    frozen = start.worker()
    async with parking(database_url, "writes its numbers"):
        run_id = service.trigger("volume-by-period", "day", DAYS.start, DAYS.last)
        await until_parked(observer)
        frozen.process.send_signal(signal.SIGSTOP)
    try:
        # Its session now holds the days, in a transaction that PostgreSQL ends when it has idled for long enough.
        start.worker()
        assert service.wait_until_ended(run_id)["status"] == "completed"
        await assert_all_is_well(observer, service, run_id, "rescued")
    finally:
        frozen.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("place", ["takes the log", "writes its numbers", "completes the run"])
async def test_a_worker_that_is_stopped_hands_its_run_back_at_once(
    start: Starter, observer: Connection, database_url: str, place: str
) -> None:
    service = start.service(RECOMPUTE_WORKERS="0")
    stopped = start.worker(RECOMPUTE_LEASE="10m")
    async with parking(database_url, place):
        run_id = service.trigger("volume-by-period", "day", DAYS.start, DAYS.last)
        await until_parked(observer)
        assert await asyncio.to_thread(stopped.terminate) == 0
        assert service.run(run_id)["status"] == "pending"

    start.worker(RECOMPUTE_LEASE="10m")
    assert service.wait_until_ended(run_id)["status"] == "completed"
    await assert_all_is_well(observer, service, run_id)
