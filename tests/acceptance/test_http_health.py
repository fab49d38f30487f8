"""Health, liveness and readiness, with both dependencies there; losing them is another module's subject."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from pg_analytics.postgres.migrate import migrate
from pg_analytics.reports.catalog import install_builtin_reports
from tests.acceptance.conftest import until_somebody_waits
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import ask, request
from tests.conftest import Servers, new_database
from tests.running import BASE_PATH, Service, serving
from tests.waiting import until

pytestmark = [pytest.mark.anyio]


def test_health_tells_of_the_service_and_its_dependencies(shared_service: Service) -> None:
    before = datetime.now(UTC)
    answer = shared_service.http.get("/health")

    health = succeeded(answer)["data"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert before <= datetime.fromisoformat(health.pop("timestamp")) <= datetime.now(UTC)
    assert health.pop("version")
    assert health == {
        "status": "ok",
        "service": "pg-analytics-service",
        "dependencies": {"postgres": "ok", "redis": "ok"},
    }


def test_the_process_is_alive_and_ready(shared_service: Service) -> None:
    assert succeeded(ask(shared_service, request(b"/livez")))["data"] == {"status": "alive"}
    assert succeeded(ask(shared_service, request(b"/readyz")))["data"] == {"status": "ready"}


@pytest.mark.parametrize("path", ["/livez", "/readyz", f"{BASE_PATH}/health"])
def test_probes_take_no_parameters(shared_service: Service, path: str) -> None:
    assert refused(ask(shared_service, request(f"{path}?verbose=1".encode())), "verbose")


@pytest.mark.parametrize("path", ["/health", f"{BASE_PATH}/livez", f"{BASE_PATH}/readyz"])
def test_each_probe_has_one_place(shared_service: Service, path: str) -> None:
    failed(ask(shared_service, request(path.encode())), "not_found")


async def test_probes_do_not_queue_behind_reports(loaded_database: str, redis_url: str, tmp_path: Path) -> None:
    environment = {
        "DATABASE_URL": loaded_database,
        "REDIS_URL": redis_url,
        "POSTGRES_POOL_SIZE": "1",
        "APP_VERSION": "7.7.7-test",
    }
    with serving(environment, tmp_path) as service, ThreadPoolExecutor(8) as readers:
        connection = await asyncpg.connect(loaded_database)
        async with connection.transaction():
            await connection.execute("LOCK TABLE rollup_entity")
            paths = [f"/reports/top-entities/run?date_to=2024-03-{day:02}" for day in range(1, 9)]
            waiting = [readers.submit(service.http.get, path) for path in paths]
            await until_somebody_waits(connection)

            assert succeeded(service.http.get("/health"))["data"]["version"] == "7.7.7-test"
            succeeded(ask(service, request(b"/readyz")))
            assert not any(reader.done() for reader in waiting)
        await connection.close()
        assert [reader.result().status_code for reader in waiting] == [200] * 8


async def test_a_service_is_ready_once_its_database_is_migrated(
    servers: Servers, redis_url: str, tmp_path: Path
) -> None:
    async with new_database(servers.database_url) as url:
        settings = {"APP_AUTO_MIGRATE": "false", "RECOMPUTE_WORKERS": "0"}
        with serving({"DATABASE_URL": url, "REDIS_URL": redis_url} | settings, tmp_path) as service:
            unready = ask(service, request(b"/readyz"))
            assert "not migrated" in failed(unready, "service_unavailable")["message"]
            assert int(unready.headers["Retry-After"]) > 0
            succeeded(ask(service, request(b"/livez")))

            connection = await asyncpg.connect(url)
            await migrate(connection)
            until(lambda: service.http.get("/reports/top-entities/run").status_code == 404)
            await install_builtin_reports(connection)
            await connection.close()

            succeeded(ask(service, request(b"/readyz")))
            assert service.report("top-entities")["data"]["rows"] == []
