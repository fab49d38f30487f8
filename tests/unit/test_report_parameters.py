"""The parameters of a report run: its defaults, its range of days, and which requests are equal."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pg_analytics.errors import ServiceError
from pg_analytics.http.params import Query
from pg_analytics.reports import parameters
from pg_analytics.reports.cache import identity_of
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.reports.parameters import RunParameters, check_range
from pg_analytics.reports.store import CatalogEntry
from pg_analytics.windows import FIRST_DAY, LAST_DAY, Window

TODAY = date(2024, 3, 10)

days = st.dates(FIRST_DAY, LAST_DAY)


def entry(slug: str, **changes: Any) -> CatalogEntry:
    """What the catalogue says of a report that comes with the service."""
    definition = builtin_definitions()[slug]
    known = CatalogEntry(
        slug=slug,
        name=definition.name,
        description=definition.description,
        cache_ttl_seconds=definition.cache_ttl_seconds,
        default_window=definition.default_window,
        allowed_windows=tuple(window.name for window in definition.windows),
        supported_filters=definition.supported_filters,
        timezone="UTC",
        cache_epoch="",
        version=1,
    )
    return replace(known, **changes)


def read(
    query: str, *, slug: str = "volume-by-period", today: date = TODAY, max_days: int = 366, **changes: Any
) -> RunParameters:
    now = datetime.combine(today, time(23, 59, 59), UTC)
    definition = builtin_definitions()[slug]
    return parameters.read(Query(query.encode()), definition, entry(slug, **changes), now=now, max_days=max_days)


def identity(query: str) -> str:
    return identity_of(entry("volume-by-period"), read(query))


def blamed(query: str, **how: Any) -> str:
    with pytest.raises(ServiceError) as raised:
        read(query, **how)
    assert raised.value.details
    return str(raised.value.details["parameter"])


@given(days)
@example(FIRST_DAY)
@example(LAST_DAY)
def test_without_dates_the_range_is_the_30_days_that_end_today(today: date) -> None:
    asked = read("", today=today)

    assert asked.date_to == today
    assert asked.date_from == max(FIRST_DAY, today - timedelta(days=min(29, (today - FIRST_DAY).days)))


@given(days, st.integers(1, 400))
def test_the_default_range_is_never_longer_than_allowed(last: date, max_days: int) -> None:
    asked = read(f"date_to={last.isoformat()}", max_days=max_days)

    assert (last - asked.date_from).days + 1 == min(30, max_days, (last - FIRST_DAY).days + 1)


@given(days, days, st.integers(1, 1000))
def test_a_range_is_allowed_if_it_is_in_order_and_not_too_long(first: date, last: date, max_days: int) -> None:
    allowed = timedelta(0) <= last - first <= timedelta(days=max_days - 1)

    if allowed:
        check_range(first, last, max_days=max_days)
    else:
        with pytest.raises(ServiceError, match="date_from"):
            check_range(first, last, max_days=max_days)


@given(days, st.integers(0, 365), st.sampled_from(Window))
@example(LAST_DAY, 0, Window.WEEK)
@example(FIRST_DAY, 0, Window.WEEK)
def test_every_range_that_is_allowed_has_whole_buckets(last: date, length: int, window: Window) -> None:
    first = last - timedelta(days=min(length, (last - FIRST_DAY).days))

    asked = read(f"date_from={first}&date_to={last}&window={window}")

    assert asked.days.start <= first <= last <= asked.days.last
    assert asked.days.day_count % window.days == 0


def test_what_is_not_asked_for_has_the_default_of_the_report() -> None:
    asked = read("")

    assert (asked.window, asked.breakdown, asked.filters) == (Window.DAY, "period", {"source": None})
    assert (asked.limit, asked.offset) == (50, 0)
    assert read("", slug="top-entities").breakdown is None
    assert read("", slug="status-counts").breakdown == "status"


def test_the_windows_are_those_of_the_catalogue() -> None:
    only_weeks: dict[str, Any] = {"default_window": Window.WEEK, "allowed_windows": (Window.WEEK,)}

    assert read("", **only_weeks).window is Window.WEEK
    assert blamed("window=day", **only_weeks) == "window"


def test_requests_that_mean_the_same_have_one_identity() -> None:
    spellings = [
        "",
        "window=DAY",
        "limit=50&offset=0",
        "breakdown=period",
        "date_to=2024-03-10",
        "date_to=2024-03-10&date_from=2024-02-10&offset=000",
        "fresh=false",
    ]

    assert all(identity(spelling) == identity("") for spelling in spellings)


def test_requests_that_mean_something_else_have_another_identity() -> None:
    others = [
        *("", "window=week", "limit=49", "offset=1", "breakdown=source", "source=a", "source=b"),
        *("date_to=2024-03-09", "date_from=2024-02-11", "source=%20a"),
    ]

    identities = [identity(other) for other in others]
    assert all(identities.count(identity) == 1 for identity in identities)


@pytest.mark.parametrize(
    "slug,names",
    [
        ("volume-by-period", ["window", "date_from", "date_to", "breakdown", "source", "fresh", "limit", "offset"]),
        ("status-counts", ["window", "date_from", "date_to", "breakdown", "status", "fresh", "limit", "offset"]),
        ("top-entities", ["window", "date_from", "date_to", "fresh", "limit", "offset"]),
    ],
)
def test_a_report_takes_these_parameters_and_no_others(slug: str, names: list[str]) -> None:
    assert [parameter.name for parameter in parameters.declared(builtin_definitions()[slug], entry(slug))] == names
    every = {
        "window",
        "date_from",
        "date_to",
        "breakdown",
        "source",
        "status",
        "entity_id",
        "fresh",
        "limit",
        "offset",
        "x",
    }
    for name in every - set(names):
        assert blamed(f"{name}=a", slug=slug) == name
