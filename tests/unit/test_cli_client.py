"""Where the service is, and which key is sent there."""

from pathlib import Path

import pytest

from pg_analytics.cli.client import Managing, Service, _events
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.settings import SettingsError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and none of the variables that matter."""
    monkeypatch.chdir(tmp_path)
    for name in ("PG_ANALYTICS_URL", "APP_PORT", "MANAGEMENT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def url_of(given: str | None = None) -> str:
    return Service(Managing(given))._url


def key_for(url: str | None = None, key_file: Path | None = None) -> str | None:
    return Service(Managing(url, key_file=key_file))._key


def write_demo_key(key: str) -> None:
    Path(".pg-analytics").mkdir()
    Path(".pg-analytics", "management-key").write_text(f"{key}\n")


def test_the_service_is_on_this_machine_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert url_of() == "http://127.0.0.1:3004"
    monkeypatch.setenv("APP_PORT", "8080")
    assert url_of() == "http://127.0.0.1:8080"
    monkeypatch.setenv("PG_ANALYTICS_URL", "https://reports.example/prefix/")
    assert url_of() == "https://reports.example/prefix"
    assert url_of("http://[::1]:5") == "http://[::1]:5"


@pytest.mark.parametrize(
    "url", ["localhost:3004", "ftp://host", "http://", "http://[::1", "http://host:0", "http://host:99999", "/reports"]
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(CommandError) as refused:
        url_of(url)

    assert refused.value.exit_code is ExitCode.USAGE


def test_a_setting_of_the_service_alone_does_not_disturb_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_READ_TIMEOUT", "soon")

    assert url_of() == "http://127.0.0.1:3004"


def test_the_key_comes_from_a_file_before_the_environment_before_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert key_for() is None
    write_demo_key("of-the-demo")
    assert key_for() == "of-the-demo"
    monkeypatch.setenv("MANAGEMENT_API_KEY", "of-the-environment")
    assert key_for() == "of-the-environment"
    (tmp_path / "key").write_text("of-the-file\n")
    assert key_for(key_file=tmp_path / "key") == "of-the-file"


@pytest.mark.parametrize("url", ["http://127.0.0.1:3004", "http://localhost:1", "http://[::1]:3004"])
def test_the_key_of_the_demo_is_sent_to_this_machine(url: str) -> None:
    write_demo_key("of-the-demo")

    assert key_for(url) == "of-the-demo"


@pytest.mark.parametrize("url", ["https://reports.example", "http://10.0.0.1:3004", "http://127.0.0.1.example"])
def test_the_key_of_the_demo_is_sent_to_no_other_machine(url: str) -> None:
    write_demo_key("of-the-demo")

    assert key_for(url) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"x" * 300])
def test_a_file_that_holds_no_key_is_refused_without_repeating_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)

    with pytest.raises(CommandError, match="must hold one line of printable text") as refused:
        key_for(key_file=tmp_path / "key")

    assert refused.value.exit_code is ExitCode.USAGE


def test_an_empty_key_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGEMENT_API_KEY", "")

    with pytest.raises(SettingsError):
        key_for()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_of_a_stream_are_read_however_they_are_cut(size: int) -> None:
    stream = (
        'retry: 1000\nevent: progress\ndata: {"n": "a\u2028b"}\n\n: still there\n\nevent: end\ndata: 2\n\n'.encode()
    )
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]

    assert list(_events(pieces)) == [{"n": "a\u2028b"}, 2]


def test_an_event_that_was_cut_off_is_none() -> None:
    assert list(_events([b'data: 1\n\nevent: progress\ndata: {"n":'])) == [1]
