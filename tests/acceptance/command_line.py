"""The real command, run to its end: what it printed, and its exit code."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.running import KEY, Service

COMMAND: Final = (sys.executable, "-m", "pg_analytics")
#: No test of a command takes that long; a hang fails.
PATIENCE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The message of an error; fails if standard error does not begin with one, or holds a traceback."""
        assert "Traceback" not in self.err, self.err
        first, *more = self.err.splitlines()
        assert first.startswith("error: "), self.err
        assert all(line.startswith("hint: ") for line in more), self.err
        return first.removeprefix("error: ")


def pg_analytics(*arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Ended:
    """Run `pg-analytics`; `environment` holds all settings that it sees."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=inherited() | dict(environment or {}),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*arguments: str, environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start `pg-analytics`; everything that it prints goes to `log`."""
    with log.open("wb") as sink:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=inherited() | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )


def python(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Run `script`, which changes something and then calls `main`."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=inherited() | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def ask(service: Service, *arguments: str, folder: Path | None = None, **environment: str) -> Ended:
    """Run a command that asks `service`, with its key."""
    return pg_analytics(*arguments, environment=pointing_to(service) | environment, folder=folder)


def pointing_to(service: Service) -> dict[str, str]:
    """The settings of a client of `service`."""
    return {"PG_ANALYTICS_URL": service.url, "MANAGEMENT_API_KEY": KEY}


def on_a_terminal(
    *arguments: str, environment: Mapping[str, str], watch: Callable[[str], None] = lambda _: None
) -> str:
    """What the command writes to a terminal of 80 columns, whatever its exit code; `watch` is told all of it so far."""
    ours, terminal = pty.openpty()
    size = {"COLUMNS": "80", "LINES": "25", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=inherited() | size | dict(environment),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    written = bytearray()
    with suppress(OSError):  # Linux: that nobody has the terminal open any more
        while received := os.read(ours, 65536):
            written += received
            watch(written.decode(errors="replace"))
    os.close(ours)
    process.wait(PATIENCE_S)
    return written.decode().replace("\r\n", "\n")


def inherited() -> dict[str, str]:
    """What a command sees of the environment of the tests: no setting."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
