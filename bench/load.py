"""The load generators: wrk for HTTP, pgbench for SQL. Debian has both (`apt-get install wrk postgresql-client`)."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from glob import glob
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg

from pg_analytics.app import REPORT_WORK_MEM
from pg_analytics.reports.catalog import LEASE_S

#: Settings of a session, as those of the service that run reports have them.
_SESSION: Final = (
    f"-c jit=off -c work_mem={REPORT_WORK_MEM} -c max_parallel_workers_per_gather=0"
    " -c plan_cache_mode=force_generic_plan"
)
_COLD: Final = Path(__file__).with_name("lua") / "cold.lua"
_PARAMETER: Final = re.compile(r"\$(\d+)")
_COMMENT: Final = re.compile(r"--.*")
#: Ranges of 30 days within a year that differ by their first day; limits, as in `cold.lua`.
RANGES: Final = 335
LIMITS: Final = (52, 999)


def require() -> None:
    """End with one line if a generator is missing."""
    for program, package, found in (("wrk", "wrk", shutil.which("wrk")), ("pgbench", "postgresql-client", _pgbench())):
        if found is None:
            sys.exit(f"{program} is needed: apt-get install {package}")


def throughput(url: str, *, connections: int, seconds: float, headers: Mapping[str, str] | None = None) -> float:
    """Requests per second of `connections` that each ask again as soon as they are answered."""
    given = [f"-H{name}: {value}" for name, value in (headers or {}).items()]
    return _wrk([url, *given], connections, seconds, {})


def varied_throughput(url: str, path: str, more: str, *, first_day: date, connections: int, seconds: float) -> float:
    """The same, of requests that differ, each by days or limit from all others: after `outdate_answers`, of those that
    no cache has an answer to. Those that are refused since there are too many (503) do not count.
    """
    midnight = datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC)
    environment = {"PATH_OF_REPORT": path, "MORE": more, "FIRST_DAY": str(int(midnight.timestamp()))}
    return _wrk([url, "-s", str(_COLD)], connections, seconds, environment, refusals=True)


async def outdate_answers(database_url: str) -> None:
    """Whatever any cache holds is of an older version afterwards, and every process knows."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE report_definitions SET version = version + 1")
    await connection.close()
    await asyncio.sleep(2 * LEASE_S)


def _wrk(
    arguments: Sequence[str],
    connections: int,
    seconds: float,
    environment: Mapping[str, str],
    *,
    refusals: bool = False,
) -> float:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", *arguments]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    if "Socket errors" in output or (refused and not refusals):
        sys.exit(f"wrk complains:\n{output}")
    asked = re.search(r"(\d+) requests in", output)
    assert asked is not None  # noqa: S101 - wrk says so
    answered = 1 - (int(refused[1]) if refused else 0) / max(1, int(asked[1]))
    return answered * float(output.partition("Requests/sec:")[2].split()[0])


def statements(
    url: str, sql: str, arguments: Sequence[object], *, vary_from: date | None, clients: int, seconds: float
) -> float:
    """Statements per second of pgbench. From `vary_from` on, days and limit differ each time, as those of the cold
    requests do.
    """
    program = _pgbench()
    assert program is not None  # noqa: S101 - `require` has looked
    varied = "" if vary_from is None else f"\\set k random(0, {RANGES - 1})\n\\set l random({LIMITS[0]}, {LIMITS[1]})\n"
    uncommented = "\n".join(line for line in _COMMENT.sub("", sql).splitlines() if line.strip())
    text = _PARAMETER.sub(
        lambda found: _literal(arguments[int(found[1]) - 1], varied=vary_from is not None), uncommented
    )
    parts = urlsplit(url)
    without_password = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")))
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"{varied}{text};\n")
        script.flush()
        command = [program, "-n", "-M", "prepared", f"-c{clients}", "-j1", f"-T{max(1, round(seconds))}"]
        environment = {**os.environ, "PGPASSWORD": unquote(parts.password or ""), "PGOPTIONS": _SESSION}
        run = subprocess.run(
            [*command, "-f", script.name, without_password],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    found = re.search(r"tps = ([0-9.]+)", run.stdout)
    if run.returncode or found is None:
        sys.exit(f"pgbench complains:\n{run.stderr[:2000]}")
    return float(found[1])


def _literal(argument: object, *, varied: bool) -> str:
    """A parameter, typed as the driver sends it."""
    match argument:
        case None:
            return "NULL"
        case date():
            return f"(DATE '{argument}' + :k::integer)" if varied else f"DATE '{argument}'"
        case int():
            return ":l::bigint" if varied and argument == LIMITS[0] else f"{argument}::bigint"
        case _:
            return f"'{argument}'::text"


def _pgbench() -> str | None:
    """The program: on the PATH, or where Debian puts it."""
    found = shutil.which("pgbench")
    return found or next(iter(sorted(glob("/usr/lib/postgresql/*/bin/pgbench"), reverse=True)), None)  # noqa: PTH207
