"""The service as a user starts it, and the bare handler that it is measured beside."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx

from pg_analytics.embedded.process import free_port


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[str]:
    """`pg-analytics serve` for the length of the block, at the URL that this yields."""
    with running_service(environment) as (url, _):
        yield url


@contextmanager
def running_service(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """As `serving`; the URL, and the process id."""
    port = free_port()
    settings = {"MANAGEMENT_API_KEY": "bench", **environment, "APP_PORT": str(port)}
    with _running(["-m", "pg_analytics", "serve"], settings, f"http://127.0.0.1:{port}") as running:
        yield running


@contextmanager
def bare_handler(body_bytes: int, database_url: str | None = None) -> Iterator[str]:
    """A handler that returns a constant of `body_bytes`, or runs a statement, on the same server, for the length of the
    block.
    """
    port = free_port()
    arguments = [str(port), str(body_bytes), *([] if database_url is None else [database_url])]
    with _running(["-m", "bench.bare_handler", *arguments], {}, f"http://127.0.0.1:{port}") as (url, _):
        yield url


@contextmanager
def _running(arguments: Sequence[str], environment: Mapping[str, str], url: str) -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment}, stderr=log)
        try:
            while True:
                try:
                    httpx.get(f"{url}/readyz").raise_for_status()
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        log.seek(0)
                        sys.exit(f"{' '.join(arguments[:3])} did not start:\n{log.read().decode()}")
                    time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(30)
