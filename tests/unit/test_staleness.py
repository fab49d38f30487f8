"""What a process knows of stale days, and how a cached answer tells it."""

from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_analytics.reports.cache import with_meta
from pg_analytics.reports.staleness import StaleDays
from pg_analytics.windows import FIRST_DAY, LAST_DAY, DayRange, Window

MONDAY = date(2026, 1, 5)

days = st.one_of(st.dates(FIRST_DAY, LAST_DAY), st.dates(MONDAY, MONDAY + timedelta(days=40)))


@given(stale=st.sets(days), first=days, length=st.integers(0, 60), window=st.sampled_from(Window))
def test_the_stale_buckets_of_a_range_are_those_with_a_stale_day(
    stale: set[date], first: date, length: int, window: Window
) -> None:
    covers = DayRange.inclusive(first, min(first, LAST_DAY - timedelta(days=length)) + timedelta(days=length))
    covers = covers.whole_buckets(window)

    found = StaleDays.of(stale, known_from=FIRST_DAY).count_buckets(covers, window)

    assert found == len({day.isocalendar()[:2] if window is Window.WEEK else day for day in stale & set(covers)})


def test_whoever_asks_for_days_that_were_not_looked_at_is_not_told() -> None:
    stale = StaleDays.of([MONDAY, MONDAY + timedelta(days=1)], known_from=MONDAY)

    assert stale.count_buckets(DayRange.inclusive(MONDAY, MONDAY), Window.DAY) == 1
    assert stale.count_buckets(DayRange.inclusive(MONDAY - timedelta(days=1), MONDAY), Window.DAY) is None


@pytest.mark.parametrize("members", [{}, {"stale_buckets": 0}, {"stale_buckets": 12, "degraded": True}])
def test_a_kept_answer_gets_members_at_the_end_of_its_meta(members: dict[str, object]) -> None:
    kept = b'{"data":{"rows":[{"entity_id":"}}"}]},"meta":{"covers":{"from":"2026-01-05"},"cache_hit":true}}'

    told = msgspec.json.decode(with_meta(kept, members))

    before = msgspec.json.decode(kept)
    assert told["data"] == before["data"]
    assert told["meta"] == before["meta"] | members
