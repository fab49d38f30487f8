"""What is particular to PostgreSQL: its settings, its versions, its first initialisation, its family of processes."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pg_analytics.embedded import account, postgres
from pg_analytics.embedded import binaries as binaries_module
from pg_analytics.embedded.account import ServersError, account_for
from pg_analytics.embedded.binaries import Binaries, find, within_reach
from pg_analytics.embedded.process import _children
from tests.embedded import fetch, is_dead, log_of, private_folder, public_folder, until

pytestmark = [pytest.mark.servers, pytest.mark.own_servers]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with private_folder(tmp_path) as private:
        yield private


@pytest.fixture
def public() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.mark.parametrize("source", [Binaries.SYSTEM, Binaries.WHEEL])
def test_the_forced_origin_is_used_or_its_lack_is_explained(folder: Path, source: Binaries) -> None:
    try:
        installed = find(postgres._WANTED, source, account_for(folder))
    except ServersError:
        with pytest.raises(ServersError, match=rf"SERVERS={source}.*pip install.*DATABASE_URL"):
            postgres.start(folder, binaries=source, durable=False)
        return
    with postgres.start(folder, binaries=source, durable=False) as server:
        assert server.origin.startswith(f"{source} /")
        assert server.version == ".".join(map(str, installed[0].version))
        assert fetch(server.url, "SHOW server_version")[0].startswith(server.version)


def test_the_database_is_utf8_without_a_language_and_reachable_by_loopback_and_password_only(
    folder: Path, binaries: Binaries
) -> None:
    with postgres.start(folder, binaries=binaries, durable=False) as server:
        assert server.url.startswith("postgresql://postgres:")
        assert fetch(
            server.url,
            """SELECT datname, pg_encoding_to_char(encoding), datcollate, datctype,
                      current_setting('listen_addresses'), current_setting('unix_socket_directories'),
                      current_setting('max_connections')
               FROM pg_database WHERE datname = current_database()""",
        ) == ("pg_analytics", "UTF8", "C", "C", "127.0.0.1", "", "200")
        with pytest.raises(asyncpg.InvalidPasswordError):
            fetch(server.url, "SELECT 1", password="wrong")
        assert fetch(
            server.url, "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'postgres'"
        ) == (True,)


def test_only_durable_data_survive_a_crash_of_the_machine(folder: Path, binaries: Binaries) -> None:
    for durable, setting in ((False, "off"), (True, "on")):
        with postgres.start(folder, binaries=binaries, durable=durable) as server:
            for name in ("fsync", "full_page_writes"):
                assert fetch(server.url, f"SHOW {name}") == (setting,)


def test_kill_ends_every_process_of_the_server_and_committed_data_come_back(folder: Path, binaries: Binaries) -> None:
    with postgres.start(folder, binaries=binaries, durable=False) as server:
        fetch(server.url, "CREATE TABLE kept AS SELECT 1")
        family = [server.pid, *_children(server.pid)]
        os.kill(family[1], signal.SIGSTOP)  # frozen, it would not notice that its parent has died
        server.kill()
        until(lambda: all(is_dead(pid) for pid in family), "all of them are gone")
        server.restart()
        assert fetch(server.url, "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'") == (1,)


def test_a_restart_waits_for_backends_that_outlived_their_killed_postmaster(folder: Path, binaries: Binaries) -> None:
    with postgres.start(folder, binaries=binaries, durable=False) as server:
        survivor = _children(server.pid)[0]
        os.kill(survivor, signal.SIGSTOP)  # frozen, it does not notice that its parent has died
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not server.alive(), "the postmaster is gone")
        restarting = threading.Thread(target=server.restart)
        restarting.start()
        until(lambda: "pre-existing shared memory block" in log_of(server), "the new one met the survivor")
        os.kill(survivor, signal.SIGKILL)
        restarting.join()
        assert fetch(server.url, "SELECT 1") == (1,)


def test_a_server_that_cannot_start_says_why_and_leaves_the_folder_free(folder: Path, binaries: Binaries) -> None:
    server = postgres.start(folder, binaries=binaries, durable=False)
    server.stop()
    settings = server.folder / "data" / "postgresql.conf"
    good = settings.read_text()
    settings.write_text("no_such_setting = 1\n")
    with pytest.raises(ServersError, match=r"PostgreSQL \(.*\) did not start(?s:.*)no_such_setting"):
        postgres.start(folder, binaries=binaries, durable=False)
    settings.write_text(good)
    postgres.start(folder, binaries=binaries, durable=False).stop()


def test_an_interrupted_initialisation_is_done_again(
    folder: Path, binaries: Binaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[object] = []

    def run(command: list[str | Path], **how: Any) -> Any:
        commands.append(command)
        if len(commands) > 1:  # initdb is done, the database is not
            raise KeyboardInterrupt
        return account.run(command, **how)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(postgres, "run", run)
        with pytest.raises(KeyboardInterrupt):
            postgres.start(folder, binaries=binaries, durable=False)
    with postgres.start(folder, binaries=binaries, durable=False) as server:
        assert fetch(server.url, "SELECT current_database()") == ("pg_analytics",)


def test_data_are_opened_by_the_version_that_made_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by the last choice for new data; the wheel alone holds two versions."""
    last = find(postgres._WANTED, Binaries.AUTO, account_for(folder))[-1].version[0]
    with monkeypatch.context() as without_the_others:
        wanted = replace(postgres._WANTED, supports=lambda version: version[0] == last)
        without_the_others.setattr(postgres, "_WANTED", wanted)
        postgres.start(folder, binaries=Binaries.AUTO, durable=False).stop()
    with postgres.start(folder, binaries=Binaries.AUTO, durable=False) as server:
        assert server.version.split(".")[0] == str(last)


def test_data_of_a_version_that_is_not_here_are_refused_with_both_versions(folder: Path, binaries: Binaries) -> None:
    server = postgres.start(folder, binaries=binaries, durable=False)
    server.stop()
    (server.folder / "data" / "PG_VERSION").write_text("13\n")
    here = server.version.split(".")[0]
    with pytest.raises(ServersError, match=rf"by PostgreSQL 13, and only .*\b{here}\b.*ARGS=--fresh"):
        postgres.start(folder, binaries=binaries, durable=False)


def test_an_environment_that_only_root_can_enter_serves_by_a_copy_made_once(
    folder: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a `.venv` below /root. An ordinary user executes the program where it is."""
    account = account_for(folder)
    wheel = find(postgres._WANTED, Binaries.WHEEL, account)[0].path
    package = wheel.parents[2]
    site = folder / "site"
    for part in (wheel.parents[1], Path(f"{package}.libs")):
        if part.exists():
            shutil.copytree(part, site / part.relative_to(package.parent), copy_function=_link)
    (site / package.name / "__init__.py").touch()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(binaries_module, "ROOT_PLACE", public)
    (private, *_) = find(postgres._WANTED, Binaries.WHEEL, account)
    assert private.path.is_relative_to(site)
    usable = within_reach(private, postgres._WANTED, account)
    if account is None:
        assert usable == private
    else:
        assert usable.path.is_relative_to(public)
        made = usable.path.stat().st_ctime_ns
        assert within_reach(private, postgres._WANTED, account).path.stat().st_ctime_ns == made
        usable.path.with_name("initdb").unlink()  # as a cleaner of /var/tmp might
    with postgres.start(folder, binaries=Binaries.WHEEL, durable=False) as server:
        assert server.origin == f"wheel {usable.path}"
        assert fetch(server.url, "SELECT 1") == (1,)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
