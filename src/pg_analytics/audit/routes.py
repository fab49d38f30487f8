"""The management endpoint of the audit trail."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pg_analytics.audit import store
from pg_analytics.http import envelope
from pg_analytics.http.auth import ManagementKey
from pg_analytics.http.params import OFFSET, Integer, Query, Text
from pg_analytics.postgres.pool import Postgres

ACTION: Final = Text("action", None)
ACTOR: Final = Text("actor", None)
LIMIT: Final = Integer("limit", 20, minimum=1, maximum=100)


def routes(postgres: Postgres, key: ManagementKey) -> list[BaseRoute]:
    """`/audit-entries`."""

    async def list_entries(request: Request) -> Response:
        query = Query(request.scope["query_string"])
        query.allow([ACTION, ACTOR, LIMIT, OFFSET])
        action, actor = query.value(ACTION), query.value(ACTOR)
        limit, offset = query.value(LIMIT), query.value(OFFSET)
        async with postgres.connection() as connection:
            total = await store.count_entries(connection, action=action, actor=actor)
            entries = await store.list_entries(connection, action=action, actor=actor, limit=limit, offset=offset)
        return envelope.success(entries, envelope.pagination(limit=limit, offset=offset, total=total))

    return [Route("/audit-entries", key.protect(list_entries))]
