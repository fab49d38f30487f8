"""`recompute --plan`, which enters nothing, and `recompute --verify`, which changes nothing."""

from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection
from tests.acceptance import dataset
from tests.acceptance.command_line import ask
from tests.events import insert
from tests.running import AUTHORISED, Service, serving

pytestmark = pytest.mark.anyio

DAY = date(2024, 2, 14)


@pytest.fixture
async def database(loaded_database: str) -> AsyncIterator[Connection]:
    """A connection to the database of `shop`: the events of `dataset`, with their snapshots."""
    connection = await asyncpg.connect(loaded_database)
    yield connection
    await connection.close()


@pytest.fixture
def shop(loaded_database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service with a worker, which does not follow the events by itself."""
    environment = {"DATABASE_URL": loaded_database, "REDIS_URL": redis_url, "REFRESH_INTERVAL": "0"}
    with serving(environment, tmp_path) as service:
        yield service


def recompute(first: object, last: object, *extra: str, window: str = "day") -> list[str]:
    """Arguments of `recompute`."""
    return ["recompute", "volume-by-period", "--window", window, "--from", str(first), "--to", str(last), *extra]


async def test_a_plan_is_a_table_of_buckets_and_totals(shop: Service, database: Connection) -> None:
    await insert(database, date(2024, 2, 21), 5)
    await database.execute("UPDATE horizons SET kept_from = '2024-02-13' WHERE subject = 'events'")

    ended = ask(shop, *recompute(DAY, date(2024, 2, 25), "--plan", window="week"))

    header, first, second, *totals = ended.out.splitlines()
    events = [
        len(dataset.between(date(2024, 2, 12), date(2024, 2, 18))),
        len(dataset.between(date(2024, 2, 19), date(2024, 2, 25))),
    ]
    assert header.split() == ["bucket", "events", "last", "rebuilt", "(UTC)", "state"]
    assert (first.split()[:2], first.split()[-1]) == (["2024-02-12", str(events[0])], "frozen")
    assert (second.split()[:2], second.split()[-1]) == (["2024-02-19", str(events[1])], "stale")
    shown = dict(line.split(maxsplit=1) for line in totals)
    assert {name: value.strip() for name, value in shown.items()} == {
        "buckets_total": "2",
        "buckets_stale": "1",
        "events": str(sum(events)),
        "estimated_seconds": "-",
        "covers": "2024-02-12 to 2024-02-25",
        "refused": "the events of days before 2024-02-13 were pruned, so their snapshots are frozen; "
        "the first week that can be rebuilt: 2024-02-19",
    }
    assert (ended.code, ended.err) == (1, "")


def test_the_json_of_a_plan_is_the_answer_of_the_service(idle_service: Service) -> None:
    ended = ask(idle_service, *recompute(DAY, DAY, "--plan", "--json"))

    body = {"report_slug": "volume-by-period", "window": "day", "date_from": str(DAY), "date_to": str(DAY)}
    answer = idle_service.http.post("/recomputations", json=body | {"mode": "plan"}, headers=AUTHORISED)
    assert (ended.code, ended.err) == (0, "")
    assert ended.json == answer.json()


@pytest.mark.parametrize("others", [["--verify"], ["--wait"], ["--verify", "--wait"]])
def test_a_plan_goes_with_no_other_mode_and_no_wait(idle_service: Service, others: list[str]) -> None:
    ended = ask(idle_service, *recompute(DAY, DAY, "--plan", *others))

    assert ended.code == 2
    assert ended.error == "--plan enters no run: it goes with neither --verify nor --wait"


def test_a_verification_without_drift_ends_well(shop: Service) -> None:
    ended = ask(shop, *recompute(dataset.FIRST, dataset.LAST, "--verify", "--wait"))

    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert (ended.code, ended.err) == (0, "")
    assert shown["mode"].strip() == "verify"
    assert shown["drifted_days"].strip() == "0"


async def test_a_verification_that_finds_drift_lists_it_and_says_no(shop: Service, database: Connection) -> None:
    await database.execute("UPDATE rollup_source_status SET event_count = event_count + 1 WHERE day = $1", DAY)
    rows = await database.fetchval("SELECT count(*) FROM rollup_source_status WHERE day = $1", DAY)

    ended = ask(shop, *recompute(dataset.FIRST, dataset.LAST, "--verify", "--wait"))

    assert ended.code == 1
    header, drifted = ended.out.splitlines()[-2:]
    assert header.split() == ["rollup", "day", "rows_missing", "rows_surplus", "rows_different"]
    assert drifted.split() == ["source_status", str(DAY), "0", "0", str(rows)]
    assert "recompute them" in ended.err
    mended = ask(shop, *recompute(DAY, DAY, "--wait"))
    again = ask(shop, *recompute(dataset.FIRST, dataset.LAST, "--verify", "--wait", "--json"))
    assert (mended.code, again.code, again.json["data"]["drift"]) == (0, 0, [])


def test_runs_can_be_listed_by_mode(idle_service: Service) -> None:
    rebuild = ask(idle_service, *recompute("2023-05-01", "2023-05-01", "--json")).json["data"]["id"]
    verify = ask(idle_service, *recompute("2023-05-01", "2023-05-01", "--verify", "--json")).json["data"]["id"]

    listed = {mode: ask(idle_service, "runs", "--mode", mode, "--limit", "100").out for mode in ("rebuild", "verify")}

    assert rebuild in listed["rebuild"]
    assert rebuild not in listed["verify"]
    assert verify in listed["verify"]
    assert "pending verify 0 of 1" in listed["verify"]
    assert ask(idle_service, "runs", "--mode", "plan").error == "mode: must be one of rebuild, verify"


async def test_a_rebuild_of_frozen_days_is_a_wrong_argument(shop: Service, database: Connection) -> None:
    await database.execute("UPDATE horizons SET kept_from = '2024-02-21' WHERE subject = 'events'")

    ended = ask(shop, *recompute(DAY, DAY, "--wait"))

    assert ended.code == 2
    assert "the first day that can be rebuilt: 2024-02-21" in ended.error
