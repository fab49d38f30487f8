"""What a report is: read from its folder `builtin/<slug>/`, checked, and never changed afterwards."""

import tomllib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

import msgspec

from pg_analytics.windows import Window

_BUILTIN: Final = "builtin"
_EVERY_REPORT: Final = {"fresh": "true|false", "limit": "1-1000", "offset": ">=0"}


class WindowDefault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A window that a report is kept in, with the values that its row in the catalogue starts with. Without a
    retention, its snapshots are kept for ever.
    """

    name: Window
    refresh_interval_minutes: int
    retention_days: int | None = None


class Breakdown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to split a report into rows: the columns of a row, in order."""

    name: str
    columns: tuple[str, ...]


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dimension that a report can be narrowed to one value of. `values` None: any text."""

    name: str
    description: str
    values: tuple[str, ...] | None = None


class ReportDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A report as its folder describes it. `columns` are those of a report that has no breakdowns; one that
    `reads_months` is told which months lie in its range whole; one that is `batched` reads so few rows per day that
    several questions share a statement.
    """

    slug: str
    name: str
    description: str
    cache_ttl_seconds: int
    default_window: Window
    rollup: str
    measures: tuple[str, ...]
    windows: tuple[WindowDefault, ...]
    columns: tuple[str, ...] = ()
    breakdowns: tuple[Breakdown, ...] = ()
    filters: tuple[Filter, ...] = ()
    reads_months: bool = False
    batched: bool = False

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Every column that is not a measure, in the order of first appearance."""
        columns = [*self.columns, *(column for breakdown in self.breakdowns for column in breakdown.columns)]
        return tuple(dict.fromkeys(column for column in columns if column not in self.measures))

    @property
    def default_breakdown(self) -> str | None:
        """The breakdown that answers a request which names none; None if the report has none."""
        return self.breakdowns[0].name if self.breakdowns else None

    @property
    def supported_filters(self) -> dict[str, str]:
        """What can be asked for besides dates, in the form that clients of the original system know."""
        asked = {"window": "|".join(window.name for window in self.windows)}
        if self.breakdowns:
            asked["breakdown"] = "|".join(breakdown.name for breakdown in self.breakdowns)
        return asked | {f.name: f.description for f in self.filters} | _EVERY_REPORT

    @property
    def parameter_types(self) -> tuple[str, ...]:
        """The types of the parameters that the report's own statement has: range, window and page, the filters, the
        months.
        """
        months = ("date", "date") if self.reads_months else ()
        return ("date", "date", "text", "bigint", "bigint", *("text" for _ in self.filters), *months)

    def statement(self, breakdown: str | None) -> str:
        """The SQL that answers the report with `breakdown` (None: the report has none)."""
        return _statement(self.slug, breakdown or "rows")


@cache
def builtin_definitions() -> dict[str, ReportDefinition]:
    """The reports that come with the service, by slug."""
    folders = sorted(_folder().iterdir(), key=lambda folder: folder.name)
    found = [_read(folder) for folder in folders if folder.joinpath("report.toml").is_file()]
    return {definition.slug: definition for definition in found}


def _read(folder: Traversable) -> ReportDefinition:
    table = tomllib.loads(folder.joinpath("report.toml").read_text(encoding="utf-8"))
    definition = msgspec.convert(table, ReportDefinition)
    if definition.slug != folder.name or bool(definition.columns) == bool(definition.breakdowns):
        raise ValueError(f"{folder.name}/report.toml: slug and folder must agree; either columns or breakdowns")
    return definition


@cache
def _statement(slug: str, name: str) -> str:
    return _folder().joinpath(slug, f"{name}.sql").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return resources.files("pg_analytics.reports") / _BUILTIN
