"""Server-sent events, read as the standard has it, and by nothing of the service's own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.running import AUTHORISED, Service


@dataclass(slots=True)
class Message:
    """What stood between two empty lines."""

    event: str = ""
    data: Any = None
    retry: int | None = None
    comments: list[str] = field(default_factory=list)


class Stream:
    """The messages of an answer, as they come in."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines()

    def __iter__(self) -> Iterator[Message]:
        """Every message until the stream ends."""
        message = Message()
        for line in self._lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "" if not line:
                    yield message
                    message = Message()
                case "":
                    message.comments.append(value)
                case "event":
                    message.event = value
                case "data":
                    message.data = json.loads(value)
                case "retry":
                    message.retry = int(value)
                case _:
                    raise AssertionError(line)

    def next_event(self) -> Message:
        """The next message that is no comment."""
        return next(message for message in self if message.event)

    def next_comment(self) -> str:
        """The next comment; fails if an event comes before it."""
        message = next(iter(self))
        assert not message.event, message
        return message.comments[0]


@contextmanager
def following(service: Service, run_id: str) -> Iterator[Stream]:
    """The stream of a run, for the length of a block."""
    with service.http.stream("GET", f"/recomputations/{run_id}/events", headers=AUTHORISED) as answer:
        if answer.status_code != httpx.codes.OK:
            answer.read()
        yield Stream(answer)
