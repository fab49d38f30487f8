"""The demo: the whole service in one process, on a PostgreSQL and a Redis of its own. The command is in `demo`.

    folder lock ─→ port ─→ key ─→ PostgreSQL, Redis ─→ app.serve (migrates, seeds, serves, works) ─→ all stopped

What can fail without having changed anything comes first. Whatever was started is stopped, however the demo ends:
Ctrl-C and SIGTERM arrive as KeyboardInterrupt until `app.serve` takes them over, and are ignored during the stop, which
ends by itself within seconds. Only `kill -9` leaves something behind, the file `running`; the next demo says so,
and the servers recover.
"""

import os
import secrets
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import uvloop

from pg_analytics import app
from pg_analytics import settings as settings_module
from pg_analytics.cli import backend, output
from pg_analytics.cli.client import BASE_PATH, DEMO_DATABASE_URL, DEMO_KEY
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.embedded import postgres, redis
from pg_analytics.embedded.account import ServersError
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import Lock, open_private, reset
from pg_analytics.settings import Settings

#: Is there while a demo runs, and after one that was killed.
_RUNNING: Final = "running"
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def run(folder: Path, *, port: int | None, fresh: bool) -> None:
    """Run the demo in `folder` until a signal; `CommandError` when something keeps it from that."""
    settings = backend.configure({} if port is None else {"APP_PORT": str(port)})
    if fresh and settings.database_url is not None:
        raise CommandError(
            ExitCode.USAGE, "--fresh does not empty the database that DATABASE_URL names: unset one of them"
        )
    with backend.one_line_errors(), _stopped_in_the_end() as started:
        started.enter_context(_claimed(folder))
        _check_port(settings)
        own_key = settings.management_api_key is None
        if own_key:
            settings = replace(settings, management_api_key=_kept_key(folder))
        settings_module.require_management_key(settings)
        settings = _with_servers(settings, folder, started, fresh=fresh)
        started.enter_context(_told_database(settings, folder))
        uvloop.run(app.serve(settings, on_ready=lambda: _welcome(settings, folder, own_key=own_key)))
    output.notice("the demo has stopped")


@contextmanager
def _stopped_in_the_end() -> Iterator[ExitStack]:
    """What is entered in the block is left in the end, undisturbed by signals."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as started:
        try:
            yield started
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Be the only demo in `folder`, which is made if need be."""
    running = folder / _RUNNING
    lock = Lock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if running.exists():
            output.notice(f"the last demo in {folder} was killed; its data are recovered")
        running.touch()
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    except ServersError as error:
        raise CommandError(
            ExitCode.CONFLICT,
            f"a demo runs here already: {error}",
            hint="or start this one elsewhere: pg-analytics demo --folder FOLDER --port PORT",
        ) from None
    except OSError as error:
        raise CommandError(ExitCode.USAGE, f"cannot use the folder {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        running.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _told_database(settings: Settings, folder: Path) -> Iterator[None]:
    """While the demo runs, its database stands in a file that only its owner can read, for `example` and the like."""
    told = folder / DEMO_DATABASE_URL
    with os.fdopen(open_private(told, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
        file.write(f"{settings.database_url}\n")
    try:
        yield
    finally:
        told.unlink(missing_ok=True)


def _check_port(settings: Settings) -> None:
    try:
        app.claim_port(settings.host, settings.port).close()
    except app.StartError as error:
        another = settings.port % 65535 + 1
        way_out = f"APP_PORT={another} make demo, or pg-analytics demo --port {another}"
        raise CommandError(ExitCode.UNAVAILABLE, str(error), hint=way_out) from None


def _kept_key(folder: Path) -> str:
    """The management key of the demos in `folder`, made up at the first one; only its owner can read it."""
    with os.fdopen(open_private(folder / DEMO_KEY, os.O_RDWR), "r+", encoding="utf-8") as file:
        key = file.read().strip()
        if not key:
            key = secrets.token_urlsafe(24)
            file.write(f"{key}\n")
    return key


def _with_servers(settings: Settings, folder: Path, started: ExitStack, *, fresh: bool) -> Settings:
    """`settings` with the URLs of servers of our own where none are given."""
    if fresh:
        reset(folder)
    binaries = Binaries(settings.servers)
    if settings.database_url is None:
        server = started.enter_context(postgres.start(folder, binaries=binaries, durable=True))
        output.notice(f"PostgreSQL {server.version} ({server.origin}) keeps its data in {server.folder}")
        settings = replace(settings, database_url=server.url)
    if settings.redis_url is None:
        server = started.enter_context(redis.start(folder, binaries=binaries, durable=True))
        output.notice(f"Redis {server.version} ({server.origin}) keeps its data in {server.folder}")
        settings = replace(settings, redis_url=server.url)
    return replace(settings, auto_migrate=True, auto_seed=True)


def _welcome(settings: Settings, folder: Path, *, own_key: bool) -> None:
    """What to try, now that the service answers. A key that was given to us is not repeated."""
    host = "127.0.0.1" if settings.host in _EVERYWHERE else settings.host
    origin = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    api = origin + BASE_PATH
    key = (
        shlex.quote(f"X-Management-Key: {settings.management_api_key}")
        if own_key
        else '"X-Management-Key: $MANAGEMENT_API_KEY"'
    )
    last = app.utc_now().date() - timedelta(days=1)
    scope = f'"date_from":"{last - timedelta(days=6)}","date_to":"{last}"'
    body = f'{{"report_slug":"status-counts","window":"day",{scope}}}'
    lines = [
        f"The demo answers at {origin}. Try, in another terminal:",
        "",
        f"  curl -s {api}/health",
        f"  curl -s '{api}/reports/volume-by-period/run?window=week&breakdown=source'",
        f"  curl -s {api}/recomputations -H {key} -d '{body}'",
        f"  curl -s {api}/audit-entries -H {key}",
        f"  {_program()} run volume-by-period --url {origin}",
        f"  {_program()} example flights",
        "",
        *([f"Management key: {settings.management_api_key} (kept in {folder / DEMO_KEY})"] if own_key else []),
        "Ctrl-C stops everything.",
    ]
    print("\n".join(lines), flush=True)


def _program() -> str:
    """What to type for `pg-analytics`: `make demo` calls it by its path, as it need not be on PATH."""
    typed = Path(sys.argv[0])
    on_path = shutil.which("pg-analytics") is not None
    return str(typed) if typed.name == "pg-analytics" and not on_path else "pg-analytics"
