"""Servers of our own under test: folders for them, traces left in them, and owners that can be killed."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import asyncpg
import redis as redis_client

from pg_analytics.embedded import postgres, redis
from pg_analytics.embedded.account import ROOT_PLACE
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import command_line, reset
from pg_analytics.embedded.process import Server

AS_ROOT = os.geteuid() == 0


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """As in a clone below /root or `mktemp -d`: nobody but its owner can enter it."""
    private = parent / "private"
    private.mkdir(mode=0o700)
    yield private
    reset(private)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every account can enter, which those of pytest are not."""
    path = Path(mkdtemp(prefix="pg-analytics-test-", dir=ROOT_PLACE))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a state; fail when it does not come."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def is_dead(pid: int) -> bool:
    """Whether the process has ended, be it reaped or not."""
    return command_line(pid) == ""


def log_of(server: Server) -> str:
    """What the server has said since it was started first."""
    return (server.folder / "log").read_text(errors="replace")


def fetch(url: str, statement: str, password: str | None = None) -> tuple[Any, ...]:
    """The first row of a statement, empty where it returns none."""

    async def ask() -> tuple[Any, ...]:
        connection = await asyncpg.connect(url, password=password)
        try:
            return tuple(await connection.fetchrow(statement) or ())
        finally:
            await connection.close()

    return asyncio.run(ask())


@dataclass(frozen=True)
class Postgres:
    """PostgreSQL, with a table as the trace that a test leaves."""

    binaries: Binaries
    name = "postgres"

    def start(self, folder: Path) -> Server:
        """Start it so that what it holds outlives it."""
        return postgres.start(folder, binaries=self.binaries, durable=False)

    def keep(self, url: str) -> None:
        """Leave the trace."""
        fetch(url, "CREATE TABLE kept AS SELECT 'yes' AS answer")

    def kept(self, url: str) -> bool:
        """Whether the trace is there."""
        return fetch(url, "SELECT to_regclass('kept') IS NOT NULL") == (True,)

    def forget(self, url: str) -> None:
        """Wipe the trace."""
        fetch(url, "DROP TABLE IF EXISTS kept")


@dataclass(frozen=True)
class Redis:
    """Redis, with a key as the trace that a test leaves."""

    binaries: Binaries
    name = "redis"

    def start(self, folder: Path) -> Server:
        """Start it so that what it holds outlives a clean stop."""
        return redis.start(folder, binaries=self.binaries, durable=True)

    def keep(self, url: str) -> None:
        """Leave the trace."""
        with redis_client.Redis.from_url(url) as client:
            client.set("kept", "yes")

    def kept(self, url: str) -> bool:
        """Whether the trace is there."""
        with redis_client.Redis.from_url(url) as client:
            return client.get("kept") is not None

    def forget(self, url: str) -> None:
        """Wipe the trace, on disk too."""
        with redis_client.Redis.from_url(url) as client:
            client.delete("kept")
            client.save()


Kind = Postgres | Redis


def run_as_account_of(server: Server, command: list[str]) -> subprocess.Popen[bytes]:
    """A process that belongs to the server's account, and to nobody who would end it."""
    identity: dict[str, Any] = {}
    if AS_ROOT:
        owner = (server.folder / "data").stat()
        identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    with (server.folder / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=server.folder / "data",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            **identity,
        )


_OWNER = """
import sys
from pathlib import Path
from pg_analytics.embedded.binaries import Binaries
from tests import embedded
kind = getattr(embedded, sys.argv[1])(Binaries(sys.argv[2]))
server = kind.start(Path(sys.argv[3]))
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""


def start_owner(kind: Kind, folder: Path) -> subprocess.Popen[str]:
    """A process that starts the server in `folder` and holds it until its input ends."""
    command = [sys.executable, "-c", _OWNER, type(kind).__name__, kind.binaries, str(folder)]
    root = Path(__file__).parents[1]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)


def pid_and_url(owner: subprocess.Popen[str]) -> tuple[int, str]:
    """Of the owner's server, once it is ready."""
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    return int(pid), url
