"""The command that tries everything out. What is behind it is in `demo_service`."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from pg_analytics.cli.client import DEMO_FOLDER
from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.cli.teaching import command

demo: Final = command(
    "demo",
    settings=("APP_PORT", "APP_HOST", "DATABASE_URL", "REDIS_URL", "MANAGEMENT_API_KEY", "PG_ANALYTICS_SERVERS"),
    ends=(ExitCode.OK, ExitCode.USAGE, ExitCode.CONFLICT, ExitCode.UNAVAILABLE, ExitCode.INTERNAL),
)


@demo.default
def _demo(
    *,
    fresh: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    port: int | None = None,
    folder: Path = DEMO_FOLDER,
) -> None:
    """Start everything, load demo events, serve until Ctrl-C, stop everything.

    Needs nothing but this program. PostgreSQL and Redis are started on free ports
    of this machine, unless DATABASE_URL and REDIS_URL name some; their data stay in
    a folder between demos. As soon as the service answers, it prints commands to
    try, and the management key that it made up.

    For example:

        pg-analytics demo
        pg-analytics demo --fresh
        pg-analytics demo --port 3005 --folder /tmp/second-demo

    :param fresh: Start over: remove the data of earlier demos in the folder first.
    :param port: Port to listen on. [default: APP_PORT]
    :param folder: Where data, logs and the key are kept.
    """
    from pg_analytics.cli import demo_service  # noqa: PLC0415 - slow, as `backend`

    demo_service.run(folder, port=port, fresh=fresh)
