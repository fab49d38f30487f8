"""How fresh an answer is: what it says of that itself, and how to get one of this very moment."""

from collections.abc import AsyncIterator, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis import Redis

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots import store
from tests.acceptance import dataset
from tests.acceptance.command_line import pg_analytics
from tests.acceptance.conftest import copy_of
from tests.acceptance.envelopes import failed, succeeded
from tests.acceptance.processes import Starter
from tests.acceptance.wire import get
from tests.events import insert
from tests.proxy import Proxy
from tests.rebuilding import rebuild
from tests.running import Service, serving
from tests.waiting import until

pytestmark = [pytest.mark.anyio]

VOLUME = "volume-by-period"
DAY = date(2024, 2, 29)
MOST = 3


@pytest.fixture
async def database(loaded: str) -> AsyncIterator[str]:
    """A database of this test's own, with the events of `dataset` and their snapshots."""
    async with copy_of(loaded) as url:
        yield url


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    """A connection to it."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def service(database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service that rebuilds nothing by itself, and counts no more than `MOST` days."""
    environment = {"DATABASE_URL": database, "REDIS_URL": redis_url, "REFRESH_INTERVAL": "0"}
    with serving(environment | {"MAX_FRESH_DAYS": str(MOST)}, tmp_path) as running:
        yield running


def ask(service: Service, slug: str = VOLUME, **parameters: object) -> Any:
    """The envelope over all days; a parameter that is None is left out."""
    asked = {"date_from": dataset.FIRST, "date_to": dataset.LAST, "limit": 1000, **parameters}
    given = {name: str(value) for name, value in asked.items() if value is not None}
    return succeeded(service.http.get(f"/reports/{slug}/run", params=given))


def count_of(envelope: Any) -> int:
    """How many events an answer tells."""
    return sum(row["event_count"] for row in envelope["data"]["rows"])


def until_hit(service: Service, stale_buckets: int | None, slug: str = VOLUME, **parameters: object) -> Any:
    """The hit that tells so many stale buckets: a process hears of them a moment later."""

    def hit() -> Any:
        envelope = ask(service, slug, **parameters)
        assert envelope["data"]["cache_hit"]
        return envelope if envelope["meta"].get("stale_buckets") == stale_buckets else None

    return until(hit)


@pytest.mark.parametrize("slug,breakdown", dataset.REPORTS)
async def test_a_fresh_answer_counts_what_no_rebuild_has_seen(
    service: Service, connection: Connection, slug: str, breakdown: str | None
) -> None:
    await connection.execute("DELETE FROM analytics_events WHERE occurred_day = $1", DAY)
    left = [event for event in dataset.EVENTS if dataset.day_of(event) != DAY]

    plain = ask(service, slug, breakdown=breakdown)
    fresh = ask(service, slug, breakdown=breakdown, fresh="true")

    assert plain["data"]["rows"] == dataset.REPORTS[slug, breakdown](dataset.EVENTS, "day")
    assert (plain["meta"]["stale_buckets"], plain["meta"].get("fresh")) == (1, None)
    assert fresh["data"]["rows"] == dataset.REPORTS[slug, breakdown](left, "day")
    assert (fresh["meta"]["stale_buckets"], fresh["meta"]["fresh"]) == (0, True)
    assert set(fresh["meta"]) == {*plain["meta"], "fresh"}


async def test_a_fresh_answer_neither_reads_nor_fills_the_cache(
    service: Service, connection: Connection, redis_url: str
) -> None:
    path = f"/reports/{VOLUME}/run?date_from={DAY}&date_to={DAY}"
    with Redis.from_url(redis_url) as contents:
        kept = set(contents.scan_iter("report:*:v[0-9]*:*"))
        answer = get(service, f"{path}&fresh=true")
        assert set(contents.scan_iter("report:*:v[0-9]*:*")) == kept
    assert answer.headers["Cache-Control"] == "no-store"
    before = count_of(succeeded(answer))
    assert not succeeded(get(service, path))["data"]["cache_hit"]
    assert succeeded(get(service, f"{path}&fresh=false"))["data"]["cache_hit"], "which is what is asked for anyway"

    for number in range(1, 3):
        await insert(connection, DAY, 1, prefix=str(number))
        fresh = succeeded(get(service, f"{path}&fresh=true"))
        assert (count_of(fresh), fresh["data"]["cache_hit"]) == (before + number, False)
        kept_answer = succeeded(get(service, path))
        assert (count_of(kept_answer), kept_answer["data"]["cache_hit"]) == (before, True)


async def test_a_kept_answer_tells_the_stale_buckets_of_now(service: Service, connection: Connection) -> None:
    week: dict[str, Any] = {"window": "week"}
    days: dict[str, Any] = {"window": "day"}
    for asked in (week, days):
        assert ask(service, **asked)["meta"]["stale_buckets"] == 0
        until_hit(service, 0, **asked)

    await insert(connection, DAY, 1, last_day=DAY + timedelta(days=1))
    until_hit(service, 1, **week)
    hit = until_hit(service, 2, **days)
    elsewhere: dict[str, Any] = {**days, "date_to": DAY - timedelta(days=1)}
    assert ask(service, **elsewhere)["meta"]["stale_buckets"] == 0
    until_hit(service, 0, **elsewhere)
    assert hit["data"]["rows"] == dataset.volume(dataset.EVENTS, "day")

    service.recompute(VOLUME, "day", DAY, DAY)
    assert ask(service, **days)["meta"]["stale_buckets"] == 1
    until_hit(service, 1, **days)
    service.recompute(VOLUME, "day", DAY + timedelta(days=1), DAY + timedelta(days=1))
    assert ask(service, **days)["meta"]["stale_buckets"] == 0
    until_hit(service, 0, **days)


async def test_more_stale_days_than_may_be_counted_are_422_with_the_way_out(
    service: Service, connection: Connection
) -> None:
    last = DAY + timedelta(days=MOST)
    await insert(connection, DAY, 1, last_day=last)
    path = f"/reports/{VOLUME}/run?fresh=true&date_from={DAY}&date_to="

    error = failed(get(service, f"{path}{last}"), "unprocessable")
    narrowed = succeeded(get(service, f"{path}{last - timedelta(days=1)}"))

    assert error["details"] == {"stale_days": MOST + 1, "max": MOST}
    assert error["message"].startswith(f"{MOST + 1} days of the range have changes")
    assert all(way in error["message"] for way in ("wait", "recompute", "fewer days"))
    assert narrowed["meta"]["stale_buckets"] == 0

    service.recompute(VOLUME, "day", DAY, DAY)
    assert succeeded(get(service, f"{path}{last}"))["meta"]["stale_buckets"] == 0


async def test_days_whose_events_were_pruned_are_told_from_their_snapshots_and_as_stale_for_ever(
    service: Service, connection: Connection
) -> None:
    before = dataset.volume(dataset.EVENTS, "day")
    await connection.execute("ALTER TABLE analytics_events DISABLE TRIGGER USER")
    await connection.execute("DELETE FROM analytics_events WHERE occurred_day < $1", DAY)
    await connection.execute("ALTER TABLE analytics_events ENABLE TRIGGER USER")
    await connection.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", DAY)
    assert ask(service, fresh="true")["data"]["rows"] == before

    frozen = DAY - timedelta(days=1)
    await insert(connection, frozen, 100)
    logged = ask(service, fresh="true")
    async with connection.transaction():
        await store.take_changes(connection, [frozen])
        await store.mark_frozen_days(connection, [frozen])
    marked = ask(service, fresh="true")

    for envelope in (logged, marked, ask(service)):
        assert envelope["data"]["rows"] == before
        assert envelope["meta"]["stale_buckets"] == 1
    until_hit(service, 1)
    freshness = succeeded(service.http.get(f"/reports/{VOLUME}"))["data"]["freshness"]
    assert (freshness["stale_days"], freshness["lag_seconds"]) == (1, 0)


async def test_an_answer_says_from_when_on_days_are_kept_if_it_begins_before(
    service: Service, connection: Connection
) -> None:
    assert "retained_from" not in ask(service)["meta"]
    kept_from = date(2024, 2, 19)
    await connection.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'source_status'", kept_from)
    for table in ("rollup_source_status", "rollup_source_status_margin"):
        await connection.execute(f"DELETE FROM {table} WHERE day < $1", kept_from)
    await insert(connection, dataset.FIRST, 5)

    for fresh in ("false", "true"):
        # Another page, so that it is not what was kept from before: moving a horizon moves the version, too.
        told = ask(service, limit=900, fresh=fresh)
        assert told["meta"]["retained_from"] == kept_from.isoformat()
        assert told["meta"]["stale_buckets"] == 0, "no rebuild brings such a day back"
        assert told["data"]["rows"] == dataset.volume(dataset.between(kept_from, dataset.LAST), "day")
    assert ask(service, limit=900)["meta"]["retained_from"] == kept_from.isoformat()
    assert "retained_from" not in ask(service, date_from=kept_from)["meta"]
    assert "retained_from" not in ask(service, "top-entities")["meta"], "the other rollup keeps its days"


async def test_the_catalogue_tells_stale_days_and_for_how_long_a_change_has_been_waiting(
    service: Service, connection: Connection
) -> None:
    await insert(connection, DAY, 1, last_day=DAY + timedelta(days=1))
    await connection.execute(
        "UPDATE event_changes SET logged_at = now() - INTERVAL '1 hour' WHERE occurred_day = $1", DAY
    )

    for slug in (VOLUME, "top-entities"):
        freshness = succeeded(service.http.get(f"/reports/{slug}"))["data"]["freshness"]
        assert freshness["stale_days"] == 2
        assert 3600 <= freshness["lag_seconds"] < 3700

    await rebuild(connection, [DAY])
    freshness = succeeded(service.http.get(f"/reports/{VOLUME}"))["data"]["freshness"]
    assert freshness["stale_days"] == 1
    assert 0 < freshness["lag_seconds"] < 3600


async def test_kept_answers_go_on_while_somebody_holds_the_change_log(service: Service, connection: Connection) -> None:
    ask(service)
    until_hit(service, 0)
    async with connection.transaction():
        await connection.execute("LOCK TABLE event_changes")
        held = until_hit(service, None)
        assert "degraded" not in held["meta"]
    until_hit(service, 0)


async def test_the_command_line_asks_for_a_fresh_answer_and_says_what_is_missing(
    service: Service, connection: Connection
) -> None:
    await insert(connection, DAY, 5)
    arguments = ("run", VOLUME, "--from", str(DAY), "--to", str(DAY), "--url", service.url)

    plain, fresh = pg_analytics(*arguments), pg_analytics(*arguments, "--fresh", "--json")

    assert "1 buckets have changes that are not counted yet" in plain.err
    assert count_of(fresh.json) == len(dataset.between(DAY, DAY)) + 5
    assert fresh.json["meta"]["fresh"]

    await connection.execute("UPDATE horizons SET kept_from = $1", DAY + timedelta(days=1))
    dropped = pg_analytics(*arguments, "--fresh")
    assert f"days before {DAY + timedelta(days=1)} are not kept any more" in dropped.err


@pytest.mark.own_servers
async def test_with_postgresql_lost_nothing_is_fresh_and_nobody_tells_what_is_stale(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    with Redis.from_url(redis_url) as contents:  # versions of another test's database are no concern of this one
        contents.delete(*contents.scan_iter("report:version:*"), "report:version:")
    with Proxy(database) as to_postgres:
        starter = Starter({"DATABASE_URL": to_postgres.url, "REDIS_URL": redis_url}, tmp_path)
        service = starter.service(RECOMPUTE_WORKERS="0")
        ask(service)
        to_postgres.refuse()
        degraded = until(lambda: ask(service) if "degraded" in ask(service)["meta"] else None)

        assert degraded["data"]["rows"] == dataset.volume(dataset.EVENTS, "day")
        assert "stale_buckets" not in degraded["meta"]
        failed(get(service, f"/reports/{VOLUME}/run?fresh=true"), "service_unavailable")

        to_postgres.restore()
        until(lambda: get(service, f"/reports/{VOLUME}/run?fresh=true").status_code == 200)
        starter.close()
