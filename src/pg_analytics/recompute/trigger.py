"""Triggering a run: check the scope, pass the gates, enter the backlog; and cancelling one.

The scope lock in Redis is the cheap first gate. It decides nothing alone: if it is taken, PostgreSQL is asked for
the run that holds it, and if there is none (a trigger died half-way, Redis is from yesterday) it is passed. The
partial unique index is the truth.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from pg_analytics.audit.store import append_entry
from pg_analytics.errors import ErrorCode, ServiceError, invalid, not_found, unavailable
from pg_analytics.postgres.pool import Connection, Postgres, transaction
from pg_analytics.postgres.statements import statement, statements
from pg_analytics.recompute import store
from pg_analytics.recompute.store import Mode, Run, Scope
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.parameters import check_range
from pg_analytics.reports.store import read_catalog
from pg_analytics.snapshots.store import read_horizons

#: What the transactions here run, on a connection that others may not have run it on (see `transaction`).
_ENTERING: Final = [
    statement("pg_analytics.reports", "read_catalog"),
    statement("pg_analytics.snapshots", "read_horizons"),
    *statements(__package__, "find_active_run", "lock_backlog", "count_pending", "insert_run", "wake_workers"),
    statement("pg_analytics.audit", "append_entry"),
]
_CANCELLING: Final = [
    *statements(__package__, "cancel_run", "get_run"),
    statement("pg_analytics.audit", "append_entry"),
]

#: Refusals that the audit trail tells of: the request was right, and was turned down for what it would have done.
_REJECTIONS: Final = frozenset({ErrorCode.CONFLICT, ErrorCode.UNPROCESSABLE, ErrorCode.SERVICE_UNAVAILABLE})


def lock_key(scope: Scope) -> str:
    """Where the lock of `scope` lies in Redis; it holds the id of the run that took it."""
    key = f"recompute:lock:{scope.report_slug}:{scope.window}:{scope.date_from:%Y%m%d}:{scope.date_to:%Y%m%d}"
    return key if scope.mode is Mode.REBUILD else f"{key}:{scope.mode}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """Enters runs into the backlog."""

    postgres: Postgres
    redis: RedisClient
    lock_ttl: timedelta
    queue_size: int
    max_range_days: int

    async def trigger(self, scope: Scope, requested_by: str, *, via: str) -> Run:
        """The new run. `ServiceError` 404 unknown report, 400 wrong window or range, 409 the scope has an active
        run (`details.run_id`), 422 some days are frozen (`details.kept_from`), 503 the backlog is full or PostgreSQL is
        lost.
        """
        check_range(scope.date_from, scope.date_to, max_days=self.max_range_days)
        run_id = uuid4()
        locked = await self.redis.acquire(lock_key(scope), str(run_id), ttl=self.lock_ttl)
        try:
            async with self.postgres.connection() as connection:
                try:
                    run = await self._enter(connection, run_id, scope, requested_by, via=via, locked=locked)
                except ServiceError as refusal:
                    if refusal.code in _REJECTIONS:
                        await _record_rejection(connection, scope, requested_by, refusal)
                    raise
        except BaseException:
            await self.redis.release(lock_key(scope), str(run_id))
            raise
        return run

    async def refusal(self, connection: Connection, scope: Scope) -> ServiceError | None:
        """Why a run of `scope` would be refused at the moment, by what stands in PostgreSQL. `ServiceError` 404 unknown
        report, 400 wrong window or range.
        """
        check_range(scope.date_from, scope.date_to, max_days=self.max_range_days)
        await _check_window(connection, scope)
        try:
            await _check_frozen(connection, scope)
            if (holder := await store.find_active_run(connection, scope)) is not None:
                raise _conflict(holder)
            await self._check_backlog(connection)
        except ServiceError as refusal:
            return refusal
        return None

    async def cancel(self, run_id: UUID, actor: str) -> Run:
        """Cancel a run. `ServiceError` 404 if there is none, 409 if it has ended."""
        async with self.postgres.connection() as connection, transaction(connection, prepare=_CANCELLING):
            run = await store.cancel_run(connection, run_id)
            if run is None:
                ended = await store.get_run(connection, run_id)
                if ended is None:
                    raise not_found("recompute run")
                raise ServiceError(
                    ErrorCode.CONFLICT, f"the run is {ended.status} already", details={"status": ended.status}
                )
            await append_entry(
                connection,
                actor=actor,
                action="recompute.cancelled",
                resource_id=str(run_id),
                metadata=metadata(run.scope),
            )
        await self.redis.release(lock_key(run.scope), str(run.id))
        return run

    async def _enter(
        self, connection: Connection, run_id: UUID, scope: Scope, requested_by: str, *, via: str, locked: bool
    ) -> Run:
        async with transaction(connection, prepare=_ENTERING):
            await _check_window(connection, scope)
            await _check_frozen(connection, scope)
            if not locked and (holder := await store.find_active_run(connection, scope)) is not None:
                raise _conflict(holder)
            await store.lock_backlog(connection)
            await self._check_backlog(connection)
            try:
                async with transaction(connection):
                    run = await store.insert_run(connection, run_id, scope, requested_by)
            except asyncpg.UniqueViolationError:
                raise _conflict(await store.find_active_run(connection, scope)) from None
            await append_entry(
                connection,
                actor=requested_by,
                action="recompute.triggered",
                resource_id=str(run.id),
                metadata=metadata(scope) | {"requested_via": via},
            )
            await store.wake_workers(connection)
        return run

    async def _check_backlog(self, connection: Connection) -> None:
        if await store.count_pending(connection) >= self.queue_size:
            raise unavailable(f"the backlog is full ({self.queue_size} runs wait)", retry_after_s=5)


async def _check_window(connection: Connection, scope: Scope) -> None:
    entry = (await read_catalog(connection)).get(scope.report_slug)
    if entry is None:
        raise not_found("report")
    if scope.window not in entry.allowed_windows:
        raise invalid("window", f"must be one of {', '.join(entry.allowed_windows)}")


async def _check_frozen(connection: Connection, scope: Scope) -> None:
    """Days that are pruned while the run waits are found by its worker, and fail it."""
    kept_from = (await read_horizons(connection)).events
    if scope.mode is Mode.VERIFY or scope.days.start >= kept_from:
        return
    first = scope.window.bucket_start(kept_from + timedelta(days=scope.window.days - 1))
    raise ServiceError(
        ErrorCode.UNPROCESSABLE,
        f"the events of days before {kept_from} were pruned, so their snapshots are frozen;"
        f" the first {scope.window} that can be rebuilt: {first}",
        details={"kept_from": kept_from},
    )


def _conflict(run_id: UUID | None) -> ServiceError:
    return ServiceError(
        ErrorCode.CONFLICT,
        "a recompute run of this scope is active already",
        details=None if run_id is None else {"run_id": str(run_id)},
    )


async def _record_rejection(connection: Connection, scope: Scope, actor: str, refusal: ServiceError) -> None:
    resource_id = (refusal.details or {}).get("run_id")
    await append_entry(
        connection,
        actor=actor,
        action="recompute.rejected",
        resource_id=None if resource_id is None else str(resource_id),
        metadata=metadata(scope) | {"reason": refusal.message},
    )


def metadata(scope: Scope) -> dict[str, Any]:
    """What an audit entry says of a scope."""
    return {
        "report_slug": scope.report_slug,
        "window": scope.window.value,
        "date_from": scope.date_from,
        "date_to": scope.date_to,
        "mode": scope.mode.value,
    }
