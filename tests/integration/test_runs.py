"""Runs: the backlog, the claim, the lease and the fence, with real workers in this process.

A worker is parked where a test wants it by a lock that it needs: the advisory lock of a day holds up the chunk with
that day, before anything of it is counted.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest

from pg_analytics.errors import ErrorCode, ServiceError
from pg_analytics.postgres.pool import Connection, Postgres
from pg_analytics.recompute import store, worker
from pg_analytics.recompute.store import Run, Scope, Summary
from pg_analytics.recompute.trigger import Trigger, lock_key
from pg_analytics.recompute.worker import MAX_FAILURES
from pg_analytics.redis.client import RedisClient
from pg_analytics.windows import DayRange
from tests.conftest import Servers
from tests.events import insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.proxy import Proxy
from tests.waiting import until_parked, until_true
from tests.working import (
    CHUNK_DAYS,
    LONG,
    MONDAY,
    THREE_CHUNKS,
    TIMEOUT,
    parked,
    run_of,
    scope,
    trail,
    until_committed,
    until_status,
    working,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_settling", "steady_pace")]

SHORT = timedelta(milliseconds=200)


def days_of_its_own(year: int) -> DayRange:
    """Days that no other test here locks: the tests of one process share a Redis."""
    return DayRange(date(year, 1, 1), date(year, 1, 8))


@pytest.fixture
def lost_redis(servers: Servers) -> Iterator[str]:
    """The URL of a Redis that accepts connections and never answers."""
    with Proxy(servers.redis_url) as proxy:
        proxy.hang()
        yield proxy.url


async def last_entry(connection: Connection, action: str) -> dict[str, Any]:
    """What the newest audit entry of an action says."""
    entry = "SELECT metadata FROM audit_entries WHERE action = 'recompute.' || $1 ORDER BY id DESC"
    return dict(json.loads(await connection.fetchval(entry, action)))


async def locks_of(servers: Servers, *scopes: Scope) -> list[bytes | None]:
    """What Redis holds as the locks of these scopes."""
    client = RedisClient(servers.redis_url, timeout=TIMEOUT)
    try:
        return [await client.get(lock_key(scope)) for scope in scopes]
    finally:
        await client.close()


async def until_free(servers: Servers, *scopes: Scope) -> None:
    """Until Redis holds no lock of these scopes: the end of a run is committed a moment before its lock goes."""
    async with asyncio.timeout(30):
        while any(await locks_of(servers, *scopes)):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)


# Triggering


@pytest.mark.parametrize("redis_is", ["there", "lost"])
async def test_of_twenty_triggers_of_one_scope_at_once_one_is_accepted_and_named_to_the_others(
    trigger: Trigger, connection: Connection, redis_is: str, lost_redis: str
) -> None:
    unreachable = RedisClient(lost_redis, timeout=SHORT)
    asked = trigger if redis_is == "there" else replace(trigger, redis=unreachable)

    attempts = (asked.trigger(scope(), f"client-{n}", via="test") for n in range(20))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    await unreachable.close()

    accepted = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
    assert (len(accepted), len(refused)) == (1, 19), outcomes
    for refusal in refused:
        assert refusal.code is ErrorCode.CONFLICT
        assert refusal.details == {"run_id": str(accepted[0].id)}
    assert await connection.fetchval("SELECT count(*) FROM recompute_runs") == 1
    assert sorted(await trail(connection, accepted[0].id)) == ["rejected"] * 19 + ["triggered"]


async def test_the_backlog_never_holds_more_than_its_bound_however_many_trigger_at_once(
    trigger: Trigger, connection: Connection
) -> None:
    bounded = replace(trigger, queue_size=5)
    scopes = [scope(DayRange.inclusive(MONDAY, MONDAY + timedelta(days=n))) for n in range(20)]

    outcomes = await asyncio.gather(
        *(bounded.trigger(one, "client", via="test") for one in scopes), return_exceptions=True
    )

    accepted = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
    assert (len(accepted), len(refused)) == (5, 15), outcomes
    assert {refusal.code for refusal in refused} == {ErrorCode.SERVICE_UNAVAILABLE}
    assert all("Retry-After" in refusal.headers for refusal in refused)
    assert await connection.fetchval("SELECT count(*) FROM recompute_runs") == 5
    assert await trail(connection, None) == ["rejected"] * 15


async def test_a_running_run_does_not_count_against_the_backlog(trigger: Trigger, connection: Connection) -> None:
    bounded = replace(trigger, queue_size=1)
    first = await bounded.trigger(scope(), "client", via="test")
    assert await store.claim_run(connection, LONG) is not None

    second = await bounded.trigger(scope(slug="top-entities"), "client", via="test")

    assert {first.id, second.id} == {row["id"] for row in await connection.fetch("SELECT id FROM recompute_runs")}


async def test_a_lock_whose_run_does_not_exist_stops_nobody(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    await redis.acquire(lock_key(scope()), str(uuid4()), ttl=LONG)

    run = await trigger.trigger(scope(), "client", via="test")

    async with working(database_url, redis):
        await until_status(connection, run.id, "completed")
    await redis.release(lock_key(scope()), str(uuid4()))


async def test_a_trigger_that_is_refused_leaves_no_lock(trigger: Trigger, servers: Servers) -> None:
    days = days_of_its_own(2030)
    unknown, too_long, too_many = scope(days, "no-such-report"), scope(DayRange(MONDAY, days.end)), scope(days)
    full = replace(trigger, queue_size=0)
    for asked, wanted in ((trigger, unknown), (trigger, too_long), (full, too_many)):
        with pytest.raises(ServiceError):
            await asked.trigger(wanted, "client", via="test")

    assert await locks_of(servers, unknown, too_long, too_many) == [None, None, None]


async def test_the_lock_names_the_run_until_it_has_ended(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str, servers: Servers
) -> None:
    days = days_of_its_own(2031)
    completed = await trigger.trigger(scope(days), "client", via="test")
    cancelled = await trigger.trigger(scope(days, "top-entities"), "client", via="test")
    scopes = (completed.scope, cancelled.scope)
    assert await locks_of(servers, *scopes) == [str(completed.id).encode(), str(cancelled.id).encode()]

    await trigger.cancel(cancelled.id, "client")
    async with working(database_url, redis):
        await until_status(connection, completed.id, "completed")

    await until_free(servers, *scopes)


# Claiming


async def test_no_two_workers_claim_the_same_run_nor_wait_for_each_other_and_the_oldest_goes_first(
    trigger: Trigger, postgres: Postgres
) -> None:
    runs = [
        await trigger.trigger(scope(DayRange.inclusive(MONDAY, MONDAY + timedelta(days=n))), "client", via="test")
        for n in range(3)
    ]
    claimed = []
    async with AsyncExitStack() as workers:
        for _ in range(4):
            connection = await workers.enter_async_context(postgres.borrowed())
            await workers.enter_async_context(connection.transaction())  # none is committed before all have claimed
            claimed.append(await store.claim_run(connection, LONG))

    assert [claim and claim.run.id for claim in claimed] == [*(run.id for run in runs), None]


async def test_a_run_that_was_handed_back_is_due_again_only_after_its_delay(
    trigger: Trigger, connection: Connection
) -> None:
    await trigger.trigger(scope(), "client", via="test")
    first = await store.claim_run(connection, LONG)
    assert first is not None
    assert await store.hand_back_run(connection, first.run, delay=LONG, reason="a reason")
    assert await store.claim_run(connection, LONG) is None

    await connection.execute("UPDATE recompute_runs SET run_after = clock_timestamp()")
    second = await store.claim_run(connection, LONG)

    assert second is not None
    assert (second.rescued, second.run.attempt, second.run.failures) == (False, 2, 1)


async def test_nothing_is_written_for_a_run_by_an_attempt_that_is_not_the_latest(
    trigger: Trigger, connection: Connection
) -> None:
    await trigger.trigger(scope(), "client", via="test")
    outdated = await store.claim_run(connection, timedelta(microseconds=1))
    latest = await store.claim_run(connection, LONG)
    assert outdated is not None
    assert latest is not None
    assert latest.rescued
    run = outdated.run
    empty = DayRange(run.covers.start, run.covers.start)
    assert await store.record_progress(connection, latest.run, remaining=empty, summary=Summary(), lease=LONG)
    before = await run_of(connection, run.id)

    assert not await store.renew_lease(connection, run, LONG)
    assert not await store.record_progress(connection, run, remaining=empty, summary=Summary(), lease=LONG)
    assert not await store.complete_run(connection, run, Summary())
    assert not await store.fail_run(connection, run, "a reason")
    assert not await store.hand_back_run(connection, run, delay=SHORT, reason=None)

    assert await run_of(connection, run.id) == before


# Working


async def test_a_run_is_rebuilt_in_chunks_newest_first_and_goes_on_where_the_last_commit_left_it(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    await insert(connection, THREE_CHUNKS.start, 21, last_day=THREE_CHUNKS.last)
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    middle = MONDAY + timedelta(days=CHUNK_DAYS + 2)
    async with parked(database_url, middle) as observer:
        async with working(database_url, redis):
            await until_parked(observer)
            await until_committed(connection, run, MONDAY + timedelta(days=2 * CHUNK_DAYS))
            half_done = await run_of(connection, run.id)
        handed_back = await run_of(connection, run.id)
    newest = "SELECT min(day), count(*), max(computed_at) FROM snapshot_buckets WHERE day >= $1"
    done = await connection.fetchrow(newest, MONDAY + timedelta(days=2 * CHUNK_DAYS))
    assert half_done.remaining == handed_back.remaining == DayRange(MONDAY, MONDAY + timedelta(days=2 * CHUNK_DAYS))
    assert (handed_back.status, handed_back.attempt, handed_back.failures) == ("pending", 1, 0)

    async with working(database_url, redis):
        completed = await until_status(connection, run.id, "completed")

    assert await connection.fetchrow(newest, MONDAY + timedelta(days=2 * CHUNK_DAYS)) == done  # not done again
    assert completed.attempt == 2
    assert completed.summary is not None
    assert completed.summary.rows_inserted == 21 * 10
    assert completed.summary.events_read == 21 * 21
    assert await trail(connection, run.id) == ["triggered", "completed"]
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)


async def test_a_run_whose_worker_went_silent_is_rescued_and_the_trail_tells_it(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    await insert(connection, MONDAY, 21)
    run = await trigger.trigger(scope(), "client", via="test")
    assert await store.claim_run(connection, timedelta(microseconds=1)) is not None

    async with working(database_url, redis):
        completed = await until_status(connection, run.id, "completed")

    assert completed.attempt == 2
    assert await trail(connection, run.id) == ["triggered", "rescued", "completed"]
    assert (await last_entry(connection, "rescued"))["attempt"] == 2
    await assert_snapshots_equal_events(connection)


async def test_the_heartbeat_keeps_a_run_whose_chunk_takes_longer_than_the_lease(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    run = await trigger.trigger(scope(), "client", via="test")
    async with parked(database_url, MONDAY) as observer, working(database_url, redis, lease=SHORT, count=2):
        await until_parked(observer)
        began = "SELECT lease_expires_at > started_at + $2::interval FROM recompute_runs WHERE id = $1"
        await until_true(observer, began, run.id, 5 * SHORT)
        assert (await run_of(observer, run.id)).attempt == 1
    async with working(database_url, redis):
        await until_status(connection, run.id, "completed")
    assert await trail(connection, run.id) == ["triggered", "completed"]


async def test_what_a_worker_rebuilt_for_a_run_in_other_hands_is_rolled_back(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    await insert(connection, MONDAY, 21)
    run = await trigger.trigger(scope(), "client", via="test")
    async with AsyncExitStack() as at_work:
        async with parked(database_url, MONDAY) as observer:
            await at_work.enter_async_context(working(database_url, redis))
            await until_parked(observer)
            await observer.execute("UPDATE recompute_runs SET lease_expires_at = clock_timestamp()")
            latest = await store.claim_run(observer, LONG)
        assert latest is not None
        # The worker goes on, finds itself fenced, and looks for other work.
        other = await trigger.trigger(scope(slug="top-entities"), "client", via="test")
        await until_status(connection, other.id, "completed")

    assert not await connection.fetch("SELECT FROM snapshot_buckets WHERE run_id = $1", run.id)
    held = await run_of(connection, run.id)
    assert (held.status, held.attempt, held.remaining) == ("running", 2, held.covers)


async def test_a_run_that_is_cancelled_while_it_waits_is_never_started(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    run = await trigger.trigger(scope(), "client", via="test")
    await trigger.cancel(run.id, "somebody")
    other = await trigger.trigger(scope(), "client", via="test")  # its scope is free again

    async with working(database_url, redis):
        await until_status(connection, other.id, "completed")

    cancelled = await run_of(connection, run.id)
    assert (cancelled.status, cancelled.attempt, cancelled.started_at) == ("cancelled", 0, None)
    assert await trail(connection, run.id) == ["triggered", "cancelled"]


async def test_a_run_that_is_cancelled_while_it_runs_writes_nothing_from_then_on(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    await insert(connection, THREE_CHUNKS.start, 21, last_day=THREE_CHUNKS.last)
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    async with AsyncExitStack() as at_work:
        async with parked(database_url, MONDAY + timedelta(days=CHUNK_DAYS)) as observer:
            await at_work.enter_async_context(working(database_url, redis))
            await until_parked(observer)
            await until_committed(observer, run, THREE_CHUNKS.end - timedelta(days=CHUNK_DAYS))
            await trigger.cancel(run.id, "somebody")
        other = await trigger.trigger(scope(DayRange.inclusive(MONDAY, MONDAY)), "client", via="test")
        await until_status(connection, other.id, "completed")

    cancelled = await run_of(connection, run.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    built = await connection.fetch("SELECT DISTINCT day FROM snapshot_buckets WHERE run_id = $1", run.id)
    assert len(built) == CHUNK_DAYS  # the chunk that was committed before
    assert await trail(connection, run.id) == ["triggered", "cancelled"]
    await assert_nothing_stuck(connection)


async def test_a_run_that_has_ended_cannot_be_cancelled(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    run = await trigger.trigger(scope(), "client", via="test")
    async with working(database_url, redis):
        completed = await until_status(connection, run.id, "completed")

    with pytest.raises(ServiceError, match="completed already"):
        await trigger.cancel(run.id, "somebody")
    assert await run_of(connection, run.id) == completed


async def test_an_attempt_that_fails_is_told_waits_and_is_forgotten_once_the_run_succeeds(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    await insert(connection, MONDAY, 21)
    await connection.execute("ALTER TABLE rollup_entity ADD CONSTRAINT no_room CHECK (FALSE)")
    run = await trigger.trigger(scope(), "client", via="test")
    async with working(database_url, redis):
        await until_true(connection, "SELECT failures = 1 FROM recompute_runs")
        failed_once = await run_of(connection, run.id)
        assert (failed_once.status, failed_once.remaining) == ("pending", failed_once.covers)
        assert failed_once.error_message is not None
        assert await connection.fetchval("SELECT run_after > clock_timestamp() FROM recompute_runs")
        assert not await connection.fetch("SELECT FROM rollup_source_status")  # nor any other part of the chunk

        await connection.execute("ALTER TABLE rollup_entity DROP CONSTRAINT no_room")
        await connection.execute("UPDATE recompute_runs SET run_after = clock_timestamp()")
        completed = await until_status(connection, run.id, "completed")

    assert (completed.error_message, completed.failures) == (None, 0)
    await assert_snapshots_equal_events(connection)


async def test_a_run_that_never_gets_anywhere_has_failed_at_last_and_its_trail_says_why(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str, servers: Servers
) -> None:
    days = days_of_its_own(2032)
    await insert(connection, days.start, 21)
    await connection.execute("ALTER TABLE rollup_entity ADD CONSTRAINT no_room CHECK (FALSE)")
    run = await trigger.trigger(scope(days), "client", via="test")
    async with working(database_url, redis):
        for failures in range(1, MAX_FAILURES + 1):
            await until_true(connection, "SELECT failures = $1 FROM recompute_runs", failures)
            await connection.execute("UPDATE recompute_runs SET run_after = clock_timestamp()")
        failed = await until_status(connection, run.id, "failed")

    assert failed.finished_at is not None
    assert failed.error_message is not None
    assert f"gave up after {MAX_FAILURES} attempts" in failed.error_message
    assert "no_room" in failed.error_message
    assert await trail(connection, run.id) == ["triggered", "failed"]
    assert (await last_entry(connection, "failed"))["error"] == failed.error_message
    await until_free(servers, run.scope)
    await assert_nothing_stuck(connection)
    await trigger.trigger(scope(days), "client", via="test")  # its scope is free again


async def test_a_run_whose_workers_keep_dying_has_failed_at_last(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    run = await trigger.trigger(scope(), "client", via="test")
    for _ in range(MAX_FAILURES):
        assert await store.claim_run(connection, timedelta(microseconds=1)) is not None

    async with working(database_url, redis):
        failed = await until_status(connection, run.id, "failed")

    assert failed.error_message is not None
    assert "went silent" in failed.error_message
    assert (await trail(connection, run.id))[-1] == "failed"


async def test_progress_forgives_earlier_failures(trigger: Trigger, connection: Connection) -> None:
    await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    for _ in range(MAX_FAILURES - 2):
        assert await store.claim_run(connection, timedelta(microseconds=1)) is not None
    claimed = await store.claim_run(connection, LONG)
    assert claimed is not None
    assert claimed.run.failures == MAX_FAILURES - 2
    remaining = DayRange(THREE_CHUNKS.start, THREE_CHUNKS.end - timedelta(days=CHUNK_DAYS))
    assert await store.record_progress(connection, claimed.run, remaining=remaining, summary=Summary(), lease=LONG)

    assert (await run_of(connection, claimed.run.id)).failures == 0


async def test_workers_side_by_side_share_runs_of_overlapping_scopes_and_the_numbers_are_right(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    await insert(connection, THREE_CHUNKS.start, 30, last_day=THREE_CHUNKS.last)
    days = [DayRange(MONDAY + timedelta(days=n), THREE_CHUNKS.end - timedelta(days=n)) for n in range(8)]
    slugs = ("volume-by-period", "top-entities", "status-counts")
    runs = [await trigger.trigger(scope(some, slugs[n % 3]), "client", via="test") for n, some in enumerate(days)]

    async with working(database_url, redis, count=2), working(database_url, redis, count=2):
        for n in range(20):
            await insert(connection, THREE_CHUNKS.start + timedelta(days=n), 5, prefix=f"late-{n}")
        for run in runs:
            await until_status(connection, run.id, "completed")
        last = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
        await until_status(connection, last.id, "completed")

    for run in runs:
        assert await trail(connection, run.id) == ["triggered", "completed"]
        assert (await run_of(connection, run.id)).attempt == 1
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)


async def test_no_run_completes_before_all_processes_know_what_another_run_changed_in_its_days(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(connection, MONDAY, 21)
    settled = asyncio.Event()
    settling: list[str] = []

    async def settle(seconds: float) -> None:
        if seconds == worker._SETTLE_S:
            settling.append("run")
            await settled.wait()
        else:
            await real_sleep(seconds)

    real_sleep = asyncio.sleep
    monkeypatch.setattr(worker, "_SETTLE_S", 3600.0)
    monkeypatch.setattr(asyncio, "sleep", settle)
    async with working(database_url, redis, count=2):
        changing = await trigger.trigger(scope(), "client", via="test")
        await until_true(connection, "SELECT EXISTS(SELECT FROM snapshot_buckets)")
        finding_no_change = await trigger.trigger(scope(slug="top-entities"), "client", via="test")
        await until_true(
            connection, "SELECT remaining_until = covers_from FROM recompute_runs WHERE id = $1", finding_no_change.id
        )
        while len(settling) < 2:
            assert (await run_of(connection, finding_no_change.id)).status == "running"
            await real_sleep(0.01)
        settled.set()
        for run in (changing, finding_no_change):
            await until_status(connection, run.id, "completed")
