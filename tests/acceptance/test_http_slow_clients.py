"""Clients that are slow, silent or gone: each costs its own connection, and nobody else's answer."""

from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from tests.acceptance.conftest import copy_of
from tests.acceptance.envelopes import refused, succeeded
from tests.acceptance.wire import Wire, ask, posting, request
from tests.running import Service, serving

pytestmark = [pytest.mark.anyio]

BODY = b'{"report_slug": "top-entities"}'
REPORT = request(b"/api/v1/reports/top-entities/run?date_from=2024-02-12&date_to=2024-03-10&limit=1000")


@pytest.fixture(scope="module")
async def service(loaded: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service that waits for nobody longer than 300 ms."""
    async with copy_of(loaded) as url:
        environment = {"DATABASE_URL": url, "REDIS_URL": redis_url, "HTTP_READ_TIMEOUT": "300ms"}
        with serving(environment, tmp_path_factory.mktemp("slow")) as running:
            yield running


@pytest.mark.parametrize("sent", [b"", BODY[:1], BODY[:-1]])
def test_a_body_that_stops_coming_is_refused(service: Service, sent: bytes) -> None:
    answer = ask(service, posting(sent, length=len(BODY)))

    assert refused(answer, "body") == "must arrive within 0.3 seconds"


def test_a_body_that_comes_a_byte_at_a_time_is_refused_when_its_time_is_up(service: Service) -> None:
    with Wire(service) as wire:
        wire.send(posting(b"", length=60_000))
        while wire.silent(0.02):
            wire.send(b" ")

        assert refused(wire.answer(), "body") == "must arrive within 0.3 seconds"


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /livez HTTP/1.1\r\nHost: test\r\n"])
def test_a_head_that_stops_coming_is_hung_up_on(service: Service, sent: bytes) -> None:
    with Wire(service) as wire:
        wire.send(sent)

        assert wire.closed()


def test_a_head_that_comes_a_line_at_a_time_is_hung_up_on_when_its_time_is_up(service: Service) -> None:
    with Wire(service) as wire:
        wire.send(b"GET /livez HTTP/1.1\r\n")
        while wire.silent(0.02):
            wire.send(b"X-Slow: yes\r\n")

        assert wire.closed()


def test_many_clients_that_stopped_half_way_keep_nobody_waiting(service: Service) -> None:
    with ExitStack() as stack:
        for number in range(100):
            wire = stack.enter_context(Wire(service))
            wire.send(b"GET /livez HT" if number % 2 else posting(BODY[:5], length=len(BODY)))

        succeeded(ask(service, request(b"/livez")))
        succeeded(ask(service, request(b"/api/v1/health")))
        succeeded(ask(service, REPORT))


def test_many_clients_that_do_not_read_their_answers_keep_nobody_waiting(service: Service) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(Wire(service)).send(REPORT * 200)

        for _ in range(10):
            succeeded(ask(service, request(b"/api/v1/health")))
            succeeded(ask(service, REPORT))


def test_clients_that_leave_before_their_answer_keep_nobody_waiting(service: Service) -> None:
    for number in range(50):
        with Wire(service) as wire:
            wire.send(REPORT if number % 2 else posting(BODY, length=60_000))

    succeeded(ask(service, REPORT))
