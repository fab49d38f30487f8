"""A run followed as it goes on: server-sent events from the first look to its end."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.recompute.stream import MAX_STREAMS
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.streams import following
from tests.acceptance.test_http_time_limits import SLOW, rollup_locked
from tests.acceptance.wire import KEY_HEADER, Wire, ask, request
from tests.events import insert
from tests.proxy import Proxy
from tests.running import AUTHORISED, BASE_PATH, Service, serving
from tests.waiting import until

pytestmark = [pytest.mark.anyio]

DAY: Final = date(2026, 3, 2)
_DAYS: Final = (date(2021, 1, 1) + timedelta(days=number) for number in count())


def pending(service: Service) -> str:
    """A run of a service without workers."""
    day = next(_DAYS)
    return service.trigger("top-entities", "day", day, day)


def cancel(service: Service, run_id: str) -> None:
    succeeded(service.http.post(f"/recomputations/{run_id}/cancel", headers=AUTHORISED))


async def test_a_run_is_told_of_from_its_beginning_to_its_end(service: Service, connection: Connection) -> None:
    await insert(connection, DAY, 20, last_day=DAY + timedelta(days=20))
    run_id = service.trigger("volume-by-period", "week", DAY, DAY + timedelta(days=20))

    with following(service, run_id) as stream:
        first, *rest = list(stream)

    assert stream.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert stream.answer.headers["Cache-Control"] == "no-store"
    assert len(stream.answer.headers.get_list("X-Request-Id")) == 1
    assert first.retry == 1000
    events = [message for message in (first, *rest) if message.event]
    assert [event.event for event in events] == ["progress"] * (len(events) - 1) + ["end"]
    assert {event.data["id"] for event in events} == {run_id}
    done = [event.data["progress"]["buckets_done"] for event in events]
    assert done == sorted(done)
    assert events[-1].data == service.run(run_id)
    assert events[-1].data["status"] == "completed"
    assert events[-1].data["progress"] == {"buckets_done": 3, "buckets_total": 3}


def test_a_run_that_has_ended_is_told_of_at_once(idle_service: Service) -> None:
    run_id = pending(idle_service)
    cancel(idle_service, run_id)

    with following(idle_service, run_id) as stream:
        told = [(message.event, message.data) for message in stream]

    run = idle_service.run(run_id)
    assert told == [("progress", run), ("end", run)]


def test_only_changes_are_told_of(idle_service: Service) -> None:
    run_id = pending(idle_service)
    with following(idle_service, run_id) as stream, following(idle_service, run_id) as second:
        assert stream.next_event().data == second.next_event().data == idle_service.run(run_id)
        cancel(idle_service, run_id)

        assert [message.event for message in stream] == ["end"]
        assert [message.data["status"] for message in second] == ["cancelled"]


async def test_what_a_run_waits_for_is_told(service: Service, connection: Connection) -> None:
    await insert(connection, DAY, 5)
    async with connection.transaction():
        await connection.execute("LOCK TABLE rollup_entity IN SHARE ROW EXCLUSIVE MODE")
        run_id = service.trigger("top-entities", "day", DAY, DAY)
        with following(service, run_id) as stream:
            waiting = next(message.data for message in stream if "waiting_for" in message.data)
    run = service.wait_until_ended(run_id)

    assert "ShareRowExclusiveLock on rollup_entity" in waiting["waiting_for"]
    assert waiting["status"] == "running"
    assert run["status"] == "completed"
    assert "waiting_for" not in run


def test_the_head_of_a_stream_has_no_stream(idle_service: Service) -> None:
    path = f"{BASE_PATH}/recomputations/{pending(idle_service)}/events".encode()

    with Wire(idle_service) as wire:
        wire.send(request(path, method=b"HEAD", headers=KEY_HEADER) + request(b"/livez"))
        head = wire.answer(without_body=True)
        succeeded(wire.answer())

    assert head.status_code == 200
    assert head.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert head.headers["Cache-Control"] == "no-store"


def test_only_a_run_can_be_followed_and_only_with_the_key(idle_service: Service) -> None:
    path = f"{BASE_PATH}/recomputations/{pending(idle_service)}/events"

    for unknown in (f"{BASE_PATH}/recomputations/{name}/events" for name in (uuid4(), "1", "null")):
        failed(ask(idle_service, request(unknown.encode(), headers=KEY_HEADER)), "not_found")
    refused(ask(idle_service, request(f"{path}?since=1".encode(), headers=KEY_HEADER)), "since")
    failed(ask(idle_service, request(path.encode())), "unauthorized")


async def test_the_time_limit_of_an_answer_does_not_cut_a_stream(
    loaded_database: str, redis_url: str, tmp_path: Path
) -> None:
    environment = {
        "DATABASE_URL": loaded_database,
        "REDIS_URL": redis_url,
        "RECOMPUTE_WORKERS": "0",
        "HTTP_WRITE_TIMEOUT": "600ms",
    }
    with serving(environment, tmp_path) as service:
        run_id = pending(service)
        with following(service, run_id) as stream:
            stream.next_event()
            async with rollup_locked(loaded_database):
                # Asked for later, and out of time by now.
                failed(ask(service, SLOW), "service_unavailable")
            cancel(service, run_id)

            assert stream.next_event().event == "end"


def test_streams_are_bounded_and_one_that_is_left_makes_room(idle_service: Service) -> None:
    run_id = pending(idle_service)
    path = f"{BASE_PATH}/recomputations/{run_id}/events".encode()
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(idle_service)) for _ in range(MAX_STREAMS)]
        for wire in wires:
            wire.send(request(path, headers=KEY_HEADER))
        assert {wire.answer().status_code for wire in wires} == {200}

        refusal = ask(idle_service, request(path, headers=KEY_HEADER))
        assert failed(refusal, "service_unavailable")["message"] == f"{MAX_STREAMS} streams are open already"
        assert int(refusal.headers["Retry-After"]) > 0
        # Neither a head nor anybody who merely asks is in the way of the streams.
        assert ask_head(idle_service, path) == 200
        succeeded(idle_service.http.get(f"/recomputations/{run_id}", headers=AUTHORISED))

        stack.pop_all().close()
        until(lambda: is_followed(idle_service, run_id))


def ask_head(service: Service, path: bytes) -> int:
    with Wire(service) as wire:
        wire.send(request(path, method=b"HEAD", headers=KEY_HEADER))
        return wire.answer(without_body=True).status_code


def is_followed(service: Service, run_id: str) -> bool:
    with following(service, run_id) as stream:
        return stream.answer.status_code == 200


async def test_a_client_that_takes_nothing_is_cut_off(
    environment: dict[str, str], connection: Connection, tmp_path: Path
) -> None:
    with serving(environment | {"RECOMPUTE_WORKERS": "0"}, tmp_path) as service, Wire(service) as wire:
        run_id = pending(service)
        day = {"rollup": "entity", "day": "2026-01-01", "rows_missing": 0, "rows_surplus": 0, "rows_different": 0}
        drift = json.dumps([day] * 50_000)  # more than what lies between the two takes up
        await connection.execute("UPDATE recompute_runs SET mode = 'verify', drift = $1", drift)
        wire.send(request(f"{BASE_PATH}/recomputations/{run_id}/events".encode(), headers=KEY_HEADER))

        while '"stream_cut_off"' not in service.log():
            await connection.execute("UPDATE recompute_runs SET attempt = attempt + 1")
            await asyncio.sleep(0.1)

        with following(service, run_id) as stream:
            assert stream.next_event().data["id"] == run_id


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """The way to the database of this test."""
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.mark.parametrize("lose", [Proxy.refuse, Proxy.hang, Proxy.lose_route])
async def test_a_stream_outlives_a_lost_postgresql(
    proxy: Proxy, environment: dict[str, str], database_url: str, tmp_path: Path, lose: Callable[[Proxy], None]
) -> None:
    with serving(environment | {"DATABASE_URL": proxy.url, "RECOMPUTE_WORKERS": "0"}, tmp_path) as service:
        run_id = pending(service)
        with following(service, run_id) as stream:
            stream.next_event()
            lose(proxy)
            assert stream.next_comment() == "the database cannot be reached"
            proxy.restore()
            connection = await asyncpg.connect(database_url)
            await connection.execute("UPDATE recompute_runs SET status = 'cancelled'")
            await connection.close()

            assert stream.next_event().data["status"] == "cancelled"


@pytest.mark.parametrize("lose", [None, Proxy.refuse, Proxy.hang])
def test_a_service_that_stops_does_not_wait_for_its_streams(
    proxy: Proxy, environment: dict[str, str], tmp_path: Path, lose: Callable[[Proxy], None] | None
) -> None:
    with (
        serving(environment | {"DATABASE_URL": proxy.url, "RECOMPUTE_WORKERS": "0"}, tmp_path) as service,
        ThreadPoolExecutor(1) as background,
    ):
        run_id = pending(service)
        with following(service, run_id) as stream:
            stream.next_event()
            if lose is not None:
                lose(proxy)
            stopping = background.submit(service.terminate)

            messages = list(stream)

        assert stopping.result() == 0
        assert [message.event for message in messages] == [""] * len(messages)
        assert messages[-1].comments == ["the service stops"]
        assert "requests_cut_off" not in service.log()
