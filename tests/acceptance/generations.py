"""Numbers that tell which generation they are of, in every report.

A generation adds one event to every day of a subject for each source, status and entity, in one transaction. So in
generation 5 there are five of each, everywhere, and rows that are not all of one generation were never true together.
A subject has as few days as a run rebuilds in one transaction.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from typing import Any, Final
from urllib.parse import urlencode

from pg_analytics.postgres.pool import Connection
from tests.events import Event, write

#: So many that some answers are worth compressing.
SOURCES: Final = ("bank", "cafe", "farm", "mill", "shop")
STATUSES: Final = ("failed", "pending", "success")
ENTITIES: Final = ("ant", "bee")
NOON: Final = time(12)

#: Report, window, breakdown, further parameters, and the columns before `event_count`.
_ASKED: Final[tuple[tuple[str, str, str | None, dict[str, str], tuple[str, ...]], ...]] = (
    ("volume-by-period", "day", None, {}, ("bucket_date",)),
    ("volume-by-period", "week", None, {}, ("bucket_date",)),
    ("volume-by-period", "day", "source", {}, ("bucket_date", "source")),
    ("volume-by-period", "day", None, {"source": "shop"}, ("bucket_date",)),
    ("status-counts", "day", None, {}, ("status",)),
    ("status-counts", "day", "period", {}, ("bucket_date", "status")),
    ("status-counts", "day", "period", {"limit": "2", "offset": "1"}, ("bucket_date", "status")),
    ("top-entities", "day", None, {}, ("entity_id",)),
    ("top-entities", "week", None, {}, ("entity_id",)),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """The days from `first` to `last`, of one week, in which there are no other events."""

    name: str
    first: date
    last: date

    @property
    def days(self) -> list[date]:
        """Every day."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]

    def questions(self) -> "list[Question]":
        """What is asked about it."""
        return [self._question(*asked) for asked in _ASKED]

    def cold_question(self, number: int) -> "Question":
        """One that means the same as the others of its kind and is cached apart from them, by its `number`, from 0."""
        return self._question("volume-by-period", "day", None, {"limit": str(100 + number % 900)}, ("bucket_date",))

    def _question(
        self, report: str, window: str, breakdown: str | None, more: dict[str, str], columns: tuple[str, ...]
    ) -> "Question":
        asked = {"date_from": str(self.first), "date_to": str(self.last), "window": window, **more}
        if breakdown is not None:
            asked["breakdown"] = breakdown
        rows = _rows(self.days, window, columns, more.get("source"))
        offset = int(more.get("offset", 0))
        page = slice(offset, offset + int(more.get("limit", len(rows))))
        return Question(self, report, urlencode(asked), rows, page)

    async def write(self, connection: Connection, generation: int) -> None:
        """Write the events that make `generation` of the one before."""
        await write(
            connection,
            [
                Event("-".join((self.name, str(generation), str(day), *cell)), *cell, datetime.combine(day, NOON, UTC))
                for day, cell in product(self.days, product(SOURCES, ENTITIES, STATUSES))
            ],
        )


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """A request for a report about a subject. `rows` are the right ones of the first generation, of all pages."""

    subject: Subject
    report: str
    query: str
    rows: list[dict[str, Any]]
    page: slice

    def generation_of(self, body: dict[str, Any]) -> int | None:
        """The generation that an answer is of, whole: its rows, and what is told of them. None if of none."""
        data = body["data"]
        counts = [row["event_count"] for row in data["rows"]]
        generation = int(counts[0] // self.rows[0]["event_count"]) if counts else 0
        right = [row | {"event_count": row["event_count"] * generation} for row in self.rows[self.page]]
        described = (data["row_count"], body["meta"]["pagination"]["total"]) == (len(right), len(self.rows))
        return generation if generation and described and data["rows"] == right else None


def _rows(days: list[date], window: str, columns: tuple[str, ...], source: str | None) -> list[dict[str, Any]]:
    """The rows of the first generation, counted by `columns`. They all count alike, so they are in their order."""
    counts: Counter[tuple[str, ...]] = Counter()
    for day, of, entity, status in product(days, SOURCES, ENTITIES, STATUSES):
        bucket = day - timedelta(days=day.weekday()) if window == "week" else day
        named = {"bucket_date": str(bucket), "source": of, "entity_id": entity, "status": status}
        if source in {None, of}:
            counts[tuple(named[column] for column in columns)] += 1
    return [{**dict(zip(columns, key, strict=True)), "event_count": count} for key, count in sorted(counts.items())]
