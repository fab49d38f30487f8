"""Every exit code, from what really leads to it, and the two forms of an error."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pg_analytics.cli.exit_codes import BY_HTTP_STATUS, ExitCode
from pg_analytics.embedded.process import free_port
from pg_analytics.errors import ErrorCode
from tests.acceptance.command_line import PATIENCE_S, ask, pg_analytics, python, start
from tests.running import KEY, Service

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

NOBODY = "00000000-0000-0000-0000-000000000000"
RECOMPUTE = ("recompute", "top-entities", "--window", "day", "--from", "2026-02-01", "--to", "2026-02-01")


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The URL of something that is not our service, and answers everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def silent() -> Iterator[str]:
    """The URL of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_0_when_it_is_done(shared_service: Service) -> None:
    assert ask(shared_service, "health").code == ExitCode.OK


async def test_1_when_a_dependency_is_lost(environment: dict[str, str], tmp_path: Path) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    service = Service(environment | {"REDIS_URL": nowhere}, tmp_path / "log")

    ended = ask(service, "health")

    assert ask(service, "health", "--ready").out == "ready\n"  # reports are still served
    assert ended.code == ExitCode.FAILED
    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert (shown["status"].strip(), shown["redis"].strip()) == ("degraded", "unavailable")
    service.close()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["rnu"], 'Unknown command "rnu". Did you mean "run"?'),
        (["run"], "requires an argument"),
        (["run", "top-entities", "--windw", "day"], "Unknown option: --windw"),
        (["run", "top-entities", "--window", "month"], "window: must be one of day, week"),
        (["run", "top-entities", "--source", "stripe"], "source: unknown parameter"),
        (["run", "top-entities", "--from", "yesterday"], "date_from: must be a date"),
        (["run", "top-entities", "--limit", "0"], "limit: must be a whole number"),
        (["run", "top-entities", "--limit", "many"], "--limit"),
        (["run", "top-entities", "--filter", "source"], "--filter takes NAME=VALUE"),
        (["run", "status-counts", "--status", "failed", "--filter", "status=failed"], "status: must be given once"),
        (["reports", "top-entities", "--limit", "3"], "--limit goes with the list"),
        (["runs", NOBODY, "--status", "failed"], "filters go with the list"),
        (["health", "--url", "localhost:3004"], "must be http:// or https://"),
        (["health", "--timeout", "0"], "--timeout"),
        (["runs", "--key-file", "/nowhere/key"], "/nowhere/key: No such file or directory"),
    ],
)
def test_2_when_the_usage_is_wrong(shared_service: Service, arguments: list[str], message: str) -> None:
    ended = ask(shared_service, *arguments)

    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert message in ended.error


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        (["health"], {"APP_PORT": "many"}, "APP_PORT must be a whole number"),
        (["runs"], {"MANAGEMENT_API_KEY": ""}, "MANAGEMENT_API_KEY must be set to a value or not set at all"),
        (["serve"], {}, "MANAGEMENT_API_KEY must be set to a secret of your own"),
        (["serve"], {"MANAGEMENT_API_KEY": "change-me"}, "MANAGEMENT_API_KEY must be set to a secret of your own"),
        (["serve"], {"MANAGEMENT_API_KEY": KEY, "REDIS_URL": "redis://127.0.0.1"}, "DATABASE_URL is not set"),
        (["serve"], {"HTTP_READ_TIMEOUT": "soon"}, "HTTP_READ_TIMEOUT must be a duration"),
        (["worker"], {}, "DATABASE_URL is not set"),
        (["migrate"], {"DATABASE_URL": "mysql://root:secret@127.0.0.1"}, "DATABASE_URL must be a URL that starts with"),
    ],
)
def test_2_when_a_setting_is_wrong(arguments: list[str], environment: dict[str, str], message: str) -> None:
    ended = pg_analytics(*arguments, environment=environment)

    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert message in ended.error
    assert "secret@" not in ended.err


@pytest.mark.parametrize("arguments", [["run", "nothing"], ["reports", "nothing"], ["runs", NOBODY], ["runs", "no-id"]])
def test_3_when_there_is_no_such_thing(shared_service: Service, arguments: list[str]) -> None:
    ended = ask(shared_service, *arguments)

    assert (ended.code, ended.out) == (ExitCode.NOT_FOUND, "")
    assert ended.error in {"report was not found", "recompute run was not found"}


@pytest.mark.parametrize("arguments", [["runs"], ["runs", "cancel", NOBODY], ["audit"], RECOMPUTE])
def test_4_without_the_key_and_with_a_wrong_one(shared_service: Service, tmp_path: Path, arguments: list[str]) -> None:
    without = pg_analytics(*arguments, environment={"PG_ANALYTICS_URL": shared_service.url}, folder=tmp_path)
    wrong = ask(shared_service, *arguments, MANAGEMENT_API_KEY="not-the-key")

    assert (without.code, wrong.code) == (ExitCode.NOT_AUTHORISED, ExitCode.NOT_AUTHORISED)
    assert without.err.splitlines()[1] == "hint: set MANAGEMENT_API_KEY or give --key-file"
    assert wrong.err.splitlines()[1] == "hint: the key that was sent is not the service's"
    assert "not-the-key" not in wrong.err


def test_5_when_a_run_of_the_scope_is_active(idle_service: Service) -> None:
    first, second = ask(idle_service, *RECOMPUTE), ask(idle_service, *RECOMPUTE)

    assert (first.code, second.code) == (ExitCode.OK, ExitCode.CONFLICT)
    assert second.error == "a recompute run of this scope is active already"


def test_6_when_no_service_is_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    ended = pg_analytics("health", "--url", url)

    assert ended.code == ExitCode.UNAVAILABLE
    assert ended.error.startswith(f"no service answers at {url} (")
    assert "pg-analytics demo" in ended.err.splitlines()[1]


def test_a_password_in_the_url_is_not_repeated() -> None:
    ended = pg_analytics("health", "--url", f"http://anna:secret@127.0.0.1:{free_port()}")

    assert ended.code == ExitCode.UNAVAILABLE
    assert "secret" not in ended.err


def test_6_when_the_service_never_answers() -> None:
    with silent() as url:
        ended = pg_analytics("health", "--url", url, "--timeout", "1")

    assert ended.code == ExitCode.UNAVAILABLE
    assert ended.error == f"{url} did not answer within 1 seconds"


def test_6_when_the_port_is_taken(shared_service: Service) -> None:
    ended = pg_analytics("serve", environment=shared_service.environment)

    assert ended.code == ExitCode.UNAVAILABLE
    assert str(shared_service.port) in ended.error


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_of_the_service_has_its_exit_code(code: ErrorCode) -> None:
    error = {"code": code.code, "message": "so it is", "details": {"why": 1}}
    with answering(code.status, json.dumps({"error": error}).encode()) as url:
        ended = pg_analytics("reports", "--url", url)
        as_json = pg_analytics("reports", "--url", url, "--json")

    assert (ended.code, ended.out, ended.error) == (BY_HTTP_STATUS[code.status], "", "so it is")
    assert (as_json.code, as_json.out) == (ended.code, "")
    assert json.loads(as_json.err) == {"error": error}
    assert as_json.err.count("\n") == 1


@pytest.mark.parametrize(
    "status, body",
    [(200, b"<html>"), (200, b"{}"), (200, b"[1]"), (302, b""), (404, b"Not Found"), (500, b'{"error": "so it is"}')],
)
def test_7_when_something_else_answers(status: int, body: bytes) -> None:
    with answering(status, body) as url:
        ended = pg_analytics("reports", "--url", url)

    assert ended.code == ExitCode.INTERNAL
    assert ended.error == f"{url} gave an answer that is not pg-analytics' (HTTP {status})"


def test_130_when_it_is_interrupted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = start("health", "--url", url, environment={}, log=tmp_path / "log")
        connection, _ = server.accept()
        with connection:
            connection.recv(1)  # it has asked, and waits
            process.send_signal(signal.SIGINT)

            assert process.wait(PATIENCE_S) == ExitCode.INTERRUPTED
    assert (tmp_path / "log").read_text() == "error: interrupted\n"


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["rnu", "--json"], "usage"),
        (["run", "top-entities", "--limit", "many", "--json"], "usage"),
        (["run", "top-entities", "--limit", "0", "--json"], "invalid_request"),
        (["run", "nothing", "--json"], "not_found"),
        (["reports", "--json", "--url", "nowhere"], "usage"),
    ],
)
def test_an_error_is_one_line_of_json_where_json_was_asked_for(
    shared_service: Service, arguments: list[str], error: str
) -> None:
    ended = ask(shared_service, *arguments)

    assert (ended.code != 0, ended.out) == (True, "")
    assert ended.err.count("\n") == 1
    assert json.loads(ended.err)["error"]["code"] == error


def test_a_defect_shows_where_it_is() -> None:
    ended = python("from pg_analytics.cli import health, main; health.Service = None; main()", "health")

    assert ended.code == ExitCode.INTERNAL
    assert ended.err.startswith("Traceback")
    assert ended.err.endswith("error: internal error: TypeError\n")
