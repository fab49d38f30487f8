"""A run as clients see it: what of its row is shown, and what follows from it."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from pg_analytics.recompute.store import Drift, Mode, Run, Scope, Summary
from pg_analytics.recompute.view import Progress, view
from pg_analytics.windows import DayRange, Window

MONDAY = date(2026, 1, 5)
FOUR_WEEKS = DayRange(MONDAY, MONDAY + timedelta(days=28))
RUN = Run(
    id=UUID(int=1),
    scope=Scope("volume-by-period", Window.WEEK, FOUR_WEEKS.start, FOUR_WEEKS.last),
    requested_by="anna",
    status="running",
    requested_at=datetime(2026, 2, 2, tzinfo=UTC),
    started_at=datetime(2026, 2, 2, tzinfo=UTC),
    finished_at=None,
    error_message=None,
    summary=Summary(bucket_count=4, duration_ms=3000, drifted_days=2, stale_days=1),
    covers=FOUR_WEEKS,
    remaining=FOUR_WEEKS,
    attempt=1,
    failures=0,
    scheduled=False,
    waiting_for=None,
    drift=[],
)


def with_days_left(days: int) -> Run:
    return replace(RUN, remaining=DayRange(MONDAY, MONDAY + timedelta(days=days)))


@pytest.mark.parametrize(
    "days_left,buckets_done", [(28, 0), (27, 0), (22, 0), (21, 1), (20, 1), (8, 2), (7, 3), (1, 3), (0, 4)]
)
def test_a_bucket_is_done_when_all_of_its_days_are(days_left: int, buckets_done: int) -> None:
    progress = view(with_days_left(days_left)).progress

    assert (progress.buckets_done, progress.buckets_total) == (buckets_done, 4)


@pytest.mark.parametrize("days_left,seconds_left", [(28, None), (27, 81), (21, 9), (14, 3), (7, 1), (0, 0)])
def test_the_time_left_is_that_of_the_days_done_for_those_that_are_left(
    days_left: int, seconds_left: int | None
) -> None:
    assert view(with_days_left(days_left)).progress.seconds_left == seconds_left


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
def test_only_a_running_run_has_time_left(status: str) -> None:
    assert view(replace(with_days_left(14), status=status)).progress == Progress(2, 4)


def test_a_run_that_has_not_begun_has_no_summary_to_estimate_from() -> None:
    assert view(replace(with_days_left(14), summary=None)).progress == Progress(2, 4)


def test_what_is_not_there_is_left_out() -> None:
    shown = msgspec.to_builtins(view(replace(RUN, summary=None)))

    assert not {"finished_at", "error_message", "waiting_for", "drift"} & set(shown)
    assert shown["progress"] == {"buckets_done": 0, "buckets_total": 4}
    assert shown["scheduled"] is False


def test_the_summary_of_a_rebuild_is_that_of_the_contract() -> None:
    completed = replace(with_days_left(0), status="completed")
    rebuilt = msgspec.to_builtins(view(completed))
    verified = msgspec.to_builtins(view(replace(completed, scope=replace(RUN.scope, mode=Mode.VERIFY))))

    contract = {"rows_deleted", "rows_inserted", "bucket_count", "rows_unchanged", "events_read", "duration_ms"}
    assert set(rebuilt["summary"]) == contract
    assert set(verified["summary"]) == contract | {"drifted_days", "stale_days"}


def test_drift_is_shown_of_a_verification_in_any_state() -> None:
    drift = [Drift("entity", MONDAY, 1, 2, 3)]
    verification = replace(RUN, scope=replace(RUN.scope, mode=Mode.VERIFY), drift=drift)

    assert view(verification).drift == drift
    assert view(replace(RUN, drift=drift)).drift is None
