"""The worker: claims runs, one at a time, and rebuilds their days; see the package for states and fencing."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from pg_analytics.audit.store import WORKER, append_entry
from pg_analytics.postgres.listener import Listener
from pg_analytics.postgres.pool import BLOCKED, LOST, Connection, Postgres, describe, transaction
from pg_analytics.recompute import store
from pg_analytics.recompute.perform import LANES, Fenced, GaveWay, Performance
from pg_analytics.recompute.store import BACKLOG_CHANNEL, Claim, Mode, Run, Summary
from pg_analytics.recompute.trigger import lock_key, metadata
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.cache import ReportCache
from pg_analytics.reports.catalog import LEASE_S
from pg_analytics.snapshots.rebuild import FrozenDays

_log: Final = structlog.get_logger(__name__)

#: A run that fails this often without any progress in between has failed.
MAX_FAILURES: Final = 5

#: Connections that a worker needs: its lanes, and one for the heartbeat and for what a lane waits for.
CONNECTIONS: Final = LANES + 1

#: How long after the last commit every process has noticed its versions: the catalogue's lease, and a little for
#: clocks that do not run alike.
_SETTLE_S: Final = LEASE_S * 1.05
_POLL_S: Final = 1.0
#: How often a worker looks whether it still holds its run: a cancellation is noticed within this.
_BEAT_S: Final = 1.0
#: A server that has not claimed or taken back a run by then does not answer: its time limit is that of a chunk.
_PATIENCE_S: Final = 5.0
_LISTENER_BEAT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Times of a worker."""

    lease: timedelta
    lock_ttl: timedelta


class Workers:
    """Some workers in this process, and the connection on which a trigger wakes them."""

    def __init__(
        self, url: str, postgres: Postgres, redis: RedisClient, *, count: int, settings: WorkerSettings
    ) -> None:
        """`postgres` must have room for `CONNECTIONS` per worker."""
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._workers = [_Worker(postgres, redis, settings, self._stopping, self._woken) for _ in range(count)]
        self._tasks: list[asyncio.Task[None]] = []
        self._listener = Listener(
            url,
            BACKLOG_CHANNEL,
            beat_s=_LISTENER_BEAT_S,
            on_beat=self._wake,
            on_lost=lambda: None,
        )

    async def start(self) -> None:
        """Begin to work, in the background."""
        if self._workers:
            await self._listener.start()
        self._tasks = [
            asyncio.create_task(worker.work(), name=f"worker-{number}")
            for number, worker in enumerate(self._workers, start=1)
        ]

    async def stop(self) -> None:
        """Hand back the runs in hand and stop; a worker that cannot is left to its lease after a few seconds."""
        self._stopping.set()
        self._woken.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=5)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._listener.stop()

    async def _wake(self, connection: Connection) -> None:
        await connection.execute("SELECT 1")  # notices a connection that is dead
        self._woken.set()


class _Worker:
    def __init__(
        self,
        postgres: Postgres,
        redis: RedisClient,
        settings: WorkerSettings,
        stopping: asyncio.Event,
        woken: asyncio.Event,
    ) -> None:
        self._postgres = postgres
        self._redis = redis
        self._cache = ReportCache(redis)
        self._settings = settings
        self._stopping = stopping
        self._woken = woken

    async def work(self) -> None:
        """Claim and perform runs until told to stop."""
        while not self._stopping.is_set():
            try:
                claim = await self._claim()
                if claim is None:
                    await self._wait_for_work()
                else:
                    with structlog.contextvars.bound_contextvars(run_id=str(claim.run.id)):
                        await self._perform(claim.run)
            except LOST as error:
                _log.warning("worker_lost_postgres", error=describe(error))
                await self._wait_for_work()
            except BLOCKED as error:
                _log.info("worker_waits", error=describe(error))
                await self._wait_for_work()
            except Exception:  # noqa: BLE001 - a defect must not end the worker; the run is taken up again later
                _log.exception("worker_defect")
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        self._woken.clear()
        if self._stopping.is_set():
            return
        try:
            async with asyncio.timeout(_POLL_S):
                await self._woken.wait()
        except TimeoutError:
            pass  # a notification is a hint; the poll is what finds work

    async def _claim(self) -> Claim | None:
        async with asyncio.timeout(_PATIENCE_S), self._postgres.borrowed() as connection, transaction(connection):
            claim = await store.claim_run(connection, self._settings.lease)
            if claim is None:
                return None
            run = claim.run
            if claim.rescued:
                rescue = metadata(run.scope) | {"attempt": run.attempt, "failures": run.failures}
                await _audit(connection, run, "recompute.rescued", rescue)
                _log.warning("run_rescued", run_id=str(run.id), attempt=run.attempt)
            if run.failures >= MAX_FAILURES:
                reason = run.error_message or "its worker went silent"
                await self._fail(connection, run, f"gave up after {run.failures} attempts without progress: {reason}")
                return None
            return claim

    async def _perform(self, run: Run) -> None:
        """Rebuild the run, unless it is lost or the worker is stopped first."""
        _log.info("run_started", attempt=run.attempt, days=run.remaining.day_count)
        rebuild = asyncio.create_task(self._work_through(run))
        lost = asyncio.create_task(self._hold_lease(run))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({rebuild, lost, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (rebuild, lost, stop):
                task.cancel()
            await asyncio.gather(rebuild, lost, stop, return_exceptions=True)
        if rebuild.cancelled():
            if self._stopping.is_set():
                await self._hand_back(run, delay=timedelta(0), reason=None)
            else:
                _log.warning("run_lost")
            return
        error = rebuild.exception()
        if isinstance(error, Fenced):
            _log.warning("run_fenced")
        elif isinstance(error, GaveWay):
            await self._hand_back(run, delay=timedelta(0), reason=None)
        elif isinstance(error, FrozenDays):
            async with self._postgres.borrowed() as connection, transaction(connection):
                await self._fail(connection, run, str(error))
        elif error is not None:
            _log.error("run_attempt_failed", error=describe(error), exc_info=error)
            await self._hand_back(run, delay=timedelta(seconds=2**run.failures), reason=describe(error))

    async def _work_through(self, run: Run) -> None:
        summary = await Performance(self._postgres, self._cache, run, lease=self._settings.lease).perform()
        # Also where nothing moved: another run, or an earlier attempt, may have changed these days a moment ago.
        await asyncio.sleep(_SETTLE_S)
        while True:
            try:
                return await self._complete(run, summary)
            except BLOCKED as error:
                _log.info("worker_waits", error=describe(error))

    async def _complete(self, run: Run, summary: Summary) -> None:
        async with self._postgres.borrowed() as connection, transaction(connection):
            if not await store.complete_run(connection, run, summary):
                raise Fenced
            if run.scope.mode is Mode.VERIFY:
                numbers = {"drifted_days": summary.drifted_days, "stale_days": summary.stale_days}
            else:
                numbers = {"rows_deleted": summary.rows_deleted, "rows_inserted": summary.rows_inserted}
            numbers["bucket_count"] = summary.bucket_count
            await _audit(connection, run, "recompute.completed", metadata(run.scope) | numbers)
        await self._redis.release(lock_key(run.scope), str(run.id))
        _log.info("run_completed", rows_inserted=summary.rows_inserted, rows_deleted=summary.rows_deleted)

    async def _fail(self, connection: Connection, run: Run, reason: str) -> None:
        if await store.fail_run(connection, run, reason):
            await _audit(connection, run, "recompute.failed", metadata(run.scope) | {"error": reason})
            _log.error("run_failed", run_id=str(run.id), reason=reason)
        await self._redis.release(lock_key(run.scope), str(run.id))

    async def _hand_back(self, run: Run, *, delay: timedelta, reason: str | None) -> None:
        async with asyncio.timeout(_PATIENCE_S), self._postgres.borrowed() as connection:
            handed_back = await store.hand_back_run(connection, run, delay=delay, reason=reason)
        if handed_back:
            _log.info("run_handed_back", delay_s=delay.total_seconds())

    async def _hold_lease(self, run: Run) -> None:
        """The heartbeat. Returns when the run is lost: it is in other hands, or the lease could not be renewed."""
        lease_s = self._settings.lease.total_seconds()
        expires = time.monotonic() + lease_s
        while time.monotonic() < expires:
            await asyncio.sleep(min(lease_s / 4, _BEAT_S))
            sent = time.monotonic()
            try:
                async with asyncio.timeout(lease_s / 4), self._postgres.borrowed() as connection:
                    if not await store.renew_lease(connection, run, self._settings.lease):
                        return
            except LOST:
                continue
            except BLOCKED:
                # The lease is not lost: who keeps us from writing to the run keeps the others from claiming it.
                expires = sent + lease_s
                continue
            expires = sent + lease_s
            await self._redis.renew(lock_key(run.scope), str(run.id), ttl=self._settings.lock_ttl)


async def _audit(connection: Connection, run: Run, action: str, described: dict[str, object]) -> None:
    await append_entry(connection, actor=WORKER, action=action, resource_id=str(run.id), metadata=described)
