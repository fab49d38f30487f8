"""Request bodies: what is JSON here and what is not, how large they may be, and bodies that lie about themselves."""

import json
from collections.abc import Callable, Iterator
from typing import Final

import httpx
import pytest

from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import KEY_HEADER, Wire, ask, posting, request
from tests.running import AUTHORISED, BASE_PATH, Service

pytestmark = [pytest.mark.anyio]

#: Every use of this body is refused in the end: there is no such report.
BODY: Final = {"report_slug": "unknown", "window": "day", "date_from": "2019-01-01", "date_to": "2019-01-02"}
JSON: Final = json.dumps(BODY).encode()
LARGEST: Final = 64 * 1024
THREE_MEGABYTES: Final = 3_000_000
PATH: Final = f"{BASE_PATH}/recomputations".encode()


def in_chunks(body: bytes, size: int = 8192) -> bytes:
    """A POST of `body` in chunked transfer encoding."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    head = request(PATH, method=b"POST", headers=KEY_HEADER + b"Transfer-Encoding: chunked\r\n")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def is_read(answer: httpx.Response) -> bool:
    """Whether the body was read and understood: only then is the report looked up."""
    return bool(failed(answer, "not_found")["message"] == "report was not found")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"nonsense",
        b"'" + JSON + b"'",
        JSON + b"x",
        JSON + JSON,
        JSON[:-1] + b",}",
        JSON.replace(b'"', b"'"),
        JSON.replace(b'"day"', b"NaN"),
        JSON.replace(b'"day"', b"-Infinity"),
        JSON.replace(b'"day"', b'"d\nay"'),
        b"\xef\xbb\xbf" + JSON,  # a byte order mark
        b"[]",
        b"[" + JSON + b"]",
        b"null",
        b"true",
        b"5",
        b'"day"',
        b'{"report_slug":' + b"[" * 30_000,
        b'{"report_slug":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"report_slug":' + b"1" * 10_000 + b"}",
        b"report_slug=unknown&window=day",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(idle_service: Service, body: bytes) -> None:
    assert refused(ask(idle_service, posting(body)), "body") == "must be a JSON object"


@pytest.mark.parametrize(
    "body",
    [
        JSON.replace(b"day", b"d\xffy"),
        JSON.replace(b"day", b"\xc0\x80"),
        JSON.replace(b"day", b"\xed\xa0\x80"),
        JSON.decode().encode("utf-16"),
        JSON.replace(b"day", "für".encode("latin-1")),
    ],
)
def test_a_body_that_is_not_utf_8_is_refused(idle_service: Service, body: bytes) -> None:
    assert refused(ask(idle_service, posting(body)), "body") == "must be UTF-8"


@pytest.mark.parametrize("name", ["report_slug", "window", "requested_by", "unknown"])
def test_a_member_given_twice_is_refused_by_name(idle_service: Service, name: str) -> None:
    twice = JSON[:-1] + f', "{name}": "a", "\\u{ord(name[0]):04x}{name[1:]}": "a"}}'.encode()

    assert refused(ask(idle_service, posting(twice)), name) == "must be given once"


@pytest.mark.parametrize("name", [r"\ud800", r"\u0000", r"\udc00\ud800", "x" * 1000, r"\u202e"])
def test_a_member_whose_name_cannot_be_shown_is_refused_all_the_same(idle_service: Service, name: str) -> None:
    for body in (f'{{"{name}": 1}}', f'{{"{name}": 1, "{name}": 2}}'):
        error = failed(ask(idle_service, posting(body.encode())), "invalid_request")

        assert len(error["details"]["parameter"]) <= 64


def test_the_type_that_a_body_claims_to_have_does_not_matter(idle_service: Service) -> None:
    for content_type in (b"text/plain", b"application/json; charset=latin-1", b"nonsense"):
        assert is_read(
            ask(idle_service, posting(JSON, headers=KEY_HEADER + b"Content-Type: " + content_type + b"\r\n"))
        )


def test_a_body_may_come_in_chunks_of_any_size(idle_service: Service) -> None:
    for size in (1, 7, 8192):
        assert is_read(ask(idle_service, in_chunks(JSON, size)))


def test_64_kib_is_the_largest_body(idle_service: Service) -> None:
    largest = JSON.ljust(LARGEST)

    assert is_read(ask(idle_service, posting(largest)))
    assert is_read(ask(idle_service, in_chunks(largest)))
    failed(ask(idle_service, posting(largest + b" ")), "payload_too_large")
    failed(ask(idle_service, in_chunks(largest + b" ")), "payload_too_large")


def bodies() -> Iterator[bytes | Iterator[bytes]]:
    """3 MB as one piece, whose length is announced, and as a stream of pieces, whose length is not."""
    yield b"x" * THREE_MEGABYTES
    yield (b"x" * 30_000 for _ in range(100))


@pytest.mark.parametrize("key,code", [(AUTHORISED, "payload_too_large"), ({}, "unauthorized")])
def test_a_client_that_sends_3_mb_always_gets_to_read_its_answer(
    idle_service: Service, key: dict[str, str], code: str
) -> None:
    # Had the service closed the connection with bytes unread, the answer would be lost every third time.
    for _ in range(15):
        for body in bodies():
            failed(idle_service.http.post("/recomputations", content=body, headers=key), code)


@pytest.mark.parametrize("send", [posting, in_chunks])
def test_a_connection_goes_on_after_3_mb_that_were_refused(
    idle_service: Service, send: Callable[[bytes], bytes]
) -> None:
    with Wire(idle_service) as wire:
        wire.send(send(b"x" * THREE_MEGABYTES) + request(b"/livez"))

        failed(wire.answer(), "payload_too_large")
        succeeded(wire.answer())


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_body_that_announces_3_mb_is_refused_before_it_comes(idle_service: Service, expect: bytes) -> None:
    failed(ask(idle_service, posting(b"", headers=KEY_HEADER + expect, length=THREE_MEGABYTES)), "payload_too_large")


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(idle_service: Service) -> None:
    with Wire(idle_service) as wire:
        wire.send(posting(b"", headers=KEY_HEADER + b"Expect: 100-continue\r\n", length=len(JSON)))
        assert wire.answer().status_code == 100

        wire.send(JSON)
        assert is_read(wire.answer())


def test_a_body_that_is_shorter_than_announced_is_refused(idle_service: Service) -> None:
    with Wire(idle_service) as wire:
        wire.send(posting(JSON, length=len(JSON) + 1))
        wire.finish()

        assert refused(wire.answer(), "body") == "was cut off"


def test_what_follows_the_announced_length_is_no_part_of_the_body(idle_service: Service) -> None:
    with Wire(idle_service) as wire:
        wire.send(posting(JSON + request(b"/livez"), length=len(JSON)))

        assert is_read(wire.answer())
        succeeded(wire.answer())


def test_a_body_that_is_longer_than_announced_hurts_only_its_own_connection(idle_service: Service) -> None:
    with Wire(idle_service) as wire:
        wire.send(posting(JSON, length=len(JSON) - 1))

        assert refused(wire.answer(), "body") == "must be a JSON object"
        assert 400 <= wire.answer().status_code < 500  # what remains is no request
        assert wire.closed()
    succeeded(ask(idle_service, request(b"/livez")))


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-5\r\n", b"5\r\nab\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n"])
def test_chunks_that_cannot_be_parsed_are_refused(idle_service: Service, chunk: bytes) -> None:
    with Wire(idle_service) as wire:
        wire.send(request(PATH, method=b"POST", headers=KEY_HEADER + b"Transfer-Encoding: chunked\r\n") + chunk)
        wire.finish()

        assert refused(wire.answer(), "body") == "was cut off"
    succeeded(ask(idle_service, request(b"/livez")))


def test_a_body_where_none_is_expected_is_passed_over(idle_service: Service) -> None:
    with Wire(idle_service) as wire:
        wire.send(request(b"/livez", headers=b"Content-Length: 3000000\r\n") + b"x" * THREE_MEGABYTES)
        wire.send(request(b"/livez", method=b"POST", headers=b"Content-Length: 3000000\r\n") + b"x" * THREE_MEGABYTES)
        wire.send(request(b"/livez"))

        succeeded(wire.answer())
        failed(wire.answer(), "method_not_allowed")
        succeeded(wire.answer())
