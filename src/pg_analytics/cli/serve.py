"""The commands that are the service: `serve` answers requests, `worker` performs recomputation runs."""

from typing import Final

from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.cli.teaching import command

_ENDS: Final = (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.UNAVAILABLE, ExitCode.INTERNAL)

serve: Final = command("serve", settings=None, ends=_ENDS)
worker: Final = command(
    "worker",
    settings=(
        *("DATABASE_URL", "REDIS_URL", "APP_AUTO_MIGRATE", "APP_ENV", "LOG_FORMAT", "LOG_LEVEL"),
        *("RECOMPUTE_WORKERS", "RECOMPUTE_LEASE", "RECOMPUTE_LOCK_TTL", "POSTGRES_TIMEOUT", "REDIS_TIMEOUT"),
    ),
    ends=_ENDS,
)


@serve.default
def _serve() -> ExitCode:
    """Serve reports over HTTP and perform recomputation runs, until Ctrl-C.

    Needs a PostgreSQL, a Redis and a management key; `pg-analytics demo` needs none
    of them. Pending migrations are applied first, unless APP_AUTO_MIGRATE is false.
    Logs go to standard error.

    It ends when the requests in flight are answered. A second Ctrl-C ends it at
    once, and does no harm: the next service that starts takes its runs up again.

    For example:

        export DATABASE_URL=postgresql://user:password@127.0.0.1/analytics
        export REDIS_URL=redis://127.0.0.1/0
        export MANAGEMENT_API_KEY=$(openssl rand -hex 16)
        pg-analytics serve
        APP_PORT=8080 RECOMPUTE_WORKERS=0 pg-analytics serve
        HTTP_PROCESSES=4 pg-analytics serve
    """
    from pg_analytics.cli import backend  # noqa: PLC0415 - slow, see there

    return backend.serve()


@worker.default
def _worker() -> None:
    """Perform recomputation runs, and nothing else, until Ctrl-C.

    For when runs should not share a process with requests: start `serve` with
    RECOMPUTE_WORKERS=0, and as many of these as you like. A worker that dies is
    noticed, and its run goes on in another one.

    For example:

        pg-analytics worker
        RECOMPUTE_WORKERS=4 pg-analytics worker
    """
    from pg_analytics.cli import backend  # noqa: PLC0415 - slow, see there

    backend.work()
