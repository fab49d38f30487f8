"""What every benchmark does: measure a time beside its reference, and print the ratio with its target.

Machines are noisy and differ, so a time alone says nothing. A line holds two times of the same run, and it is their
ratio that is compared with a target.
"""

import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from pg_analytics.postgres.pool import Connection

_CONSOLE: Final = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True)
class Line:
    """A measured value beside its reference, both in `unit`. `target` bounds their ratio: from above, or from below."""

    what: str
    value: float
    reference: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float:
        """`value` as a multiple of `reference`."""
        return self.value / self.reference if self.reference else 0.0

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def show(lines: Sequence[Line], *, as_json: bool) -> None:
    """Print the lines on standard output: a table, or one JSON document."""
    if as_json:
        document = [asdict(line) | {"ratio": round(line.ratio, 4), "is_met": line.is_met} for line in lines]
        print(json.dumps(document, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measured against its reference", overflow="fold")
    for column in ("measured", "reference", "unit", "ratio", "target", ""):
        table.add_column(column, justify="left" if column in {"unit", ""} else "right", no_wrap=True)
    for line in lines:
        target = "" if line.target is None else f"{'≥' if line.at_least else '≤'} {line.target:g}"
        met = {None: "", True: "met", False: "missed"}[line.is_met]
        table.add_row(
            line.what, _number(line.value), _number(line.reference), line.unit, _number(line.ratio), target, met
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)


def say(step: str) -> None:
    """Say on standard error what comes next."""
    _CONSOLE.print(f"{time.strftime('%H:%M:%S')} {step}")


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """How long `work` takes, in seconds."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


async def wal_position(connection: Connection) -> int:
    """How many bytes of write-ahead log there are so far."""
    return int(await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits tell enough
