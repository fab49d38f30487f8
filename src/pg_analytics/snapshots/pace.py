"""How many days one transaction takes on: as many as fit into the time that it should take."""

from typing import Final

_FIRST: Final = 3
_MOST: Final = 64
#: A step may not grow faster than this: one lucky measurement must not lead to a chunk that takes minutes.
_GROWTH: Final = 2


class Pace:
    """Adapts the size of the next chunk to the time that the last one took."""

    def __init__(self, *, target_s: float) -> None:
        """`target_s` is how long a chunk should take, in seconds."""
        self._target_s = target_s
        self.days = _FIRST

    def took(self, days: int, seconds: float) -> None:
        """Learn that a chunk of `days` took `seconds`."""
        fitting = int(days * self._target_s / max(seconds, 1e-6))
        self.days = max(1, min(fitting, self.days * _GROWTH, _MOST))
