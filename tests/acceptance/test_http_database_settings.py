"""Answers do not depend on how the database, its other sessions or the process are set: zone, styles, collation."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest

from tests.acceptance import dataset
from tests.acceptance.envelopes import succeeded
from tests.conftest import Servers, name_of, new_database
from tests.events import Event, add_source, write
from tests.oracle import assert_snapshots_equal_events
from tests.running import AUTHORISED, BASE_PATH, Service, serving

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

ODD_SETTINGS = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-15",
    "statement_timeout": "1ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
}

#: In the order of their code points, which is no language's order, and not that of their UTF-16 units either.
WORDS = ["10", "9", "A b", "B", "Z", "_", "a", "a-b", "ab", "z", "Éclair", "é", "中", "ﬀ", "😀"]
WEEK = {"date_from": "2026-03-02", "date_to": "2026-03-08", "limit": 1000}


@asynccontextmanager
async def database(servers: Servers, how: str) -> AsyncIterator[str]:
    """A database created with the clauses `how`, for the length of a block."""
    name = f"pg_analytics_test_{uuid4().hex}"
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 {how}')
    try:
        yield urlunsplit(urlsplit(servers.database_url)._replace(path=f"/{name}"))
    finally:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await connection.close()


async def languages_order(servers: Servers) -> str:
    """Clauses for a database that sorts as a language does; empty where this PostgreSQL knows none."""
    connection = await asyncpg.connect(servers.database_url)
    try:
        if await connection.fetchval(
            "SELECT current_setting('server_version_num')::integer >= 150000"
            " AND EXISTS (SELECT FROM pg_collation WHERE collname = 'en-US-x-icu')"
        ):
            return "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'"
        locale = await connection.fetchval(
            "SELECT min(collcollate) FROM pg_collation"
            " WHERE collprovider = 'c' AND collcollate ~* '^[a-z]{2}_.*utf-?8$'"
        )
        return f"LOCALE '{locale}'" if locale else ""
    finally:
        await connection.close()


async def change_settings(url: str, settings: dict[str, str]) -> None:
    """Defaults of every new session of a database."""
    connection = await asyncpg.connect(url)
    for name, value in settings.items():
        await connection.execute(f"ALTER DATABASE \"{name_of(url)}\" SET {name} = '{value}'")
    await connection.close()


@asynccontextmanager
async def patient_connection(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that keeps every setting of the database but its time limit."""
    connection = await asyncpg.connect(url, server_settings={"statement_timeout": "0"})
    try:
        yield connection
    finally:
        await connection.close()


def rows(service: Service, slug: str, **parameters: object) -> Any:
    return service.report(slug, **parameters)["data"]["rows"]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York"])
async def test_a_day_is_a_day_of_utc_wherever_the_database_and_the_process_are(
    servers: Servers, redis_url: str, tmp_path: Path, zone: str
) -> None:
    async with new_database(servers.database_url) as url:
        await change_settings(url, ODD_SETTINGS | {"timezone": zone})
        with serving({"DATABASE_URL": url, "REDIS_URL": redis_url, "TZ": zone}, tmp_path) as service:
            # Every local hour over ten days (New York's clocks jump meanwhile), read in the session's own zone.
            async with patient_connection(url) as connection:
                await add_source(connection)
                await connection.execute(
                    """
                    INSERT INTO analytics_events
                    (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
                    SELECT local_time::text, 1, 'entity', 'success', 1, 1, local_time::timestamptz
                    FROM generate_series('2026-03-01'::timestamp, '2026-03-10 23:00', INTERVAL '1 hour') AS local_time
                    """
                )
                service.recompute("volume-by-period", "week", "2026-02-27", "2026-03-12")
                await assert_snapshots_equal_events(connection)
                moments = await connection.fetch("SELECT occurred_at FROM analytics_events")

            days = [moment["occurred_at"].astimezone(UTC).date() for moment in moments]
            for window in ("day", "week"):
                counted = Counter(dataset.bucket(day, window) for day in days)
                assert rows(
                    service, "volume-by-period", date_from="2026-02-27", date_to="2026-03-12", window=window
                ) == [{"bucket_date": start, "event_count": count} for start, count in sorted(counted.items())]


async def test_triggers_side_by_side_are_safe_in_a_database_that_is_serializable_by_default(
    servers: Servers, redis_url: str, tmp_path: Path
) -> None:
    async with new_database(servers.database_url) as url:
        await change_settings(url, ODD_SETTINGS)
        with serving({"DATABASE_URL": url, "REDIS_URL": redis_url, "RECOMPUTE_WORKERS": "0"}, tmp_path) as service:
            scopes = [f"2026-01-{day:02}" for day in range(1, 21)] * 2
            async with httpx.AsyncClient(base_url=service.url + BASE_PATH, headers=AUTHORISED) as client:
                bodies = [
                    {"report_slug": "top-entities", "window": "day", "date_from": day, "date_to": day} for day in scopes
                ]
                answers = await asyncio.gather(*(client.post("/recomputations", json=body) for body in bodies))

            assert Counter(answer.status_code for answer in answers) == {202: 20, 409: 20}


async def test_ties_are_ordered_by_code_point_whatever_the_collation(
    servers: Servers, redis_url: str, tmp_path: Path
) -> None:
    async with database(servers, await languages_order(servers)) as url:
        with serving({"DATABASE_URL": url, "REDIS_URL": redis_url}, tmp_path) as service:
            connection = await asyncpg.connect(url)
            for word in reversed(WORDS):
                await add_source(connection, word)
            # Every entity, source and status equally often.
            noon, status = datetime(2026, 3, 4, 12, tzinfo=UTC), cycle(["success", "pending", "failed"])
            await write(connection, [Event(word, word, word, next(status), noon) for word in reversed(WORDS)])
            for number, word in enumerate(reversed(WORDS)):
                await connection.execute(
                    """
                    INSERT INTO report_definitions (slug, name, description, cache_ttl_seconds, default_window, rollup)
                    VALUES ($1, $2, '', 60, 'day', 'entity')
                    """,
                    f"report-{number}",
                    f"found by name: {word}",
                )
            await connection.close()
            service.recompute("top-entities", "day", WEEK["date_from"], WEEK["date_to"])

            assert [row["entity_id"] for row in rows(service, "top-entities", **WEEK)] == WORDS
            assert [row["source"] for row in rows(service, "volume-by-period", **WEEK, breakdown="source")] == WORDS
            for breakdown in ("status", "period"):
                counted = rows(service, "status-counts", **WEEK, breakdown=breakdown)
                assert [row["status"] for row in counted] == ["failed", "pending", "success"]
            found = succeeded(service.http.get("/reports", params={"search": "found by name", "limit": "100"}))["data"]
            assert [report["name"].removeprefix("found by name: ") for report in found] == WORDS
