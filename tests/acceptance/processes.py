"""Processes of a test that come and go, and what their logs must be in the end."""

import json
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.running import KEY, Command, Service

#: Lines that are always about one request, or one run.
_ABOUT: Final = {
    **dict.fromkeys(("request", "postgres_lost", "defect"), "request_id"),
    **dict.fromkeys(("run_started", "run_completed", "run_handed_back", "run_rescued", "run_failed"), "run_id"),
    **dict.fromkeys(("run_attempt_failed", "run_lost", "run_fenced"), "run_id"),
}


class Starter:
    """Starts services and workers on the servers of a test, and ends them."""

    def __init__(self, settings: dict[str, str], folder: Path) -> None:
        """`settings` are those of every process, unless it is started with others."""
        self._settings = settings
        self._folder = folder
        self._started: list[Command] = []

    def service(self, **settings: str) -> Service:
        """`pg-analytics serve`, once it answers."""
        service = Service(self._settings | settings, self._next_log())
        self._started.append(service)
        return service

    def worker(self, **settings: str) -> Command:
        """`pg-analytics worker`, once it works."""
        worker = Command(["worker"], self._settings | settings, self._next_log())
        self._started.append(worker)
        worker.wait_for("working")
        return worker

    def close(self) -> None:
        """End every process that still runs; none may have met a defect or told a secret."""
        for process in self._started:
            if isinstance(process, Service):
                process.close()
            elif process.process.poll() is None:
                process.terminate()
        for process in self._started:
            check_log(process.log(), self._settings)

    def _next_log(self) -> Path:
        return self._folder / f"process-{len(self._started)}.log"


def check_log(log: str, settings: dict[str, str]) -> None:
    """Every line is a JSON object that names what it is about; none tells a password or the management key."""
    for secret in secrets(settings):
        assert secret not in log, f"a secret in the log: {log}"
    for line in log.splitlines():
        assert line.startswith("{"), f"not structured: {log}"
        entry = json.loads(line)
        about = _ABOUT.get(entry["event"])
        assert about is None or about in entry, line


def secrets(settings: dict[str, str]) -> list[str]:
    """What must never be told."""
    urls = [urlsplit(settings[name]) for name in ("DATABASE_URL", "REDIS_URL")]
    return [KEY, *(url.password for url in urls if url.password)]
