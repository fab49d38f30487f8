"""The real command as a process, for tests that speak HTTP to it or kill it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pg_analytics.embedded.process import free_port

KEY = "a-key-of-the-tests"
BASE_PATH = "/api/v1"
AUTHORISED = {"X-Management-Key": KEY}


class Command:
    """A `pg-analytics` process whose log is read line by line."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it; `environment` holds all settings that it sees."""
        self._log = log
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pg_analytics", *arguments],
                env={**inherited, "LOG_FORMAT": "json", **environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first log line with that event, once it is there; fails if the process ends before."""
        with self._log.open(encoding="utf-8") as lines:
            while True:
                ended = self.process.poll() is not None
                for line in lines:
                    if line.startswith("{") and (entry := json.loads(line))["event"] == event:
                        return dict(entry)
                if ended:
                    raise AssertionError(f"ended before {event!r}:\n{self.log()}")
                try:
                    self.process.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue

    def log(self) -> str:
        """Everything that it wrote."""
        return self._log.read_text(encoding="utf-8")

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Service(Command):
    """`pg-analytics serve`, answering."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        """Start it and wait until it answers."""
        self.port = int(environment.get("APP_PORT", free_port()))
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {"MANAGEMENT_API_KEY": KEY, "APP_PORT": str(self.port), **environment}
        super().__init__(["serve"], self.environment, log)
        self.wait_for("listening")
        self.http = httpx.Client(base_url=self.url + BASE_PATH, timeout=30)

    def close(self) -> None:
        """Stop it, if it still runs; its log must be free of defects."""
        self.http.close()
        if self.process.poll() is None:
            self.terminate()
        assert not re.search(r'"event":"[a-z_]*defect"', self.log()), self.log()

    def report(self, slug: str, **parameters: object) -> Any:
        """The whole envelope of a report run."""
        answer = self.http.get(f"/reports/{slug}/run", params={k: str(v) for k, v in parameters.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def trigger(self, slug: str, window: str, date_from: object, date_to: object) -> str:
        """Trigger a recomputation; the id of its run."""
        body = {"report_slug": slug, "window": window, "date_from": str(date_from), "date_to": str(date_to)}
        answer = self.http.post("/recomputations", json=body, headers=AUTHORISED)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["id"])

    def run(self, run_id: str) -> Any:
        """A run, as clients see it."""
        answer = self.http.get(f"/recomputations/{run_id}", headers=AUTHORISED)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def wait_until_ended(self, run_id: str) -> Any:
        """The run, once it has ended (the test's own time limit bounds the wait)."""
        while (run := self.run(run_id))["status"] in {"pending", "running"}:
            time.sleep(0.05)
        return run

    def recompute(self, slug: str, window: str, date_from: object, date_to: object) -> Any:
        """Trigger a recomputation and wait until it has completed; the run."""
        run = self.wait_until_ended(self.trigger(slug, window, date_from, date_to))
        assert run["status"] == "completed", run
        return run


@contextmanager
def serving(environment: Mapping[str, str], folder: Path) -> Iterator[Service]:
    """A service for the length of a block."""
    log = folder / f"service-{len(list(folder.glob('service-*')))}.log"
    service = Service(environment, log)
    try:
        yield service
    finally:
        service.close()
