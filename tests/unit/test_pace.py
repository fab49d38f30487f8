"""How many days a chunk takes on."""

import pytest

from pg_analytics.snapshots.pace import Pace


@pytest.fixture
def pace() -> Pace:
    """A pace whose chunks should take a second."""
    return Pace(target_s=1.0)


def test_the_first_chunk_is_small_since_nothing_is_known_of_the_days(pace: Pace) -> None:
    assert pace.days == 3


def test_the_next_chunk_is_as_many_days_as_fit_into_the_time(pace: Pace) -> None:
    pace.took(3, 0.75)
    assert pace.days == 4
    pace.took(4, 1.6)
    assert pace.days == 2


def test_a_chunk_at_most_doubles_from_one_to_the_next(pace: Pace) -> None:
    pace.took(3, 0.001)
    assert pace.days == 6
    pace.took(6, 0.001)
    assert pace.days == 12


def test_a_chunk_never_exceeds_64_days_however_quick_they_are(pace: Pace) -> None:
    for _ in range(10):
        pace.took(pace.days, 0.0)
    assert pace.days == 64


def test_a_chunk_is_never_less_than_a_day_however_slow_it_is(pace: Pace) -> None:
    pace.took(3, 3600)
    assert pace.days == 1
    pace.took(1, 3600)
    assert pace.days == 1


def test_one_slow_chunk_is_forgotten_as_soon_as_the_days_are_quick_again(pace: Pace) -> None:
    for _ in range(10):
        pace.took(pace.days, 0.001)
    pace.took(pace.days, 640)
    assert pace.days == 1
    for _ in range(6):
        pace.took(pace.days, 0.001)
    assert pace.days == 64


def test_a_last_chunk_of_fewer_days_than_offered_tells_the_pace_of_a_day_just_as_well(pace: Pace) -> None:
    pace.took(3, 0.5)
    assert pace.days == 6
    pace.took(2, 1.0)
    assert pace.days == 2
