"""A connection to Redis for batches of commands: all go out together, and each answer goes to who waits for it.

The driver makes the connection, with all that belongs to it: address, password, TLS, the number of the database. What
comes in is then parsed here, as it comes. The driver would read answer by answer through its streams, which takes
longer than Redis itself does.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import hiredis
import msgspec
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

#: What a command is made of.
Word: TypeAlias = str | bytes | int

#: What a command that has no answer was answered.
NO_ANSWER: Final = object()

_INCOMPLETE: Final = object()


class Command(msgspec.Struct, frozen=True, gc=False):
    """A command, and who waits for its answer, if anybody does: where there is none, for `default`."""

    words: tuple[Word, ...]
    default: Any = None
    answer: asyncio.Future[Any] | None = None

    def answered(self, answer: Any) -> None:
        """Tell who waits."""
        if self.answer is not None and not self.answer.done():  # who waited may have given up
            self.answer.set_result(self.default if answer is NO_ANSWER else answer)


class Link(asyncio.Protocol):
    """A connection on which one batch at a time is under way."""

    def __init__(self, connection: AbstractConnection, transport: asyncio.WriteTransport) -> None:
        self._connection = connection
        self._transport = transport
        self._reader = hiredis.Reader(replyError=ResponseError, notEnoughData=_INCOMPLETE)
        self._due: deque[Command] = deque()
        self._done: asyncio.Future[None] | None = None
        #: What Redis said of a command that it refused: the last one.
        self.refusal: ResponseError | None = None

    @classmethod
    async def connect(cls, redis: Redis) -> "Link":
        """A new connection to where `redis` is. `RedisError` or `OSError` if there is none to be had."""
        connection: AbstractConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()  # type: ignore[no-untyped-call]
        writer = connection._writer  # noqa: SLF001 - nobody else has this connection
        assert writer is not None  # noqa: S101 - it is connected
        link = cls(connection, writer.transport)
        writer.transport.set_protocol(link)
        return link

    @property
    def is_lost(self) -> bool:
        """Whether the other side has ended the connection."""
        return self._transport.is_closing()

    async def exchange(self, batch: Sequence[Command]) -> None:
        """Send a batch, and tell everybody its answer. `OSError` if the connection is lost before the last one. After
        that, and where it is cancelled, the connection has to be closed.
        """
        self._due.extend(batch)
        self._done = asyncio.get_running_loop().create_future()
        # Its stub has a command of one word in mind.
        self._transport.write(b"".join([hiredis.pack_command(command.words) for command in batch]))  # type: ignore[arg-type]
        await self._done

    async def close(self) -> None:
        """Drop the connection. What is under way on it belongs to nobody any more."""
        self._due.clear()
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """Answers have come in."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not _INCOMPLETE:
                if not isinstance(answer, hiredis.PushNotification):
                    self._answer_next(answer)
        except (hiredis.ProtocolError, ConnectionError) as error:
            # Whatever comes now may belong to somebody else.
            self._transport.abort()
            self._end(ConnectionError(str(error)))
        else:
            if not self._due:
                self._end(None)

    def _answer_next(self, answer: Any) -> None:
        if not self._due:
            raise ConnectionError("an answer that nobody has asked for")
        if isinstance(answer, ResponseError):
            self.refusal, answer = answer, NO_ANSWER
        self._due.popleft().answered(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """There will be no more answers."""
        self._end(error if isinstance(error, OSError) else ConnectionError("closed by Redis"))

    def _end(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
