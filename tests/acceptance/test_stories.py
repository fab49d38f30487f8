"""Stories of chance over real servers and processes: events come and go, runs are asked for, processes die.

Hypothesis tells the stories. While one goes on, two things must hold at every moment: a day whose snapshots differ from
its events stands in the log, and a report shows each day as it once was, whole, and not older than a run that was
seen to have completed. At its end everything is brought back, and then all numbers are right, nothing is stuck, and
the audit trail tells what the witness in the database saw (`witness`).

`PG_ANALYTICS_STORIES=200` tells that many stories, other ones each time. A story that fails is told, step by step, with
the failure; it can be told again by `--hypothesis-seed`, though processes may keep another time then.
"""

import os
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pg_analytics.postgres.pool import Connection
from tests.acceptance.gates import PLACES, close_gate, open_gates, somebody_is_held
from tests.acceptance.stage import SOURCES, WORKERS, Stage
from tests.acceptance.traffic import PREFIX, Traffic
from tests.acceptance.witness import assert_differences_are_logged, assert_runs_took_allowed_ways
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.report_oracle import REPORTS, Asked, expected
from tests.running import AUTHORISED

pytestmark = pytest.mark.servers

_ASKED_FOR: Final = os.environ.get("PG_ANALYTICS_STORIES")
_STORIES: Final = int(_ASKED_FOR or 8) // 2

STORIES: Final = settings(
    max_examples=_STORIES,
    stateful_step_count=25,
    deadline=None,
    derandomize=_ASKED_FOR is None,
    database=None,
    # A story takes seconds and never goes the same way twice, so a shorter one is not looked for.
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

STATUSES: Final = ("success", "failed", "pending")
ENTITIES: Final = ("a", "A", "it's \\N", "\U0001f600")
HOLDER: Final = "holder"
#: Rules that wait for something, or start a process, may do so this often in a story.
_PATIENCE: Final = 6
_LEASE_S: Final = 1.0

# A busy fortnight, the turn of an ISO year before it, a summer long ago, a leap day, and both ends of the calendar.
PERIODS: Final = tuple(
    [date.fromisoformat(first) + timedelta(days=n) for n in range(count)]
    for first, count in (
        ("2026-03-02", 10),
        ("2025-12-29", 7),
        ("2019-07-04", 2),
        ("2024-02-27", 4),
        ("0001-01-08", 3),
        ("9999-12-24", 3),
    )
)
TRAFFIC_DAYS: Final = PERIODS[0][-2:]

days = st.sampled_from(PERIODS).flatmap(st.sampled_from)
windows = st.sampled_from(["day", "week"])
slugs = st.sampled_from(sorted(REPORTS))
picks = st.integers(0, 9)
workers = st.integers(0, WORKERS - 1)
#: Within a period, or over the newest two and what lies between them: more days than a chunk has.
ranges = st.one_of(
    st.sampled_from(PERIODS)
    .flatmap(lambda period: st.tuples(st.sampled_from(period), st.sampled_from(period)))
    .map(sorted),
    st.just([PERIODS[1][0], PERIODS[0][-1]]),
)

_STATES: Final = """
    SELECT occurred_day, s.slug, e.status, e.entity_id, count(*)
    FROM analytics_events AS e JOIN event_sources AS s ON s.id = e.source_id
    GROUP BY 1, 2, 3, 4
"""
_MINE: Final = f"external_ref NOT LIKE '{PREFIX}%' AND abs(hashtext(external_ref)) % 10 = $1"
_RUNS: Final = "SELECT * FROM recompute_runs ORDER BY requested_at"
_TRAIL: Final = "SELECT action, actor, resource_id FROM audit_entries ORDER BY id"
_NO_RUN_ACTIVE: Final = "SELECT NOT EXISTS(SELECT FROM recompute_runs WHERE status IN ('pending', 'running'))"
_NOTHING_LOGGED: Final = "SELECT NOT EXISTS(SELECT FROM event_changes)"
_NO_LOCK: Final = """
    SELECT NOT EXISTS(
        SELECT FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid
        WHERE l.locktype = 'advisory' AND d.datname = current_database()
    )
"""

#: The events of a day: how many of each source, status and entity.
Day = Counter[tuple[str, str, str]]


class Story(RuleBasedStateMachine):
    """One story. What preconditions ask must follow from the steps alone, never from what processes did meanwhile."""

    def __init__(self, stage: Stage, *, refreshed: bool) -> None:
        """`refreshed`: the processes on `stage` follow the events by themselves."""
        super().__init__()
        self.stage = stage
        self.refreshed = refreshed
        self.started = time.monotonic()
        self.told: list[str] = []
        self.closing = ExitStack()
        self.patience = _PATIENCE
        self.written = 0
        self.writing_slowly = False
        self.truncating = False
        self.gate: str | None = None
        self.redis_lost = False
        self.traffic = False
        self.scopes: list[tuple[str, dict[str, Any]]] = []
        self.cancelled: set[str] = set()
        self.refused = 0
        #: What each day was after each commit, the newest last, and the oldest that may still be shown.
        self.states: dict[date, list[Day]] = {}
        self.oldest_shown: dict[date, int] = {}
        stage.begin()

    # Events ------------------------------------------------------------------------------------------------------

    @initialize(traffic=st.booleans(), seed=st.integers(0, 2**16))
    def begin(self, traffic: bool, seed: int) -> None:  # noqa: FBT001 - hypothesis draws it by name
        self.tell("begin", traffic=traffic, seed=seed)
        self.traffic = traffic
        if traffic:
            url = self.stage._environment["DATABASE_URL"]
            self.closing.enter_context(Traffic(url, list(TRAFFIC_DAYS), seed=seed))

    @rule(day=days, count=st.sampled_from([1, 3, 200]), copy=st.booleans(), pick=picks, slowly=st.booleans())
    def write(self, day: date, count: int, copy: bool, pick: int, slowly: bool) -> None:  # noqa: FBT001
        self.tell("write", day=day, count=count, copy=copy, pick=pick, slowly=slowly)
        self._write(day, count, pick, copy=copy, slowly=slowly)

    @rule(pick=picks, day=days, slowly=st.booleans())
    def move(self, pick: int, day: date, slowly: bool) -> None:  # noqa: FBT001
        self.tell("move", pick=pick, day=day, slowly=slowly)
        at = datetime.combine(day, time_of_day(23, 59, 59), UTC)
        self._change(f"UPDATE analytics_events SET occurred_at = $2 WHERE {_MINE}", pick, at, slowly=slowly)

    @rule(pick=picks, to=picks, slowly=st.booleans())
    def change(self, pick: int, to: int, slowly: bool) -> None:  # noqa: FBT001
        self.tell("change", pick=pick, to=to, slowly=slowly)
        self._change(
            f"""
            UPDATE analytics_events SET entity_id = $2, status = $3,
                source_id = (SELECT id FROM event_sources WHERE slug = $4)
            WHERE {_MINE}
            """,
            pick,
            ENTITIES[to % 4],
            STATUSES[to % 3],
            SOURCES[to % 3],
            slowly=slowly,
        )

    @rule(pick=picks, slowly=st.booleans())
    def delete(self, pick: int, slowly: bool) -> None:  # noqa: FBT001
        self.tell("delete", pick=pick, slowly=slowly)
        self._change(f"DELETE FROM analytics_events WHERE {_MINE}", pick, slowly=slowly)

    @rule(slowly=st.booleans())
    def truncate(self, slowly: bool) -> None:  # noqa: FBT001
        self.tell("truncate", slowly=slowly)
        self.truncating = self.truncating or (slowly and self.writing_slowly)
        self._change("TRUNCATE analytics_events", slowly=slowly)

    @precondition(lambda self: not self.writing_slowly)
    @rule()
    def begin_to_write_slowly(self) -> None:
        """From now on, a second writer has a transaction open."""
        self.tell("begin_to_write_slowly")
        self.stage.run(self.stage.slow_writer.execute("BEGIN"))
        self.writing_slowly = True

    @precondition(lambda self: self.writing_slowly)
    @rule(how=st.sampled_from(["COMMIT", "ROLLBACK"]))
    def end_writing_slowly(self, how: str) -> None:
        self.tell("end_writing_slowly", how=how)
        self._end_writing_slowly(how)

    # Runs --------------------------------------------------------------------------------------------------------

    @rule(slug=slugs, window=windows, asked=ranges, mode=st.sampled_from(["rebuild", "rebuild", "verify"]))
    def trigger(self, slug: str, window: str, asked: list[date], mode: str) -> None:
        self.tell("trigger", slug=slug, window=window, asked=asked, mode=mode)
        self._trigger(slug, window, asked[0], asked[-1], mode)

    @precondition(lambda self: self.scopes)
    @rule(pick=picks)
    def trigger_again(self, pick: int) -> None:
        self.tell("trigger_again", pick=pick)
        _, scope = self.scopes[pick % len(self.scopes)]
        self._trigger(scope["report_slug"], scope["window"], scope["date_from"], scope["date_to"], scope["mode"])

    @precondition(lambda self: self.scopes)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        self.tell("cancel", pick=pick)
        run_id, _ = self.scopes[pick % len(self.scopes)]
        # What a held process has locked may keep the service from it: 503 then.
        answer = self.stage.ask(
            "POST", f"/recomputations/{run_id}/cancel", patient=self.gate is None, headers=AUTHORISED
        )
        assert answer.status_code in {200, 409, 503}, answer.text
        if answer.status_code == 200:
            self.cancelled.add(run_id)
        self.say(answer.status_code)

    @precondition(lambda self: self._calm() and self.patience)
    @rule(slug=slugs, window=windows, asked=ranges)
    def recompute_and_recompute_again(self, slug: str, window: str, asked: list[date]) -> None:
        """What a run made is there once it is seen to have completed, and another run finds nothing to change."""
        self.tell("recompute_and_recompute_again", slug=slug, window=window, asked=asked)
        self.patience -= 1
        first, last = asked[0], asked[-1]
        if self._recompute(slug, window, first, last) is None:
            return
        for day in self._known_days(first, last):
            self.oldest_shown[day] = len(self._states_of(day)) - 1
        self._read(first, last)
        if not self.traffic or last < TRAFFIC_DAYS[0] or first > TRAFFIC_DAYS[-1] + timedelta(days=7):
            again = self._recompute(slug, "day", first, last)
            assert again is None or again["summary"]["rows_inserted"] == again["summary"]["rows_deleted"] == 0, again

    @rule(asked=ranges)
    def read(self, asked: list[date]) -> None:
        self.tell("read", asked=asked)
        self._read(asked[0], asked[-1])

    # Processes ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.gate is None and self.patience and self._working() and not self.truncating)
    @rule(place=st.sampled_from(sorted(PLACES)), day=days, pick=picks)
    def hold_a_process(self, place: str, day: date, pick: int) -> None:
        """Hold a process at a place, and write to the very day that it is at, behind its back."""
        self.tell("hold_a_process", place=place, day=day, pick=pick)
        self.patience -= 1
        self.gate = place
        self.stage.run(close_gate(self.stage.observer, place))
        self._write(day, 2, pick)
        self._trigger("top-entities", "day", day, day, "rebuild")
        # It is no fault if nobody comes: every worker may be busy, or dead.
        patience = time.monotonic() + 2
        while not (held := self.stage.run(somebody_is_held(self.stage.observer))) and time.monotonic() < patience:
            time.sleep(0.01)
        self.say("held" if held else "nobody came")
        self._write(day, 1, pick)

    @precondition(lambda self: self.gate is not None)
    @rule()
    def let_go(self) -> None:
        self.tell("let_go")
        self.stage.run(open_gates(self.stage.observer))
        self.gate = None

    @rule(number=workers)
    def kill_or_start_a_worker(self, number: int) -> None:
        self.tell("kill_or_start_a_worker", number=number)
        if self.stage.workers[number] is None:
            self.stage.start_worker(number)
        else:
            self.stage.kill_worker(number)

    @precondition(lambda self: self._working())
    @rule(pick=picks)
    def stop_a_worker(self, pick: int) -> None:
        self.tell("stop_a_worker", pick=pick)
        working = self._working()
        self.stage.stop_worker(working[pick % len(working)])

    @precondition(lambda self: self._working())
    @rule(pick=picks)
    def freeze_a_worker(self, pick: int) -> None:
        self.tell("freeze_a_worker", pick=pick)
        working = self._working()
        self.stage.freeze(working[pick % len(working)])

    @precondition(lambda self: self.stage.frozen)
    @rule()
    def thaw(self) -> None:
        self.tell("thaw")
        for number in list(self.stage.frozen):
            self.stage.thaw(number)

    @precondition(lambda self: self.patience)
    @rule()
    def let_leases_run_out(self) -> None:
        """Until who was silent at the beginning has lost its run."""
        self.tell("let_leases_run_out")
        self.patience -= 1
        now = self.stage.run(self.stage.observer.fetchval("SELECT clock_timestamp()"))
        self.stage.until_true("SELECT clock_timestamp() > $1", now + timedelta(seconds=_LEASE_S))

    @precondition(lambda self: self.patience)
    @rule()
    def kill_the_service(self) -> None:
        self.tell("kill_the_service")
        self.patience -= 1
        self.stage.replace_service()

    # Servers -----------------------------------------------------------------------------------------------------

    @rule()
    def empty_redis(self) -> None:
        self.tell("empty_redis")
        self.stage.forget_redis()

    @rule(how=st.sampled_from(["refuse", "hang", "lose_route", "cut"]))
    def lose_redis(self, how: str) -> None:
        self.tell("lose_redis", how=how)
        getattr(self.stage.redis, how)()
        self.redis_lost = True

    @precondition(lambda self: self.redis_lost)
    @rule()
    def restore_redis(self) -> None:
        self.tell("restore_redis")
        self.stage.redis.restore()
        self.redis_lost = False

    @rule(whose=st.sampled_from(["worker", "refresher", "api", "listen%", "%"]))
    def drop_connections(self, whose: str) -> None:
        self.tell("drop_connections", whose=whose)
        self.stage.drop_connections(f"pg-analytics {whose}")

    # What must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def a_day_that_differs_from_its_events_stands_in_the_log(self) -> None:
        if not self.truncating:
            self.stage.run(assert_differences_are_logged(self.stage.observer))

    def teardown(self) -> None:
        """The end of the story: bring everything back, and compare."""
        failed = sys.exception()
        try:
            if failed is None:
                self._end()
            else:
                self.closing.close()
        except BaseException as error:
            failed = error
            raise
        finally:
            if failed is not None:
                failed.add_note(self._retold())
                self.stage.start_over()

    def _end(self) -> None:
        stage = self.stage
        self.tell("end")
        if self.writing_slowly:
            self._end_writing_slowly("COMMIT")
        self.closing.close()
        stage.recover()
        self.gate = None
        stage.until_true(_NO_RUN_ACTIVE)
        self.say("no run is active")
        if self.refreshed:
            stage.until_true(_NOTHING_LOGGED)
        else:
            self._recompute_all(
                "rebuild", [row["day"] for row in self._fetch("SELECT DISTINCT occurred_day AS day FROM event_changes")]
            )
        self.say("nothing is logged")
        # Whoever saw a run completed, a verification too, reads nothing older than that.
        self._recompute_all("verify", [day for period in PERIODS for day in (period[0], period[-1])])
        stage.until_true(_NO_LOCK)
        assert not self._fetch("SELECT * FROM event_changes")
        stage.run(assert_snapshots_equal_events(stage.observer))
        stage.run(assert_nothing_stuck(stage.observer))
        stage.run(assert_runs_took_allowed_ways(stage.observer))
        ended = {str(row["id"]): row["status"] for row in self._fetch("SELECT id, status FROM recompute_runs")}
        assert {run_id for run_id, _ in self.scopes} <= set(ended), "a run that was accepted is not there"
        assert {ended[run_id] for run_id in self.cancelled} <= {"cancelled"}
        rejected = self._fetch("SELECT id FROM audit_entries WHERE action = 'recompute.rejected'")
        assert len(rejected) == self.refused
        self._assert_reports_equal_events()
        stage.check_logs()
        self.say("all is well")

    def _assert_reports_equal_events(self) -> None:
        for slug, (breakdowns, _) in REPORTS.items():
            for breakdown in breakdowns:
                for window in ("day", "week"):
                    for first, last in ((period[0], period[-1]) for period in PERIODS):
                        asked = Asked(
                            slug=slug, window=window, date_from=first, date_to=last, breakdown=breakdown, limit=1000
                        )
                        right = self.stage.run(expected(self.stage.observer, asked)).rows
                        assert self._report(slug, first, last, window=window, breakdown=breakdown) == right, asked

    # ---------------------------------------------------------------------------------------------------------------

    def tell(self, step: str, **arguments: object) -> None:
        """Begin a step."""
        said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        self.told.append(f"{time.monotonic() - self.started:6.2f} {step}({said})")

    def say(self, what: object) -> None:
        """Add to the step what came of it."""
        self.told[-1] += f"  # {what} at {time.monotonic() - self.started:.2f}"

    def _retold(self) -> str:
        runs = [" ".join(f"{name}={value}" for name, value in row.items()) for row in self._fetch(_RUNS)]
        trail = [" ".join(map(str, row.values())) for row in self._fetch(_TRAIL)]
        return "\n".join(["The story:", *self.told, "Its runs:", *runs, "Its trail:", *trail])

    def _fetch(self, sql: str) -> list[asyncpg.Record]:
        return self.stage.run(self.stage.observer.fetch(sql))

    def _working(self) -> list[int]:
        """Workers that are neither gone nor frozen."""
        alive = [number for number, worker in enumerate(self.stage.workers) if worker is not None]
        return [number for number in alive if number not in self.stage.frozen]

    def _calm(self) -> bool:
        """Whether a run can be completed now: nobody holds for long what it needs."""
        return bool(self._working()) and not (self.gate or self.stage.frozen or self.truncating)

    def _write(self, day: date, count: int, pick: int, *, copy: bool = False, slowly: bool = False) -> None:
        connection = self._writer(slowly=slowly)
        source_ids = {row["slug"]: row["id"] for row in self._fetch("SELECT slug, id FROM event_sources")}
        rows = []
        for n in range(pick, pick + count):
            self.written += 1
            at = datetime.combine(day, time_of_day(n % 24, 59, 59), UTC)
            source_id = source_ids[SOURCES[n % len(SOURCES)]]
            rows.append((f"event-{self.written}", source_id, ENTITIES[n % 4], STATUSES[n % 3], 1, 1, at))
        columns = ("external_ref", "source_id", "entity_id", "status", "processing_ms", "amount_cents", "occurred_at")

        async def put() -> None:
            if copy:
                await connection.copy_records_to_table("analytics_events", records=rows, columns=columns)
            else:
                places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
                await connection.executemany(
                    f"INSERT INTO analytics_events ({', '.join(columns)}) VALUES ({places})", rows
                )

        self._attempt(connection, put)

    def _change(self, sql: str, *arguments: object, slowly: bool) -> None:
        connection = self._writer(slowly=slowly)

        async def change() -> None:
            await connection.execute(sql, *arguments)

        self._attempt(connection, change)

    def _writer(self, *, slowly: bool) -> Connection:
        return self.stage.slow_writer if slowly and self.writing_slowly else self.stage.writer

    def _attempt(self, connection: Connection, change: Any) -> None:
        """Have something written, unless another writer, or a rebuild, has it locked."""

        async def attempt() -> None:
            async with connection.transaction():
                await change()

        try:
            self.stage.run(attempt())
        except asyncpg.LockNotAvailableError:
            self.say("locked")
        self._take_down_states()

    def _end_writing_slowly(self, how: str) -> None:
        self.stage.run(self.stage.slow_writer.execute(how))
        self.writing_slowly = self.truncating = False
        self._take_down_states()

    def _take_down_states(self) -> None:
        """What each day is now, if that is something new."""
        if self.truncating:
            return
        now: dict[date, Day] = {day: Counter() for day in self.states}
        for day, source, status, entity, count in self._fetch(_STATES):
            now.setdefault(day, Counter())[source, status, entity] = count
        for day, state in now.items():
            if state != self._states_of(day)[-1]:
                self.states[day].append(state)

    def _states_of(self, day: date) -> list[Day]:
        return self.states.setdefault(day, [Counter()])

    def _known_days(self, first: date, last: date) -> list[date]:
        """Days of a range whose every state the story knows."""
        every = (first + timedelta(days=n) for n in range((last - first).days + 1))
        return [day for day in every if not (self.traffic and day in TRAFFIC_DAYS)]

    def _read(self, first: date, last: date) -> None:
        """Each day that a report shows is one that was once committed, and not older than what was seen completed."""
        by_source = self._by_day(self._report("volume-by-period", first, last, breakdown="source"), "source")
        by_status = self._by_day(self._report("status-counts", first, last, breakdown="period"), "status")
        for day in self._known_days(first, last):
            self._assert_shown(day, 0, by_source.get(day, Counter()))
            self._assert_shown(day, 1, by_status.get(day, Counter()))
        if first == last and self._known_days(first, last):
            rows = self._report("top-entities", first, last)
            self._assert_shown(first, 2, Counter({row["entity_id"]: row["event_count"] for row in rows}))

    def _assert_shown(self, day: date, dimension: int, shown: Counter[str]) -> None:
        once = []
        for state in self._states_of(day)[self.oldest_shown.get(day, 0) :]:
            counted: Counter[str] = Counter()
            for names, count in state.items():
                counted[names[dimension]] += count
            once.append(counted)
        assert shown in once, f"{day} was never {dict(shown)}, but {[dict(state) for state in once]}"

    @staticmethod
    def _by_day(rows: list[dict[str, Any]], dimension: str) -> dict[date, Counter[str]]:
        shown: dict[date, Counter[str]] = {}
        for row in rows:
            day = shown.setdefault(date.fromisoformat(row["bucket_date"]), Counter())
            day[row[dimension]] = row["event_count"]
        return shown

    def _report(
        self, slug: str, first: date, last: date, *, window: str = "day", breakdown: str | None = None
    ) -> list[dict[str, Any]]:
        asked: dict[str, Any] = {"window": window, "date_from": str(first), "date_to": str(last), "limit": 1000}
        if breakdown is not None:
            asked["breakdown"] = breakdown
        answer = self.stage.ask("GET", f"/reports/{slug}/run", params=asked)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]["rows"]
        return rows

    def _trigger(self, slug: str, window: str, first: object, last: object, mode: str) -> str | None:
        """The id of the new run; None if it is refused."""
        scope = {"report_slug": slug, "window": window, "date_from": str(first), "date_to": str(last), "mode": mode}
        answer = self.stage.ask("POST", "/recomputations", json=scope, headers=AUTHORISED)
        self.say(answer.status_code)
        if answer.status_code == 202:
            run_id = str(answer.json()["data"]["id"])
            self.scopes.append((run_id, scope))
            return run_id
        assert answer.status_code in {409, 503}, answer.text
        self.refused += 1
        return None

    def _recompute(self, slug: str, window: str, first: date, last: date) -> Any:
        """The run, once it has completed; None if it was refused, or failed as it may."""
        run_id = self._trigger(slug, window, first, last, "rebuild")
        return None if run_id is None else self._ended(run_id)

    def _ended(self, run_id: str) -> Any:
        """The run, once it is seen to have ended; None if it has failed, of which the witness knows whether it may."""
        guard = time.monotonic() + 60
        while True:
            run = self.stage.ask("GET", f"/recomputations/{run_id}", headers=AUTHORISED).json()["data"]
            if run["status"] not in {"pending", "running"}:
                self.say(run["status"])
                return run if run["status"] == "completed" else None
            assert time.monotonic() < guard, f"the run never ends: {run}"
            time.sleep(0.02)

    def _recompute_all(self, mode: str, wanted: list[date]) -> None:
        """Have runs over these days, some of which lie millennia apart, and wait until they have completed."""
        spans: list[list[date]] = []
        for day in sorted(wanted):
            if spans and (day - spans[-1][0]).days < 100:
                spans[-1].append(day)
            else:
                spans.append([day])
        asked = [self._trigger("status-counts", "day", span[0], span[-1], mode) for span in spans]
        for run_id in asked:
            assert run_id is not None
            assert self._ended(run_id) is not None


@pytest.mark.timeout(120 + 60 * _STORIES)
@pytest.mark.parametrize("refresh_interval", ["0", "100ms"])
def test_whatever_happens_every_number_is_right_in_the_end_and_nothing_is_stuck(
    environment: dict[str, str], redis_url: str, tmp_path: Path, refresh_interval: str
) -> None:
    with Stage({**environment, "REFRESH_INTERVAL": refresh_interval}, redis_url, tmp_path) as stage:

        class Told(Story):
            def __init__(self) -> None:
                super().__init__(stage, refreshed=refresh_interval != "0")

        run_state_machine_as_test(Told, settings=STORIES)
