"""What each day was after each commit of a story, and whether what a report shows of it was ever so."""

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Final

from pg_analytics.postgres.pool import Connection

_STATES: Final = """
    SELECT occurred_day, s.slug, e.status, e.entity_id, count(*)
    FROM analytics_events AS e JOIN event_sources AS s ON s.id = e.source_id
    GROUP BY 1, 2, 3, 4
"""

#: The events of a day: how many of each source, status and entity.
State = Counter[tuple[str, str, str]]
SOURCE, STATUS, ENTITY = 0, 1, 2


class DaysSeen:
    """The states of every day, the oldest first: a day that had no event yet was empty."""

    def __init__(self) -> None:
        self._states: dict[date, list[State]] = {}
        self._oldest_shown: dict[date, int] = {}

    async def look(self, connection: Connection) -> None:
        """Take down what the days are now. To be asked after each commit, and before anybody could tell of it."""
        now: dict[date, State] = {day: Counter() for day in self._states}
        for day, source, status, entity, count in await connection.fetch(_STATES):
            now.setdefault(day, Counter())[source, status, entity] = count
        for day, state in now.items():
            if state != self._of(day)[-1]:
                self._of(day).append(state)

    def completed(self, days: Iterable[date]) -> None:
        """From now on, nothing but the newest state of these days may be shown, or a later one."""
        for day in days:
            self._oldest_shown[day] = len(self._of(day)) - 1

    def assert_was_once(self, day: date, dimension: int, shown: Counter[str], *, fresh: bool = False) -> None:
        """A report may show what was committed, and of one moment: not half of a day, and not what is over. A fresh
        one shows what is so now.
        """
        once = []
        for state in self._of(day)[-1 if fresh else self._oldest_shown.get(day, 0) :]:
            counted: Counter[str] = Counter()
            for names, count in state.items():
                counted[names[dimension]] += count
            once.append(dict(counted))
        assert dict(shown) in once, f"{day} was never {dict(shown)}, but {once}"

    def _of(self, day: date) -> list[State]:
        return self._states.setdefault(day, [Counter()])
