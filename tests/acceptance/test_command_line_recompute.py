"""The commands of recomputation: ask, wait, look, cancel."""

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pg_analytics.recompute.stream import MAX_STREAMS
from pg_analytics.snapshots.store import lock_days
from tests.acceptance.command_line import COMMAND, PATIENCE_S, Ended, ask, inherited, on_a_terminal, pointing_to
from tests.acceptance.streams import following
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.running import AUTHORISED, Service, serving

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

DAY = date(2026, 3, 4)


def scope(slug: str, first: object, last: object) -> list[str]:
    """Arguments of `recompute`."""
    return ["recompute", slug, "--window", "day", "--from", str(first), "--to", str(last)]


class Waiting:
    """`recompute --wait`, waiting."""

    def __init__(self, service: Service, slug: str, day: date, *extra: str, asks: bool = False) -> None:
        """Start it, find its run, and wait until it follows that, or `asks` for it."""
        self.name = f"test {uuid4()}"
        self._process = subprocess.Popen(
            [*COMMAND, *scope(slug, day, day), "--wait", "--requested-by", self.name, *extra],
            env=inherited() | pointing_to(service),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.run_id: str = eventually(lambda: self._find(service))["id"]
        sign = f"/recomputations/{self.run_id}" if asks else "run_followed"
        eventually(lambda: any(sign in line and self.run_id in line for line in service.log().splitlines()))

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> Ended:
        """The command once it has ended."""
        out, err = self._process.communicate(timeout=PATIENCE_S)
        return Ended(self._process.returncode, out, err)

    def _find(self, service: Service) -> Any:
        assert self._process.poll() is None, self._process.communicate()
        listed = service.http.get("/recomputations", headers=AUTHORISED).json()["data"]
        return next((run for run in listed if run["requested_by"] == self.name), None)


def eventually(look: Callable[[], Any]) -> Any:
    """What `look` sees, once it sees something (the test's own time limit bounds the wait)."""
    while not (seen := look()):
        time.sleep(0.02)
    return seen


async def test_recompute_waits_for_the_run_and_shows_what_it_did(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await insert(connection, DAY, 50)

    ended = ask(service, *scope("volume-by-period", DAY, DAY), "--wait")

    assert ended.code == 0
    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert shown["status"].strip() == "completed"
    assert shown["events_read"].strip() == "50"
    assert shown["progress"].strip() == "1 of 1"
    await assert_snapshots_equal_events(connection)


async def test_the_json_of_a_wait_is_the_ended_run(service: Service) -> None:
    ended = ask(service, *scope("top-entities", DAY, DAY), "--wait", "--requested-by", "anna", "--json")

    assert (ended.code, ended.err) == (0, "")
    assert ended.json["data"] == service.run(ended.json["data"]["id"])
    assert ended.json["data"]["status"] == "completed"
    assert ended.json["data"]["requested_by"] == "anna"


async def test_runs_and_audit_tell_of_a_run(service: Service) -> None:
    run_id = ask(service, *scope("top-entities", DAY, DAY), "--wait", "--requested-by", "anna", "--json").json["data"][
        "id"
    ]

    listed = ask(service, "runs", "--status", "completed", "--report", "top-entities")
    shown = ask(service, "runs", run_id)
    audit = ask(service, "audit", "--actor", "anna", "--action", "recompute.triggered")

    header, row = listed.out.splitlines()
    assert header.startswith("run and request (UTC)")
    assert "completed rebuild 1 of 1" in row
    assert row.startswith(run_id)
    assert "anna" in row
    assert "top-entities day 2026-03-04 to 2026-03-04" in row
    assert run_id in shown.out
    header, entry = audit.out.splitlines()
    assert "recompute.triggered" in entry
    assert run_id in entry
    assert ask(service, "runs", "--status", "failed", "--json").json["data"] == []
    assert ask(service, "audit", "--actor", "nobody", "--json").json["data"] == []


async def test_the_wait_shows_on_a_terminal_how_long_it_takes_and_what_the_run_waits_for(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    first = DAY - timedelta(days=29)
    seen = Event()

    def watch(written: str) -> None:
        if re.search(r"/30\b.* about 0:\d\d:\d\d left", written) and "waits for another rebuild of days" in written:
            seen.set()

    arguments = (*scope("top-entities", first, DAY), "--wait")
    with ThreadPoolExecutor(2) as background:
        async with connection.transaction():
            await lock_days(connection, [first])  # the run comes to it last
            shown = background.submit(on_a_terminal, *arguments, environment=pointing_to(service), watch=watch)
            await asyncio.wrap_future(background.submit(seen.wait, PATIENCE_S))
        written = shown.result()

    assert seen.is_set(), written
    assert "completed" in written


async def test_the_wait_shows_progress_on_a_terminal(service: Service) -> None:
    written = on_a_terminal(
        *scope("top-entities", "2026-01-01", "2026-06-30"), "--wait", environment=pointing_to(service)
    )

    assert "/181" in written
    assert "completed" in written


def test_recompute_alone_does_not_wait(idle_service: Service) -> None:
    ended = ask(idle_service, *scope("top-entities", "2026-01-01", "2026-01-01"))

    assert ended.code == 0
    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert shown["status"].strip() == "pending"
    assert ended.err == f"see how it goes with: pg-analytics runs {shown['id'].strip()}\n"


def test_a_run_can_be_cancelled_once(idle_service: Service) -> None:
    run_id = idle_service.trigger("top-entities", "day", "2026-01-02", "2026-01-02")

    cancelled = ask(idle_service, "runs", "cancel", run_id, "--requested-by", "anna", "--json")
    again = ask(idle_service, "runs", "cancel", run_id)

    assert (cancelled.code, cancelled.json["data"]["status"]) == (0, "cancelled")
    assert again.code == 5
    assert again.error == "the run is cancelled already"
    told = ask(idle_service, "audit", "--action", "recompute.cancelled", "--actor", "anna", "--json").json["data"]
    assert [entry["resource_id"] for entry in told] == [run_id]


def test_the_exit_code_of_a_wait_tells_that_the_run_did_not_complete(idle_service: Service) -> None:
    waiting = Waiting(idle_service, "top-entities", date(2026, 1, 3))

    ask(idle_service, "runs", "cancel", waiting.run_id)
    ended = waiting.end()

    assert ended.code == 1
    assert "cancelled" in ended.out


def test_a_wait_asks_for_the_run_where_it_cannot_follow_it(idle_service: Service) -> None:
    followed = idle_service.trigger("top-entities", "day", "2026-01-06", "2026-01-06")
    with ExitStack() as stack:
        for _ in range(MAX_STREAMS):
            stream = stack.enter_context(following(idle_service, followed))
            assert stream.answer.status_code == 200
        waiting = Waiting(idle_service, "top-entities", date(2026, 1, 7), asks=True)
        ask(idle_service, "runs", "cancel", waiting.run_id)
        ended = waiting.end()

    assert (ended.code, ended.err) == (1, "")
    assert "cancelled" in ended.out


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_ctrl_c_ends_the_wait_and_not_the_run(idle_service: Service, extra: list[str]) -> None:
    waiting = Waiting(idle_service, "status-counts", date(2026, 1, 4 + len(extra)), *extra)

    waiting.interrupt()
    ended = waiting.end()

    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in ended.err
    assert f"no longer waiting; run {waiting.run_id} goes on" in ended.err
    assert idle_service.run(waiting.run_id)["status"] == "pending"


async def test_a_wait_outlives_a_restart_of_the_service(environment: dict[str, str], tmp_path: Path) -> None:
    with serving(environment | {"RECOMPUTE_WORKERS": "0"}, tmp_path) as service:
        waiting = Waiting(service, "status-counts", DAY)
        service.kill()

    with serving(environment | {"APP_PORT": str(service.port)}, tmp_path):
        ended = waiting.end()

    assert ended.code == 0, ended
    assert "completed" in ended.out
