"""Stories of chance over real servers and processes: events come and go, runs are asked for, processes die.

A story (`story`) is told on a stage (`stage`) by a teller (`teller`). While it goes on, two things hold at every
moment: a day whose snapshots differ from its events stands in the log, and a report shows each day as it once was,
whole, and not older than a run that was seen to have completed. At its end everything is brought back. Then all
numbers are right, nothing is stuck, and the audit trail tells what the witness in the database saw (`witness`).

`PG_ANALYTICS_STORIES=200` tells that many, other ones each time. One that fails is told, step by step, with the
failure; `--hypothesis-seed` has the same ones told again, though processes may keep another time then.
"""

import os
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.acceptance.stage import Stage
from tests.acceptance.story import PERIODS, TRAFFIC_DAYS, Plot, plots
from tests.acceptance.teller import Teller
from tests.acceptance.traffic import Traffic
from tests.acceptance.witness import assert_differences_are_logged, assert_runs_took_allowed_ways
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.report_oracle import REPORTS, Asked, expected

pytestmark = pytest.mark.servers

_ASKED_FOR: Final = os.environ.get("PG_ANALYTICS_STORIES")
#: Half of them with processes that follow the events by themselves.
_STORIES: Final = (int(_ASKED_FOR or 4) + 1) // 2

_NO_RUN_ACTIVE: Final = "SELECT NOT EXISTS(SELECT FROM recompute_runs WHERE status IN ('pending', 'running'))"
_NOTHING_LOGGED: Final = "SELECT NOT EXISTS(SELECT FROM event_changes)"
_NO_LOCK: Final = """
    SELECT NOT EXISTS(
        SELECT FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid
        WHERE l.locktype = 'advisory' AND d.datname = current_database()
    )
"""
_RUNS: Final = "SELECT * FROM recompute_runs ORDER BY requested_at"
_TRAIL: Final = "SELECT id, action, actor, resource_id FROM audit_entries ORDER BY id"
_SEEN: Final = "SELECT * FROM story.run_changes ORDER BY id"


@pytest.mark.timeout(60 + 60 * _STORIES)
@pytest.mark.parametrize("refresh_interval", ["0", "100ms"])
def test_whatever_happens_every_number_is_right_in_the_end_and_nothing_is_stuck(
    environment: dict[str, str], redis_url: str, tmp_path: Path, refresh_interval: str
) -> None:
    @settings(
        max_examples=_STORIES,
        deadline=None,
        derandomize=_ASKED_FOR is None,
        database=None,
        # A story takes seconds and never goes the same way twice, so a shorter one is not looked for.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plot=plots)
    def tell(plot: Plot) -> None:
        teller = Teller(stage, traffic=plot.traffic is not None)
        try:
            stage.begin()
            with ExitStack() as writers:
                if plot.traffic is not None:
                    writers.enter_context(Traffic(environment["DATABASE_URL"], TRAFFIC_DAYS, seed=plot.traffic))
                for step in plot.steps:
                    teller.perform(step)
                    if not teller.truncating:
                        stage.run(assert_differences_are_logged(stage.observer))
            end(teller, refreshed=refresh_interval != "0")
        except BaseException as failure:
            failure.add_note(retold(teller, plot))
            stage.start_over()
            raise

    with Stage({**environment, "REFRESH_INTERVAL": refresh_interval}, redis_url, tmp_path) as stage:
        tell()


def end(teller: Teller, *, refreshed: bool) -> None:
    """Bring everything back, have every snapshot brought up to date, and compare all with all."""
    stage = teller.stage
    teller.tell("the end")
    teller.end_writing_slowly("COMMIT")
    stage.recover()
    stage.until_true(_NO_RUN_ACTIVE)
    teller.tell("no run is active")
    if refreshed:
        stage.until_true(_NOTHING_LOGGED)
    else:
        logged = stage.run(stage.observer.fetch("SELECT DISTINCT occurred_day AS day FROM event_changes"))
        run_over(teller, [row["day"] for row in logged], "rebuild")
    teller.tell("nothing is logged")
    # Also: whoever saw a run completed, and be it one that only looked, reads nothing older.
    run_over(teller, [day for period in PERIODS for day in (period[0], period[-1])], "verify")
    teller.tell("all is verified")
    stage.until_true(_NO_LOCK)
    stage.run(assert_nothing_stuck(stage.observer))
    stage.run(assert_snapshots_equal_events(stage.observer))
    stage.run(assert_runs_took_allowed_ways(stage.observer))
    assert not stage.run(stage.observer.fetch("SELECT * FROM event_changes"))
    assert_every_answer_was_meant(teller)
    assert_reports_equal_events(teller)
    stage.check_logs()


def run_over(teller: Teller, days: list[date], mode: str) -> None:
    """Have runs over these days, some of which lie millennia apart; all complete."""
    spans: list[list[date]] = []
    for day in sorted(days):
        if spans and (day - spans[-1][0]).days < 100:
            spans[-1].append(day)
        else:
            spans.append([day])
    before = len(teller.runs)
    for span in spans:
        assert teller.trigger("status-counts", "day", (span[0], span[-1]), mode) == "202"
    for run_id, _ in teller.runs[before:]:
        assert teller.ended(run_id)["status"] == "completed"


def assert_every_answer_was_meant(teller: Teller) -> None:
    """Every run that was accepted is there, what was cancelled stayed so, and each refusal is told."""
    stage = teller.stage
    found = stage.run(stage.observer.fetch("SELECT id::text, status FROM recompute_runs"))
    ended = {row["id"]: row["status"] for row in found}
    assert {run_id for run_id, _ in teller.runs} <= set(ended)
    assert {ended[run_id] for run_id in teller.cancelled} <= {"cancelled"}
    refusals = "SELECT count(*) FROM audit_entries WHERE action = 'recompute.rejected'"
    assert stage.run(stage.observer.fetchval(refusals)) == teller.refused


def assert_reports_equal_events(teller: Teller) -> None:
    """Every report answers what plain SQL over the events does."""
    for slug, (breakdowns, _) in REPORTS.items():
        for breakdown in breakdowns:
            for window in ("day", "week"):
                for period in PERIODS:
                    first, last = period[0], period[-1]
                    asked = Asked(slug=slug, window=window, date_from=first, date_to=last, breakdown=breakdown)
                    right = teller.stage.run(expected(teller.stage.observer, asked)).rows
                    assert teller.report(slug, first, last, window=window, breakdown=breakdown) == right, asked


def retold(teller: Teller, plot: Plot) -> str:
    """The story as far as it went, and what the database has of it."""
    parts = [f"The story (traffic={plot.traffic}):", *teller.told]
    for title, question in (("runs", _RUNS), ("trail", _TRAIL), ("changes of runs, as seen", _SEEN)):
        rows = teller.stage.run(teller.stage.observer.fetch(question))
        parts += [f"The {title}:", *(" ".join(f"{name}={value}" for name, value in row.items()) for row in rows)]
    return "\n".join(parts)
