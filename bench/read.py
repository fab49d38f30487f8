"""What reading costs: `make bench-read`, or `python -m bench.read --help`.

The method, and what each line means, stand in docs/explanation/performance.md.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from itertools import chain, count
from typing import Final

import asyncpg
import httpx
import uvloop

from bench import database as own
from bench import load, open_loop
from bench.filled import MONTH, YEAR, Filled, databases, run_path
from bench.measuring import Line, median, say, show
from bench.serving import bare_handler, serving
from pg_analytics.reports import store
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.windows import DayRange, Window

_CONNECTIONS: Final = 32
_STORM: Final = 1000
_CROWD: Final = 600
_REPORTS: Final = (
    ("volume-by-period", "period"),
    ("volume-by-period", "source"),
    ("status-counts", "status"),
    ("status-counts", "period"),
    ("top-entities", None),
)
#: Answers that are asked for in the measurement of warming up, and how long after a change.
_FAVOURITES: Final = 20
_PAUSE_S: Final = 2.0
_VERSION: Final = "SELECT version FROM report_definitions WHERE slug = 'volume-by-period'"
_GENERATED_AT: Final = re.compile(rb'"generated_at":"([^"]*)"')


class Bench:
    """What is measured, each for `seconds`, `rounds` times."""

    def __init__(self, *, seconds: float, rounds: int) -> None:
        self._seconds = seconds
        self._rounds = rounds

    def cached(self, filled: Filled) -> list[Line]:
        """Hits and 304s beside a handler that does nothing; what else a process answers, for comparison."""
        say("cached answers")
        with serving(filled.environment()) as service:
            first = httpx.get(service + filled.cached)
            tag = {"If-None-Match": first.headers["ETag"]}
            with bare_handler(len(httpx.get(service + filled.cached).content)) as bare:
                hit, bare_hit = self._pairs(
                    lambda: self._throughput(service + filled.cached), lambda: self._throughput(f"{bare}/")
                )
                unchanged, bare_304 = self._pairs(
                    lambda: self._throughput(service + filled.cached, tag), lambda: self._throughput(f"{bare}/304")
                )
            others = [
                Line(f"{name}, against a bare handler", self._median(service + path), bare_hit, "requests/s")
                for name, path in (
                    ("liveness", "/livez"),
                    ("health", "/api/v1/health"),
                    ("catalogue", "/api/v1/reports"),
                )
            ]
        return [
            Line("cached, 30 days of volume, against a bare handler", hit, bare_hit, "requests/s", 0.6, at_least=True),
            Line("304, against a bare handler's", unchanged, bare_304, "requests/s", 0.6, at_least=True),
            *others,
        ]

    def uncached(self, filled: Sequence[Filled]) -> list[Line]:
        """Each report beside pgbench with the same statement, in every database by turns; then how it does as events
        grow.
        """
        lines: dict[int, list[Line]] = {one.events: [] for one in filled}
        grown: list[Line] = []
        with ExitStack() as opened:
            services = [opened.enter_context(serving(one.environment())) for one in filled]
            for slug, breakdown in _REPORTS:
                name = f"{slug}{f' by {breakdown}' if breakdown else ''}"
                say(f"uncached: {name}")
                call = _month_call(filled[0], slug, breakdown)
                more = f"&breakdown={breakdown}" if breakdown else ""
                measures = [
                    measure
                    for one, service in zip(filled, services, strict=True)
                    for measure in (
                        partial(self._cold, one, service, _CONNECTIONS, slug, more),
                        partial(self._pgbench, one, call),
                    )
                ]
                found = self._by_turns(*measures)
                ours, pgbench = found[::2], found[1::2]
                for one, value, reference in zip(filled, ours, pgbench, strict=True):
                    what = f"{name}, 30 days of {one.events:,} events, uncached, against pgbench"
                    lines[one.events].append(Line(what, value, reference, "1/s", 0.4, at_least=True))
                if len(filled) > 1:
                    times = f"{filled[-1].events:,} events against {filled[0].events:,}"
                    grown.append(Line(f"{name}, 30 days, uncached, {times}", ours[-1], ours[0], "1/s"))
            for one, service in zip(filled, services, strict=True):
                lines[one.events].append(self._year(one, service))
        return [*chain.from_iterable(lines.values()), *grown]

    def _year(self, filled: Filled, service: str) -> Line:
        """A year of the ranking: one request at a time, since one keeps every core busy."""
        say(f"uncached: a year of top-entities, {filled.events:,} events")
        definition = builtin_definitions()["top-entities"]
        days = DayRange(filled.first_day, filled.first_day + timedelta(days=YEAR))
        limits = count(100)

        def ours() -> float:
            path = run_path("top-entities", days.start, days.last)
            answer = httpx.get(f"{service}{path}&limit={next(limits)}", timeout=60)
            return float(answer.raise_for_status().elapsed.total_seconds())

        call = store.report_call(definition, None, days=days, window=Window.DAY, limit=100, offset=0, filters=[])

        def pgbench() -> float:
            return 1 / load.statements(
                filled.url, call.statement, call.arguments, vary_from=None, clients=1, seconds=self._seconds
            )

        took, bare = self._pairs(ours, pgbench)
        return Line(f"top-entities, a year of {filled.events:,} events, one at a time", took, bare, "s", 1 / 0.4)

    def statement(self, filled: Filled) -> list[Line]:
        """The limit of any service on this server and driver, beside pgbench, and the service beside it."""
        say("a handler that only runs the statement")
        call = _month_call(filled, "volume-by-period", "period")
        with serving(filled.environment()) as service, bare_handler(1, filled.url) as bare:
            ours, limit = self._pairs(
                lambda: self._cold(filled, service, _CONNECTIONS),
                lambda: self._differing(filled, bare, _CONNECTIONS, "/statement"),
            )
            again, pgbench = self._pairs(
                lambda: self._differing(filled, bare, _CONNECTIONS, "/statement"),
                lambda: self._pgbench(filled, call),
            )
        what = "volume-by-period by period, 30 days, a handler that only runs the statement"
        return [
            Line(f"{what}, against pgbench", again, pgbench, "1/s"),
            Line("… the service, uncached, against that handler", ours, limit, "1/s"),
        ]

    def storm(self, filled: Filled) -> list[Line]:
        """A thousand clients ask for one answer that nobody has."""
        say("a miss storm")
        cold, warm, queries = [], [], 0
        with serving(filled.environment()) as service:
            for number in range(self._rounds):
                path = f"{service}{filled.cached}&offset={1 + number}"
                took, answers = uvloop.run(open_loop.storm(path, clients=_STORM))
                refused = [answer for answer in answers if b" 200 " not in answer[:16]]
                if refused:
                    sys.exit(f"{len(refused)} of {_STORM} were not answered: {refused[0][:200]!r}")
                queries += len({found for answer in answers for found in _GENERATED_AT.findall(answer)})
                cold.append(took)
                warm.append(uvloop.run(open_loop.storm(path, clients=_STORM))[0])
        return [
            Line("1,000 clients at once, one cold key, against a cached one", median(cold), median(warm), "s"),
            Line("… queries that it took, per storm", queries, self._rounds, "", 1),
        ]

    def overload(self, filled: Filled) -> Line:
        """What is answered when a hundred times as many ask as can be computed at once."""
        say("overload")
        with serving(filled.environment()) as service:
            many, few = self._pairs(
                lambda: self._cold(filled, service, _CROWD), lambda: self._cold(filled, service, _CONNECTIONS)
            )
        what = f"uncached, answered while {_CROWD} clients ask, against {_CONNECTIONS}"
        return Line(what, many, few, "1/s")

    async def warm_up(self, filled: Filled) -> Line:
        """How many of the answers asked for most somebody has to wait for, once numbers have changed."""
        say("answers that are waited for after a change")
        warmed, not_warmed = [await self._waited_for(filled, warm_up=answers) for answers in (_FAVOURITES, 0)]
        what = f"of {_FAVOURITES} favourites, waited for after a change: warmed up, against not"
        return Line(what, warmed, not_warmed, "answers")

    async def _waited_for(self, filled: Filled, *, warm_up: int) -> float:
        writer = await asyncpg.connect(filled.url)
        paths = [f"{filled.cached}&offset={number}" for number in range(_FAVOURITES)]
        found = []
        with serving(filled.environment() | {"WARM_UP_ANSWERS": str(warm_up)}) as service:
            async with httpx.AsyncClient(base_url=service, timeout=60) as client:
                for number in range(self._rounds):
                    for path in paths:
                        await client.get(path)
                    version = await writer.fetchval(_VERSION)
                    await writer.execute(
                        own.sql("insert_batch"), 1, f"warm-{warm_up}-{number}-{time.time_ns()}-", [filled.first_day]
                    )
                    while await writer.fetchval(_VERSION) == version:  # noqa: ASYNC110 - another process moves it
                        await asyncio.sleep(0.05)
                    await asyncio.sleep(_PAUSE_S)  # the pace of people, or of a dashboard that refreshes
                    answers = [(await client.get(path)).json()["data"] for path in paths]
                    found.append(sum(answer["source_system"] == "postgres" for answer in answers))
        await writer.close()
        return median(found)

    def processes(self, filled: Filled) -> list[Line]:
        """One, two and four processes: cached and uncached."""
        found: dict[int, tuple[float, float]] = {}
        for processes in (1, 2, 4):
            say(f"{processes} server processes")
            with serving(filled.environment(processes=processes)) as service:
                for _ in range(8 * processes):  # until each has it
                    httpx.get(service + filled.cached)
                hits = self._median(service + filled.cached)
                misses = median([self._cold(filled, service, _CONNECTIONS) for _ in range(self._rounds)])
                found[processes] = hits, misses
        return [
            Line(f"{processes} processes against one, {what}", found[processes][kind], found[1][kind], "1/s")
            for kind, what in enumerate(("cached", "uncached"))
            for processes in (2, 4)
        ]

    def latency(self, filled: Filled) -> list[Line]:
        """At half of the highest throughput, beside the bare handler at the same rate."""
        say("latency at half of the highest throughput")
        with serving(filled.environment()) as service:
            size = len(httpx.get(service + filled.cached).content)
            rate = self._median(service + filled.cached) / 2
            with bare_handler(size) as bare:
                ours, limit = (
                    uvloop.run(open_loop.measure(url, rate=rate, seconds=max(10, 3 * self._seconds)))
                    for url in (service + filled.cached, f"{bare}/")
                )
        if ours.errors:
            sys.exit(f"{ours.errors} errors")
        return [
            Line(f"cached, {rate:,.0f} requests/s, {name}, against a bare handler", value, reference, "ms")
            for name, value, reference in (
                ("median", ours.median, limit.median),
                ("99th percentile", ours.p99, limit.p99),
                ("99.9th percentile", ours.p999, limit.p999),
            )
        ]

    def _cold(
        self, filled: Filled, service: str, connections: int, slug: str = "volume-by-period", more: str = ""
    ) -> float:
        asyncio.run(load.outdate_answers(filled.url))
        return self._differing(filled, service, connections, f"/api/v1/reports/{slug}/run", more)

    def _differing(self, filled: Filled, url: str, connections: int, path: str, more: str = "") -> float:
        return load.varied_throughput(
            url, path, more, first_day=filled.first_day, connections=connections, seconds=self._seconds
        )

    def _pgbench(self, filled: Filled, call: store.ReportCall) -> float:
        return load.statements(
            filled.url,
            call.statement,
            call.arguments,
            vary_from=filled.first_day,
            clients=_CONNECTIONS,
            seconds=self._seconds,
        )

    def _throughput(self, url: str, headers: dict[str, str] | None = None) -> float:
        return load.throughput(url, connections=_CONNECTIONS, seconds=self._seconds, headers=headers)

    def _median(self, url: str) -> float:
        return median([self._throughput(url) for _ in range(self._rounds)])

    def _pairs(self, ours: Callable[[], float], reference: Callable[[], float]) -> tuple[float, float]:
        one, other = self._by_turns(ours, reference)
        return one, other

    def _by_turns(self, *measures: Callable[[], float]) -> list[float]:
        """Medians of all, measured by turns, so that whatever else the machine does hits every one of them."""
        rounds = [[measure() for measure in measures] for _ in range(self._rounds)]
        return [median(list(found)) for found in zip(*rounds, strict=True)]


def _month_call(filled: Filled, slug: str, breakdown: str | None) -> store.ReportCall:
    """What a report runs for 30 days."""
    definition = builtin_definitions()[slug]
    return store.report_call(
        definition,
        breakdown,
        days=DayRange(filled.first_day, filled.first_day + timedelta(days=MONTH)),
        window=Window.DAY,
        limit=load.LIMITS[0],
        offset=0,
        filters=[None] * len(definition.filters),
    )


def _measure(arguments: argparse.Namespace, filled: Sequence[Filled]) -> list[Line]:
    bench = Bench(seconds=arguments.seconds, rounds=arguments.rounds)
    largest = filled[-1]
    lines = [*bench.cached(largest), *bench.uncached(filled)]
    warmed = asyncio.run(bench.warm_up(largest))
    return [
        *lines,
        *bench.statement(largest),
        *bench.storm(largest),
        bench.overload(largest),
        warmed,
        *bench.processes(largest),
        *bench.latency(largest),
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.read", description=__doc__)
    parser.add_argument(
        "--events",
        type=int,
        nargs="+",
        default=[25_000, 10_000_000],
        help="sizes of the databases (default: 25000 10000000)",
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for how long each is measured (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="how often; the median counts (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if min(arguments.events) < YEAR or arguments.seconds < 1 or arguments.rounds < 1:
        parser.error(f"--events: at least {YEAR} each; --seconds and --rounds: at least 1")
    load.require()
    try:
        with ExitStack() as opened:
            show(_measure(arguments, list(databases(opened, arguments.events))), as_json=arguments.json)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
