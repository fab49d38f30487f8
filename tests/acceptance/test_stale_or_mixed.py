"""No answer is older than a run that somebody was told is completed, and none mixes two states: whatever happens.

Three services answer many readers (`fleet`). Others change events and recompute, again and again; they number the
generations of events, and the rows of every report tell which one they are of (`generations`). Meanwhile Redis forgets,
or is back from yesterday, networks hang, processes die. Every answer is recorded (`asking`), and judged when all is
over (`answers`).

What happens is a pack of cards, shuffled, and beside it another one about what Redis holds, again and again. A card
waits for states only: for runs that were begun and completed under it, and for whom it troubled to be well again.

`PG_ANALYTICS_STORIES=200`, as for the stories, plays twenty packs, other ones each time.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import asyncpg
import pytest

from pg_analytics.embedded import redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.process import Server
from tests.acceptance.fleet import FORGETFUL, KEEPING, NAMES, QUESTIONS, REMOTE, Fleet
from tests.acceptance.generations import SOURCES
from tests.events import add_source
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events

pytestmark = pytest.mark.own_servers

_ASKED_FOR: Final = os.environ.get("PG_ANALYTICS_STORIES")
_PACKS: Final = max(1, int(_ASKED_FOR or 0) // 10)

_DROP_SESSIONS: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'pg-analytics %'
"""


class _RedisCards:
    """What becomes of the contents of Redis."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._contents = fleet.contents

    def nothing(self) -> None:
        self._fleet.until_completed(2)

    def everything_is_forgotten(self) -> None:
        for _ in range(2):
            self._contents.flushall()
            self._fleet.until_completed()

    def versions_are_forgotten(self) -> None:
        for _ in range(2):
            for key in self._contents.scan_iter("report:version:*"):
                self._contents.delete(key)
            self._fleet.until_completed()

    def old_contents_are_back(self) -> None:
        kept = {key: self._contents.dump(key) for key in self._contents.scan_iter()}
        self._fleet.until_completed(2)
        self._contents.flushall()
        for key, value in kept.items():
            if value is not None:
                self._contents.restore(key, 60_000, value, replace=True)
        self._fleet.until_completed()

    def connections_are_cut(self) -> None:
        for _ in range(2):
            self._contents.client_kill_filter(_type="normal", skipme=True)
            self._fleet.until_completed()


class _Cards:
    """What becomes of networks and processes."""

    def __init__(self, fleet: Fleet, random: Random) -> None:
        self._fleet = fleet
        self._random = random

    def redis_is_refused(self) -> None:
        self._fleet.to_redis.refuse()
        self._fleet.until_completed(2)
        self._fleet.to_redis.restore()

    def redis_hangs(self) -> None:
        self._fleet.to_redis.hang()
        self._fleet.until_completed(2)
        self._fleet.to_redis.restore()

    def redis_and_postgres_are_far_away(self) -> None:
        with self._fleet.trouble(REMOTE):
            self._fleet.to_redis.delay(0.02)
            self._fleet.to_postgres.delay(0.1)
            self._fleet.until_completed(2)
            self._fleet.to_redis.restore()
            self._fleet.to_postgres.restore()

    def postgres_hangs(self) -> None:
        with self._fleet.trouble(REMOTE):
            self._fleet.to_postgres.hang()
            self._until_degraded()
            self._fleet.until_completed(2)
            self._fleet.to_postgres.restore()

    def postgres_is_refused(self) -> None:
        with self._fleet.trouble(REMOTE):
            self._fleet.to_postgres.refuse()
            self._until_degraded()
            self._fleet.until_completed(2)
            self._fleet.to_postgres.restore()

    def postgres_and_redis_are_refused(self) -> None:
        with self._fleet.trouble(REMOTE):
            self._fleet.to_postgres.refuse()
            self._fleet.to_redis.refuse()
            self._fleet.until(lambda: self._fleet.ask(REMOTE, self._fleet.new_question()).status == 503)
            self._fleet.until_completed(2)
            self._fleet.to_redis.restore()
            self._fleet.to_postgres.restore()

    def the_route_to_postgres_is_lost(self) -> None:
        with self._fleet.trouble(REMOTE):
            self._fleet.to_postgres.lose_route()
            self._fleet.until_completed(2)
            self._fleet.to_postgres.cut()

    def postgres_answers_late(self) -> None:
        """Answers of before a run arrive after it, at a process that has heard of the run by another connection."""
        with self._fleet.trouble(REMOTE), ThreadPoolExecutor(4) as threads:
            self._fleet.until_completed()
            questions = [self._fleet.new_question() for _ in range(4)]
            self._fleet.to_postgres.hold_answers()
            late = [threads.submit(self._fleet.ask, REMOTE, question) for question in questions]
            self._fleet.until_completed(2)
            self._fleet.until(self._remote_is_up_to_date)
            self._fleet.to_postgres.restore()
            for answer in late:
                answer.result()
            for name in NAMES:
                for question in questions:
                    self._fleet.ask(name, question)
            self._fleet.to_postgres.cut()

    def sessions_are_ended(self) -> None:
        with self._fleet.trouble(*NAMES):
            for _ in range(2):
                asyncio.run(_drop_sessions(self._fleet.database_url))
                self._fleet.until_completed()

    def a_process_is_killed(self) -> None:
        name = self._random.choice((KEEPING, FORGETFUL))
        with self._fleet.trouble(name):
            self._fleet.asked[name].is_there.clear()
            self._fleet.running[name].kill()
            self._fleet.until_completed(2)
            self._fleet.start(name)

    def a_process_is_paused(self) -> None:
        """What is asked after the run, of a process that sleeps since before it, is answered when it wakes up."""
        asked, paused = self._fleet.asked[REMOTE], self._fleet.running[REMOTE].process
        with self._fleet.trouble(REMOTE), ThreadPoolExecutor(4) as threads:
            asked.is_there.clear()
            paused.send_signal(signal.SIGSTOP)
            try:
                self._fleet.until_completed(2)
                for question in QUESTIONS[:4]:
                    threads.submit(self._fleet.ask, REMOTE, question)
            finally:
                paused.send_signal(signal.SIGCONT)
                asked.is_there.set()

    def _until_degraded(self) -> None:
        """Until one more answer is marked as possibly behind."""
        began = time.monotonic()
        answers = self._fleet.history.answers
        self._fleet.until(lambda: any(answer.degraded and answer.asked_at > began for answer in answers[-200:]))

    def _remote_is_up_to_date(self) -> bool:
        answer = self._fleet.ask(REMOTE, QUESTIONS[0])
        newest = max(c.generation for c in self._fleet.history.completed if c.subject == answer.subject)
        return answer.is_vouched_for and (answer.generation or 0) >= newest


def _shuffled(cards: object, random: Random) -> Iterator[Callable[[], None]]:
    """Every card once."""
    names = sorted(name for name in vars(type(cards)) if not name.startswith("_"))
    return (getattr(cards, name) for name in random.sample(names, len(names)))


def _keep_meddling_with_contents(fleet: Fleet) -> None:
    random = Random(0)
    while True:
        for card in _shuffled(_RedisCards(fleet), random):
            if fleet.stopping.is_set():
                return
            card()


@pytest.fixture
def own_redis(tmp_path: Path, binaries: Binaries) -> Iterator[Server]:
    """A Redis that may be emptied and filled."""
    with redis.start(tmp_path / "redis", binaries=binaries, durable=False) as server:
        yield server


@pytest.mark.timeout(120 + 180 * _PACKS)
def test_once_a_run_was_told_completed_nobody_is_answered_from_before_it_and_no_answer_is_mixed(
    database_url: str, own_redis: Server, tmp_path: Path
) -> None:
    random = Random(1 if _ASKED_FOR is None else None)
    asyncio.run(_add_sources(database_url))
    with ExitStack() as stack:
        fleet = Fleet(database_url, own_redis, tmp_path, stack)
        try:
            fleet.join(partial(_keep_meddling_with_contents, fleet))
            for _ in range(_PACKS):
                for card in _shuffled(_Cards(fleet, random), random):
                    card()
            fleet.end()
        except AssertionError as failure:
            fleet.stopping.set()
            failure.add_note(_said(fleet.history.complaints()))
            raise
    history = fleet.history
    complaints = history.complaints()
    assert not complaints, _said(complaints)

    told = {name: history.kinds(name) for name in NAMES}
    always = {"redis", "postgres", "not modified"}
    assert always | {"memory"} <= set(told[KEEPING]), told
    assert always <= set(told[FORGETFUL]), told
    assert "memory" not in told[FORGETFUL], told
    assert always | {"memory", "503"} <= set(told[REMOTE]), told
    assert any(kind.startswith("degraded") for kind in told[REMOTE]), told
    for name in NAMES:
        assert any(answer.compressed for answer in history.answers if answer.service == name), name
    asyncio.run(_assert_all_is_right(database_url))


def _said(complaints: list[str]) -> str:
    return "\n".join([f"{len(complaints)} complaints:", *complaints[:10]])


async def _add_sources(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    for source in SOURCES:
        await add_source(connection, source)
    await connection.close()


async def _assert_all_is_right(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)
    await connection.close()


async def _drop_sessions(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(_DROP_SESSIONS)
    await connection.close()
