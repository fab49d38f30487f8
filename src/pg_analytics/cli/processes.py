"""`serve` as several processes on one port (`HTTP_PROCESSES`).

    parent      claims the port, prepares the database, starts and replaces the others; answers nothing
     ├─ line ─ process 1    the whole service, background duties included
     ├─ line ─ process 2    the whole service without them
     └─ line ─ …

Each process is a service like any other on this database, with connections and a memory of its own; the kernel shares
connections out among them (SO_REUSEPORT). What keeps a service from starting is met by the parent, once, before there
are others.

The line is a pair of sockets. On it a process says that it serves. Its end tells the parent that the process is dead,
and the process that it shall drain and stop, be it that the parent wants that or was killed. An end can come beside a
signal without harm, where a second signal would cut requests off: systemd sends SIGTERM to parent and processes alike.
Each process has a session of its own, so that Ctrl-C in a terminal reaches nobody but the parent.

Processes are forked. That is safe, since the parent has no thread, and no event loop once the database is prepared;
and a replacement serves within a fraction of the time that a new interpreter takes to import the service.
"""

import asyncio
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import structlog
import uvloop

from pg_analytics import app
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.settings import Settings

_log: Final = structlog.get_logger(__name__)

#: What a process may take to stop, besides the time that requests in flight have. Who takes longer hangs.
_STOP_PATIENCE_S: Final = 10
#: Starts of a process are at least so far apart; twice as far after each one that failed, up to half a minute.
_PAUSE_S: Final = 1
_LONGEST_PAUSE_S: Final = 30


@dataclass(slots=True)
class _Process:
    """One of the processes; a replacement takes the place of a dead one."""

    settings: Settings
    pid: int = 0
    serves: bool = False
    failures: int = 0  # starts since one served
    start_at: float = 0


def serve(settings: Settings) -> ExitCode:
    """Serve in `HTTP_PROCESSES` processes until a signal. Returns, or raises, in each of them and in the parent."""
    parent = _Parent(settings, claim=uvloop.run(app.prepare(settings)))
    task = parent.supervise()
    if task is None:
        return parent.outcome()
    uvloop.run(_answer(*task))
    return ExitCode.OK


async def _answer(settings: Settings, line: socket.socket) -> None:
    """Be one of the processes."""
    stopping = app.stop_signal()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(line)
        stopping.set()

    def ready() -> None:
        with suppress(BrokenPipeError):  # the parent was killed; `stop` comes next
            line.send(b"1")

    loop.add_reader(line, stop)
    await app.answer(settings, stopping=stopping, on_ready=ready)


class _Parent:
    def __init__(self, settings: Settings, claim: socket.socket) -> None:
        """`claim` holds the port for as long as processes come and go."""
        self._settings = settings
        self._claim = claim
        one, other = settings, replace(settings, recompute_workers=0)
        self._missing = [_Process(other if number else one) for number in range(settings.http_processes)]
        self._running: dict[socket.socket, _Process] = {}  # by line
        self._announced = False
        self._kill_at: float | None = None  # when all shall have stopped; None until they shall
        self._failed: int | None = None
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)  # noqa: FBT003 - the standard library's
        signal.set_wakeup_fd(self._wakeup.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # its number comes out of `_signals`

    def supervise(self) -> tuple[Settings, socket.socket] | None:
        """Keep the processes running until all have been stopped. In each of them: its settings, and its line."""
        while self._kill_at is None or self._running:
            for process in [each for each in self._missing if each.start_at <= time.monotonic()]:
                self._missing.remove(process)
                line = self._fork(process)
                if line is not None:
                    return process.settings, line
            self._wait()
        if self._failed is None:
            _log.info("stopped")
        return None

    def outcome(self) -> ExitCode:
        """How the command ends: like the process that could not start, if that was the end of all."""
        if self._failed is not None and self._failed < 0:
            name = signal.Signals(-self._failed).name
            raise CommandError(ExitCode.INTERNAL, f"a process was ended by {name} before it served")
        return ExitCode(self._failed or ExitCode.OK)

    def _fork(self, process: _Process) -> socket.socket | None:
        """Start `process`. In there: its end of the line."""
        ours, theirs = socket.socketpair()
        process.pid = os.fork()
        if process.pid:
            theirs.close()
            self._running[ours] = process
            process.start_at = time.monotonic() + min(_PAUSE_S * 2**process.failures, _LONGEST_PAUSE_S)
            process.failures += 1
            return None
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # What stays open in a process does not end with the parent.
        for held in (ours, *self._running, self._claim, self._signals, self._wakeup):
            held.close()
        return theirs

    def _wait(self) -> None:
        """Wait until something happens or is due, and see to it."""
        due = [process.start_at for process in self._missing] if self._kill_at is None else [self._kill_at]
        patience = max(0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select([self._signals, *self._running], [], [], patience)
        for end in readable:
            if end is self._signals:
                self._signalled(signal.Signals(end.recv(1)[0]))
            else:
                self._listen(end)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            _log.warning("processes_killed", processes=[process.pid for process in self._running.values()])
            self._kill()

    def _signalled(self, number: signal.Signals) -> None:
        if self._kill_at is None:
            _log.info("stopping")
            self._stop()
        else:
            self._kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _listen(self, line: socket.socket) -> None:
        """Hear that a process serves, or that it is dead."""
        process = self._running[line]
        with suppress(ConnectionResetError):
            if line.recv(1):
                process.serves, process.failures = True, 0
                self._announce()
                return
        del self._running[line]
        line.close()
        _, status = os.waitpid(process.pid, 0)
        exit_code = os.waitstatus_to_exitcode(status)  # or a signal, as a negative number
        if self._kill_at is not None:
            return
        if self._announced:
            _log.warning("process_died", process=process.pid, exit_code=exit_code)
            process.serves = False
            self._missing.append(process)
        else:
            self._failed = exit_code
            self._stop()

    def _announce(self) -> None:
        """Say so when the last of the processes serves, or a replacement does."""
        serving = [process.pid for process in self._running.values() if process.serves]
        if self._announced:
            _log.info("process_replaced", processes=serving)
        elif len(serving) == self._settings.http_processes:
            self._announced = True
            app.announce(self._settings, processes=serving)

    def _stop(self) -> None:
        self._claim.close()
        for line in self._running:
            with suppress(OSError):  # it is dead already
                line.shutdown(socket.SHUT_WR)
        self._missing.clear()
        self._kill_at = time.monotonic() + self._settings.http_shutdown_timeout.total_seconds() + _STOP_PATIENCE_S

    def _kill(self) -> None:
        for process in self._running.values():
            os.kill(process.pid, signal.SIGKILL)
        self._kill_at = time.monotonic() + _STOP_PATIENCE_S
