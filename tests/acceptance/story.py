"""What a story is made of: a pack of cards, each a step with arguments of chance, shuffled.

So every story has everything in it, and what differs is what meets what. (A state machine of Hypothesis, which leaves
out most rules in most of its stories, needs hundreds of them for that; here a story takes ten seconds.) The whole
story is known before it begins, and what cannot be done when its turn comes is left out.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from hypothesis import strategies as st

from tests.acceptance.gates import PLACES
from tests.report_oracle import REPORTS

SOURCES: Final = ("shop", "Shop", "a b&c=%_'\"")
STATUSES: Final = ("success", "failed", "pending")
ENTITIES: Final = ("a", "A", "it's \\N", "\U0001f600")

# A busy week, the turn of an ISO year before it, a summer long ago, a leap day, and both ends of the calendar.
PERIODS: Final = tuple(
    [date.fromisoformat(first) + timedelta(days=n) for n in range(count)]
    for first, count in (
        ("2026-03-02", 7),
        ("2025-12-29", 4),
        ("2019-07-04", 1),
        ("2024-02-28", 3),
        ("0001-01-08", 1),
        ("9999-12-26", 1),
    )
)
#: Where writers that never rest are at work, and rebuilds meet them.
TRAFFIC_DAYS: Final = PERIODS[0][-2:]

_days = st.sampled_from(PERIODS).flatmap(st.sampled_from)
_busy_days = st.sampled_from(PERIODS[0])
_windows = st.sampled_from(["day", "week"])
_slugs = st.sampled_from(sorted(REPORTS))
_picks = st.integers(0, 9)
_slowly = st.booleans()
#: Within a period, or over the newest two and what lies between them: more days than a chunk has.
_ranges = st.one_of(
    st.sampled_from(PERIODS).flatmap(
        lambda period: st.tuples(st.sampled_from(period), st.sampled_from(period)).map(lambda ends: tuple(sorted(ends)))
    ),
    st.just((PERIODS[1][0], PERIODS[0][-1])),
)

#: Every kind of step, with what it is told.
CARDS: Final[dict[str, dict[str, st.SearchStrategy[Any]]]] = {
    "write": {"day": _days, "count": st.sampled_from([1, 3, 200]), "copy": st.booleans(), "slowly": _slowly},
    "write_again": {"day": _busy_days, "slowly": _slowly},
    "move": {"pick": _picks, "day": _days, "slowly": _slowly},
    "change": {"pick": _picks, "to": _picks, "slowly": _slowly},
    "delete": {"pick": _picks, "slowly": _slowly},
    "truncate": {"slowly": _slowly},
    "begin_to_write_slowly": {},
    "end_writing_slowly": {"how": st.sampled_from(["COMMIT", "ROLLBACK"])},
    "trigger": {"slug": _slugs, "window": _windows, "asked": _ranges, "mode": st.just("rebuild")},
    "verify": {"slug": _slugs, "window": _windows, "asked": _ranges},
    "trigger_again": {"pick": _picks},
    "cancel": {"pick": _picks},
    "read": {"asked": _ranges, "fresh": st.booleans()},
    "recompute_twice": {"slug": _slugs, "window": _windows, "asked": _ranges, "deaf": st.booleans()},
    "hold_a_process": {"place": st.sampled_from(sorted(PLACES)), "day": _busy_days},
    "let_go": {},
    "kill_or_start_a_worker": {"pick": _picks},
    "stop_a_worker": {"pick": _picks},
    "freeze_a_worker": {"pick": _picks},
    "thaw": {},
    "freeze_beyond_the_lease": {"day": _busy_days, "then": st.sampled_from(["thaw", "stop", "kill"])},
    "kill_the_service": {},
    "empty_redis": {},
    "lose_redis": {"how": st.sampled_from(["refuse", "hang", "lose_route", "cut"])},
    "restore_redis": {},
    "drop_connections": {"whose": st.sampled_from(["worker", "refresher", "api", "listen%", "%"])},
}

#: How often each is in the pack; in this order they tell a story, too.
_PACK: Final = (
    *("write", "write", "trigger", "read", "recompute_twice", "begin_to_write_slowly", "move"),
    *("write_again", "hold_a_process", "change", "freeze_a_worker", "trigger_again", "read"),
    *("let_go", "thaw", "freeze_beyond_the_lease", "lose_redis", "delete", "verify", "trigger"),
    *("kill_or_start_a_worker", "cancel", "end_writing_slowly", "write", "restore_redis"),
    *("hold_a_process", "stop_a_worker", "write_again", "kill_or_start_a_worker", "let_go"),
    *("read", "drop_connections", "trigger", "begin_to_write_slowly", "truncate", "write"),
    *("kill_the_service", "empty_redis", "hold_a_process", "change", "kill_or_start_a_worker"),
    *("trigger", "end_writing_slowly", "let_go", "verify"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A step, by the name of the method that performs it."""

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        said = (f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.name}({', '.join(said)})"


@dataclass(frozen=True, slots=True)
class Plot:
    """A whole story; `traffic` is the seed of the writers that never rest, None if they do."""

    traffic: int | None
    steps: tuple[Step, ...]


def _step(name: str) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(name), st.fixed_dictionaries(CARDS[name]))


plots = st.builds(
    Plot,
    st.none() | st.integers(0, 2**16),
    st.permutations(_PACK).flatmap(lambda names: st.tuples(*map(_step, names))),
)
