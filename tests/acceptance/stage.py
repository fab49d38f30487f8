"""The stage of the stories: processes, the network to Redis, connections of writers, and how all of it is set back.

Starting processes takes longer than most stories, so they stay from one story to the next, as far as a story leaves
them alive.
"""

import asyncio
import re
import signal
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import asyncpg
import httpx
from redis import Redis

from tests.acceptance.gates import build_gates, open_gates
from tests.acceptance.processes import check_log
from tests.acceptance.story import SOURCES
from tests.acceptance.witness import FORGET, call_witness
from tests.events import add_source
from tests.proxy import Proxy
from tests.running import Command, Service
from tests.waiting import until, until_true

T = TypeVar("T")

WORKERS: Final = 2
#: A story has one thread: what another writer has locked is refused.
_WRITERS_PATIENCE: Final = "300ms"
LEASE_S: Final = 1

#: Short, so that stories are; a request may wait for what is held at a gate.
_SETTINGS: Final = {
    "RECOMPUTE_LEASE": f"{LEASE_S}s",
    "RECOMPUTE_QUEUE_SIZE": "8",
    "POSTGRES_TIMEOUT": "1s",
}
#: Errors of an attempt that no lost connection explains: the protocol should have kept rebuilds apart.
_DEFECT: Final = re.compile(r'"event":"\w*defect"|"error":"(\w*Violation\w*|Deadlock\w*)')
_EMPTY: Final = f"""
    TRUNCATE analytics_events, event_sources, event_changes, rollup_source_status, rollup_source_status_margin,
        rollup_entity, rollup_entity_month, snapshot_buckets, recompute_runs, audit_entries;
    {FORGET}
"""


class Stage:
    """Everything that a story acts on. Its connections are asynchronous; `run` lets a plain story use them."""

    def __init__(self, environment: dict[str, str], redis_url: str, folder: Path) -> None:
        """`environment` names the servers; nothing is started before `begin`."""
        self._environment = {**environment, **_SETTINGS}
        self._redis_url = redis_url
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._started = 0
        self._leaving: list[Command] = []
        self._all: list[Command] = []
        self.frozen: set[int] = set()
        self.redis = Proxy(redis_url)
        self.workers: list[Command | None] = [None] * WORKERS
        #: By these the witness knows the workers, each of which was started under a name of its own.
        self.names = [""] * WORKERS

    def __enter__(self) -> Self:
        self.redis.__enter__()
        self.observer = self._connect(lock_timeout="10s")
        self.writer = self._connect(lock_timeout=_WRITERS_PATIENCE)
        self.slow_writer = self._connect(lock_timeout=_WRITERS_PATIENCE)
        self.run(call_witness(self.observer))
        self.run(build_gates(self.observer))
        # Stories are told of every day that there can be, and none may be forgotten.
        self.run(self.observer.execute("UPDATE aggregate_windows SET retention_days = 1000000"))
        self.service = self._start_service()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()
        for connection in (self.observer, self.writer, self.slow_writer):
            connection.terminate()
        self.run(asyncio.sleep(0))
        self._loop.close()
        self.redis.__exit__()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something asynchronous."""
        return self._loop.run_until_complete(work)

    def begin(self) -> None:
        """An empty database, every process alive, an empty Redis that answers, no gate closed."""
        self.recover()
        self.run(self.observer.execute(_EMPTY))
        for slug in SOURCES:
            self.run(add_source(self.observer, slug))
        self.forget_redis()

    def recover(self) -> None:
        """End every disturbance: what is frozen thaws, what is dead is replaced, Redis answers, gates are open."""
        self.run(open_gates(self.observer))
        self.redis.restore()
        for number in list(self.frozen):
            self.thaw(number)
        for number, worker in enumerate(self.workers):
            if worker is None:
                self.start_worker(number)
        for worker in self.workers:
            assert worker is not None
            worker.wait_for("working")
        while self._leaving:
            leaving = self._leaving.pop()
            assert leaving.process.wait(30) in {0, -signal.SIGTERM}, leaving.log()

    def start_over(self) -> None:
        """After a story that failed: other processes, and nothing left of the old ones' sessions."""
        for command in self._all:
            command.kill()
        self._all.clear()
        self._leaving.clear()
        self.frozen.clear()
        self.workers = [None] * WORKERS
        self.drop_connections("pg-analytics %")
        self.slow_writer.terminate()
        self.slow_writer = self._connect(lock_timeout=_WRITERS_PATIENCE)
        self.service.http.close()
        self.service = self._start_service()

    def check_logs(self) -> None:
        """No process that was used in the story has met a defect, or told a secret."""
        for command in self._all:
            log = command.log()
            assert not (found := _DEFECT.search(log)), f"{found}: {log}"
            check_log(log, self._environment)
        self._all = [command for command in self._all if command.process.poll() is None]

    # Processes ---------------------------------------------------------------------------------------------------

    def start_worker(self, number: int) -> None:
        """Start a worker in the place of one that is gone; it takes a moment until it works."""
        self.names[number] = f"worker-{self._started}"
        settings = self._own(self.names[number], RECOMPUTE_WORKERS="2")
        self.workers[number] = self._add(Command(["worker"], settings, self._log()))

    def kill_worker(self, number: int) -> None:
        """`kill -9`."""
        self._gone(number).kill()

    def stop_worker(self, number: int) -> None:
        """SIGTERM; how long it takes to end is its own affair."""
        worker = self._gone(number)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGCONT)  # if it is frozen
        self._leaving.append(worker)

    def freeze(self, number: int) -> None:
        """SIGSTOP."""
        worker = self.workers[number]
        assert worker is not None
        worker.process.send_signal(signal.SIGSTOP)
        self.frozen.add(number)

    def thaw(self, number: int) -> None:
        """SIGCONT."""
        worker = self.workers[number]
        assert worker is not None
        worker.process.send_signal(signal.SIGCONT)
        self.frozen.remove(number)

    def replace_service(self) -> None:
        """`kill -9` the service, and start another one, once it answers."""
        self.service.http.close()
        self.service.kill()
        self.service = self._start_service()

    # Servers -----------------------------------------------------------------------------------------------------

    def forget_redis(self) -> None:
        """FLUSHDB."""
        with Redis.from_url(self._redis_url) as client:
            client.flushdb()

    def drop_connections(self, name: str) -> None:
        """Have PostgreSQL end the sessions whose name is LIKE `name`."""
        drop = """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE $1
                AND application_name NOT LIKE '%setup'
        """
        self.run(self.observer.execute(drop, name))

    def until_true(self, question: str, *arguments: object) -> None:
        """Wait until the database answers `question` with true."""
        self.run(until_true(self.observer, question, *arguments))

    def ask(self, method: str, path: str, *, patient: bool = True, **request: Any) -> httpx.Response:
        """The service's answer; 503 only if the backlog is full, or the caller is not patient."""

        def answer() -> httpx.Response | None:
            answer = self.service.http.request(method, path, **request)
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            again = patient and answer.status_code == 503 and "backlog" not in answer.text
            return None if again else answer

        return until(answer)

    # -------------------------------------------------------------------------------------------------------------

    def _start_service(self) -> Service:
        settings = self._own(f"service-{self._started}", RECOMPUTE_WORKERS="0")
        service = Service(settings, self._log())
        self._add(service)
        return service

    def _own(self, name: str, **settings: str) -> dict[str, str]:
        """Settings of a new process. By its URL of the database the witness knows it."""
        url = self._environment["DATABASE_URL"]
        named = f"{url}{'&' if '?' in url else '?'}story.process={name}"
        return {**self._environment, "DATABASE_URL": named, "REDIS_URL": self.redis.url, **settings}

    def _log(self) -> Path:
        self._started += 1
        return self._folder / f"process-{self._started - 1}.log"

    def _add(self, command: Any) -> Any:
        self._all.append(command)
        return command

    def _gone(self, number: int) -> Command:
        worker, self.workers[number] = self.workers[number], None
        assert worker is not None
        self.frozen.discard(number)
        return worker

    def _connect(self, **settings: str) -> "asyncpg.Connection[asyncpg.Record]":
        far = {"timezone": "Pacific/Kiritimati", "statement_timeout": "30s", **settings}
        return self.run(asyncpg.connect(self._environment["DATABASE_URL"], server_settings=far))

    def _end_all(self) -> None:
        for command in self._all:
            if command.process.poll() is None:
                with suppress(ProcessLookupError):
                    command.process.send_signal(signal.SIGCONT)
                command.process.send_signal(signal.SIGTERM)
        for command in self._all:
            command.process.wait(30)
        self.service.http.close()
