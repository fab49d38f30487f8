"""Structured logs on standard error: readable on a terminal, one JSON object per line otherwise.

Whoever serves a request or performs a run binds `request_id` or `run_id`; every line within carries it.
"""

import asyncio
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

import msgspec
import structlog
from structlog.typing import EventDict, Processor

_ENCODER: Final = msgspec.json.Encoder(enc_hook=repr)
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(*, format_: str, level: str, env: str, with_pid: bool = False) -> None:
    """Set logging up for this process, and for those that it forks. `format_` is `auto`, `text` or `json`; `env` stands
    on every JSON line, and the process on every line `with_pid`.
    """
    as_text = format_ == "text" or (format_ == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True) if as_text else _add_timestamp,
        *([_add_pid] if with_pid else []),
    ]
    rendering = _text() if as_text else _json(env)
    # A line costs as much as a cached answer: bytes save some of it.
    written = rendering if as_text else [*rendering[:-1], _encode]
    lines = _Lines(sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, *written],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=(structlog.PrintLoggerFactory(sys.stderr) if as_text else lambda *_: lines),
        cache_logger_on_first_use=True,
    )
    # What libraries say goes the same way.
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        foreign_pre_chain=shared,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(_LEVELS[level], logging.WARNING), force=True)


class _Lines:
    """Lines that go out at once or, where an event loop is at work, with all others of its turn. A write lets go of the
    interpreter; to get it back from the HTTP server's thread takes longer than everything else about a line.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: list[bytes] = []

    def msg(self, line: bytes) -> None:
        """Write `line`, soon."""
        self._waiting.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write_out()
        else:
            if len(self._waiting) == 1:
                loop.call_soon(self.write_out)

    debug = info = warning = error = msg

    def write_out(self) -> None:
        """Write what waits."""
        lines, self._waiting = self._waiting, []
        if lines:
            with suppress(OSError):  # nobody reads the log any more
                self._stream.write(b"\n".join([*lines, b""]))
                self._stream.flush()


def _add_timestamp(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = datetime.now(UTC)  # the encoder writes it as ISO 8601
    return event


def _add_pid(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["pid"] = os.getpid()
    return event


# Tracebacks are written without local variables: those hold URLs with passwords, and keys.


def _text() -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def _json(env: str) -> list[Processor]:
    def add_env(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["env"] = env
        return event

    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [add_env, structlog.processors.ExceptionRenderer(transformer), _encode_as_text]


def _encode(_logger: Any, _method: str, event: EventDict) -> bytes:
    return _ENCODER.encode(event)


def _encode_as_text(_logger: Any, _method: str, event: EventDict) -> str:
    return _ENCODER.encode(event).decode()
