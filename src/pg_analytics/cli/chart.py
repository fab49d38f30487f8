"""A small chart of a report's rows, in block characters, as wide as the terminal.

Rows with a date become columns from left to right, one band for each value of the other dimensions, all on one
scale. Other rows become horizontal bars. Made here and not by a plotting library: it is a page of code, starts in no
time, and a band of columns reads better at 80 characters than axes do.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from pg_analytics.cli.output import printable

_DATE: Final = "bucket_date"
_BUCKET_DAYS: Final = {"day": 1, "week": 7}

#: Index: eighths of a cell that are full.
_COLUMNS: Final = " ▁▂▃▄▅▆▇█"
_BARS: Final = " ▏▎▍▌▋▊▉█"
_ASCII: Final = "  ..::###"
_EIGHTHS: Final = 8

_STYLES: Final = ("cyan", "magenta", "green", "yellow", "blue", "red")
_TALLEST: Final = 6
_LINES_FOR_BANDS: Final = 12
_MOST_BANDS: Final = 8
_MOST_BARS: Final = 20
_WIDEST_COLUMN: Final = 4
_WIDEST_LABEL: Final = 24
_WIDEST_CHART: Final = 100


def draw(rows: Sequence[Mapping[str, Any]], *, window: str, console: Console) -> Text:
    """The chart of `rows` (at least one), whose buckets are of `window`. Its measure is the last column."""
    *dimensions, measure = rows[0]
    width = min(console.width, _WIDEST_CHART)
    ascii_only = console.options.ascii_only
    if _DATE in dimensions:
        labels = [dimension for dimension in dimensions if dimension != _DATE]
        series: dict[str, dict[date, float]] = defaultdict(dict)
        for row in rows:
            label = _label(row, labels) or measure
            series[label][date.fromisoformat(row[_DATE])] = row[measure]
        lines = _bands(series, window, width, _ASCII if ascii_only else _COLUMNS)
    else:
        bars = [(_label(row, dimensions), row[measure]) for row in rows]
        lines = _horizontal_bars(bars, width, _ASCII if ascii_only else _BARS)
    return Text("\n").join(lines)


def _label(row: Mapping[str, Any], dimensions: Sequence[str]) -> str:
    return printable(" ".join(str(row[dimension]) for dimension in dimensions))


def _bands(series: Mapping[str, Mapping[date, float]], window: str, width: int, glyphs: str) -> Iterator[Text]:
    """A band of columns for each series, the largest first, above the dates that all of them share."""
    buckets = _buckets(series, window)
    largest = sorted(series.items(), key=lambda item: -sum(item[1].values()))[:_MOST_BANDS]
    counts = {label: [values.get(bucket, 0) for bucket in buckets] for label, values in largest}
    bands = {label: _squeezed(values, width) for label, values in counts.items()}
    top = max(max(band) for band in bands.values())
    height = max(1, min(_TALLEST, _LINES_FOR_BANDS // len(bands)))
    wide = max(1, min(_WIDEST_COLUMN, width // len(buckets)))
    for number, (label, band) in enumerate(bands.items()):
        values = counts[label]
        summary = f"  {min(values):,} to {max(values):,} per {window}, {sum(values):,} in all"
        yield Text.assemble((_shortened(label), "bold"), summary)
        for line in _columns(band, top, height=height, wide=wide, glyphs=glyphs):
            yield Text(line, style=_STYLES[number % len(_STYLES)])
    yield Text(_ends(buckets, wide * len(next(iter(bands.values())))), style="dim")
    if len(series) > len(bands):
        yield Text(f"and {len(series) - len(bands):,} more", style="dim")


def _buckets(series: Mapping[str, Mapping[date, float]], window: str) -> list[date]:
    """Every bucket from the first to the last: one without rows has no events, and shows as a gap."""
    found = {bucket for values in series.values() for bucket in values}
    step = timedelta(days=_BUCKET_DAYS.get(window, 1))
    first, last = min(found), max(found)
    return [first + number * step for number in range((last - first) // step + 1)]


def _squeezed(counts: Sequence[float], width: int) -> list[float]:
    """At most `width` columns: means of neighbours where there are more."""
    together = -(-len(counts) // width)
    groups = [counts[start : start + together] for start in range(0, len(counts), together)]
    return [sum(group) / len(group) for group in groups]


def _columns(counts: Sequence[float], top: float, *, height: int, wide: int, glyphs: str) -> list[str]:
    """Lines of a band, from above. `top` is as high as the band; `wide` counts the space after a column, if any."""
    levels = [_eighths(count, top, height) for count in counts]
    lines = []
    for row in reversed(range(height)):
        glyph = [glyphs[max(0, min(_EIGHTHS, level - row * _EIGHTHS))] for level in levels]
        lines.append("".join((one * max(1, wide - 1)).ljust(wide) for one in glyph).rstrip())
    return lines


def _ends(buckets: Sequence[date], width: int) -> str:
    """The first bucket, and the last one at the right end."""
    first, last = buckets[0].isoformat(), buckets[-1].isoformat()
    return first if first == last else f"{first} {last:>{max(len(last), width - len(first) - 1)}}"


def _horizontal_bars(bars: Sequence[tuple[str, float]], width: int, glyphs: str) -> Iterator[Text]:
    """A line for each of the first bars: label, bar, value."""
    shown = [(_shortened(label), value, f"{value:,}") for label, value in bars[:_MOST_BARS]]
    label_width = max(cell_len(label) for label, _, _ in shown)
    value_width = max(len(text) for _, _, text in shown)
    room = max(_EIGHTHS, width - label_width - value_width - 2)
    top = max(value for _, value, _ in shown)
    for label, value, text in shown:
        yield Text.assemble(set_cell_size(label, label_width + 1), (_bar(value, top, room, glyphs), "cyan"), f" {text}")
    if len(bars) > _MOST_BARS:
        yield Text(f"and {len(bars) - _MOST_BARS:,} more", style="dim")


def _bar(value: float, top: float, room: int, glyphs: str) -> str:
    """A horizontal bar; that of `top` fills `room` characters."""
    full, rest = divmod(_eighths(value, top, room), _EIGHTHS)
    return glyphs[_EIGHTHS] * full + (glyphs[rest] if rest else "")


def _eighths(value: float, top: float, cells: int) -> int:
    """Length of `value` in eighths of a cell; something is never drawn as nothing."""
    if value <= 0 or top <= 0:
        return 0
    return max(1, round(value / top * cells * _EIGHTHS))


def _shortened(label: str) -> str:
    fits = cell_len(label) <= _WIDEST_LABEL
    return label if fits else set_cell_size(label, _WIDEST_LABEL - 3) + "..."
