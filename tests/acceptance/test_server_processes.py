"""`serve` as several processes on one port: who asks cannot tell, whichever of them come and go.

Which process answered stands in the log: the line of a request names both.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.embedded.process import free_port
from pg_analytics.postgres.pool import Connection
from pg_analytics.windows import DayRange
from tests.acceptance.command_line import pg_analytics
from tests.acceptance.envelopes import succeeded
from tests.acceptance.processes import Starter
from tests.acceptance.test_http_time_limits import rollup_locked
from tests.acceptance.wire import Wire, request
from tests.conftest import Servers, name_of, new_database
from tests.events import insert
from tests.running import KEY, Command, Service
from tests.waiting import until, until_true

pytestmark = pytest.mark.anyio

DAYS = DayRange(date(2026, 1, 5), date(2026, 1, 12))
FEW = {"HTTP_PROCESSES": "2"}

_WAITING = """
    SELECT count(*) >= $1 FROM pg_locks
    WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Starter]:
    """Starts services of several processes each."""
    starter = Starter({**environment, "HTTP_PROCESSES": "3"}, tmp_path)
    yield starter
    starter.close()


def entries(service: Service, event: str) -> list[dict[str, Any]]:
    """Its log lines with that event, so far."""
    lines = [json.loads(line) for line in service.log().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == event]


def processes_of(service: Service) -> set[int]:
    """The processes that answer, as the log has it."""
    return set((entries(service, "process_replaced") or entries(service, "listening"))[-1]["processes"])


def answering(service: Service, wire: Wire) -> int:
    """The process at the other end of `wire`."""
    request_id = uuid4().hex
    wire.send(request(b"/livez", headers=b"X-Request-Id: " + request_id.encode() + b"\r\n"))
    assert wire.answer().status_code == 200
    answered = until(lambda: [line for line in entries(service, "request") if line["request_id"] == request_id])
    return int(answered[0]["pid"])


def wires_to_all(service: Service, connections: ExitStack) -> dict[int, Wire]:
    """A connection to each process that answers."""
    wires: dict[int, Wire] = {}
    while set(wires) < processes_of(service):
        wire = connections.enter_context(Wire(service))
        wires[answering(service, wire)] = wire
    return wires


def ask_slowly(wires: dict[int, Wire]) -> None:
    """Ask each process for a report that no other is asked for, since they would wait for each other."""
    for number, wire in enumerate(wires.values(), start=1):
        wire.send(request(b"/api/v1/reports/top-entities/run?limit=%d" % number))


def until_replaced(service: Service, victim: int) -> None:
    """Wait until there is another process in the place of `victim`."""
    until(lambda: victim not in processes_of(service) and len(processes_of(service)) == 3)


def children_of(service: Service) -> str:
    """The processes that the one we started has started."""
    pid = service.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def gone(pid: int) -> bool:
    """Whether there is no such process, or one that nobody has reaped yet."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def refused(service: Service) -> bool:
    """Whether nobody listens on its port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", service.port)) != 0


async def test_all_processes_answer_on_the_one_port_and_the_log_says_once_that_they_do(start: Starter) -> None:
    service = start.service()

    with ExitStack() as connections:
        assert set(wires_to_all(service, connections)) == processes_of(service)

    (listening,) = entries(service, "listening")
    assert len(set(listening["processes"])) == 3
    assert listening["pid"] == service.process.pid
    assert service.terminate() == ExitCode.OK


async def test_one_process_has_no_parent_and_no_process_on_its_lines(start: Starter) -> None:
    service = start.service(HTTP_PROCESSES="1")

    assert not children_of(service)
    assert service.http.get("/health").status_code == 200
    assert service.terminate() == ExitCode.OK
    assert '"pid"' not in service.log()


async def test_an_empty_database_is_migrated_once(servers: Servers, start: Starter) -> None:
    async with new_database(servers.database_url) as url:
        service = start.service(DATABASE_URL=url, APP_AUTO_SEED="true")

        migrated = entries(service, "migrated")
        assert len({line["migration"] for line in migrated}) == len(migrated) > 0
        assert len(entries(service, "seeded")) == 1
        assert service.terminate() == ExitCode.OK


async def test_only_the_first_process_works(start: Starter, connection: Connection, database_url: str) -> None:
    service = start.service(RECOMPUTE_WORKERS="2", REFRESH_INTERVAL="500ms")
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE '%' || $2"

    connected = {
        name: await connection.fetchval(count, name_of(database_url), name) for name in ("refresher", "upkeep")
    }

    assert connected == {"refresher": 1, "upkeep": 2}
    run = service.recompute("volume-by-period", "day", DAYS.start, DAYS.last)
    assert run["status"] == "completed"


def new_connection_answered_by(service: Service) -> int | None:
    """Which process answers a new connection; None if it had been handed to one that is just dying."""
    with suppress(ConnectionError), Wire(service) as new:
        return answering(service, new)
    return None


async def test_a_process_that_is_killed_takes_only_its_own_connections_along_and_is_replaced(start: Starter) -> None:
    service = start.service()
    before = processes_of(service)
    with ExitStack() as connections:
        wires = wires_to_all(service, connections)
        for victim in before:
            os.kill(victim, signal.SIGKILL)
            assert wires.pop(victim).closed()
            assert {answering(service, wire) for wire in wires.values()} == set(wires)
            assert until(lambda: new_connection_answered_by(service)) in wires
            until_replaced(service, victim)
            wires |= wires_to_all(service, connections)

    assert [(line["process"], line["exit_code"]) for line in entries(service, "process_died")] == [
        (victim, -signal.SIGKILL) for victim in before
    ]
    run = service.recompute("volume-by-period", "day", DAYS.start, DAYS.last)  # the one that works was replaced as well
    assert run["status"] == "completed"
    assert service.terminate() == ExitCode.OK


@pytest.mark.parametrize("told", ["the parent", "everybody, as systemd does"])
async def test_answers_under_way_in_all_processes_are_finished_before_the_service_stops(
    start: Starter, database_url: str, told: str
) -> None:
    service = start.service(**FEW)
    with ExitStack() as connections:
        wires = wires_to_all(service, connections)
        async with rollup_locked(database_url) as connection:
            ask_slowly(wires)
            await until_true(connection, _WAITING, len(wires))
            for pid in (service.process.pid, *(wires if told != "the parent" else ())):
                os.kill(pid, signal.SIGTERM)
            until(lambda: {line["pid"] for line in entries(service, "stopping")} == {service.process.pid, *wires})
            until(lambda: refused(service))
            assert service.process.poll() is None

        for wire in wires.values():
            succeeded(wire.answer())
    assert service.process.wait(30) == ExitCode.OK
    assert all(gone(pid) for pid in wires)
    assert not entries(service, "process_died")


async def test_ctrl_c_reaches_the_parent_only_and_a_second_one_ends_all_at_once(
    start: Starter, database_url: str
) -> None:
    service = start.service(**FEW)
    processes = processes_of(service)
    assert not {os.getsid(pid) for pid in processes} & {os.getsid(service.process.pid)}
    with ExitStack() as connections:
        wires = wires_to_all(service, connections)
        async with rollup_locked(database_url) as connection:
            ask_slowly(wires)
            await until_true(connection, _WAITING, len(wires))
            service.process.send_signal(signal.SIGINT)
            service.wait_for("stopping")
            service.process.send_signal(signal.SIGINT)

            assert service.process.wait(30) == -signal.SIGINT
            assert all(wire.closed() for wire in wires.values())
    until(lambda: all(gone(pid) for pid in processes))
    assert "Traceback" not in service.log()


async def test_ctrl_c_stops_all_in_good_order(start: Starter) -> None:
    service = start.service()
    processes = processes_of(service)

    service.process.send_signal(signal.SIGINT)

    assert service.process.wait(30) == ExitCode.OK
    assert all(gone(pid) for pid in processes)
    assert len(entries(service, "stopped")) == 1 + len(processes)
    assert "Traceback" not in service.log()


async def test_a_process_that_hangs_does_not_keep_the_others_from_the_end(start: Starter) -> None:
    service = start.service(HTTP_SHUTDOWN_TIMEOUT="1ms")
    hanging = min(processes_of(service))
    os.kill(hanging, signal.SIGSTOP)

    assert service.terminate() == ExitCode.OK
    assert [line["processes"] for line in entries(service, "processes_killed")] == [[hanging]]
    assert gone(hanging)


async def test_the_processes_of_a_parent_that_is_killed_finish_and_give_the_port_back(
    start: Starter, database_url: str
) -> None:
    killed = start.service(**FEW)
    with ExitStack() as connections:
        wires = wires_to_all(killed, connections)
        async with rollup_locked(database_url) as connection:
            ask_slowly(wires)
            await until_true(connection, _WAITING, len(wires))
            killed.kill()
            until(lambda: refused(killed))
        for wire in wires.values():
            succeeded(wire.answer())
    until(lambda: all(gone(pid) for pid in wires))

    assert start.service(APP_PORT=str(killed.port)).http.get("/health").status_code == 200


@pytest.mark.parametrize("first, second", [("1", "2"), ("2", "1"), ("2", "2")])
async def test_a_second_service_does_not_get_the_port(start: Starter, first: str, second: str) -> None:
    service = start.service(HTTP_PROCESSES=first)

    ended = pg_analytics("serve", environment=service.environment | {"HTTP_PROCESSES": second})

    assert ended.code == ExitCode.UNAVAILABLE
    assert str(service.port) in ended.error


@pytest.mark.parametrize("count", ["1", "2"])
async def test_of_two_services_that_start_at_once_one_gets_the_port(
    environment: dict[str, str], tmp_path: Path, count: str
) -> None:
    settings = {**environment, "MANAGEMENT_API_KEY": KEY, "APP_PORT": str(free_port()), "HTTP_PROCESSES": count}
    both = {Command(["serve"], settings, tmp_path / f"{number}.log") for number in range(2)}
    try:
        loser = until(lambda: next((each for each in both if each.process.poll() is not None), None))
        assert loser.process.returncode == ExitCode.UNAVAILABLE
        (winner,) = both - {loser}
        winner.wait_for("listening")
    finally:
        codes = [each.terminate() for each in both if each.process.poll() is None]
    assert codes == [ExitCode.OK]


async def test_the_port_is_kept_while_a_process_is_replaced(start: Starter) -> None:
    service = start.service(**FEW)
    for pid in processes_of(service):
        os.kill(pid, signal.SIGKILL)
    until(lambda: entries(service, "process_died"))

    assert pg_analytics("serve", environment=service.environment).code == ExitCode.UNAVAILABLE
    until(lambda: processes_of(service) and not any(gone(pid) for pid in processes_of(service)))
    assert service.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"MANAGEMENT_API_KEY": "change-me"},
        {"REDIS_URL": "http://nowhere"},
        {"APP_HOST": "192.0.2.1"},
        {"DATABASE_URL": "postgresql://nobody:wrong@{server}/nothing"},
    ],
)
async def test_what_keeps_one_process_from_starting_keeps_many_from_it_in_the_same_words(
    environment: dict[str, str], servers: Servers, wrong: dict[str, str]
) -> None:
    server = httpx.URL(servers.database_url).netloc.decode().rpartition("@")[2]
    settings = {"MANAGEMENT_API_KEY": "k", **environment, **{k: v.format(server=server) for k, v in wrong.items()}}

    one, many = (pg_analytics("serve", environment=settings | {"HTTP_PROCESSES": count}) for count in ("1", "4"))

    assert one.code != ExitCode.OK
    assert (many.code, many.error) == (one.code, one.error)


async def test_who_was_told_that_a_run_is_completed_reads_its_numbers_from_every_process(
    start: Starter, connection: Connection
) -> None:
    service = start.service(HTTP_PROCESSES="4")
    report = {"date_from": str(DAYS.start), "date_to": str(DAYS.last)}
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=service.http.base_url, timeout=30)) for _ in range(24)]
        for step in range(1, 4):
            await insert(connection, DAYS.start, 10, last_day=DAYS.last, prefix=f"step-{step}")
            service.recompute("volume-by-period", "day", DAYS.start, DAYS.last)
            for _ in range(2):
                for client in clients:
                    rows = succeeded(client.get("/reports/volume-by-period/run", params=report))["data"]["rows"]
                    assert [row["event_count"] for row in rows] == [10 * step] * len(rows) != []
