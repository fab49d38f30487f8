"""Tells a story: performs its steps on a stage, and remembers what must be true of them in the end."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any, Final, TypeVar

from tests.acceptance.days_seen import ENTITY, SOURCE, STATUS
from tests.acceptance.gates import close_gate, open_gates, somebody_is_held
from tests.acceptance.stage import LEASE_S, Stage
from tests.acceptance.story import TRAFFIC_DAYS, Step
from tests.acceptance.writers import NOT_NOW, Writers
from tests.running import AUTHORISED

T = TypeVar("T")

_HOLDER: Final = """
    SELECT CASE WHEN became = 'running' THEN process END
    FROM story.run_changes WHERE run_id = $1 ORDER BY id DESC LIMIT 1
"""
_IDLE: Final = """
    SELECT NOT EXISTS(
        SELECT FROM recompute_runs
        WHERE status IN ('pending', 'running') AND report_slug = $1 AND date_from = $2 AND date_to = $3
    )
"""
#: How long a step waits for a worker to come; that nobody does is no fault, since all may be dead, or busy.
_PATIENCE_S: Final = 1.5


class Teller(Writers):
    """What the steps of a story do, one method each. What they return is told with them."""

    def __init__(self, stage: Stage, *, traffic: bool) -> None:
        """`traffic`: other writers are at work in `TRAFFIC_DAYS`."""
        super().__init__(stage)
        self.told: list[str] = []
        self.runs: list[tuple[str, dict[str, str]]] = []
        self.cancelled: set[str] = set()
        self.refused = 0
        self._traffic = traffic
        self._began = time.monotonic()
        self._gate: str | None = None

    def perform(self, step: Step) -> None:
        """Perform a step."""
        self.tell(step)
        self.say(getattr(self, step.name)(**step.arguments))

    def tell(self, step: object) -> None:
        """Begin a line of what is told."""
        self.told.append(f"{time.monotonic() - self._began:6.2f} s  {step}")

    def say(self, what: object) -> None:
        """Add to the line what came of the step."""
        if what is not None:
            self.told[-1] += f"  # {what}"

    # Runs and reports ------------------------------------------------------------------------------------------------

    def trigger(self, slug: str, window: str, asked: tuple[date, date], mode: str) -> str:
        """Ask for a run."""
        return self._trigger(self._scope(slug, window, asked, mode))[0]

    def verify(self, slug: str, window: str, asked: tuple[date, date]) -> str:
        """Ask for a run that only looks."""
        return self.trigger(slug, window, asked, "verify")

    def trigger_again(self, pick: int) -> str:
        """Ask for a run that was asked for before."""
        return self._trigger(self.runs[pick % len(self.runs)][1])[0] if self.runs else NOT_NOW

    def cancel(self, pick: int) -> str:
        """Cancel a run, the newer the likelier."""
        if not self.runs:
            return NOT_NOW
        run_id, _ = self.runs[-1 - pick % min(3, len(self.runs))]
        # A process that is held may have the run locked: 503 after a moment, and nothing is cancelled.
        answer = self.stage.ask("POST", f"/recomputations/{run_id}/cancel", patient=not self._gate, headers=AUTHORISED)
        assert answer.status_code in {200, 409, 503}, answer.text
        if answer.status_code == 200:
            self.cancelled.add(run_id)
        return str(answer.status_code)

    def read(self, asked: tuple[date, date], *, fresh: bool) -> str | None:
        """Each day that a report shows is one that was once committed, and not older than what was seen completed; a
        fresh report shows what is committed now.
        """
        if fresh and self.truncating:
            return NOT_NOW
        by_source = self._by_day("volume-by-period", asked, "source", "source", fresh=fresh)
        by_status = self._by_day("status-counts", asked, "period", "status", fresh=fresh)
        days = self._known_days(*asked)
        for day in days:
            self.days.assert_was_once(day, SOURCE, by_source.get(day, Counter()), fresh=fresh)
            self.days.assert_was_once(day, STATUS, by_status.get(day, Counter()), fresh=fresh)
        if days == [asked[0]] == [asked[1]]:
            rows = self.report("top-entities", *asked, fresh=fresh)
            entities = Counter({row["entity_id"]: row["event_count"] for row in rows})
            self.days.assert_was_once(days[0], ENTITY, entities, fresh=fresh)
        return None

    def recompute_twice(self, slug: str, window: str, asked: tuple[date, date], *, deaf: bool) -> str:
        """Who saw a run completed reads what it made, even where the service was `deaf` to the news of it; and once
        more, nothing is left to change.
        """
        if self.truncating:
            return NOT_NOW
        # Nobody may hold for long what the run needs.
        self.let_go()
        self.thaw()
        for number, worker in enumerate(self.stage.workers):
            if worker is None:
                self.stage.start_worker(number)
        self.stage.until_true(_IDLE, slug, *asked)
        self.write_again(asked[0], slowly=False)
        self.read(asked, fresh=False)
        if deaf:
            self.drop_connections("listen%")
        scope = self._scope(slug, window, asked)
        answered, run_id = self._trigger(scope)
        if run_id is None or self.ended(run_id)["status"] != "completed":
            return answered
        self.days.completed(self._known_days(*asked))
        self.read(asked, fresh=False)
        answered, run_id = self._trigger(scope)
        if run_id is None or (again := self.ended(run_id))["status"] != "completed":
            return answered
        if not (self._traffic and asked[1] >= TRAFFIC_DAYS[0] - timedelta(days=7)):
            assert again["summary"]["rows_inserted"] == again["summary"]["rows_deleted"] == 0, again
        return "completed twice"

    # Processes -------------------------------------------------------------------------------------------------------

    def hold_a_process(self, place: str, day: date) -> str:
        """Hold a process at a place of the protocol, and write to the very day that it is at, behind its back."""
        if self.truncating:
            return NOT_NOW
        self.let_go()
        if not self.stage.run(close_gate(self.stage.observer, place)):
            return "somebody was just passing"
        self._gate = place
        self.write_again(day, slowly=False)
        self.trigger("top-entities", "day", (day, day), "rebuild")
        held = self.stage.run(self._within_patience(lambda: somebody_is_held(self.stage.observer)))
        self.write_again(day, slowly=False)
        return "held" if held else "nobody came"

    def let_go(self) -> str | None:
        """Let go of who is held."""
        if self._gate is None:
            return NOT_NOW
        self.stage.run(open_gates(self.stage.observer))
        self._gate = None
        return None

    def kill_or_start_a_worker(self, pick: int) -> str:
        """`kill -9`, or a new one in the place of one that is gone."""
        number = pick % len(self.stage.workers)
        if self.stage.workers[number] is None:
            self.stage.start_worker(number)
            return "started"
        self.stage.kill_worker(number)
        return "killed"

    def stop_a_worker(self, pick: int) -> str | None:
        """SIGTERM."""
        return self._hit(pick, self.stage.stop_worker)

    def freeze_a_worker(self, pick: int) -> str | None:
        """SIGSTOP."""
        return self._hit(pick, self.stage.freeze)

    def thaw(self) -> None:
        """SIGCONT."""
        for number in list(self.stage.frozen):
            self.stage.thaw(number)

    def freeze_beyond_the_lease(self, day: date, then: str) -> str:
        """SIGSTOP for the very worker that has just taken a run, until it has lost it."""
        if not self._workers():
            return NOT_NOW
        answered, run_id = self._trigger(self._scope("status-counts", "week", (day, day)))
        number = None if run_id is None else self.stage.run(self._within_patience(lambda: self._holder_of(run_id)))
        if number is None or number in self.stage.frozen:
            return f"{answered}, but nobody took it"
        self.stage.freeze(number)
        now = self.stage.run(self.stage.observer.fetchval("SELECT clock_timestamp()"))
        self.stage.until_true("SELECT clock_timestamp() > $1", now + timedelta(seconds=LEASE_S))
        if then == "kill":
            self.stage.kill_worker(number)
        elif then == "stop":
            self.stage.stop_worker(number)
        else:
            self.stage.thaw(number)
        return f"worker {number}"

    def kill_the_service(self) -> None:
        """`kill -9`, and another one."""
        self.stage.replace_service()

    # Servers ---------------------------------------------------------------------------------------------------------

    def empty_redis(self) -> None:
        """Redis forgets everything."""
        self.stage.forget_redis()

    def lose_redis(self, how: str) -> None:
        """Redis cannot be reached any more, in one way or another."""
        getattr(self.stage.redis, how)()

    def restore_redis(self) -> None:
        """Redis is back."""
        self.stage.redis.restore()

    def drop_connections(self, whose: str) -> None:
        """PostgreSQL ends sessions of ours."""
        self.stage.drop_connections(f"pg-analytics {whose}")

    # -----------------------------------------------------------------------------------------------------------------

    def report(
        self,
        slug: str,
        first: date,
        last: date,
        *,
        window: str = "day",
        breakdown: str | None = None,
        fresh: bool = False,
    ) -> Any:
        """Rows of a report."""
        asked = {"window": window, "date_from": str(first), "date_to": str(last), "limit": "1000"}
        asked |= {} if breakdown is None else {"breakdown": breakdown}
        asked |= {"fresh": "true"} if fresh else {}
        answer = self.stage.ask("GET", f"/reports/{slug}/run", params=asked)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["rows"]

    def ended(self, run_id: str) -> Any:
        """A run, once it is seen to have ended; the witness knows whether it may have failed."""
        guard = time.monotonic() + 60
        while (run := self._get_run(run_id))["status"] in {"pending", "running"}:
            assert time.monotonic() < guard, f"it never ends: {run}"
            time.sleep(0.02)
        return run

    def _get_run(self, run_id: str) -> Any:
        return self.stage.ask("GET", f"/recomputations/{run_id}", headers=AUTHORISED).json()["data"]

    @staticmethod
    def _scope(slug: str, window: str, asked: tuple[date, date], mode: str = "rebuild") -> dict[str, str]:
        return {
            "report_slug": slug,
            "window": window,
            "date_from": str(asked[0]),
            "date_to": str(asked[1]),
            "mode": mode,
        }

    def _trigger(self, scope: dict[str, str]) -> tuple[str, str | None]:
        """The answer, and the id of the new run unless it is refused."""
        answer = self.stage.ask("POST", "/recomputations", json=scope, headers=AUTHORISED)
        if answer.status_code == 202:
            run_id = str(answer.json()["data"]["id"])
            self.runs.append((run_id, scope))
            return "202", run_id
        assert answer.status_code in {409, 503}, answer.text
        self.refused += 1
        return str(answer.status_code), None

    def _by_day(
        self, slug: str, asked: tuple[date, date], breakdown: str, dimension: str, *, fresh: bool
    ) -> dict[date, "Counter[str]"]:
        shown: dict[date, Counter[str]] = {}
        for row in self.report(slug, *asked, breakdown=breakdown, fresh=fresh):
            shown.setdefault(date.fromisoformat(row["bucket_date"]), Counter())[row[dimension]] = row["event_count"]
        return shown

    def _known_days(self, first: date, last: date) -> list[date]:
        """Days of a range whose every state the story knows."""
        every = (first + timedelta(days=n) for n in range((last - first).days + 1))
        return [day for day in every if not (self._traffic and day in TRAFFIC_DAYS)]

    def _workers(self) -> list[int]:
        """Workers that are neither gone nor frozen."""
        alive = [number for number, worker in enumerate(self.stage.workers) if worker is not None]
        return [number for number in alive if number not in self.stage.frozen]

    def _hit(self, pick: int, blow: Callable[[int], None]) -> str | None:
        if not (workers := self._workers()):
            return NOT_NOW
        blow(workers[pick % len(workers)])
        return None

    async def _within_patience(self, probe: Callable[[], Awaitable[T]]) -> T:
        """The first answer that is not None or False; the last one, if there is none for some time."""
        until = time.monotonic() + _PATIENCE_S
        while (answer := await probe()) in {None, False} and time.monotonic() < until:  # noqa: ASYNC110 - as in `waiting`
            await asyncio.sleep(0.01)
        return answer

    async def _holder_of(self, run_id: str) -> int | None:
        """The worker that has taken a run and not ended it."""
        process = await self.stage.observer.fetchval(_HOLDER, run_id)
        return next((n for n, name in enumerate(self.stage.names) if name == process), None)
