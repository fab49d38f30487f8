"""`pg-analytics demo`: from nothing to a service, and back, whatever comes between."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.embedded.process import free_port
from tests.acceptance.command_line import inherited, pg_analytics
from tests.acceptance.demo_process import LAST_LINE, Demo, alive, demo_in, remove_data
from tests.conftest import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

KEY_FILE = Path(".pg-analytics") / "management-key"
DATABASE_FILE = Path(".pg-analytics") / "database-url"
RECOMPUTE = ("recompute", "status-counts", "--window", "day", "--from", "2026-01-01", "--to", "2026-01-01")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a demo is started."""
    yield tmp_path
    remove_data(tmp_path)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("demo")
    yield folder
    remove_data(folder)


@pytest.fixture(scope="module")
def demo(shared_folder: Path) -> Iterator[Demo]:
    """A demo that answers. Tests that stop theirs start one of their own."""
    with demo_in(shared_folder) as demo:
        yield demo


def test_the_curl_lines_work_when_pasted(demo: Demo) -> None:
    lines = [line for line in demo.out.splitlines() if line.startswith("  curl ")]

    answers = [
        json.loads(
            subprocess.run(["sh", "-c", line], env=inherited(), capture_output=True, check=True, text=True).stdout
        )
        for line in lines
    ]

    health, report, run, audit = (answer["data"] for answer in answers)
    assert health["status"] == "ok"
    assert {row["source"] for row in report["rows"]} == {"adyen", "paypal", "stripe"}
    assert run["status"] == "pending"
    assert audit[0]["action"].startswith("recompute.")


def test_the_data_are_the_demo_events(demo: Demo) -> None:
    reports = "/reports/top-entities/run?limit=1000"
    entities = demo.get(reports)["rows"]

    assert len(entities) == 240


def test_the_key_is_kept_for_its_owner_alone(demo: Demo) -> None:
    kept = demo.folder / KEY_FILE

    assert kept.read_text().strip() == demo.key
    assert kept.stat().st_mode & 0o777 == 0o600
    assert len(demo.key) >= 32


def test_commands_in_the_same_folder_find_the_key(demo: Demo, tmp_path: Path) -> None:
    here = pg_analytics("runs", environment={"APP_PORT": str(demo.port)}, folder=demo.folder)
    elsewhere = pg_analytics("runs", environment={"APP_PORT": str(demo.port)}, folder=tmp_path)
    by_file = pg_analytics("runs", "--key-file", str(demo.folder / KEY_FILE), "--url", demo.url, folder=tmp_path)

    assert (here.code, elsewhere.code, by_file.code) == (ExitCode.OK, ExitCode.NOT_AUTHORISED, ExitCode.OK)


def test_commands_in_the_same_folder_find_the_database(demo: Demo, tmp_path: Path) -> None:
    here = pg_analytics("seed", folder=demo.folder)
    elsewhere = pg_analytics("seed", folder=tmp_path)

    assert (here.code, here.out.strip()) == (ExitCode.OK, "nothing loaded: there are events already")
    assert (demo.folder / DATABASE_FILE).stat().st_mode & 0o777 == 0o600
    assert elsewhere.code == ExitCode.USAGE
    assert "DATABASE_URL" in elsewhere.err


def test_what_it_made_is_not_for_a_repository(demo: Demo) -> None:
    assert (demo.folder / ".pg-analytics" / ".gitignore").read_text() == "*\n"


def test_a_second_demo_in_the_folder_is_refused_and_disturbs_nothing(demo: Demo) -> None:
    running = demo.servers()

    second = pg_analytics("demo", "--port", "1", folder=demo.folder)
    fresh = pg_analytics("demo", "--fresh", folder=demo.folder)

    assert (second.code, second.out) == (ExitCode.CONFLICT, "")
    assert (fresh.code, fresh.out) == (ExitCode.CONFLICT, "")
    assert second.error.startswith("a demo runs here already: ")
    assert "--folder" in second.err.splitlines()[1]
    assert demo.servers() == running
    assert demo.get("/health")["status"] == "ok"


def test_a_taken_port_is_told_before_any_server_is_started(demo: Demo, tmp_path: Path) -> None:
    refused = pg_analytics("demo", environment={"APP_PORT": str(demo.port)}, folder=tmp_path)

    assert (refused.code, refused.out) == (ExitCode.UNAVAILABLE, "")
    assert f"127.0.0.1:{demo.port} cannot be listened on" in refused.error
    assert f"APP_PORT={demo.port + 1} make demo" in refused.err.splitlines()[1]
    assert not (tmp_path / ".pg-analytics" / "postgres").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_the_next_demo_goes_on(folder: Path, number: signal.Signals) -> None:
    with demo_in(folder) as first:
        servers = first.servers()
        assert pg_analytics(*RECOMPUTE, "--wait", "--url", first.url, folder=folder).code == ExitCode.OK
        ended = first.end(number)

    assert ended.code == ExitCode.OK
    assert len(servers) == 2
    assert alive(servers) == []
    assert not (folder / DATABASE_FILE).exists()
    assert "Traceback" not in ended.err
    assert ended.err.endswith("the demo has stopped\n")
    with demo_in(folder) as second:
        assert second.key == first.key
        assert [run["status"] for run in second.get("/recomputations")] == ["completed"]
        assert "was killed" not in second.err
        assert second.end(number).code == ExitCode.OK


def test_after_kill_9_the_next_demo_says_so_and_works(folder: Path) -> None:
    with demo_in(folder) as first:
        assert pg_analytics(*RECOMPUTE, "--wait", "--url", first.url, folder=folder).code == ExitCode.OK
        first.end(signal.SIGKILL)

    with demo_in(folder) as second:
        assert "the last demo in .pg-analytics was killed; its data are recovered\n" in second.err
        assert [run["status"] for run in second.get("/recomputations")] == ["completed"]
        assert second.end(signal.SIGINT).code == ExitCode.OK


def test_fresh_starts_over(folder: Path) -> None:
    with demo_in(folder) as first:
        assert pg_analytics(*RECOMPUTE, "--wait", "--url", first.url, folder=folder).code == ExitCode.OK
        first.end(signal.SIGTERM)

    with demo_in(folder, "--fresh") as second:
        assert second.get("/recomputations") == []
        assert second.get("/reports/status-counts/run")["row_count"] == 3
        assert second.end(signal.SIGTERM).code == ExitCode.OK


def test_a_signal_while_it_starts_stops_what_it_has_started(folder: Path) -> None:
    demo = Demo(folder)
    demo.wait_for("PostgreSQL ")
    servers = demo.servers()

    ended = demo.end(signal.SIGTERM)

    assert ended.code == ExitCode.INTERRUPTED
    assert ended.err.endswith("error: interrupted\n")
    assert "Traceback" not in ended.err
    assert servers != []
    assert alive(servers) == []
    assert LAST_LINE not in ended.out
    assert not (folder / ".pg-analytics" / "running").exists()


def test_a_failure_half_way_stops_what_it_has_started(folder: Path) -> None:
    (folder / ".pg-analytics").mkdir()
    (folder / ".pg-analytics" / "redis").write_text("in the way")

    demo = Demo(folder)
    ended = demo.end()

    assert ended.code == ExitCode.UNAVAILABLE
    assert "PostgreSQL " in ended.err
    assert "error: cannot use " in ended.err.splitlines()[-1]
    assert demo.servers() == []
    (folder / ".pg-analytics" / "redis").unlink()
    with demo_in(folder) as second:
        assert "was killed" not in second.err


async def test_given_servers_are_used_and_nothing_is_started(folder: Path, servers: Servers, database_url: str) -> None:
    given = {"DATABASE_URL": database_url, "REDIS_URL": servers.redis_url}
    with demo_in(folder, environment=given) as demo:
        assert demo.servers() == []
        assert demo.get("/reports/status-counts/run")["row_count"] == 3
        assert demo.end(signal.SIGTERM).code == ExitCode.OK
    kept = {path.name for path in (folder / ".pg-analytics").iterdir()}
    assert kept == {".gitignore", "lock", "management-key"}

    refused = pg_analytics("demo", "--fresh", environment=given, folder=folder)

    assert refused.code == ExitCode.USAGE
    assert "--fresh does not empty the database that DATABASE_URL names" in refused.error


async def test_a_given_key_is_used_and_not_repeated(folder: Path, servers: Servers, database_url: str) -> None:
    given = {"DATABASE_URL": database_url, "REDIS_URL": servers.redis_url, "MANAGEMENT_API_KEY": "a-given-key"}
    with demo_in(folder, environment=given) as demo:
        listed = pg_analytics("runs", "--url", demo.url, environment=given, folder=folder)

        assert listed.code == ExitCode.OK
        assert "a-given-key" not in demo.out + demo.err
        assert '-H "X-Management-Key: $MANAGEMENT_API_KEY"' in demo.out
        assert not (folder / KEY_FILE).exists()


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        (["--port", "0"], {}, "APP_PORT must be a whole number from 1 to 65535"),
        ([], {"MANAGEMENT_API_KEY": "change-me"}, "MANAGEMENT_API_KEY must be set to a secret of your own"),
        (["--folder", "file"], {}, "cannot use the folder file: "),
    ],
)
def test_wrong_usage_is_told_before_any_server_is_started(
    folder: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    (folder / "file").touch()

    settings = {"APP_PORT": str(free_port())} | environment
    ended = pg_analytics("demo", *arguments, environment=settings, folder=folder)

    assert ended.code == ExitCode.USAGE
    assert message in ended.error
    assert not (folder / ".pg-analytics" / "postgres").exists()
