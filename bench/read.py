"""What reading costs: `make bench-read`, or `python -m bench.read --help`.

The method, and what each line means, stand in docs/explanation/performance.md.
"""

from dataclasses import dataclass
from datetime import date
from typing import Final

_YEAR: Final = 365
_CONNECTIONS: Final = 32
_ROUNDS: Final = 5
_SECONDS: Final = 3.0
#: How many connections compute reports: the service's pool but for those that it reserves.
_PLACES: Final = 6
_STORM: Final = 1000
_REPORTS: Final = (
    ("volume-by-period", "period"),
    ("volume-by-period", "source"),
    ("status-counts", "status"),
    ("status-counts", "period"),
    ("top-entities", None),
)
_CACHED_TARGET: Final = 0.6
_UNCACHED_TARGET: Final = 0.4


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with the events of a year, and their snapshots."""

    events: int
    url: str
    redis_url: str
    first_day: date

    @property
    def environment(self) -> dict[str, str]:
        """Settings of a service over it."""
        return {"DATABASE_URL": self.url, "REDIS_URL": self.redis_url}
