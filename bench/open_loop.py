"""Latency at a given rate, without coordinated omission.

Requests are due at fixed moments, whatever became of those before: one that finds no free connection waits, and its
latency is counted from the moment at which it was due. A client that waits for an answer before it sends the next
request would leave out just those moments at which the server is slow.

The generator wakes up once in a millisecond, so that it leaves the cores to the server; that adds up to a millisecond
to what it measures.
"""

import asyncio
import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_TICK_S: Final = 0.001
_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of all requests, in milliseconds; `errors` were answered with another status than 200."""

    median: float
    p99: float
    p999: float
    longest: float
    requests: int
    errors: int


class _Connection(asyncio.Protocol):
    """One request at a time, again and again."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._due = 0.0
        self._received = bytearray()
        self._expected = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, due: float) -> None:
        self._due = due
        self._transport.write(self._load.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._expected:
            head = self._received.find(_END_OF_HEAD)
            if head < 0:
                return
            at = self._received.lower().find(_LENGTH, 0, head)
            length = self._received[at + len(_LENGTH) : self._received.find(b"\r\n", at)]
            self._expected = head + len(_END_OF_HEAD) + int(length)
        if len(self._received) >= self._expected:
            self._load.answered(self, self._due, self._received[9:12] == b"200")
            self._received.clear()
            self._expected = 0


class _Load:
    def __init__(self, request: bytes) -> None:
        self.request = request
        self.latencies = array("d")
        self.errors = 0
        self.free: deque[_Connection] = deque()
        self.late: deque[float] = deque()

    def answered(self, connection: _Connection, due: float, is_ok: bool) -> None:  # noqa: FBT001
        self.latencies.append(time.perf_counter() - due)
        self.errors += not is_ok
        if self.late:
            connection.ask(self.late.popleft())
        else:
            self.free.append(connection)

    def due(self, at: float) -> None:
        if self.free:
            self.free.popleft().ask(at)
        else:
            self.late.append(at)


async def measure(url: str, *, rate: float, seconds: float, connections: int = 64) -> Latencies:
    """Ask `url` for `seconds`, `rate` times a second."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    load = _Load(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    loop = asyncio.get_running_loop()
    host, port = _address(url)
    opened = [await loop.create_connection(lambda: _Connection(load), host, port) for _ in range(connections)]
    load.free.extend(connection for _, connection in opened)
    count, sent, started = int(rate * seconds), 0, time.perf_counter()
    while sent < count:
        due_by_now = min(count, int((time.perf_counter() - started) * rate))
        for number in range(sent, due_by_now):
            load.due(started + number / rate)
        sent = due_by_now
        await asyncio.sleep(_TICK_S)
    while len(load.latencies) < count:  # noqa: ASYNC110 - of many connections
        await asyncio.sleep(_TICK_S)
    for transport, _ in opened:
        transport.close()
    ordered = sorted(load.latencies)

    def at(share: float) -> float:
        return 1000 * ordered[min(count - 1, int(count * share))]

    return Latencies(at(0.5), at(0.99), at(0.999), at(1.0), count, load.errors)


async def storm(url: str, *, clients: int) -> tuple[float, list[bytes]]:
    """How many seconds it takes until each of `clients`, all connected before, has the answer to one request that all
    send at once; and the answers, heads and bodies.
    """
    parts = urlsplit(url)
    request = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
    opened = [await asyncio.open_connection(*_address(url)) for _ in range(clients)]
    started = time.perf_counter()
    for _, writer in opened:
        writer.write(request)
    answers = await asyncio.gather(*(reader.read(-1) for reader, _ in opened))
    took = time.perf_counter() - started
    for _, writer in opened:
        writer.close()
    return took, answers


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None  # noqa: S101, PT018 - of a service that we started
    return parts.hostname, parts.port
