"""The catalogue: finding reports, sorting and paging them, and what one report says of itself."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from tests.acceptance import dataset
from tests.acceptance.conftest import copy_of
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import get
from tests.running import Service, serving

pytestmark = [pytest.mark.anyio]

EARLY, LATE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)

#: slug, name, updated_at, TTL. Names out of step with slugs, ties in everything but the slug, an LIKE pattern's own
#: characters, and names whose order by code point differs from that of any language.
REPORTS = [
    ("volume-by-period", "Volume by Period", EARLY, 120),
    ("status-counts", "Status Counts", LATE, 90),
    ("top-entities", "Top Entities", EARLY, 45),
    ("twin-b", "Twin", EARLY, 60),
    ("twin-a", "Twin", EARLY, 60),
    ("a-late-one", "alpha", LATE, 60),
    ("share", "100% of Everything", EARLY, 7),
    ("snake", "Under_Score", LATE, 7),
    ("windows", r"Back\slash", LATE, 8),
    ("zoo", "Élan", LATE, 9),
]
COLUMNS = {"slug": 0, "name": 1, "updated_at": 2, "cache_ttl_seconds": 3}


@pytest.fixture(scope="module")
async def service(loaded: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with `REPORTS` in its catalogue, and one that is not public."""
    async with copy_of(loaded) as url:
        connection = await asyncpg.connect(url)
        await connection.executemany(
            """
            INSERT INTO report_definitions
            (slug, name, description, updated_at, cache_ttl_seconds, default_window, rollup)
            VALUES ($1, $2, 'of the test', $3, $4, 'day', 'entity')
            ON CONFLICT (slug) DO UPDATE SET updated_at = EXCLUDED.updated_at
            """,
            REPORTS,
        )
        await connection.execute(
            """
            INSERT INTO report_definitions
            (slug, name, description, cache_ttl_seconds, default_window, rollup, is_public)
            VALUES ('secret', 'Secret', 'Nobody is to know', 60, 'day', 'entity', FALSE)
            """
        )
        await connection.close()
        with serving({"DATABASE_URL": url, "REDIS_URL": redis_url}, tmp_path_factory.mktemp("catalogue")) as running:
            yield running


def slugs(service: Service, **parameters: object) -> list[str]:
    answer = service.http.get("/reports", params={name: str(value) for name, value in parameters.items()})
    return [report["slug"] for report in succeeded(answer)["data"]]


def sorted_slugs(column: str, *, descending: bool = False) -> list[str]:
    by_slug = sorted(REPORTS, key=lambda report: report[0], reverse=descending and column == "slug")
    found = sorted(by_slug, key=lambda report: report[COLUMNS[column]], reverse=descending)
    return [report[0] for report in found]


def test_the_catalogue_is_sorted_by_name_and_then_slug(service: Service) -> None:
    envelope = succeeded(service.http.get("/reports"))

    assert [report["slug"] for report in envelope["data"]] == sorted_slugs("name")
    assert envelope["meta"] == {"pagination": {"limit": 20, "offset": 0, "total": len(REPORTS)}}


def test_an_entry_says_what_a_client_needs_to_run_it(service: Service) -> None:
    [entry] = succeeded(service.http.get("/reports", params={"search": "status-counts"}))["data"]

    one = succeeded(service.http.get("/reports/status-counts"))["data"]
    assert set(entry) == {
        "slug",
        "name",
        "description",
        "cache_ttl_seconds",
        "default_window",
        "allowed_windows",
        "supported_filters",
    }
    assert entry == {name: one[name] for name in entry}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_sorting_breaks_ties_by_slug(service: Service, column: str, order: str) -> None:
    assert slugs(service, sort=column, order=order) == sorted_slugs(column, descending=order == "desc")


@pytest.mark.parametrize("limit", [1, 3, 4, 10, 100])
def test_pages_put_together_are_the_whole(service: Service, limit: int) -> None:
    found: list[str] = []
    for offset in range(0, len(REPORTS), limit):
        envelope = succeeded(service.http.get("/reports", params={"limit": limit, "offset": offset}))
        assert envelope["meta"]["pagination"] == {"limit": limit, "offset": offset, "total": len(REPORTS)}
        found += [report["slug"] for report in envelope["data"]]

    assert found == sorted_slugs("name")


@pytest.mark.parametrize("offset", [len(REPORTS), 1_000_000_000])
def test_a_page_beyond_the_end_is_empty_and_still_tells_the_total(service: Service, offset: int) -> None:
    envelope = succeeded(service.http.get("/reports", params={"offset": offset}))

    assert envelope["data"] == []
    assert envelope["meta"]["pagination"]["total"] == len(REPORTS)


@pytest.mark.parametrize(
    "search,found",
    [
        ("twin", {"twin-a", "twin-b"}),
        ("TWIN-A", {"twin-a"}),
        ("volume BY", {"volume-by-period"}),
        ("-", {"volume-by-period", "status-counts", "top-entities", "twin-a", "twin-b", "a-late-one"}),
        ("%", {"share"}),
        ("100%", {"share"}),
        ("_", {"snake"}),
        ("t_p", set()),
        ("\\", {"windows"}),
        ("Élan", {"zoo"}),
        ("'; DROP TABLE report_definitions; --", set()),
        (" ", {"volume-by-period", "status-counts", "top-entities", "share"}),
        ("x" * 255, set()),
        ("secret", set()),
    ],
)
def test_search_is_literal_and_ignores_case(service: Service, search: str, found: set[str]) -> None:
    envelope = succeeded(service.http.get("/reports", params={"search": search}))

    assert {report["slug"] for report in envelope["data"]} == found
    assert envelope["meta"]["pagination"]["total"] == len(found)


def test_search_sort_and_page_work_together(service: Service) -> None:
    assert slugs(service, search="t", sort="cache_ttl_seconds", order="desc", limit=2, offset=1) == [
        "a-late-one",
        "twin-a",
    ]


def test_a_report_that_is_not_public_is_unknown(service: Service) -> None:
    failed(service.http.get("/reports/secret"), "not_found")
    failed(service.http.get("/reports/secret/run"), "not_found")


@pytest.mark.parametrize(
    "slug,own",
    [
        (
            "volume-by-period",
            {
                "cache_ttl_seconds": 120,
                "breakdowns": ["period", "source"],
                "dimensions": ["bucket_date", "source"],
                "supported_filters": {"window", "breakdown", "source", "fresh", "limit", "offset"},
            },
        ),
        (
            "status-counts",
            {
                "cache_ttl_seconds": 90,
                "breakdowns": ["status", "period"],
                "dimensions": ["status", "bucket_date"],
                "supported_filters": {"window", "breakdown", "status", "fresh", "limit", "offset"},
            },
        ),
        (
            "top-entities",
            {
                "cache_ttl_seconds": 45,
                "breakdowns": [],
                "dimensions": ["entity_id"],
                "supported_filters": {"window", "fresh", "limit", "offset"},
            },
        ),
    ],
)
def test_a_report_says_what_can_be_asked_of_it(service: Service, slug: str, own: dict[str, Any]) -> None:
    report = succeeded(service.http.get(f"/reports/{slug}"))["data"]

    assert report.pop("name")
    assert report.pop("description")
    assert_fresh(report.pop("freshness"))
    assert report | {"supported_filters": set(report["supported_filters"])} == {
        "slug": slug,
        "default_window": "day",
        "allowed_windows": ["day", "week"],
        "measures": ["event_count"],
        "timezone": "UTC",
        "version": 2,  # 1 when it was entered, one more since its numbers changed
        **own,
    }


def assert_fresh(freshness: dict[str, Any]) -> None:
    assert datetime.fromisoformat(freshness.pop("computed_at")).tzinfo == UTC
    assert freshness == {"data_through": dataset.LAST.isoformat(), "stale_days": 0, "lag_seconds": 0.0}


@pytest.mark.parametrize(
    "query,parameter",
    [
        ("limit=abc", "limit"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit", "limit"),
        ("limit=1&limit=1", "limit"),
        ("limit=%D9%A5", "limit"),  # an Arabic five
        ("offset=-1", "offset"),
        ("offset=1.5", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("sort=description", "sort"),
        ("sort=Name", "sort"),
        ("sort=", "sort"),
        ("sort=name&sort=slug", "sort"),
        ("sort=name;slug", "sort"),
        ("order=up", "order"),
        ("order=ASC", "order"),
        ("search=", "search"),
        ("search=a&search=b", "search"),
        ("search=a&%73earch=b", "search"),
        ("search=" + "x" * 256, "search"),
        ("search=a%00", "search"),
        ("search=%ff", "search"),
        ("search=%c0%80", "search"),
        ("search=%", "search"),
        ("search=%4", "search"),
        ("search=%zz", "search"),
        ("page=1", "page"),
        ("q=volume", "q"),
        ("Limit=5", "Limit"),
        ("limit[]=5", "limit[]"),
        ("=1", ""),
        ("a%00b=1", "query"),
        ("%ff=1", "query"),
        ("search=" + "%41" * 3000, "query"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(service: Service, query: str, parameter: str) -> None:
    assert refused(get(service, f"/reports?{query}"), parameter)


@pytest.mark.parametrize("path", ["/reports/top-entities", "/reports/unknown"])
def test_a_single_report_takes_no_parameters(service: Service, path: str) -> None:
    assert refused(get(service, f"{path}?limit=1"), "limit") == "unknown parameter; this endpoint takes none"


@pytest.mark.parametrize("query", ["", "&", "&&limit=20&&", "sort=n%61me", "search=volume+by", "search=volume%20by"])
def test_spellings_that_mean_the_same_are_understood(service: Service, query: str) -> None:
    assert "volume-by-period" in [report["slug"] for report in succeeded(get(service, f"/reports?{query}"))["data"]]
