"""Whether memory stays flat: `make bench-soak`, or `python -m bench.soak --help`.

For an hour, or as long as `--minutes` says, a service answers a mixed load: hits, answers that nobody has, 304s, the
catalogue, a client that thinks better of it half-way, while events are written and followed. Printed are the memory and
the open files of the service, in the last third of the time against the middle third.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import uvloop

from bench import database as own
from bench.filled import Filled, databases
from bench.measuring import Line, median, say, show
from bench.serving import running_service

_CLIENTS: Final = 8
_SAMPLE_S: Final = 1.0
_WRITE_S: Final = 2.0
_SLOW_S: Final = 5.0
_DAYS: Final = 335
_MOST_GROWTH: Final = 1.1


class Soak:
    """A mixed load on one service."""

    def __init__(self, filled: Filled, service: str, *, until: float) -> None:
        """`until` is a moment of the monotonic clock."""
        self._filled = filled
        self._service = service
        self._until = until
        self.answers: Counter[int] = Counter()

    async def run(self) -> None:
        """All of it, until the time is up."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(self._again(self._ask))
            group.create_task(self._again(self._ask_half))
            group.create_task(self._write())

    async def _again(self, act: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async with httpx.AsyncClient(base_url=self._service, timeout=60) as client:
            while time.monotonic() < self._until:
                await act(client)

    async def _ask(self, client: httpx.AsyncClient) -> None:
        match random.randrange(10):
            case 0:
                await self._get(client, "/api/v1/reports")
            case 1:
                await self._get(client, self._cold())
            case 2:
                tag = (await self._get(client, self._filled.cached)).headers.get("ETag", "*")
                await self._get(client, self._filled.cached, {"If-None-Match": tag})
            case _:
                await self._get(client, f"{self._filled.cached}&limit={100 + random.randrange(50)}")

    def _cold(self) -> str:
        first = self._filled.first_day + timedelta(days=random.randrange(_DAYS))
        last = first + timedelta(days=random.randrange(30))
        path = f"/api/v1/reports/volume-by-period/run?date_from={first}&date_to={last}"
        return f"{path}&breakdown=source&limit={1 + random.randrange(1000)}"

    async def _get(self, client: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        answer = await client.get(path, headers=headers)
        self.answers[answer.status_code] += 1
        return answer

    async def _ask_half(self, _client: httpx.AsyncClient) -> None:
        address = httpx.URL(self._service)
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /api/v1/reports HTTP/1.1\r\nHo")
        await asyncio.sleep(_SLOW_S)
        writer.close()

    async def _write(self) -> None:
        connection = await asyncpg.connect(self._filled.url)
        while time.monotonic() < self._until:
            days = [self._filled.first_day + timedelta(days=random.randrange(_DAYS)) for _ in range(3)]
            await connection.execute(own.sql("insert_batch"), 100, f"soak-{time.time_ns()}-", days)
            await asyncio.sleep(_WRITE_S)
        await connection.close()


async def _sample(pid: int, until: float) -> list[tuple[float, int]]:
    """Resident memory in MiB, and open files, once a second."""
    samples = []
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")  # noqa: ASYNC240 - no disk is behind it
        resident_kib = int(status.partition("VmRSS:")[2].split()[0])
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())  # noqa: ASYNC240
        samples.append((resident_kib / 1024, files))
        await asyncio.sleep(_SAMPLE_S)
    return samples


async def _measure(filled: Filled, service: str, pid: int, minutes: float) -> list[Line]:
    until = time.monotonic() + 60 * minutes
    soak = Soak(filled, service, until=until)
    sampling = asyncio.create_task(_sample(pid, until))
    await soak.run()
    samples = await sampling
    third = max(1, len(samples) // 3)
    middle, last = samples[-2 * third : -third] or samples, samples[-third:]
    say(f"{soak.answers.total():,} answers: {dict(soak.answers)}")
    return [
        Line(
            f"{what}, last third of the time / middle third",
            median([sample[kind] for sample in last]),
            median([sample[kind] for sample in middle]),
            unit,
            _MOST_GROWTH,
        )
        for kind, (what, unit) in enumerate((("memory of the service", "MiB"), ("its open files", "")))
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="for how long (default: 60)")
    parser.add_argument("--events", type=int, default=1_000_000, help="events that are there (default: 1000000)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or not Path("/proc/self/status").exists():
        parser.error("--minutes must be positive, and there must be /proc")
    try:
        with ExitStack() as opened:
            [filled] = databases(opened, [arguments.events])
            # Little room, so that answers leave all the time.
            environment = filled.environment() | {"MEMORY_CACHE_MB": "8"}
            service, pid = opened.enter_context(running_service(environment))
            say(f"a mixed load for {arguments.minutes:g} minutes")
            show(uvloop.run(_measure(filled, service, pid, arguments.minutes)), as_json=arguments.json)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
