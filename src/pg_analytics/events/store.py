"""The statements that load events and delete them, one function each."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date, datetime
from operator import attrgetter
from typing import Final

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.windows import DayRange

#: Key of the advisory lock on loading.
_LOADING_LOCK_KEY: Final = 0x7067_6165

_UPSERT_SOURCE: Final = statement(__package__, "upsert_source")
_LOCK_LOADING: Final = statement(__package__, "lock_loading")
_ANY_EVENT: Final = statement(__package__, "any_event")
_STAGE_EVENTS: Final = statement(__package__, "stage_events")
_INSERT_STAGED: Final = statement(__package__, "insert_staged")
_STAGE_PRUNED: Final = statement(__package__, "stage_pruned")
_INDEX_PRUNED: Final = statement(__package__, "index_pruned")
_FIND_FIRST_DAY: Final = statement(__package__, "find_first_day")
_DELETE_EVENTS: Final = statement(__package__, "delete_events")
_OTHERS_CHANGED: Final = statement(__package__, "others_changed")
_FORGET_OWN_CHANGES: Final = statement(__package__, "forget_own_changes")
_COUNT_BEFORE: Final = statement(__package__, "count_before")


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it is stored. `payload` is a JSON object as text, `occurred_at` is aware."""

    external_ref: str
    source_id: int
    entity_id: str
    status: str
    processing_ms: int
    amount_cents: int
    occurred_at: datetime
    payload: str


@dataclass(frozen=True, slots=True)
class EventsBefore:
    """Events of days before some day: of those that are not frozen yet, and of frozen ones."""

    events: int
    late_events: int


_COLUMNS: Final = [field.name for field in fields(Event)]


async def upsert_source(connection: Connection, slug: str, provider_name: str, description: str) -> int:
    """The id of the source `slug`, which is entered if it is new."""
    return int(await connection.fetchval(_UPSERT_SOURCE, slug, provider_name, description))


async def lock_loading(connection: Connection) -> None:
    """Be the only loader until the transaction ends."""
    await connection.execute(_LOCK_LOADING, _LOADING_LOCK_KEY)


async def any_event(connection: Connection) -> bool:
    """Whether there is any event."""
    return bool(await connection.fetchval(_ANY_EVENT))


async def stage_events(connection: Connection) -> None:
    """Make the stage that `insert_events` copies into; it lives as long as the transaction."""
    await connection.execute(_STAGE_EVENTS)


async def insert_events(connection: Connection, events: Iterable[Event]) -> int:
    """Insert the events whose `external_ref` is new; returns how many there were."""
    await connection.copy_records_to_table(
        "staged_events", columns=_COLUMNS, records=map(attrgetter(*_COLUMNS), events)
    )
    return int((await connection.execute(_INSERT_STAGED)).split()[-1])


async def stage_pruned(connection: Connection) -> None:
    """Make the table that `delete_events` fills; it lives as long as the session, its rows as long as a transaction."""
    await connection.execute(_STAGE_PRUNED)
    await connection.execute(_INDEX_PRUNED)


async def find_first_day(connection: Connection, start: date, end: date) -> date | None:
    """The first of the days `start <= day < end` that has events, or changes that no rebuild has seen."""
    found: date | None = await connection.fetchval(_FIND_FIRST_DAY, start, end)
    return found


async def delete_events(connection: Connection, days: DayRange) -> int:
    """Delete the events of `days`, which are locked, and put them aside to be counted; returns how many there were."""
    return int((await connection.execute(_DELETE_EVENTS, days.start, days.end)).split()[-1])


async def others_changed(connection: Connection, days: DayRange) -> bool:
    """Whether the change log holds rows of `days` that another transaction has written."""
    return bool(await connection.fetchval(_OTHERS_CHANGED, days.start, days.end))


async def forget_own_changes(connection: Connection, days: DayRange) -> None:
    """Take rows of `days` that this very transaction has written, in no savepoint, out of the change log."""
    await connection.execute(_FORGET_OWN_CHANGES, days.start, days.end)


async def count_before(connection: Connection, day: date) -> EventsBefore:
    """How many events of days before `day` there are."""
    return EventsBefore(**(await connection.fetch(_COUNT_BEFORE, day))[0])
