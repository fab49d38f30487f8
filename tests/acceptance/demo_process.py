"""`pg-analytics demo` as a process in a folder of its own."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from pg_analytics.embedded.folder import reset
from pg_analytics.embedded.process import free_port
from tests.acceptance.command_line import COMMAND, PATIENCE_S, Ended, inherited
from tests.running import BASE_PATH

LAST_LINE = "Ctrl-C stops everything."


class Demo:
    """A demo in `folder`, which is also where it was started."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it."""
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        chosen = {name: os.environ[name] for name in ("PG_ANALYTICS_SERVERS",) if name in os.environ}
        settings = {"APP_PORT": str(self.port), "LOG_FORMAT": "json"} | chosen | dict(environment or {})
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self._process = subprocess.Popen(
                [*COMMAND, "demo", *arguments],
                env=inherited() | settings,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        """What it printed."""
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """Its notes, logs and errors."""
        return (self.folder / "err").read_text(encoding="utf-8")

    @property
    def key(self) -> str:
        """The management key that it printed."""
        match = re.search(r"^Management key: (\S+) \(kept in (\S+)\)$", self.out, re.MULTILINE)
        assert match is not None, self.out
        return match[1]

    def wait_for(self, text: str) -> None:
        """Until it has printed `text`; fails if it ends before."""
        while text not in self.out + self.err:
            assert self._process.poll() is None, self.out + self.err
            time.sleep(0.02)

    def get(self, path: str) -> Any:
        """The `data` of an answer to whoever has the key."""
        answer = httpx.get(f"{self.url}{BASE_PATH}{path}", headers={"X-Management-Key": self.key}, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def servers(self) -> list[int]:
        """The processes that it has started."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = (map(int, line.split()) for line in listed.splitlines())
        return [pid for pid, parent in pairs if parent == self._process.pid]

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self._process.send_signal(number)

    def end(self, number: signal.Signals | None = None) -> Ended:
        """How it ended, after a signal or by itself."""
        if number is not None:
            self.send(number)
        code = self._process.wait(PATIENCE_S)
        return Ended(code, self.out, self.err)

    def close(self) -> None:
        """End it, whatever its state."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextmanager
def demo_in(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Demo]:
    """A demo that answers, for the length of a block."""
    demo = Demo(folder, *arguments, environment=environment)
    try:
        demo.wait_for(LAST_LINE)
        yield demo
    finally:
        demo.close()


def remove_data(folder: Path) -> None:
    """Remove what the demos in `folder` kept, which for root may lie elsewhere."""
    reset(folder / ".pg-analytics")


def alive(pids: list[int]) -> list[int]:
    """Those of `pids` that run."""
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            found.append(pid)
    return found
