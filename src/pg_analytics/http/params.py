"""Query parameters, read strictly: whatever is not understood is refused by name, never ignored or clamped.

An endpoint declares its parameters as values of the classes below and reads them from a `Query`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, KeysView
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from pg_analytics.errors import invalid
from pg_analytics.windows import FIRST_DAY, LAST_DAY, parse_day

T = TypeVar("T")

MAX_QUERY_BYTES: Final = 8192
MAX_TEXT_CHARACTERS: Final = 255
#: Keeps an offset within what PostgreSQL skips in reasonable time, and within its integers.
MAX_OFFSET: Final = 1_000_000_000

_WHOLE_NUMBER: Final = re.compile(r"\d{1,10}", re.ASCII)
#: What has to be decoded, or refused.
_ENCODED: Final = re.compile(rb"[%+\0]")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Parameter(ABC, Generic[T]):
    """A query parameter. Subclasses say how its text is parsed."""

    name: str
    default: T

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What a value may be, in words."""

    @abstractmethod
    def parse(self, text: str) -> T:
        """The value that `text` stands for; `ValueError` if it is not allowed."""


@dataclass(frozen=True, slots=True)
class Integer(Parameter[int]):
    """A whole number within bounds."""

    minimum: int
    maximum: int

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return f"must be a whole number from {self.minimum} to {self.maximum}"

    def parse(self, text: str) -> int:
        """The number; `ValueError` if it is none or out of bounds."""
        if not _WHOLE_NUMBER.fullmatch(text) or not self.minimum <= int(text) <= self.maximum:
            raise ValueError(text)
        return int(text)


@dataclass(frozen=True, slots=True)
class Choice(Parameter[str | None]):
    """One of a few words."""

    choices: tuple[str, ...]
    ignore_case: bool = False

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return f"must be one of {', '.join(self.choices)}"

    def parse(self, text: str) -> str:
        """The word, in lower case where case is ignored; `ValueError` if it is none of them."""
        word = text.lower() if self.ignore_case and text.isascii() else text
        if word not in self.choices:
            raise ValueError(text)
        return word


@dataclass(frozen=True, slots=True)
class Text(Parameter[str | None]):
    """Any text of bounded length."""

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return f"must be text of at most {MAX_TEXT_CHARACTERS} characters"

    def parse(self, text: str) -> str:
        """The text itself; `ValueError` if it is too long."""
        if len(text) > MAX_TEXT_CHARACTERS:
            raise ValueError(text)
        return text


@dataclass(frozen=True, slots=True)
class Day(Parameter[date | None]):
    """A date."""

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return f"must be a date as YYYY-MM-DD, from {FIRST_DAY.isoformat()} to {LAST_DAY.isoformat()}"

    def parse(self, text: str) -> date:
        """The day; `ValueError` if there is no such day."""
        return parse_day(text)


@dataclass(frozen=True, slots=True)
class Flag(Parameter[bool]):
    """Yes or no."""

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return "must be true or false"

    def parse(self, text: str) -> bool:
        """The answer; `ValueError` if it is another word, or written in another case."""
        if text not in {"true", "false"}:
            raise ValueError(text)
        return text == "true"


OFFSET: Final = Integer("offset", 0, minimum=0, maximum=MAX_OFFSET)


class Query:
    """The parameters of one request, each given once and with a value."""

    def __init__(self, raw: bytes) -> None:
        """`raw` is the query string as it came; `ServiceError` (400) if it is malformed."""
        if len(raw) > MAX_QUERY_BYTES:
            raise invalid("query", f"must not be longer than {MAX_QUERY_BYTES} bytes")
        self._values = _split(raw)

    @property
    def names(self) -> KeysView[str]:
        """What was given."""
        return self._values.keys()

    def allow(self, parameters: Iterable[Parameter[Any]]) -> None:
        """400 for the first parameter that is none of `parameters`."""
        names = [parameter.name for parameter in parameters]
        for name in self._values:
            if name not in names:
                known = f"this endpoint takes {', '.join(names)}" if names else "this endpoint takes none"
                raise invalid(name, f"unknown parameter; {known}")

    def value(self, parameter: Parameter[T]) -> T:
        """The value of `parameter`, or its default if it was not given; 400 if it is not allowed."""
        text = self._values.get(parameter.name)
        if text is None:
            return parameter.default
        try:
            return parameter.parse(text)
        except ValueError:
            raise invalid(parameter.name, parameter.allowed) from None


def _split(raw: bytes) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in _pairs(raw):
        if name in values:
            raise invalid(name, "must be given once")
        if not value:
            raise invalid(name, "must have a value")
        values[name] = value
    return values


def _pairs(raw: bytes) -> Iterator[tuple[str, str]]:
    if raw.isascii() and not _ENCODED.search(raw):
        for part in raw.decode("ascii").split("&"):
            if part:
                name, _, value = part.partition("=")
                yield name[:MAX_TEXT_CHARACTERS], value
        return
    for encoded in raw.split(b"&"):
        if encoded:
            raw_name, _, raw_value = encoded.partition(b"=")
            name = _decode(raw_name, "query")[:MAX_TEXT_CHARACTERS]
            yield name, _decode(raw_value, name)


def _decode(raw: bytes, parameter: str) -> str:
    if b"%" in raw or b"+" in raw:
        if _BAD_ESCAPE.search(raw):
            raise invalid(parameter, "must be percent-encoded correctly")
        raw = unquote_to_bytes(raw.replace(b"+", b" "))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid(parameter, "must be UTF-8") from None
    if "\x00" in text:
        raise invalid(parameter, "must not hold a NUL character")
    return text
