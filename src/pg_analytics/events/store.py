"""The statements that load events, one function each."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Final

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement

#: Key of the advisory lock on loading.
_LOADING_LOCK_KEY: Final = 0x7067_6165

_UPSERT_SOURCE: Final = statement(__package__, "upsert_source")
_LOCK_LOADING: Final = statement(__package__, "lock_loading")
_ANY_EVENT: Final = statement(__package__, "any_event")
_STAGE_EVENTS: Final = statement(__package__, "stage_events")
_INSERT_STAGED: Final = statement(__package__, "insert_staged")


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
