"""A run as clients see it."""

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final
from uuid import UUID

import msgspec

from pg_analytics.recompute.store import Drift, Mode, Run

#: States in which a run stays.
ENDED: Final = ("completed", "failed", "cancelled")
STATUSES: Final = ("pending", "running", *ENDED)

#: What only a verification counts.
_OF_VERIFICATION: Final = ("drifted_days", "stale_days")


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a run is. `seconds_left` is an estimate: the days that are left take as long as those that are done."""

    buckets_done: int
    buckets_total: int
    seconds_left: int | None = None


class RunView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run. `covers` holds the first and the last of its days; `drift` is there for verifications."""

    id: UUID
    report_slug: str
    window: str
    date_from: date
    date_to: date
    mode: str
    requested_by: str
    scheduled: bool
    status: str
    requested_at: datetime
    summary: Mapping[str, int]
    covers: Mapping[str, date]
    progress: Progress
    attempt: int
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error_message: str | None = None
    waiting_for: str | None = None
    drift: Sequence[Drift] | None = None


def view(run: Run) -> RunView:
    """`run` as clients see it."""
    return RunView(
        id=run.id,
        report_slug=run.scope.report_slug,
        window=run.scope.window.value,
        date_from=run.scope.date_from,
        date_to=run.scope.date_to,
        mode=run.scope.mode.value,
        requested_by=run.requested_by,
        scheduled=run.scheduled,
        status=run.status,
        requested_at=run.requested_at,
        summary=_summary(run),
        covers={"from": run.covers.start, "to": run.covers.last},
        progress=_progress(run),
        attempt=run.attempt,
        started_at=run.started_at,
        finished_at=run.finished_at,
        error_message=run.error_message,
        waiting_for=run.waiting_for,
        drift=run.drift if run.scope.mode is Mode.VERIFY else None,
    )


def _summary(run: Run) -> Mapping[str, int]:
    """Shown once the run has completed."""
    if run.summary is None or run.status != "completed":
        return {}
    members: dict[str, int] = msgspec.to_builtins(run.summary)
    hidden = () if run.scope.mode is Mode.VERIFY else _OF_VERIFICATION
    return {name: value for name, value in members.items() if name not in hidden}


def _progress(run: Run) -> Progress:
    """A bucket is done when all of its days are. The estimate follows from the row alone, so it moves with the run."""
    total = run.covers.bucket_count(run.scope.window)
    left = run.remaining.bucket_count(run.scope.window)
    days_done = run.covers.day_count - run.remaining.day_count
    if run.status != "running" or run.summary is None or not days_done:
        return Progress(total - left, total)
    seconds_left = run.summary.duration_ms / 1000 * run.remaining.day_count / days_done
    return Progress(total - left, total, math.ceil(seconds_left))
