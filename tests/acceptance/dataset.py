"""Events of a small shop over four weeks, and what the reports must say of them: counted here, in Python."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from random import Random
from typing import Any, Final

from pg_analytics.postgres.pool import Connection
from pg_analytics.windows import DayRange
from tests.events import Event, add_source, write

SOURCES: Final = ("adyen", "paypal", "stripe")
STATUSES: Final = ("success", "failed", "pending")
#: Few enough that several entities have equally many events.
ENTITIES: Final = (*(f"entity-{number:02}" for number in range(30)), "zoë ☕")

#: From a Monday to a Sunday, over a leap day and the end of a month.
FIRST: Final = date(2024, 2, 12)
LAST: Final = date(2024, 3, 10)
WITHOUT_EVENTS: Final = date(2024, 2, 20)


def _events() -> list[Event]:
    random = Random(20240229)
    days = [day for day in DayRange.inclusive(FIRST, LAST) if day != WITHOUT_EVENTS]
    return [
        Event(
            external_ref=f"event-{number}",
            source=random.choice(SOURCES),
            entity_id=random.choice(ENTITIES),
            status=random.choice(STATUSES),
            occurred_at=datetime.combine(random.choice(days), time(number % 24, 59, 59), UTC),
        )
        for number in range(900)
    ]


EVENTS: Final = _events()


async def load(connection: Connection) -> None:
    """Write the events."""
    for source in SOURCES:
        await add_source(connection, source)
    await write(connection, EVENTS)


def volume(events: Iterable[Event], window: str) -> list[dict[str, Any]]:
    """Rows of `volume-by-period`, by period."""
    counted = Counter(bucket(day_of(event), window) for event in events)
    return [{"bucket_date": start, "event_count": count} for start, count in sorted(counted.items())]


def volume_by_source(events: Iterable[Event], window: str) -> list[dict[str, Any]]:
    """Rows of `volume-by-period`, by source."""
    counted = Counter((bucket(day_of(event), window), event.source) for event in events)
    return [
        {"bucket_date": start, "source": source, "event_count": count}
        for (start, source), count in sorted(counted.items())
    ]


def statuses(events: Iterable[Event], _window: str) -> list[dict[str, Any]]:
    """Rows of `status-counts`, by status."""
    return _most_first("status", (event.status for event in events))


def statuses_by_period(events: Iterable[Event], window: str) -> list[dict[str, Any]]:
    """Rows of `status-counts`, by period."""
    counted = Counter((bucket(day_of(event), window), event.status) for event in events)
    return [
        {"bucket_date": start, "status": status, "event_count": count}
        for (start, status), count in sorted(counted.items())
    ]


def entities(events: Iterable[Event], _window: str) -> list[dict[str, Any]]:
    """Rows of `top-entities`."""
    return _most_first("entity_id", (event.entity_id for event in events))


Counting = Callable[[Iterable[Event], str], list[dict[str, Any]]]

#: Every report with every breakdown, the default ones by leaving `breakdown` out.
REPORTS: Final[dict[tuple[str, str | None], Counting]] = {
    ("volume-by-period", None): volume,
    ("volume-by-period", "period"): volume,
    ("volume-by-period", "source"): volume_by_source,
    ("status-counts", None): statuses,
    ("status-counts", "status"): statuses,
    ("status-counts", "period"): statuses_by_period,
    ("top-entities", None): entities,
}


def day_of(event: Event) -> date:
    """The day, in UTC, that an event counts for."""
    return event.occurred_at.date()


def bucket(day: date, window: str) -> str:
    """First day of the bucket that `day` lies in, as reports write it."""
    year, week, _ = day.isocalendar()
    return (date.fromisocalendar(year, week, 1) if window == "week" else day).isoformat()


def between(first: date, last: date) -> list[Event]:
    """The events of some days, both ends included."""
    return [event for event in EVENTS if first <= day_of(event) <= last]


def _most_first(column: str, values: Iterable[str]) -> list[dict[str, Any]]:
    counted = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    return [{column: value, "event_count": count} for value, count in counted]
