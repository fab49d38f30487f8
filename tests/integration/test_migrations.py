"""Migrations: once each, whole or not at all, by however many instances at once, and never past what is known."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from pg_analytics.postgres import migrate as module
from pg_analytics.postgres.migrate import Migration, MigrationError, is_migrated, migrate, migrations
from pg_analytics.postgres.pool import Connection
from tests.conftest import Servers, name_of, new_database
from tests.running import KEY, Command, Service
from tests.waiting import until_true

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

Connect = Callable[[], Awaitable[Connection]]

APPLIED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
RELATIONS = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace"


@pytest.fixture
async def empty_url(servers: Servers) -> AsyncIterator[str]:
    """A database in which nothing is yet."""
    async with new_database(servers.database_url) as url:
        yield url


@pytest.fixture
async def connect(empty_url: str) -> AsyncIterator[Connect]:
    """Opens connections to the empty database."""
    opened: list[asyncpg.Connection[asyncpg.Record]] = []

    async def connect() -> Connection:
        opened.append(await asyncpg.connect(empty_url))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture
async def empty(connect: Connect) -> Connection:
    """A connection to the empty database."""
    return await connect()


def pretend(monkeypatch: pytest.MonkeyPatch, known: tuple[Migration, ...]) -> None:
    """Be a program that has these migrations."""
    monkeypatch.setattr(module, "migrations", lambda: known)


async def test_each_migration_is_applied_once_in_order_and_recorded_with_its_checksum(empty: Connection) -> None:
    assert not await is_migrated(empty)

    assert await migrate(empty) == list(migrations())
    assert await migrate(empty) == []

    applied = [(row["version"], row["name"], row["checksum"]) for row in await empty.fetch(APPLIED)]
    assert applied == [(known.version, known.name, known.checksum) for known in migrations()]
    assert await is_migrated(empty)


async def test_any_number_of_instances_at_once_apply_each_migration_once(connect: Connect) -> None:
    instances = [await connect() for _ in range(8)]

    applied = await asyncio.gather(*(migrate(instance) for instance in instances))

    assert sorted(migration.version for some in applied for migration in some) == [m.version for m in migrations()]


async def test_four_services_start_at_once_on_an_empty_database(
    empty_url: str, empty: Connection, servers: Servers, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": empty_url, "REDIS_URL": servers.redis_url}

    def start(number: int) -> Service:
        return Service(settings, tmp_path / f"service-{number}.log")

    with ThreadPoolExecutor(4) as pool:
        services = await asyncio.to_thread(lambda: list(pool.map(start, range(4))))
    try:
        for service in services:
            assert service.http.get("/health").json()["data"]["status"] == "ok"
        logs = "".join(service.log() for service in services)
        for migration in migrations():
            assert logs.count(f'"migration":"{migration.name}"') == 1
        assert await empty.fetchval("SELECT count(*) FROM report_definitions") == 3
    finally:
        for service in services:
            service.close()


async def test_an_instance_waits_for_the_one_that_migrates_longer_than_a_statement_may_take(
    connect: Connect, empty_url: str
) -> None:
    first, observer = await connect(), await connect()
    second = await asyncpg.connect(empty_url, server_settings={"statement_timeout": "50", "lock_timeout": "50"})
    lock = first.transaction()
    await lock.start()
    await first.execute("SELECT pg_advisory_xact_lock($1)", module._LOCK_KEY)

    waiting = asyncio.create_task(migrate(second))
    await until_true(
        observer,
        """
        SELECT EXISTS(
            SELECT FROM pg_stat_activity
            WHERE pid = $1 AND wait_event = 'advisory' AND clock_timestamp() > query_start + INTERVAL '200 ms'
        )
        """,
        second.get_server_pid(),
    )
    assert await observer.fetchval(RELATIONS) == 0
    await lock.rollback()

    assert await waiting == list(migrations())
    assert await second.fetchval("SHOW statement_timeout") == "50ms"  # the patience ended with the transaction
    await second.close()


async def test_of_a_migration_that_fails_half_way_nothing_stays(
    empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fourth = replace(migrations()[3], sql="CREATE TABLE half_a_migration (id integer); SELECT 1 / 0;")
    pretend(monkeypatch, (*migrations()[:3], fourth, *migrations()[4:]))
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty)

    assert await empty.fetchval("SELECT to_regclass('half_a_migration')") is None
    assert [row["version"] for row in await empty.fetch(APPLIED)] == [1, 2, 3]

    monkeypatch.undo()
    assert [migration.version for migration in await migrate(empty)] == [m.version for m in migrations()[3:]]


async def test_a_migration_edited_after_it_was_applied_is_noticed_before_anything_is_done(
    empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = migrations()
    pretend(monkeypatch, (first,))
    await migrate(empty)

    pretend(monkeypatch, (replace(first, sql=first.sql + " "), second))
    with pytest.raises(MigrationError, match=rf"^migration {first.name} was edited after it was applied[^\n]*$"):
        await migrate(empty)

    assert len(await empty.fetch(APPLIED)) == 1


async def test_a_database_of_a_newer_program_is_left_alone_and_serves_who_runs_already(
    empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty)
    pretend(monkeypatch, migrations()[:-1])
    latest = migrations()[-1].version

    with pytest.raises(MigrationError, match=rf"at migration {latest}, this program knows {latest - 1}"):
        await migrate(empty)

    assert await is_migrated(empty)


async def test_a_service_older_than_the_database_does_not_start_and_says_why_in_one_line(
    empty_url: str, empty: Connection, servers: Servers, tmp_path: Path
) -> None:
    await migrate(empty)
    await empty.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, 'of the future', '')",
        len(migrations()) + 1,
    )
    settings = {"DATABASE_URL": empty_url, "REDIS_URL": servers.redis_url, "MANAGEMENT_API_KEY": KEY}

    service = Command(["serve"], settings, tmp_path / "log")

    assert await asyncio.to_thread(service.process.wait) != 0
    lines = service.log().splitlines()
    assert sum("start a newer version" in line for line in lines) == 1
    assert "Traceback" not in service.log()


async def test_a_service_that_may_not_migrate_is_ready_once_somebody_else_has(
    empty_url: str, empty: Connection, servers: Servers, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": empty_url, "REDIS_URL": servers.redis_url, "APP_AUTO_MIGRATE": "false"}
    settings["RECOMPUTE_WORKERS"] = "0"
    service = await asyncio.to_thread(Service, settings, tmp_path / "log")
    try:
        assert service.http.get(f"{service.url}/readyz").status_code == 503
        await migrate(empty)
        assert service.http.get(f"{service.url}/readyz").status_code == 200
    finally:
        service.close()


async def test_a_database_of_another_encoding_is_refused(servers: Servers, empty: Connection) -> None:
    name = f"{name_of(str(servers.database_url))}_ascii"
    await empty.execute(
        f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    connection = await asyncpg.connect(servers.database_url, database=name)
    try:
        with pytest.raises(MigrationError, match="encoding UTF8"):
            await migrate(connection)
        assert await connection.fetchval(RELATIONS) == 0
    finally:
        await connection.close()
        await empty.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_a_schema_of_any_name_serves_and_its_triggers_find_their_tables_from_anywhere(
    empty: Connection, empty_url: str
) -> None:
    await empty.execute('CREATE SCHEMA "Odd, schema"')
    path = {"search_path": '"Odd, schema"'}
    inside = await asyncpg.connect(empty_url, server_settings=path)
    await migrate(inside)
    await inside.execute("INSERT INTO event_sources (slug, provider_name, description) VALUES ('s', 's', '')")

    await empty.execute(
        """
        SET search_path = pg_catalog;
        CREATE TEMPORARY TABLE event_changes (external_ref text, occurred_day date);
        INSERT INTO "Odd, schema".analytics_events
        (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
        VALUES ('e', 1, 'x', 'success', 1, 1, '2026-01-05 00:00+00')
        """
    )

    assert await inside.fetchval("SELECT count(*) FROM event_changes") == 1
    assert await empty.fetchval("SELECT count(*) FROM pg_temp.event_changes") == 0
    await inside.close()
