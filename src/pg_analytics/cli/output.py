"""What commands print: results on standard output, everything else on standard error.

A table for people, or with `--json` one JSON document. Text that comes from events may hold anything, so it never
reaches the terminal as markup or as control characters.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pg_analytics.cli.exit_codes import CommandError, ExitCode

#: In a pipe or a file, a row is a line.
_UNLIMITED: Final = 10_000

_STATUS_STYLES: Final = {
    "completed": "green",
    "ok": "green",
    "success": "green",
    "running": "cyan",
    "pending": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "degraded": "red",
    "unavailable": "red",
}


class _Console(Console):
    """A console that leaves a reader who has gone (`| head`) to `main`."""

    def on_broken_pipe(self) -> None:
        """Let the error pass; rich would end the process with exit code 1."""
        raise  # noqa: PLE0704 - rich calls this while it handles the BrokenPipeError


@cache
def stdout() -> Console:
    """Standard output, for results."""
    return _Console(highlight=False)


@cache
def stderr() -> Console:
    """Standard error, for notices, progress and errors."""
    return _Console(stderr=True, highlight=False, soft_wrap=True)


def make_streams_safe() -> None:
    """A character that the terminal's encoding lacks becomes `?`; it must not become a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream that was closed or replaced
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def show_json(document: object) -> None:
    """One JSON document, and nothing else, on standard output."""
    ascii_only = not stdout().encoding.startswith("utf")
    with _writing():
        print(json.dumps(document, indent=2, ensure_ascii=ascii_only), flush=True)


def notice(message: str) -> None:
    """A line for a person that is not the result."""
    stderr().print(Text(printable(message)))


def show_error(error: CommandError, *, as_json: bool) -> None:
    """The end of a command without a result: one line, and one with the way out; or one line of JSON."""
    if as_json:
        print(json.dumps(error.envelope), file=sys.stderr)
        return
    first, *more = error.message.splitlines() or [""]
    stderr().print(Text.assemble(("error: ", "bold red"), printable(first)))
    for line in more:  # the end of a server's log
        stderr().print(Text(printable(line)))
    if error.hint:
        stderr().print(Text.assemble(("hint: ", "bold"), printable(error.hint)))


def table(columns: Sequence[str], *, numbers: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """An empty table. `numbers` are columns to be right-aligned, `whole` those that must not be broken."""
    right, unbroken = set(numbers), set(whole)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            Text(printable(column)),
            justify="right" if column in right else "left",
            no_wrap=column in right or column in unbroken,
            overflow="fold",
        )
    return made


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of a report as they came: a column per member, counts right-aligned with thousands apart."""
    columns = list(rows[0])
    counts = [column for column in columns if all(_is_number(row[column]) for row in rows)]
    made = table(columns, numbers=counts)
    for row in rows:
        made.add_row(*(cell(row[column]) for column in columns))
    return made


def stacked(*parts: Any) -> Text:
    """Several values in one cell: below each other on a terminal, where rows would not fit; else on the one line."""
    return Text("\n" if stdout().is_terminal else " ").join(cell(part) for part in parts if part)


def details(pairs: Iterable[tuple[str, Any]]) -> Table:
    """One thing: names on the left, values on the right."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, cell(value))
    return made


def show(renderable: Any) -> None:
    """Print a table, a chart or a line of the result."""
    console = stdout()
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console = _Console(highlight=False, width=_UNLIMITED)
    with _writing():
        console.print(renderable)


def flush() -> None:
    """Let go of what is still buffered, if there is somebody to take it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # a stream that was never there, broken or closed
            stream.flush()


def discard_stdout() -> None:
    """Nobody takes our output any more: what is still buffered must not fail once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise CommandError(ExitCode.UNAVAILABLE, f"the result cannot be written: {error.strerror}") from None


def cell(value: Any) -> Text:
    """A value as text that is safe to print."""
    if isinstance(value, str):
        return Text(printable(value), style=_STATUS_STYLES.get(value, ""))
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, Mapping):
        return Text(", ".join(f"{printable(str(name))} {cell(item).plain}" for name, item in value.items()))
    if isinstance(value, list):
        return Text(", ".join(cell(item).plain for item in value))
    return Text(f"{value:,}" if _is_number(value) else str(value).lower())


def moment(timestamp: str) -> str:
    """A timestamp of the service to the second, in UTC as it came, for lists."""
    return timestamp[:19].replace("T", " ")


def printable(text: str) -> str:
    """`text` with what would steer the terminal or break the line written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def show_rest(pagination: Mapping[str, int], shown: int) -> None:
    """Say how to see the rest of a list, where this is not all of it."""
    first, total = pagination["offset"], pagination["total"]
    if shown == total:
        return
    here = f"rows {first + 1:,} to {first + shown:,} of {total:,}" if shown else f"no rows: there are only {total:,}"
    more = f"; see more with --offset {first + shown}" if shown and first + shown < total else ""
    notice(here + more)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
