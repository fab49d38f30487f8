"""Every setting of the service: one frozen object, read once from the environment.

Each field of `Settings` says which variable it is read from, how its text is parsed and what it is for; the
reference page `docs/reference/settings.md` is held to this table by a test. A value that does not parse
raises `SettingsError`, whose message is one line that names the variable and never repeats a secret.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from pg_analytics import __version__

_DURATION: Final = re.compile(r"(\d{1,9})(ms|s|m|h)", re.ASCII)
_DURATION_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_MAX_TEXT: Final = 255
_WHOLE_NUMBER: Final = re.compile(r"\d{1,9}", re.ASCII)
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


class SettingsError(Exception):
    """A setting is missing or does not parse. The message is one line for a person."""


def parse_duration(text: str) -> timedelta:
    """`250ms`, `10s`, `15m` or `2h`, more than zero; `ValueError` otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError("a duration above zero such as 250ms, 10s, 15m or 2h")
    return timedelta(milliseconds=int(match[1]) * _DURATION_UNIT_MS[match[2]])


def _parse_interval(text: str) -> timedelta:
    if text == "0":
        return timedelta(0)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{error}, or 0 to turn it off") from None


def _parse_integer(text: str, *, minimum: int, maximum: int) -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or not minimum <= int(text) <= maximum:
        raise ValueError(f"a whole number from {minimum} to {maximum}")
    return int(text)


def _parse_boolean(text: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise ValueError("true or false")
    return value


def _parse_url(text: str, *, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(text)
        known = parts.scheme in schemes and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return text


def _parse_text(text: str) -> str:
    if not text.isprintable() or len(text) > _MAX_TEXT:
        raise ValueError(f"printable text of at most {_MAX_TEXT} characters")
    return text


def _parse_choice(text: str, *, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    return text


def _setting(variable: str, parse: Callable[[str], Any], help_: str, *, default: Any) -> Any:
    """A field of `Settings`; `default` is written as it would stand in the environment, None means unset."""
    metadata = {"variable": variable, "parse": parse, "help": help_, "default": default}
    return field(metadata=metadata, repr=variable not in SECRETS)


#: Variables whose values never stand in a log, an error or a `repr`.
SECRETS: Final = frozenset({"DATABASE_URL", "REDIS_URL", "MANAGEMENT_API_KEY"})

_duration = parse_duration
_postgres_url = partial(_parse_url, schemes=("postgresql", "postgres"))
_redis_url = partial(_parse_url, schemes=("redis", "rediss", "unix"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service was told by its environment. Durations are `timedelta`."""

    database_url: str | None = _setting(
        "DATABASE_URL",
        _postgres_url,
        "PostgreSQL to use: `postgresql://user:password@host:port/database`.",
        default=None,
    )
    redis_url: str | None = _setting(
        "REDIS_URL", _redis_url, "Redis or Valkey to use: `redis://:password@host:port/0`.", default=None
    )
    management_api_key: str | None = _setting(
        "MANAGEMENT_API_KEY",
        _parse_text,
        "Key of the management endpoints. `serve` refuses to start without one, or on `change-me`.",
        default=None,
    )
    env: str = _setting(
        "APP_ENV", _parse_text, "Name of the environment, written on every log line.", default="development"
    )
    host: str = _setting(
        "APP_HOST",
        _parse_text,
        "Address to listen on. Nothing but loopback unless you say so.",
        default="127.0.0.1",
    )
    port: int = _setting(
        "APP_PORT", partial(_parse_integer, minimum=1, maximum=65535), "Port to listen on.", default="3004"
    )
    version: str = _setting("APP_VERSION", _parse_text, "Version that the health check reports.", default=__version__)
    auto_migrate: bool = _setting(
        "APP_AUTO_MIGRATE", _parse_boolean, "Apply pending migrations at start.", default="true"
    )
    auto_seed: bool = _setting(
        "APP_AUTO_SEED",
        _parse_boolean,
        "Load the demo events at start if there are no events.",
        default="false",
    )
    max_report_range_days: int = _setting(
        "MAX_REPORT_RANGE_DAYS",
        partial(_parse_integer, minimum=1, maximum=36_600),
        "The most days that a report or a recomputation may ask for.",
        default="366",
    )
    max_fresh_days: int = _setting(
        "MAX_FRESH_DAYS",
        partial(_parse_integer, minimum=0, maximum=36_600),
        "The most stale days whose events a report with `fresh=true` counts.",
        default="31",
    )
    recompute_lock_ttl: timedelta = _setting(
        "RECOMPUTE_LOCK_TTL",
        _duration,
        "Life of a scope lock in Redis; renewed while its run is worked on.",
        default="15m",
    )
    recompute_lease: timedelta = _setting(
        "RECOMPUTE_LEASE",
        _duration,
        "A worker silent for this long has lost its run to the next one.",
        default="10s",
    )
    recompute_workers: int = _setting(
        "RECOMPUTE_WORKERS",
        partial(_parse_integer, minimum=0, maximum=64),
        "Workers inside `serve`, or of `worker`. 0 in `serve` leaves the backlog to `pg-analytics worker`.",
        default="1",
    )
    recompute_queue_size: int = _setting(
        "RECOMPUTE_QUEUE_SIZE",
        partial(_parse_integer, minimum=1, maximum=100_000),
        "The most runs that may be pending.",
        default="64",
    )
    refresh_interval: timedelta = _setting(
        "REFRESH_INTERVAL",
        _parse_interval,
        "How often a worker brings snapshots up to date with changed events by itself: the newest day at most once per "
        "interval, older days gathered for eight. `0` turns it off.",
        default="500ms",
    )
    http_read_timeout: timedelta = _setting(
        "HTTP_READ_TIMEOUT",
        _duration,
        "A request's head, and then its body, must arrive within this.",
        default="10s",
    )
    http_write_timeout: timedelta = _setting(
        "HTTP_WRITE_TIMEOUT",
        _duration,
        "A request is answered within this, with 503 at the latest.",
        default="20s",
    )
    http_shutdown_timeout: timedelta = _setting(
        "HTTP_SHUTDOWN_TIMEOUT",
        _duration,
        "How long requests in flight may take to end after SIGTERM.",
        default="15s",
    )
    http_processes: int = _setting(
        "HTTP_PROCESSES",
        partial(_parse_integer, minimum=1, maximum=64),
        "Processes of `serve` that answer on its port. Only the first of them has workers.",
        default="1",
    )
    postgres_pool_size: int = _setting(
        "POSTGRES_POOL_SIZE",
        partial(_parse_integer, minimum=1, maximum=200),
        "Connections, in each process, that answer requests; workers, health check and version watch have their own.",
        default="8",
    )
    postgres_timeout: timedelta = _setting(
        "POSTGRES_TIMEOUT",
        _duration,
        "Longest wait for a connection, and longest statement of a request.",
        default="5s",
    )
    redis_timeout: timedelta = _setting(
        "REDIS_TIMEOUT",
        _duration,
        "Longest wait for Redis before the request goes on without it.",
        default="100ms",
    )
    memory_cache_mb: int = _setting(
        "MEMORY_CACHE_MB",
        partial(_parse_integer, minimum=0, maximum=65_536),
        "Megabytes of answers that each process keeps in its own memory, in front of Redis. `0` keeps none.",
        default="64",
    )
    warm_up_answers: int = _setting(
        "WARM_UP_ANSWERS",
        partial(_parse_integer, minimum=0, maximum=1_000),
        "How many answers of a report, of those asked for most, each process computes again when its numbers have "
        "changed, before anybody asks. `0` computes none.",
        default="0",
    )
    log_format: str = _setting(
        "LOG_FORMAT",
        partial(_parse_choice, choices=("auto", "text", "json")),
        "`text` for people, `json` for programs, `auto`: text on a terminal, JSON otherwise.",
        default="auto",
    )
    log_level: str = _setting(
        "LOG_LEVEL",
        partial(_parse_choice, choices=("debug", "info", "warning", "error")),
        "Least level that is logged.",
        default="info",
    )
    servers: str = _setting(
        "PG_ANALYTICS_SERVERS",
        partial(_parse_choice, choices=("auto", "system", "wheel")),
        "Where `demo` and the tests find PostgreSQL and Redis: on the system, in the wheels, or the first of both.",
        default="auto",
    )


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One row of the settings reference."""

    variable: str
    default: str | None
    help: str


def setting_docs() -> list[SettingDoc]:
    """Every setting in the order of `Settings`, for the reference page and `--help`."""
    return [SettingDoc(f.metadata["variable"], f.metadata["default"], f.metadata["help"]) for f in fields(Settings)]


def load(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`; `SettingsError` for the first one that does not parse.

    An empty value counts as wrong, not as unset: `MANAGEMENT_API_KEY=` must never mean "no key needed".
    """
    values: dict[str, Any] = {}
    for f in fields(Settings):
        variable = f.metadata["variable"]
        text = environ.get(variable, f.metadata["default"])
        try:
            values[f.name] = None if text is None else f.metadata["parse"](text) if text else _refuse_empty()
        except ValueError as error:
            shown = "" if variable in SECRETS or not text else f", not {text!r}"
            raise SettingsError(f"{variable} must be {error}{shown}") from None
    return Settings(**values)


def _refuse_empty() -> Any:
    raise ValueError("set to a value or not set at all; it is empty")


def require_database(settings: Settings) -> str:
    """`DATABASE_URL`, or `SettingsError` with the ways out."""
    if settings.database_url is None:
        raise SettingsError(
            "DATABASE_URL is not set: name a PostgreSQL, or try `pg-analytics demo`, which brings its own"
        )
    return settings.database_url


def require_redis(settings: Settings) -> str:
    """`REDIS_URL`, or `SettingsError` with the ways out."""
    if settings.redis_url is None:
        raise SettingsError(
            "REDIS_URL is not set: name a Redis or Valkey, or try `pg-analytics demo`, which brings its own"
        )
    return settings.redis_url


def require_management_key(settings: Settings) -> str:
    """`MANAGEMENT_API_KEY`, or `SettingsError`: there is no default key, and `change-me` is not one."""
    key = settings.management_api_key
    if key is None or key == "change-me":
        raise SettingsError("MANAGEMENT_API_KEY must be set to a secret of your own (not `change-me`)")
    return key
