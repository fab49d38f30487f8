"""The edge of HTTP itself: old versions, pipelines, heads that cannot be parsed. The service outlives them all."""

import pytest

from tests.acceptance.envelopes import failed, succeeded
from tests.acceptance.wire import Wire, ask, request
from tests.running import Service

pytestmark = [pytest.mark.anyio]


def test_a_client_of_http_1_0_is_answered_and_hung_up_on(shared_service: Service) -> None:
    with Wire(shared_service) as wire:
        wire.send(b"GET /livez HTTP/1.0\r\n\r\n")

        succeeded(wire.answer())
        assert wire.closed()


def test_pipelined_requests_are_answered_in_their_order(shared_service: Service) -> None:
    paths = [b"/livez", b"/nowhere", b"/api/v1/reports/top-entities/run", b"/readyz", b"/livez"]
    with Wire(shared_service) as wire:
        wire.send(b"".join(request(path, headers=b"X-Request-Id: %d\r\n" % n) for n, path in enumerate(paths)))
        answers = [wire.answer() for _ in paths]

    assert [answer.headers["X-Request-Id"] for answer in answers] == ["0", "1", "2", "3", "4"]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 200, 200]


def test_a_connection_survives_a_refusal(shared_service: Service) -> None:
    with Wire(shared_service) as wire:
        wire.send(request(b"/api/v1/reports?limit=abc"))
        failed(wire.answer(), "invalid_request")
        wire.send(request(b"/livez"))
        succeeded(wire.answer())


def test_an_absolute_target_is_a_target(shared_service: Service) -> None:
    succeeded(ask(shared_service, request(b"http://elsewhere.example/livez")))


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"nonsense\r\n\r\n", id="no request line"),
        pytest.param(request(b"/livez", version=b"HTTP/3.0"), id="unknown version"),
        pytest.param(request(b"/livez", method=b"G\x00T"), id="NUL in the method"),
        pytest.param(request(b"/api/v1/reports/\xff"), id="bare byte in the path"),
        pytest.param(request(b"/api/v1/reports?search=\xff"), id="bare byte in the query"),
        pytest.param(request(b"/api/v1/reports?search=\x00"), id="NUL in the query"),
        pytest.param(request(b"/livez", headers=b"X-Request-Id: a\x00b\r\n"), id="NUL in a header"),
        pytest.param(request(b"/livez", headers=b"X-Actor: a\r\n b\r\n"), id="folded header"),
        pytest.param(request(b"/livez", headers=b"no colon\r\n"), id="no colon"),
        pytest.param(request(b"/" + b"a" * 70_000), id="70 KB of path"),
        pytest.param(request(b"/livez", headers=b"".join(b"X-%d: a\r\n" % n for n in range(150))), id="150 headers"),
        pytest.param(request(b"/livez", headers=b"X-A: " + b"a" * 1_000_000 + b"\r\n"), id="1 MB of header"),
        pytest.param(request(b"/livez", headers=b"Content-Length: -1\r\n"), id="negative length"),
        pytest.param(request(b"/livez", headers=b"Content-Length: ten\r\n"), id="length in words"),
        pytest.param(request(b"/livez", headers=b"Content-Length: 1\r\nContent-Length: 2\r\n"), id="two lengths"),
        pytest.param(request(b"/livez", headers=b"Transfer-Encoding: gzip\r\n"), id="unknown transfer encoding"),
    ],
)
def test_a_head_that_cannot_be_parsed_is_refused_and_disturbs_nobody(shared_service: Service, head: bytes) -> None:
    with Wire(shared_service) as bystander, Wire(shared_service) as wire:
        wire.send(head)

        assert 400 <= wire.answer().status_code < 500
        assert wire.closed()

        bystander.send(request(b"/livez"))
        succeeded(bystander.answer())


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\nHost: te"])
def test_a_client_that_gives_up_half_way_through_its_head_disturbs_nobody(shared_service: Service, sent: bytes) -> None:
    with Wire(shared_service) as wire:
        wire.send(sent)
        wire.finish()

        assert wire.closed()
    succeeded(ask(shared_service, request(b"/livez")))
