"""The composition root: settings become pools, services and routes. The only module that knows everybody."""

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import asyncpg
import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from starlette.routing import Mount, Router
from starlette.types import ASGIApp

from pg_analytics import settings as settings_module
from pg_analytics.audit import routes as audit_routes
from pg_analytics.events.seed import seed
from pg_analytics.health import routes as health_routes
from pg_analytics.health.probes import Probes
from pg_analytics.http import gateway
from pg_analytics.http.auth import ManagementKey
from pg_analytics.http.gateway import Gateway
from pg_analytics.postgres.migrate import migrate
from pg_analytics.postgres.pool import LOST, Postgres, connection_options, describe
from pg_analytics.postgres.regularly import Regularly
from pg_analytics.postgres.statements import statements_of
from pg_analytics.recompute import routes as recompute_routes
from pg_analytics.recompute import schedule, schedule_routes
from pg_analytics.recompute.schedule import Scheduler
from pg_analytics.recompute.stream import RunStreams
from pg_analytics.recompute.trigger import Trigger
from pg_analytics.recompute.worker import CONNECTIONS, Workers, WorkerSettings
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports import routes as report_routes
from pg_analytics.reports import store as report_store
from pg_analytics.reports.batches import Batches
from pg_analytics.reports.cache import ReportCache
from pg_analytics.reports.catalog import Catalog, install_builtin_reports
from pg_analytics.reports.hits import Hits, Misses
from pg_analytics.reports.memory import Memory
from pg_analytics.reports.run import ReportRunner
from pg_analytics.reports.store import ReportCall, ReportRows
from pg_analytics.settings import Settings
from pg_analytics.snapshots import retention
from pg_analytics.snapshots.refresh import Refresher
from pg_analytics.snapshots.retention import Retention

_log: Final = structlog.get_logger(__name__)

BASE_PATH: Final = "/api/v1"

#: How long a start waits for a PostgreSQL that is still starting.
_START_PATIENCE_S: Final = 30
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_PREPARE_TIMEOUT: Final = timedelta(minutes=10)
_CHUNK_TIMEOUT: Final = timedelta(minutes=10)
#: Where the statements are that a rebuild, and whoever records it, may need.
REBUILDING_PACKAGES: Final = ("pg_analytics.snapshots", "pg_analytics.recompute", "pg_analytics.audit")
#: A rebuild that cannot have a lock for this long says so, and tries again.
_LOCK_TIMEOUT: Final = timedelta(seconds=2)
#: The groups of a full day fit into this; twice as many do in the hash tables of PostgreSQL 15 and newer.
_REBUILD_WORK_MEM: Final = "16MB"

#: A ranking of some 100,000 entities fits into this. Nor does one report take more than a core: helpers of its own made
#: none quicker, and took the cores of others.
REPORT_WORK_MEM: Final = "32MB"

#: Connections of the requests' pool that no report takes: the catalogue and the operators shall not queue behind them.
_RESERVED_CONNECTIONS: Final = 2
#: How many requests may wait for each connection that computes reports, and for how long.
_QUEUE_PER_PLACE: Final = 16
_QUEUE_PATIENCE_S: Final = 1.0
#: See `gc.set_threshold`.
COLLECT_AFTER: Final = (20_000, 20, 20)


class _Duty(Protocol):
    """What a worker process does in the background."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End, leaving nothing half-done."""


class StartError(Exception):
    """The service cannot start. One line for a person."""


def utc_now() -> datetime:
    """The clock of the service."""
    return datetime.now(UTC)


async def prepare_database(settings: Settings, *, migrate_schema: bool, seed_events: bool) -> None:
    """Migrate, enter the built-in reports and seed, as asked; waits for a PostgreSQL that is still starting."""
    if not (migrate_schema or seed_events):
        return
    connection = await connect_patiently(settings_module.require_database(settings))
    try:
        if migrate_schema:
            for migration in await migrate(connection):
                _log.info("migrated", migration=migration.name)
            await install_builtin_reports(connection)
        if seed_events and (count := await seed(connection, today=utc_now().date())):
            _log.info("seeded", events=count)
    finally:
        await connection.close(timeout=5)


async def connect_patiently(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection for set-up work; `StartError` if PostgreSQL does not let us in for half a minute."""
    patience = asyncio.get_running_loop().time() + _START_PATIENCE_S
    while True:
        try:
            return await asyncpg.connect(url, **connection_options("setup", _CONNECT_TIMEOUT, _PREPARE_TIMEOUT))
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise StartError(f"DATABASE_URL: PostgreSQL refuses the connection ({type(error).__name__})") from None
        except LOST as error:
            if asyncio.get_running_loop().time() > patience:
                raise StartError(f"DATABASE_URL: PostgreSQL cannot be reached ({describe(error)})") from None
            _log.warning("waiting_for_postgres", error=describe(error))
            await asyncio.sleep(1)


@asynccontextmanager
async def workers(settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> AsyncIterator[Workers]:
    """`RECOMPUTE_WORKERS` workers at work, and, where there are any, what keeps the snapshots up to date by itself."""
    url = settings_module.require_database(settings)
    count = settings.recompute_workers
    postgres = rebuilding(settings, size=max(1, CONNECTIONS * count), name="worker")
    refresher_postgres = rebuilding(settings, size=1, name="refresher")
    upkeep_postgres = rebuilding(settings, size=2, name="upkeep")
    redis = RedisClient(settings_module.require_redis(settings), timeout=settings.redis_timeout)
    times = WorkerSettings(lease=settings.recompute_lease, lock_ttl=settings.recompute_lock_ttl)
    running = Workers(url, postgres, redis, count=count, settings=times)
    refresher = Refresher(
        refresher_postgres, interval=settings.refresh_interval, on_versions=ReportCache(redis).mirror_versions
    )
    scheduler = Scheduler(queue_size=settings.recompute_queue_size, clock=clock)
    duties: list[_Duty] = [running]
    if count:
        duties += [
            Regularly(upkeep_postgres, scheduler.look, every=schedule.LOOK_EVERY, name="scheduler"),
            Regularly(upkeep_postgres, Retention(clock).look, every=retention.SWEEP_EVERY, name="retention"),
        ]
    pools = [postgres, upkeep_postgres]
    if count and settings.refresh_interval:
        duties.append(refresher)
        pools.append(refresher_postgres)
    for pool in pools:
        await pool.open()
    if count:
        await asyncio.gather(*(pool.warm_up() for pool in pools))
    for duty in duties:
        await duty.start()
    try:
        yield running
    finally:
        await asyncio.gather(*(duty.stop() for duty in duties))
        for pool in pools:
            await pool.close()
        await redis.close()


def rebuilding(settings: Settings, *, size: int, name: str) -> Postgres:
    """A pool whose connections rebuild days."""
    return Postgres(
        settings_module.require_database(settings),
        size=size,
        timeout=settings.postgres_timeout,
        name=name,
        statement_timeout=_CHUNK_TIMEOUT,
        lock_timeout=_LOCK_TIMEOUT,
        work_mem=_REBUILD_WORK_MEM,
        prepared=statements_of(*REBUILDING_PACKAGES),
    )


@asynccontextmanager
async def application(
    settings: Settings, *, stopping: asyncio.Event, clock: Callable[[], datetime] = utc_now
) -> AsyncIterator[ASGIApp]:
    """The HTTP application with everything behind it running. Once `stopping` is set, it ends its streams."""
    url = settings_module.require_database(settings)
    redis_url = settings_module.require_redis(settings)
    key = ManagementKey(settings_module.require_management_key(settings))
    postgres = Postgres(
        url,
        size=settings.postgres_pool_size,
        timeout=settings.postgres_timeout,
        name="api",
        work_mem=REPORT_WORK_MEM,
        parallel=False,
        generic_plans=True,
    )
    redis = RedisClient(redis_url, timeout=settings.redis_timeout)
    probe_redis = RedisClient(redis_url, timeout=settings.redis_timeout)
    probes = Probes(url, probe_redis)
    cache = ReportCache(redis)
    memory = Memory(max_bytes=settings.memory_cache_mb * 1024 * 1024)
    catalog = Catalog(url, postgres, cache, memory)
    runner = _runner(settings, catalog, cache, memory, postgres, clock=clock)
    trigger = Trigger(
        postgres=postgres,
        redis=redis,
        lock_ttl=settings.recompute_lock_ttl,
        queue_size=settings.recompute_queue_size,
        max_range_days=settings.max_report_range_days,
    )
    streams = RunStreams(postgres, stopping=stopping)
    api = [
        *health_routes.routes(probes, version=settings.version, clock=clock),
        *report_routes.routes(postgres),
        *recompute_routes.routes(postgres, trigger, streams, key, body_timeout=settings.http_read_timeout),
        *schedule_routes.routes(postgres, key, body_timeout=settings.http_read_timeout),
        *audit_routes.routes(postgres, key),
    ]
    # A router of its own, since the one that Mount makes would redirect a trailing slash.
    mounted = Mount(BASE_PATH, app=Router(routes=api, redirect_slashes=False))
    routes = [mounted, *health_routes.probe_routes(probes)]
    await postgres.open()
    await catalog.start()
    try:
        reports = f"{BASE_PATH}/reports/"
        misses = Misses(gateway.router(routes), runner, below=reports)
        yield Hits(Gateway(misses, deadline=settings.http_write_timeout), catalog, runner, below=reports)
    finally:
        await catalog.stop()
        await probes.close()
        await postgres.close()
        await redis.close()
        await probe_redis.close()


def _runner(
    settings: Settings,
    catalog: Catalog,
    cache: ReportCache,
    memory: Memory,
    postgres: Postgres,
    *,
    clock: Callable[[], datetime],
) -> ReportRunner:
    """Who runs the reports, on connections of `postgres`, but not on all of them."""

    async def run(calls: Sequence[ReportCall]) -> list[ReportRows]:
        async with postgres.connection() as connection:
            return await report_store.run_reports(connection, calls)

    places = max(1, settings.postgres_pool_size - _RESERVED_CONNECTIONS)
    return ReportRunner(
        catalog,
        cache,
        memory,
        Batches(run, places=places, queue=places * _QUEUE_PER_PLACE, patience_s=_QUEUE_PATIENCE_S),
        max_range_days=settings.max_report_range_days,
        max_fresh_days=settings.max_fresh_days,
        warm_up=settings.warm_up_answers,
        clock=clock,
    )


async def serve(settings: Settings, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Prepare everything, then answer requests and perform runs until SIGTERM or SIGINT."""
    claim = await prepare(settings)

    def ready() -> None:
        claim.close()  # the HTTP server holds the port now
        announce(settings)
        on_ready()

    await answer(settings, stopping=stop_signal(), on_ready=ready)


async def prepare(settings: Settings) -> socket.socket:
    """What comes before the first request: the settings are checked, the port is claimed, the database is prepared.
    `SettingsError`, `StartError` or `MigrationError` if that cannot be; else the claim, which is to be kept until
    somebody listens, or longer.
    """
    settings_module.require_management_key(settings)
    settings_module.require_redis(settings)
    claim = claim_port(settings.host, settings.port)
    await prepare_database(settings, migrate_schema=settings.auto_migrate, seed_events=settings.auto_seed)
    return claim


async def answer(settings: Settings, *, stopping: asyncio.Event, on_ready: Callable[[], None]) -> None:
    """Answer requests and perform runs until `stopping` is set; then let requests in flight end."""
    async with application(settings, stopping=stopping) as asgi, workers(settings):
        server = Server(
            asgi,
            address=settings.host,
            port=settings.port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=1024,
            http1_settings=HTTP1Settings(header_read_timeout=_milliseconds(settings.http_read_timeout)),
            log_enabled=False,
        )
        serving = asyncio.create_task(server.serve(), name="http-server")
        waiting = asyncio.create_task(stopping.wait())
        await _until_listening(settings, serving)
        _collect_rarely()
        on_ready()
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping")
        waiting.cancel()
        server.stop()  # type: ignore[no-untyped-call]
        _, late = await asyncio.wait({serving}, timeout=settings.http_shutdown_timeout.total_seconds())
        if late:
            _log.warning("requests_cut_off", after_s=settings.http_shutdown_timeout.total_seconds())
            serving.cancel()
    _log.info("stopped")


def _collect_rarely() -> None:
    """Look for garbage in cycles less often than usual, and not among what has been there since the start: requests
    leave next to none, and the search took a noticeable part of their time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def announce(settings: Settings, **more: object) -> None:
    """Log that requests are answered from now on, and where."""
    _log.info("listening", url=f"http://{settings.host}:{settings.port}", version=settings.version, **more)


def claim_port(host: str, port: int) -> socket.socket:
    """A socket that holds the port, without listening, against every other service until it is closed; `StartError`
    if it cannot be had. The HTTP server itself would not notice that: it listens with SO_REUSEPORT, and two services
    would share the port, each getting some of the requests.
    """
    family, kind, protocol, _, address = _resolve(host, port)
    claim = socket.socket(family, kind, protocol)
    try:
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.bind(address)
    except OSError as error:
        claim.close()
        raise StartError(
            f"APP_PORT: {host}:{port} cannot be listened on ({error.strerror}); try another port"
        ) from None
    # From now on our own HTTP servers may bind the port too, and nobody else.
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return claim


def _resolve(host: str, port: int) -> Any:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise StartError(f"APP_HOST: {host} is no address of this machine") from None


async def _until_listening(settings: Settings, serving: asyncio.Task[None]) -> None:
    while not serving.done():
        try:
            _, writer = await asyncio.open_connection(settings.host, settings.port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise StartError(f"APP_HOST: the HTTP server cannot listen on {settings.host}:{settings.port}")


async def work(settings: Settings) -> None:
    """Perform runs until SIGTERM or SIGINT."""
    await prepare_database(settings, migrate_schema=settings.auto_migrate, seed_events=False)
    stopping = stop_signal()
    async with workers(settings):
        _log.info("working", workers=settings.recompute_workers)
        await stopping.wait()
        _log.info("stopping")
    _log.info("stopped")


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; a second one ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        stopping.set()
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        loop.add_signal_handler(number, stop)
    return stopping


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
