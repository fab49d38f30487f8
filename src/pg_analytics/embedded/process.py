"""A server as a living thing: choose a port, start, wait until it is ready, stop, kill, start again.

Who starts a server owns it. Ctrl-C in a terminal goes to all processes of the foreground group, so each
server gets a session of its own, and only its owner ends it. An owner that is killed cannot: on Linux the
kernel then sends the server its stop signal (see `child.py`). It does so when the *thread* ends that started
the server. So each server has a thread of ours that starts it and waits for its end; as a daemon it goes with
the process. A server may thus be started from a short-lived thread, and nobody else has to reap it.

The port is below those that the system hands to clients. A client that keeps trying to reach a stopped server
on one of those may be given that very port as its own, connect to itself and keep the server out.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from pg_analytics.embedded.account import START_TIMEOUT, ServersError, environment, run
from pg_analytics.embedded.binaries import Executable
from pg_analytics.embedded.folder import ABORT_PATIENCE, STOP_PATIENCE, Home, open_private, stop_leftover

#: Causes that pass by themselves, in the words of the servers' logs: a port taken since it was chosen, and
#: backends of a killed PostgreSQL that have not noticed yet.
_PASSING: Final = ("Address already in use", "pre-existing shared memory block")

_PORTS: Final = range(20_000, 32_768)  # Linux hands 32768 and up to clients, macOS 49152 and up


class Program(Protocol):
    """What differs between the servers."""

    @property
    def home(self) -> Home:
        """The claimed folder."""

    @property
    def executable(self) -> Executable:
        """The program, where the home's account can execute it."""

    def command(self, port: int) -> list[str]:
        """The server's command line; it contains a path in the home, by which a leftover is recognised."""

    def url(self, port: int) -> str:
        """What a client connects to."""

    def is_ready(self, pid: int, port: int) -> bool:
        """Whether process `pid` answers on `port`."""


class Server:
    """A server of our own, made by `postgres.start` or `redis.start`; stops at the end of a `with` block."""

    def __init__(self, program: Program) -> None:
        """Start `program`, whose home is claimed; `ServersError` if it is not ready in time."""
        self._program = program
        log = _log(program.home)
        if log.exists():
            log.replace(log.with_name("log.previous"))
        self._port, self._child = self._start(port=None)

    @property
    def url(self) -> str:
        """What a client connects to, password included. The same after a restart."""
        return self._program.url(self._port)

    @property
    def pid(self) -> int:
        """The server's process; another one after a restart."""
        return self._child.pid

    @property
    def version(self) -> str:
        """Of the server's program, such as `15.18`."""
        return ".".join(map(str, self._program.executable.version))

    @property
    def origin(self) -> str:
        """Where the program was found: `system` or `wheel`, a blank, and its path."""
        return str(self._program.executable)

    @property
    def folder(self) -> Path:
        """Where data and log really lie, which as root may be far from the folder that was asked for."""
        return self._program.home.folder

    def alive(self) -> bool:
        """Whether the server's process runs, which does not say that it answers."""
        return not self._child.gone()

    def stop(self) -> None:
        """End the server cleanly, by force if that takes longer than 20 seconds, and give its folder back."""
        self._child.stop()
        self._program.home.lock.release()

    def kill(self) -> None:
        """End all processes of the server at once by SIGKILL, like a power cut. The folder stays claimed."""
        self._child.kill()

    def restart(self) -> None:
        """Stop the server, if it runs, and start it again with the same URL.

        Raises `ServersError` when it is not ready in time, or when a new owner has the folder that `stop`
        gave back.
        """
        self._child.stop()
        self._program.home.lock.acquire()
        stop_leftover(self._program.home)
        self._port, self._child = self._start(self._port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, port: int | None) -> tuple[int, "_Child"]:
        """A ready child, and its port: the given one, or one that is free."""
        program = self._program
        log = _log(program.home)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            tried = port or free_port()
            log_start = log.stat().st_size if log.exists() else 0
            child = _Child(program.command(tried), program.home)
            try:
                while not child.gone(0.01) and time.monotonic() < deadline:
                    if program.is_ready(child.pid, tried):
                        return tried, child
            except BaseException:
                child.kill()
                raise
            timed_out = not child.gone()
            child.kill()
            said = log.read_bytes()[log_start:].decode(errors="replace")
            if timed_out or time.monotonic() > deadline or not any(cause in said for cause in _PASSING):
                raise ServersError(_failure(program, said, timed_out=timed_out))
            time.sleep(0.05)


class _Child:
    """One process of a server, from birth to reaping, and the thread that it is tied to."""

    def __init__(self, command: list[str], home: Home) -> None:
        self._kind = home.kind
        self._gone = threading.Event()
        born: Future[subprocess.Popen[bytes]] = Future()
        threading.Thread(target=self._keep, args=(command, home, born), daemon=True).start()
        self._process = born.result()
        self.pid: Final = self._process.pid

    def _keep(self, command: list[str], home: Home, born: Future[subprocess.Popen[bytes]]) -> None:
        try:
            process = _spawn(command, home)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits for the birth
            born.set_exception(error)
            return
        born.set_result(process)
        process.wait()
        self._gone.set()

    def gone(self, patience: float = 0) -> bool:
        """Whether the process has ended; waits up to `patience` seconds for that."""
        return self._gone.wait(patience)

    def stop(self) -> None:
        """Ask for a clean end, then for a quick one, then kill."""
        if self.gone():
            return
        for pid in self._family():
            _send(pid, signal.SIGCONT)  # what a fault test froze would not hear the rest
        kind = self._kind
        for number, patience in ((kind.stop_signal, STOP_PATIENCE), (kind.abort_signal, ABORT_PATIENCE)):
            self._process.send_signal(number)
            if self.gone(patience):
                return
        self.kill()

    def kill(self) -> None:
        """SIGKILL, frozen first so that no new child of the server is missed."""
        if self.gone():
            return
        self._process.send_signal(signal.SIGSTOP)
        for pid in self._family():
            _send(pid, signal.SIGKILL)
        self.gone(ABORT_PATIENCE)

    def _family(self) -> list[int]:
        return [self.pid, *_children(self.pid)]


def _spawn(command: list[str], home: Home) -> subprocess.Popen[bytes]:
    account = home.account
    uid, gid = (-1, -1) if account is None else (account.pw_uid, account.pw_gid)
    script = Path(__file__).with_name("child.py")
    prefix = [sys.executable, "-I", "-S", script, os.getpid(), int(home.kind.stop_signal), uid, gid]
    log = open_private(_log(home), os.O_WRONLY | os.O_APPEND, account)
    try:
        return subprocess.Popen(  # noqa: S603 - see account.run()
            [*map(str, prefix), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home.data,
            env=environment(),
            umask=0o077,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _log(home: Home) -> Path:
    return home.folder / "log"


def _failure(program: Program, said: str, *, timed_out: bool) -> str:
    what = f"was not ready within {START_TIMEOUT:.0f} seconds" if timed_out else "did not start"
    lines = said.strip().splitlines()[-20:]
    name, home = program.home.kind.name, program.home
    return "\n  ".join([f"{name} ({program.executable}) {what}; the end of its log, {_log(home)}:", *lines])


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens at the moment, chosen at random."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            probe.bind(("127.0.0.1", port))
            return port


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    if sys.platform == "linux":
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended since it was listed
                fields = stat.read_text(errors="replace").rpartition(")")[2].split()
                parents[int(stat.parent.name)] = int(fields[1])
    else:
        ps = ["ps", "-A", "-o", "pid=,ppid="]
        listed = run(ps, account=None, folder=Path("/")).stdout.splitlines()
        parents = {int(process): int(parent) for process, parent in map(str.split, listed)}
    return [process for process, parent in parents.items() if parent == pid]
