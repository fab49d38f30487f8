"""The statements of the audit trail, one function each."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement

#: Actor of the entries that a worker writes.
WORKER: Final = "recompute-worker"
#: Actor of the entries that a refresher writes.
REFRESHER: Final = "refresher"

_APPEND_ENTRY: Final = statement(__package__, "append_entry")
_LIST_ENTRIES: Final = statement(__package__, "list_entries")
_COUNT_ENTRIES: Final = statement(__package__, "count_entries")


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One act, as clients see it. `metadata` is a JSON object."""

    id: int
    actor: str
    action: str
    resource_type: str
    metadata: msgspec.Raw
    created_at: datetime
    resource_id: str | None = None


async def append_entry(
    connection: Connection,
    *,
    actor: str,
    action: str,
    resource_id: str | None,
    metadata: Mapping[str, object],
    resource_type: str = "recompute_run",
) -> None:
    """Append an entry; `connection` must be in the transaction of the act."""
    encoded = msgspec.json.encode(metadata).decode()
    await connection.execute(_APPEND_ENTRY, actor, action, resource_type, resource_id, encoded)


async def list_entries(
    connection: Connection, *, action: str | None, actor: str | None, limit: int, offset: int
) -> list[AuditEntry]:
    """A page of the entries that match, newest first."""
    return [
        AuditEntry(**{**row, "metadata": msgspec.Raw(row["metadata"].encode())})
        for row in await connection.fetch(_LIST_ENTRIES, action, actor, limit, offset)
    ]


async def count_entries(connection: Connection, *, action: str | None, actor: str | None) -> int:
    """How many entries match."""
    return int(await connection.fetchval(_COUNT_ENTRIES, action, actor))
