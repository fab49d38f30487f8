"""The answers of the reports: every number counted a second time in Python, their order, pages and whole buckets."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.acceptance import dataset
from tests.acceptance.envelopes import succeeded
from tests.running import Service

pytestmark = [pytest.mark.anyio]

FILTERS = {"volume-by-period": "source", "status-counts": "status"}
ALL_DAYS = {"date_from": dataset.FIRST, "date_to": dataset.LAST}


def run(service: Service, slug: str, **parameters: object) -> Any:
    """The envelope; a parameter that is None is left out."""
    given = {name: str(value) for name, value in parameters.items() if value is not None}
    return succeeded(service.http.get(f"/reports/{slug}/run", params=given))


@pytest.mark.parametrize("window", [None, "day", "week"])
@pytest.mark.parametrize("slug,breakdown", dataset.REPORTS)
def test_a_report_says_what_the_events_say(
    shared_service: Service, slug: str, breakdown: str | None, window: str | None
) -> None:
    envelope = run(shared_service, slug, **ALL_DAYS, window=window, breakdown=breakdown, limit=1000)

    expected = dataset.REPORTS[slug, breakdown](dataset.EVENTS, window or "day")
    assert envelope["data"]["rows"] == expected
    assert [list(row) for row in envelope["data"]["rows"]] == [list(row) for row in expected]
    assert envelope["data"]["row_count"] == envelope["meta"]["pagination"]["total"] == len(expected)


@pytest.mark.parametrize("window", ["day", "week"])
@pytest.mark.parametrize(
    "slug,breakdown,name", [(slug, breakdown, FILTERS[slug]) for slug, breakdown in dataset.REPORTS if slug in FILTERS]
)
def test_a_filter_leaves_the_events_of_one_value(
    shared_service: Service, slug: str, breakdown: str | None, name: str, window: str
) -> None:
    for value in {getattr(event, name) for event in dataset.EVENTS}:
        asked = {**ALL_DAYS, "window": window, "breakdown": breakdown, name: value, "limit": 1000}
        chosen = [event for event in dataset.EVENTS if getattr(event, name) == value]

        assert run(shared_service, slug, **asked)["data"]["rows"] == dataset.REPORTS[slug, breakdown](chosen, window)


@pytest.mark.parametrize(
    "first,last",
    [
        (date(2024, 2, 29), date(2024, 2, 29)),
        (date(2024, 2, 26), date(2024, 3, 3)),  # a Monday and a Sunday
        (date(2024, 2, 25), date(2024, 2, 26)),  # a Sunday and a Monday
        (date(2024, 2, 1), date(2024, 2, 12)),  # before the first event
        (dataset.WITHOUT_EVENTS, dataset.WITHOUT_EVENTS),
    ],
)
@pytest.mark.parametrize("slug,breakdown", dataset.REPORTS)
def test_a_week_is_answered_whole_and_says_so(
    shared_service: Service, slug: str, breakdown: str | None, first: date, last: date
) -> None:
    envelope = run(shared_service, slug, date_from=first, date_to=last, window="week", breakdown=breakdown, limit=1000)

    monday, sunday = first - timedelta(days=first.weekday()), last + timedelta(days=6 - last.weekday())
    assert envelope["meta"]["covers"] == {"from": monday.isoformat(), "to": sunday.isoformat()}
    assert (envelope["data"]["date_from"], envelope["data"]["date_to"]) == (first.isoformat(), last.isoformat())
    expected = dataset.REPORTS[slug, breakdown](dataset.between(monday, sunday), "week")
    assert envelope["data"]["rows"] == expected


@pytest.mark.parametrize("slug,breakdown", dataset.REPORTS)
def test_days_are_answered_from_the_first_to_the_last_both_included(
    shared_service: Service, slug: str, breakdown: str | None
) -> None:
    first, last = date(2024, 2, 18), date(2024, 3, 1)

    envelope = run(shared_service, slug, date_from=first, date_to=last, breakdown=breakdown, limit=1000)

    assert envelope["meta"]["covers"] == {"from": first.isoformat(), "to": last.isoformat()}
    assert envelope["data"]["rows"] == dataset.REPORTS[slug, breakdown](dataset.between(first, last), "day")


@pytest.mark.parametrize("limit", [1, 7, 50])
@pytest.mark.parametrize("slug,breakdown", [key for key in dataset.REPORTS if key[1] != "status"])
def test_pages_put_together_are_the_whole(
    shared_service: Service, slug: str, breakdown: str | None, limit: int
) -> None:
    expected = dataset.REPORTS[slug, breakdown](dataset.EVENTS, "day")
    found: list[Any] = []
    for offset in range(0, len(expected) + limit, limit):
        envelope = run(shared_service, slug, **ALL_DAYS, breakdown=breakdown, limit=limit, offset=offset)
        assert envelope["meta"]["pagination"] == {"limit": limit, "offset": offset, "total": len(expected)}
        assert envelope["data"]["row_count"] == len(envelope["data"]["rows"])
        found += envelope["data"]["rows"]

    assert found == expected


def test_a_page_has_50_rows_unless_asked_otherwise(shared_service: Service) -> None:
    envelope = run(shared_service, "volume-by-period", **ALL_DAYS, breakdown="source")

    assert envelope["data"]["row_count"] == 50
    assert envelope["meta"]["pagination"]["limit"] == 50
    assert envelope["meta"]["pagination"]["total"] > 50


@pytest.mark.parametrize("slug", ["volume-by-period", "status-counts", "top-entities"])
def test_an_answer_has_the_members_of_the_contract(shared_service: Service, slug: str) -> None:
    before = datetime.now(UTC)
    envelope = run(shared_service, slug, **ALL_DAYS, offset=900 + len(slug))  # a request that nobody else makes

    data, meta = envelope["data"], envelope["meta"]
    assert list(data) == [
        *("report_slug", "window", "date_from", "date_to", "generated_at", "rows"),
        *("row_count", "execution_ms", "cache_hit", "source_system"),
    ]
    assert (data["report_slug"], data["window"]) == (slug, "day")
    assert before <= datetime.fromisoformat(data["generated_at"]) <= datetime.now(UTC)
    assert isinstance(data["execution_ms"], int)
    assert (data["cache_hit"], data["source_system"]) == (False, "postgres")
    assert set(meta) == {"pagination", "covers", "computed_at", "stale_buckets", "cache_hit"}
    assert meta["stale_buckets"] == 0
    assert meta["cache_hit"] is False
    assert datetime.fromisoformat(meta["computed_at"]) <= before


def test_moments_are_written_in_utc(shared_service: Service) -> None:
    envelope = run(shared_service, "top-entities", **ALL_DAYS)

    assert envelope["data"]["generated_at"].endswith("Z")
    assert envelope["meta"]["computed_at"].endswith("Z")


def test_without_dates_the_answer_is_of_the_30_days_that_end_today(shared_service: Service) -> None:
    before = datetime.now(UTC).date()
    data = run(shared_service, "volume-by-period")["data"]

    last = date.fromisoformat(data["date_to"])
    assert before <= last <= datetime.now(UTC).date()
    assert date.fromisoformat(data["date_from"]) == last - timedelta(days=29)


def test_with_a_last_day_only_the_answer_is_of_the_30_days_that_end_there(shared_service: Service) -> None:
    data = run(shared_service, "volume-by-period", date_to="2024-03-01")["data"]

    assert (data["date_from"], data["date_to"]) == ("2024-02-01", "2024-03-01")
    assert data["rows"] == dataset.volume(dataset.between(dataset.FIRST, date(2024, 3, 1)), "day")


def test_with_a_first_day_only_the_answer_ends_today(shared_service: Service) -> None:
    before = datetime.now(UTC).date()
    data = run(shared_service, "volume-by-period", date_from=before)["data"]

    assert data["date_from"] == before.isoformat()
    assert before <= date.fromisoformat(data["date_to"]) <= datetime.now(UTC).date()


def test_days_that_were_never_built_have_no_rows_and_no_time_of_building(shared_service: Service) -> None:
    envelope = run(shared_service, "top-entities", date_from="2001-01-01", date_to="2001-12-31")

    assert (envelope["data"]["rows"], envelope["data"]["row_count"]) == ([], 0)
    assert envelope["meta"]["pagination"]["total"] == 0
    assert "computed_at" not in envelope["meta"]
