"""What the change log costs whoever writes events."""

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import date
from glob import glob
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from bench.database import sql
from bench.measuring import Line, median, say
from pg_analytics.postgres.pool import Connection

_PAIRS: Final = 5
_CLIENTS: Final = 8
_SECONDS: Final = 6
_BATCHES: Final = 40
_BATCH: Final = 1000
_SINGLE_ROW: Final = Path(__file__).with_name("sql") / "single_row.sql"


async def measure(connection: Connection, url: str) -> list[Line]:
    """Rows per second with the change log against without it: single rows of 8 clients, and batches of 1,000."""
    lines = []
    say("batches with and without the change log")
    with_log, without_log = await _pairs(connection, lambda: _batches(connection))
    lines.append(
        Line("batches of 1,000, with / without the change log", with_log, without_log, "rows/s", 0.95, at_least=True)
    )
    program = _pgbench()
    if program is None:
        say("single rows are left out: pgbench is not installed")
        return lines
    say("single rows with and without the change log")
    with_log, without_log = await _pairs(connection, lambda: _single_rows(program, url))
    lines.append(
        Line(
            "single rows of 8 clients, with / without the change log",
            with_log,
            without_log,
            "rows/s",
            0.85,
            at_least=True,
        )
    )
    return lines


async def _pairs(connection: Connection, write: Callable[[], Awaitable[float]]) -> tuple[float, float]:
    """Median rates of `write`, with the change log and without it, alternating."""
    with_log: list[float] = []
    without_log: list[float] = []
    for _ in range(_PAIRS):
        for logged, rates in ((True, with_log), (False, without_log)):
            await connection.execute(f"ALTER TABLE analytics_events {'ENABLE' if logged else 'DISABLE'} TRIGGER USER")
            await connection.execute("CHECKPOINT")
            rates.append(await write())
    await connection.execute("ALTER TABLE analytics_events ENABLE TRIGGER USER")
    return median(with_log), median(without_log)


async def _batches(connection: Connection) -> float:
    prefix = f"batch-{time.time_ns()}-"
    statement = sql("insert_batch")
    started = time.perf_counter()
    for number in range(_BATCHES):
        await connection.execute(statement, _BATCH, f"{prefix}{number}-", [date(2026, 1, 1)])
    return _BATCHES * _BATCH / (time.perf_counter() - started)


async def _single_rows(program: str, url: str) -> float:
    process = await asyncio.create_subprocess_exec(
        *(program, "--no-vacuum", "--protocol=prepared", f"--client={_CLIENTS}", "--jobs=2", f"--time={_SECONDS}"),
        *(f"--file={_SINGLE_ROW}", _without_password(url)),
        env={**os.environ, "PGPASSWORD": unquote(urlsplit(url).password or "")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    for line in out.decode().splitlines():
        if line.startswith("tps = "):
            return float(line.split()[2])
    raise RuntimeError(f"pgbench failed: {err.decode()[-500:]}")


def _without_password(url: str) -> str:
    """The URL as anybody may see it in a list of processes."""
    parts = urlsplit(url)
    login, _, address = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login.partition(':')[0]}@{address}" if login else address))


def _pgbench() -> str | None:
    """The program, beside the servers' where it is not on the path."""
    beside = sorted(glob("/usr/lib/postgresql/*/bin/pgbench"))  # noqa: PTH207 - a pattern from the root
    return shutil.which("pgbench") or (beside[-1] if beside and os.access(beside[-1], os.X_OK) else None)
