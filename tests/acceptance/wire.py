"""HTTP spoken by hand, for requests that no client library would send."""

import select
import socket
from types import TracebackType
from typing import Final, Self

import httpx

from tests.running import BASE_PATH, KEY, Service

#: Bounds every wait for the service; reached only when a test fails.
_PATIENCE_S: Final = 30

KEY_HEADER: Final = b"X-Management-Key: " + KEY.encode() + b"\r\n"


def request(target: bytes, *, method: bytes = b"GET", headers: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """A request without a body; `headers` is whole lines."""
    return method + b" " + target + b" " + version + b"\r\nHost: test\r\n" + headers + b"\r\n"


def posting(
    body: bytes, *, headers: bytes = KEY_HEADER, length: int | None = None, path: str = "/recomputations"
) -> bytes:
    """A POST whose `Content-Length` may lie."""
    announced = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    return request(BASE_PATH.encode() + path.encode(), method=b"POST", headers=headers + announced) + body


def ask(service: Service, sent: bytes) -> httpx.Response:
    """The answer to `sent`, on a connection of its own."""
    with Wire(service) as wire:
        wire.send(sent)
        return wire.answer()


def get(service: Service, path: str) -> httpx.Response:
    """The answer to a GET of `path` (below the base path), every character of it sent as it stands."""
    return ask(service, request(BASE_PATH.encode() + path.encode()))


class Wire:
    """A TCP connection to a service."""

    def __init__(self, service: Service) -> None:
        self._socket = socket.create_connection(("127.0.0.1", service.port), _PATIENCE_S)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; the service may have closed its end already, that shows when it is read from."""
        try:
            self._socket.sendall(data)
        except ConnectionError:
            return

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def silent(self, seconds: float) -> bool:
        """Wait until the service says something or hangs up, at most `seconds`; whether it did neither."""
        return not self._received and not select.select([self._socket], [], [], seconds)[0]

    def answer(self, *, without_body: bool = False) -> httpx.Response:
        """The next answer; `without_body` for the answer to a HEAD."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        length = 0 if without_body else int(dict(headers).get(b"content-length", b"0"))
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return httpx.Response(int(status.split()[1]), headers=headers, content=body)

    def closed(self) -> bool:
        """Wait until the service has hung up; whether it did so without another word."""
        try:
            return not self._received and not self._socket.recv(1)
        except ConnectionError:
            return True

    def _receive(self) -> None:
        piece = self._socket.recv(1 << 16)
        if not piece:
            raise ConnectionError(f"the service hung up after {self._received!r}")
        self._received += piece
