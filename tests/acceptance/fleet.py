"""Three services over one database and one Redis, readers who never rest, and those who recompute.

One service keeps answers in its memory, one keeps none, one reaches PostgreSQL and Redis over a network of its own.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from threading import Event
from typing import Any, Final

import asyncpg
import httpx
from redis import Redis

from pg_analytics.embedded.process import Server, free_port
from tests.acceptance.answers import NONE, Answer, Completed, History, Trouble
from tests.acceptance.asking import PATIENCE_S, Asked, Client
from tests.acceptance.generations import Question, Subject
from tests.acceptance.processes import Starter
from tests.proxy import Proxy
from tests.running import AUTHORISED, BASE_PATH, Service
from tests.waiting import until

KEEPING, FORGETFUL, REMOTE = "keeping", "forgetful", "remote"
NAMES: Final = (KEEPING, FORGETFUL, REMOTE)
#: Of each service.
READERS: Final = 4

#: One day, and as many days as the first transaction of a run takes on.
SUBJECTS: Final = (
    Subject("day", date(2026, 1, 7), date(2026, 1, 7)),
    Subject("days", date(2026, 1, 13), date(2026, 1, 15)),
)
#: So many questions per subject that differ only in how they are cached: there is always one that is not.
_COLD: Final = 20
QUESTIONS: Final = [
    question
    for subject in SUBJECTS
    for question in (*subject.questions(), *(subject.cold_question(number) for number in range(_COLD)))
]


class Fleet:
    """The services, their servers, and those who ask."""

    def __init__(self, database_url: str, server: Server, folder: Path, stack: ExitStack) -> None:
        """Start everything; `stack` ends it."""
        self.database_url = database_url
        self.history = History()
        self.contents = stack.enter_context(Redis.from_url(server.url))
        self.to_postgres = stack.enter_context(Proxy(database_url))
        self.to_redis = stack.enter_context(Proxy(server.url))
        shared = {"DATABASE_URL": database_url, "REDIS_URL": server.url, "REFRESH_INTERVAL": "0"}
        self._starter = Starter(shared | {"RECOMPUTE_LEASE": "2s"}, folder)
        stack.callback(self._starter.close)
        remote = {"DATABASE_URL": self.to_postgres.url, "REDIS_URL": self.to_redis.url, "RECOMPUTE_WORKERS": "0"}
        self._settings = {KEEPING: {}, FORGETFUL: {"MEMORY_CACHE_MB": "0"}, REMOTE: remote}
        self.running: dict[str, Service] = {}
        self.asked: dict[str, Asked] = {}
        self._numbers = count(_COLD)
        known: dict[Question, Answer] = {}
        for name in NAMES:
            self.asked[name] = Asked(name, free_port(), self.history, known)
            self.start(name)
        self.stopping = Event()
        self._jobs: list[Future[None]] = []
        self._threads = stack.enter_context(ThreadPoolExecutor(len(NAMES) * READERS + len(SUBJECTS) + 1))
        stack.callback(self.stopping.set)
        self._begin()

    def start(self, name: str) -> None:
        """Start a service, where the last of that name was."""
        settings = {"APP_PORT": str(self.asked[name].port), **self._settings[name]}
        self.running[name] = self._starter.service(**settings)
        self.asked[name].is_there.set()

    def well(self) -> list[str]:
        """Who is not in trouble."""
        ill = {trouble.service for trouble in self.history.troubles if trouble.ended == float("inf")}
        return [name for name in NAMES if name not in ill]

    @contextmanager
    def trouble(self, *names: str) -> Iterator[None]:
        """These may fail during the block, and after it until they have PostgreSQL again."""
        troubles = [Trouble(name, time.monotonic()) for name in names]
        self.history.troubles += troubles
        yield
        for trouble in troubles:
            self.until(partial(self._has_postgres, trouble.service))
            trouble.ended = time.monotonic()

    def _has_postgres(self, name: str) -> bool:
        return self.ask(name, self.new_question()).source == "postgres"

    def new_question(self) -> Question:
        """A question that nobody has asked yet."""
        number = next(self._numbers)
        return SUBJECTS[number % len(SUBJECTS)].cold_question(number)

    def ask(self, name: str, question: Question) -> Answer:
        """A service's answer, over a connection of its own."""
        client = Client(self.asked[name])
        try:
            return client.ask(question)
        finally:
            client.close()

    def until(self, state: Callable[[], object]) -> None:
        """Until something is so, or all is over; fails with whoever fails meanwhile."""

        def looked() -> bool:
            for job in self._jobs:
                if job.done():
                    job.result()
            return self.stopping.is_set() or bool(state())

        until(looked)

    def until_completed(self, rounds: int = 1) -> None:
        """Until so many more runs over a subject are told completed. Two: one of them was begun after this."""
        wanted = {subject.name: self._completed(subject) + rounds for subject in SUBJECTS}
        self.until(lambda: any(self._completed(subject) >= wanted[subject.name] for subject in SUBJECTS))

    def join(self, job: Callable[[], None]) -> None:
        """Have something done beside all else, until we are `stopping`."""
        self._jobs.append(self._threads.submit(job))

    def end(self) -> None:
        """Let everybody finish."""
        self.stopping.set()
        for job in self._jobs:
            job.result()

    def _completed(self, subject: Subject) -> int:
        return sum(completed.subject == subject.name for completed in self.history.completed)

    def _begin(self) -> None:
        """Everybody who asks begins: first the recomputations, and once there are numbers, the readers."""
        for subject in SUBJECTS:
            self.join(partial(self._recompute, subject, Random(subject.name)))
        self.until(lambda: all(map(self._completed, SUBJECTS)))
        for number in range(READERS * len(NAMES)):
            self.join(partial(self._read, self.asked[NAMES[number % len(NAMES)]], Random(number)))

    def _read(self, asked: Asked, random: Random) -> None:
        """One reader."""
        client = Client(asked)
        while not self.stopping.is_set():
            answer = client.ask(
                random.choice(QUESTIONS), conditionally=random.random() < 0.3, compressed=random.random() < 0.3
            )
            if answer.status == NONE:
                asked.is_there.wait()
        client.close()

    def _recompute(self, subject: Subject, random: Random) -> None:
        """One who writes a generation, recomputes, and asks everybody at once when told that it is done."""
        questions = [question for question in QUESTIONS if question.subject is subject]
        with asyncio.Runner() as runner, httpx.Client(timeout=PATIENCE_S, headers=AUTHORISED) as http:
            connection = runner.run(asyncpg.connect(self.database_url))
            for generation in count(1):
                runner.run(subject.write(connection, generation))
                self._run(http, subject, random)
                self.history.completed.append(Completed(subject.name, generation, time.monotonic()))
                for name in NAMES:
                    if self.asked[name].is_there.is_set():
                        self.ask(name, random.choice(questions))
                if self.stopping.is_set():
                    break
            runner.run(connection.close())

    def _run(self, http: httpx.Client, subject: Subject, random: Random) -> None:
        """Have a run over the subject, and wait until anybody says that it is completed."""
        report = random.choice(("volume-by-period", "status-counts", "top-entities"))
        scope = {"report_slug": report, "window": "day", "date_from": str(subject.first), "date_to": str(subject.last)}
        run_id: str | None = None

        def has_completed() -> bool:
            nonlocal run_id
            path = f"{self.running[random.choice(self.well() or NAMES)].url}{BASE_PATH}/recomputations"
            try:
                answer = http.post(path, json=scope) if run_id is None else http.get(f"{path}/{run_id}")
            except httpx.TransportError:
                return False
            body: Any = answer.json()
            if answer.status_code == 503:
                return False
            if run_id is None:
                # 409: it was accepted before, but we were not told.
                run_id = body["error"]["details"]["run_id"] if answer.status_code == 409 else body["data"]["id"]
                return False
            assert body["data"]["status"] in {"pending", "running", "completed"}, body
            return bool(body["data"]["status"] == "completed")

        until(has_completed)
