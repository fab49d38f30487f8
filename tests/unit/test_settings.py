"""Settings: the defaults of the contract, what each kind of text may be, and that a wrong one is named in one line."""

import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_analytics import __version__
from pg_analytics.settings import (
    SECRETS,
    Settings,
    SettingsError,
    load,
    parse_duration,
    require_database,
    require_management_key,
    require_redis,
    setting_docs,
)

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

#: Read by commands that ask a service, not by the service.
OF_THE_COMMAND_LINE = {"PG_ANALYTICS_URL"}

DURATIONS = [setting.variable for setting in setting_docs() if re.fullmatch(r"\d+(ms|s|m|h)", setting.default or "")]


def complaint(variable: str, text: str) -> str:
    """What is said of a wrong setting: one line that starts with its name."""
    with pytest.raises(SettingsError) as raised:
        load({variable: text})
    message = str(raised.value)
    assert message.startswith(f"{variable} must be ")
    assert "\n" not in message
    return message


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load({})

    assert (settings.database_url, settings.redis_url, settings.management_api_key) == (None, None, None)
    assert (settings.env, settings.host, settings.port) == ("development", "127.0.0.1", 3004)
    assert settings.version == __version__
    assert (settings.auto_migrate, settings.auto_seed) == (True, False)
    assert settings.max_report_range_days == 366
    assert settings.recompute_lock_ttl == timedelta(minutes=15)
    assert (settings.recompute_workers, settings.recompute_queue_size) == (1, 64)
    assert settings.http_read_timeout == timedelta(seconds=10)
    assert settings.http_write_timeout == timedelta(seconds=20)
    assert settings.http_shutdown_timeout == timedelta(seconds=15)


def test_what_is_set_is_taken_and_what_is_not_ours_is_passed_over() -> None:
    settings = load(
        {
            "DATABASE_URL": "postgresql://u:p@host:5432/db",
            "REDIS_URL": "rediss://:p@host/3",
            "MANAGEMENT_API_KEY": "schlüssel",
            "APP_PORT": "80",
            "APP_AUTO_SEED": "TRUE",
            "RECOMPUTE_WORKERS": "0",
            "HTTP_READ_TIMEOUT": "250ms",
            "LOG_FORMAT": "json",
            "HOME": "/somewhere",
            "APP_UNKNOWN": "",
        }
    )

    assert settings.database_url == "postgresql://u:p@host:5432/db"
    assert (settings.redis_url, settings.management_api_key) == ("rediss://:p@host/3", "schlüssel")
    assert (settings.port, settings.auto_seed, settings.recompute_workers) == (80, True, 0)
    assert (settings.http_read_timeout, settings.log_format) == (timedelta(milliseconds=250), "json")


@pytest.mark.parametrize("variable", [setting.variable for setting in setting_docs()])
def test_an_empty_value_is_wrong_and_not_unset(variable: str) -> None:
    assert complaint(variable, "") == f"{variable} must be set to a value or not set at all; it is empty"


@pytest.mark.parametrize(
    "variable,text",
    [
        *(("APP_PORT", text) for text in ("0", "65536", "-1", "3004.0", "http", " 80", "80 ", "٨٠", "+80", "9" * 30)),
        *(("APP_AUTO_MIGRATE", text) for text in ("maybe", "2", "yes!", " true", "tru")),
        *(("RECOMPUTE_WORKERS", text) for text in ("-1", "65", "one")),
        *(("RECOMPUTE_QUEUE_SIZE", text) for text in ("0", "100001")),
        *(("MAX_REPORT_RANGE_DAYS", text) for text in ("0", "36601", "366d")),
        *(("POSTGRES_POOL_SIZE", text) for text in ("0", "201")),
        *(("APP_HOST", text) for text in ("a\nb", "x" * 256, "\x00")),
        *(("LOG_LEVEL", text) for text in ("INFO", "trace")),
        *(("LOG_FORMAT", text) for text in ("JSON", "xml")),
        ("PG_ANALYTICS_SERVERS", "docker"),
    ],
)
def test_a_value_that_does_not_parse_is_named_with_what_it_was(variable: str, text: str) -> None:
    assert complaint(variable, text).endswith(f", not {text!r}")


@pytest.mark.parametrize("variable", DURATIONS)
@pytest.mark.parametrize("text", ["10", "0s", "0ms", "1.5s", "-1s", "1 s", "1S", "1d", "s", "1h30m", "1s\n", "\u0665s"])
def test_a_duration_is_a_whole_number_with_a_unit(variable: str, text: str) -> None:
    assert "250ms, 10s, 15m or 2h" in complaint(variable, text)


@given(st.integers(1, 999_999_999), st.sampled_from([("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]))
def test_every_duration_is_read_exactly(number: int, unit: tuple[str, int]) -> None:
    name, milliseconds = unit

    assert parse_duration(f"{number}{name}") // timedelta(milliseconds=1) == number * milliseconds


@pytest.mark.parametrize(
    "variable,text",
    [
        ("DATABASE_URL", "mysql://user:hush@host/db"),
        ("DATABASE_URL", "hush"),
        ("DATABASE_URL", "postgresql://user:hush@host:99999/db"),
        ("DATABASE_URL", "postgresql://user:hush@[host/db"),
        ("REDIS_URL", "http://:hush@host"),
        ("REDIS_URL", "redis://:hush@host:port"),
        ("MANAGEMENT_API_KEY", "hush\n"),
        ("MANAGEMENT_API_KEY", "hush" * 64),
    ],
)
def test_a_secret_is_never_repeated(variable: str, text: str) -> None:
    assert variable in SECRETS
    assert "hush" not in complaint(variable, text)


def test_secrets_are_not_shown_by_the_settings_themselves() -> None:
    urls = {"DATABASE_URL": "postgresql://user:hush@host/db", "REDIS_URL": "redis://:hush@host"}

    shown = repr(load(urls | {"MANAGEMENT_API_KEY": "hush"}))

    assert "hush" not in shown
    assert "127.0.0.1" in shown


@pytest.mark.parametrize("environment", [{}, {"MANAGEMENT_API_KEY": "change-me"}])
def test_there_is_no_default_key(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="MANAGEMENT_API_KEY"):
        require_management_key(load(environment))


def test_what_is_required_is_named_with_the_way_out() -> None:
    nothing = load({})

    with pytest.raises(SettingsError, match=r"DATABASE_URL is not set.*pg-analytics demo"):
        require_database(nothing)
    with pytest.raises(SettingsError, match=r"REDIS_URL is not set.*pg-analytics demo"):
        require_redis(nothing)


def test_what_is_required_is_handed_out_where_it_is_set() -> None:
    urls: dict[str, Any] = {"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h", "MANAGEMENT_API_KEY": "a key"}
    settings = load(urls)

    required = (require_database(settings), require_redis(settings), require_management_key(settings))
    assert required == tuple(urls.values())


def test_the_reference_page_has_a_row_for_each_setting_and_no_other() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\| (.+) \|$", page, re.MULTILINE)

    of_the_service = [row for row in rows if row[0] not in OF_THE_COMMAND_LINE]
    assert of_the_service == [(setting.variable, setting.default or "", setting.help) for setting in setting_docs()]
    assert len(of_the_service) == len(fields(Settings))
