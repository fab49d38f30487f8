"""What may be asked of a report. What is wrong is refused by name: never ignored, clamped or defaulted."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import get
from tests.running import AUTHORISED, Service, serving

pytestmark = [pytest.mark.anyio]

VOLUME, STATUS, ENTITIES = "volume-by-period", "status-counts", "top-entities"

NO_WHOLE_NUMBERS = [
    *("abc", "-1", "+5", "1.0", "1e2", "0x10", "1_000", "5,6", "%205", "5%20", "NaN", "true", "null"),
    *("99999999999999999999", "%D9%A5", "%EF%BC%95"),  # too long; an Arabic and a full-width five
]
NO_DATES = [
    *("2024-02-30", "2023-02-29", "2024-13-01", "2024-00-10", "2024-01-00", "0000-01-01", "9999-12-27"),
    *("20240101", "2024-1-1", "24-01-01", "2024-W01-1", "2024-001", "01-02-2024", "2024/01/01", "12024-01-01"),
    *("2024-01-01T00:00:00Z", "2024-01-01%20", "%202024-01-01", "-2024-01-01", "today", "0", "1704067200"),
    *("%D9%A2024-01-01", "2024%E2%88%9201%E2%88%9201"),  # an Arabic digit; minus signs
]


@pytest.mark.parametrize("text", [*NO_WHOLE_NUMBERS, "0", "1001"])
def test_limit_is_a_whole_number_from_1_to_1000(shared_service: Service, text: str) -> None:
    allowed = refused(get(shared_service, f"/reports/{VOLUME}/run?limit={text}"), "limit")

    assert allowed == "must be a whole number from 1 to 1000"


@pytest.mark.parametrize("text", [*NO_WHOLE_NUMBERS, "1000000001"])
def test_offset_is_a_whole_number_from_0(shared_service: Service, text: str) -> None:
    allowed = refused(get(shared_service, f"/reports/{VOLUME}/run?offset={text}"), "offset")

    assert allowed == "must be a whole number from 0 to 1000000000"


@pytest.mark.parametrize("text", ["month", "hour", "days", "day,week", "%20day", "da", "1", "wee%E2%84%AA", "*"])
@pytest.mark.parametrize("slug", [VOLUME, STATUS, ENTITIES])
def test_window_is_one_of_the_reports_windows(shared_service: Service, slug: str, text: str) -> None:
    assert refused(get(shared_service, f"/reports/{slug}/run?window={text}"), "window") == "must be one of day, week"


@pytest.mark.parametrize("text", NO_DATES)
@pytest.mark.parametrize("name", ["date_from", "date_to"])
def test_dates_are_days_of_the_calendar(shared_service: Service, name: str, text: str) -> None:
    allowed = refused(get(shared_service, f"/reports/{VOLUME}/run?{name}={text}"), name)

    assert allowed == "must be a date as YYYY-MM-DD, from 0001-01-08 to 9999-12-26"


@pytest.mark.parametrize("text", ["1", "0", "True", "TRUE", "yes", "%20true", "true%20", "null", "truefalse", "now"])
@pytest.mark.parametrize("slug", [VOLUME, STATUS, ENTITIES])
def test_fresh_is_true_or_false(shared_service: Service, slug: str, text: str) -> None:
    assert refused(get(shared_service, f"/reports/{slug}/run?fresh={text}"), "fresh") == "must be true or false"


@pytest.mark.parametrize(
    "slug,query,allowed",
    [
        (VOLUME, "breakdown=status", "must be one of period, source"),
        (VOLUME, "breakdown=Period", "must be one of period, source"),
        (VOLUME, "breakdown=period,source", "must be one of period, source"),
        (STATUS, "breakdown=source", "must be one of status, period"),
        (STATUS, "breakdown=none", "must be one of status, period"),
        (STATUS, "status=unknown", "must be one of success, failed, pending"),
        (STATUS, "status=SUCCESS", "must be one of success, failed, pending"),
        (STATUS, "status=success,failed", "must be one of success, failed, pending"),
        (VOLUME, "source=" + "x" * 256, "must be text of at most 255 characters"),
        (VOLUME, "source=" + "%E2%98%83" * 256, "must be text of at most 255 characters"),
    ],
)
def test_breakdown_and_filters_are_those_of_the_report(
    shared_service: Service, slug: str, query: str, allowed: str
) -> None:
    assert refused(get(shared_service, f"/reports/{slug}/run?{query}"), query.partition("=")[0]) == allowed


@pytest.mark.parametrize(
    "slug,query",
    [
        (ENTITIES, "breakdown=period"),
        (ENTITIES, "breakdown=entity_id"),
        (ENTITIES, "source=stripe"),
        (ENTITIES, "status=success"),
        (STATUS, "source=stripe"),
        (VOLUME, "status=success"),
        (VOLUME, "entity_id=a"),
        (VOLUME, "Window=day"),
        (VOLUME, "LIMIT=5"),
        (VOLUME, "limit[]=5"),
        (VOLUME, "date=2024-01-01"),
        (VOLUME, "format=csv"),
        (VOLUME, "_=1700000000"),
        (VOLUME, "date_from%20=2024-01-01"),
        (VOLUME, "%F0%9F%98%80=1"),
    ],
)
def test_what_a_report_does_not_take_is_refused_with_what_it_takes(
    shared_service: Service, slug: str, query: str
) -> None:
    name = query.partition("=")[0].replace("%20", " ").replace("%F0%9F%98%80", "😀")

    allowed = refused(get(shared_service, f"/reports/{slug}/run?{query}"), name)

    assert allowed.startswith("unknown parameter; this endpoint takes window, date_from, date_to, ")
    assert allowed.endswith("limit, offset")


@pytest.mark.parametrize("name", ["window", "date_from", "date_to", "breakdown", "source", "fresh", "limit", "offset"])
def test_every_parameter_is_given_once_and_with_a_value(shared_service: Service, name: str) -> None:
    valid = {"window": "day", "breakdown": "source", "source": "stripe", "fresh": "true", "limit": "5", "offset": "0"}
    value = valid.get(name, "2024-02-12")
    run = f"/reports/{VOLUME}/run?"

    assert refused(get(shared_service, f"{run}{name}="), name) == "must have a value"
    assert refused(get(shared_service, f"{run}{name}"), name) == "must have a value"
    assert refused(get(shared_service, f"{run}{name}={value}&{name}={value}"), name) == "must be given once"
    encoded = "%" + name.encode()[:1].hex() + name[1:]
    assert refused(get(shared_service, f"{run}{name}={value}&{encoded}={value}"), name) == "must be given once"


@pytest.mark.parametrize("value", ["%00", "a%00b", "day%00"])
@pytest.mark.parametrize("name", ["window", "date_from", "source", "limit", "unknown"])
def test_a_nul_character_is_refused_wherever_it_stands(shared_service: Service, name: str, value: str) -> None:
    allowed = refused(get(shared_service, f"/reports/{VOLUME}/run?{name}={value}"), name)

    assert allowed == "must not hold a NUL character"


@pytest.mark.parametrize("value", ["%ff", "a%fe", "%c0%80", "%ed%a0%80", "%f4%90%80%80", "%e2%98"])
@pytest.mark.parametrize("name", ["source", "window", "unknown"])
def test_what_is_not_utf_8_is_refused_wherever_it_stands(shared_service: Service, name: str, value: str) -> None:
    assert refused(get(shared_service, f"/reports/{VOLUME}/run?{name}={value}"), name) == "must be UTF-8"


@pytest.mark.parametrize("value", ["%", "%4", "%zz", "a%", "%%41", "%u0041", "%+1"])
def test_a_broken_escape_is_refused(shared_service: Service, value: str) -> None:
    allowed = refused(get(shared_service, f"/reports/{VOLUME}/run?source={value}"), "source")

    assert allowed == "must be percent-encoded correctly"


@pytest.mark.parametrize("query", ["a%00b=1", "%ff=1", "%zz=1", "limit=1&" + "x" * 8192])
def test_a_query_that_cannot_be_read_is_refused_as_a_whole(shared_service: Service, query: str) -> None:
    refused(get(shared_service, f"/reports/{VOLUME}/run?{query}"), "query")


@pytest.mark.parametrize(
    "query",
    [
        "limit=1",
        "limit=1000",
        "limit=007",
        "offset=0",
        "offset=1000000000",
        "window=DAY",
        "window=Week",
        "w%69ndow=w%65ek",
        "date_from=2024-02-29&date_to=2024-02-29",
        "date_to=0001-01-08",
        "date_from=0001-01-08&date_to=0001-01-14&window=week",
        "date_from=9999-12-26&date_to=9999-12-26&window=week",
        "date_from=2024-01-01&date_to=2024-12-31",  # 366 days
        "fresh=true",
        "fresh=false",
        "source=nobody",
        "source=" + "x" * 255,
        "source=%F0%9F%98%80",
        "source=a%26b%3Dc",
        "source=a=b",
        "&&limit=5&",
        "",
    ],
)
def test_what_is_allowed_is_answered(shared_service: Service, query: str) -> None:
    succeeded(get(shared_service, f"/reports/{VOLUME}/run?{query}"))


def test_a_source_that_nobody_knows_has_no_rows(shared_service: Service) -> None:
    answer = get(shared_service, f"/reports/{VOLUME}/run?source=nobody&date_from=2024-02-12&date_to=2024-03-10")

    assert succeeded(answer)["data"]["rows"] == []


def test_dates_in_reverse_are_refused(shared_service: Service) -> None:
    answer = get(shared_service, f"/reports/{VOLUME}/run?date_from=2024-03-02&date_to=2024-03-01")

    assert refused(answer, "date_from") == "must be on or before date_to (2024-03-01)"


def test_a_first_day_after_today_is_refused_where_today_is_the_last(shared_service: Service) -> None:
    answer = get(shared_service, f"/reports/{VOLUME}/run?date_from=9999-01-01")

    assert refused(answer, "date_from").startswith("must be on or before date_to")


def test_a_range_of_more_than_366_days_is_refused(shared_service: Service) -> None:
    answer = get(shared_service, f"/reports/{VOLUME}/run?date_from=2024-01-01&date_to=2025-01-01")

    assert refused(answer, "date_from") == "the range must not exceed 366 days"


def test_an_unknown_report_is_404_whatever_is_asked_of_it(shared_service: Service) -> None:
    failed(get(shared_service, "/reports/unknown/run"), "not_found")
    failed(get(shared_service, "/reports/unknown/run?limit=abc"), "not_found")


async def test_the_longest_range_is_a_setting(loaded_database: str, redis_url: str, tmp_path: Path) -> None:
    environment = {"DATABASE_URL": loaded_database, "REDIS_URL": redis_url, "MAX_REPORT_RANGE_DAYS": "10"}
    with serving(environment, tmp_path) as service:
        ten_days = f"/reports/{VOLUME}/run?date_from=2024-02-12&date_to=2024-02-21"
        succeeded(get(service, ten_days))
        assert refused(get(service, ten_days.replace("21", "22")), "date_from") == "the range must not exceed 10 days"

        unasked = succeeded(get(service, f"/reports/{VOLUME}/run?date_to=2024-02-29"))["data"]
        assert date.fromisoformat(unasked["date_from"]) == date(2024, 2, 29) - timedelta(days=9)

        body = {"report_slug": VOLUME, "window": "day", "date_from": "2024-02-12", "date_to": "2024-02-22"}
        refused(service.http.post("/recomputations", json=body, headers=AUTHORISED), "date_from")
