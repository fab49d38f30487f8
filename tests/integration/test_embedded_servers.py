"""What holds for both servers of our own: the folder and its owner, leftovers, ports, restarts, root.

Faults are real: processes are killed and frozen, ports are taken, pid files lie. As root the very same tests also
show that the servers run under another account, with their data where it can reach them.
"""

import logging
import os
import shutil
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pg_analytics.embedded import process
from pg_analytics.embedded.account import ROOT_PLACE, ServersError
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import Lock, _moved, command_line, reset
from pg_analytics.embedded.process import Server
from tests.embedded import (
    AS_ROOT,
    Kind,
    Postgres,
    Redis,
    is_dead,
    log_of,
    pid_and_url,
    private_folder,
    public_folder,
    run_as_account_of,
    start_owner,
    until,
)

pytestmark = [pytest.mark.servers, pytest.mark.own_servers]


@pytest.fixture(params=[Postgres, Redis], ids=["postgres", "redis"])
def kind(request: pytest.FixtureRequest, binaries: Binaries) -> Kind:
    made: Kind = request.param(binaries)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with private_folder(tmp_path) as private:
        yield private


@pytest.fixture
def public() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def test_data_and_password_are_kept_from_one_start_to_the_next(kind: Kind, folder: Path) -> None:
    with kind.start(folder) as server:
        first = urlsplit(server.url)
        kind.keep(server.url)
    assert not server.alive()
    with kind.start(folder) as server:
        assert kind.kept(server.url)
        assert urlsplit(server.url).password == first.password


def test_a_running_server_is_out_of_reach_for_ctrl_c_for_other_users_and_for_a_second_start(
    kind: Kind, folder: Path
) -> None:
    with kind.start(folder) as server:
        assert os.getsid(server.pid) == os.getpgid(server.pid) == server.pid  # a terminal signals its own session

        password = urlsplit(server.url).password
        assert password is not None
        assert password not in command_line(server.pid)
        files = [file for file in server.folder.rglob("*") if file.is_file()]
        holding = [file for file in files if password.encode() in file.read_bytes()]
        assert server.folder / "password" in holding
        assert {stat.S_IMODE(file.stat().st_mode) for file in holding} == {0o600}

        with pytest.raises(ServersError, match=rf"in use by process {os.getpid()}\b"):
            kind.start(folder)
        kind.keep(server.url)


def test_stop_can_be_called_again_and_gives_the_folder_back(kind: Kind, folder: Path) -> None:
    server = kind.start(folder)
    server.stop()
    server.stop()
    kind.start(folder).stop()


def test_a_folder_in_use_is_refused_and_its_owner_is_named(kind: Kind, folder: Path) -> None:
    with start_owner(kind, folder) as owner:
        _, url = pid_and_url(owner)
        with pytest.raises(ServersError, match=rf"in use by process {owner.pid}\b"):
            kind.start(folder)
        with pytest.raises(ServersError, match=rf"in use by process {owner.pid}\b"):
            reset(folder)
        kind.keep(url)  # the server in use noticed nothing
        assert kind.kept(url)


def test_data_outlive_an_owner_that_is_killed_and_on_linux_the_server_does_not(kind: Kind, folder: Path) -> None:
    with start_owner(kind, folder) as owner:
        pid, url = pid_and_url(owner)
        kind.keep(url)
        owner.kill()
        owner.wait()
        if sys.platform == "linux":
            until(lambda: is_dead(pid), "the server followed its owner")
    with kind.start(folder) as server:
        assert kind.kept(server.url)


def test_a_server_does_not_inherit_the_lock_of_its_owner(kind: Kind, folder: Path) -> None:
    with start_owner(kind, folder) as owner:
        pid, _ = pid_and_url(owner)
        os.kill(pid, signal.SIGSTOP)  # it lives on when its owner is gone
        try:
            owner.kill()
            owner.wait()
            lock = Lock(folder / kind.name / "lock")
            lock.acquire()
            lock.release()
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_server_that_a_dead_owner_left_running_is_stopped_with_a_warning_and_its_data_are_kept(
    kind: Kind, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with kind.start(folder) as server:
        kind.keep(server.url)
        command = server._program.command(server._port)
    with run_as_account_of(server, command) as leftover:
        until(lambda: _answers(server, leftover.pid), "the leftover is ready")
        with caplog.at_level(logging.WARNING), kind.start(folder) as server:
            assert leftover.wait() == 0, "it was asked to stop, not killed"
            assert kind.kept(server.url)
    assert [f"process {leftover.pid})" in record.message for record in caplog.records] == [True]


def _answers(server: Server, pid: int) -> bool:
    return server._program.is_ready(pid, server._port)


def test_a_pid_file_that_names_a_process_of_somebody_else_harms_nobody(
    kind: Kind, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with kind.start(folder) as server:
        kind.keep(server.url)
        pid_file = server.folder / "data" / server._program.home.kind.pid_file
        content = pid_file.read_text()
    # A process of the very account, with the folder on its command line: but not the server.
    command = ["sh", "-c", "read line", f"{server.folder}/data"]
    with run_as_account_of(server, command) as stranger:
        try:
            pid_file.write_text(content.replace(str(server.pid), str(stranger.pid)))
            with caplog.at_level(logging.WARNING), kind.start(folder) as server:
                assert kind.kept(server.url)
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert caplog.records == []


def test_a_server_comes_back_under_its_url_whatever_happened_before(kind: Kind, folder: Path) -> None:
    with kind.start(folder) as server:
        url = server.url
        faults = {
            "nothing": lambda: None,
            "stopped": server.stop,
            "frozen": lambda: os.kill(server.pid, signal.SIGSTOP),
            "killed": server.kill,
        }
        for fault, inflict in faults.items():
            kind.keep(url)
            pid = server.pid
            inflict()
            server.restart()
            assert server.alive(), fault
            assert server.url == url
            assert server.pid != pid
            assert is_dead(pid)
            # Redis writes its data when it is asked to stop; PostgreSQL has them on disk already.
            assert kind.kept(url) == (kind.name == "postgres" or fault != "killed"), fault
            kind.forget(url)
            with pytest.raises(ServersError, match="in use"):
                kind.start(folder)


def test_a_port_taken_since_it_was_chosen_is_given_up_for_another(
    kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [other.getsockname()[1], process.free_port()]
        monkeypatch.setattr(process, "free_port", lambda: ports.pop(0))
        with kind.start(folder) as server:
            assert ports == []
            kind.keep(server.url)


def test_a_restart_waits_until_its_port_is_free(kind: Kind, folder: Path) -> None:
    with kind.start(folder) as server:
        server.stop()
        with socket.create_server(("127.0.0.1", server._port)):
            restarting = threading.Thread(target=server.restart)
            restarting.start()
            until(lambda: "Address already in use" in log_of(server), "the server met the other one")
        restarting.join()
        kind.keep(server.url)


def test_a_server_outlives_the_thread_that_started_it(kind: Kind, folder: Path) -> None:
    started: list[Server] = []
    thread = threading.Thread(target=lambda: started.append(kind.start(folder)))
    thread.start()
    thread.join()
    task = Path(f"/proc/self/task/{thread.native_id}")
    until(lambda: not task.exists(), "the kernel's thread is gone, and the signal sent if there is one")
    with started[0] as server:
        kind.keep(server.url)
        assert kind.kept(server.url)


def test_signals_that_the_owner_blocks_still_reach_its_servers(kind: Kind, folder: Path) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        server = kind.start(folder)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.kill(server.pid, server._program.home.kind.stop_signal)
    until(lambda: not server.alive(), "the server heard the signal")
    server.stop()


def test_settings_in_the_users_environment_do_not_reach_the_servers(
    kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as environment:
        for name in ("PGDATA", "PGPORT", "PGOPTIONS", "LC_ALL", "LANG"):
            environment.setenv(name, "nonsense")
        server = kind.start(folder)
    with server:
        kind.keep(server.url)


def test_a_private_folder_stays_private_and_no_server_runs_as_root(kind: Kind, folder: Path) -> None:
    note = folder / kind.name / "moved-to"
    with kind.start(folder) as server:
        pid_file = server.folder / "data" / server._program.home.kind.pid_file
        user = pid_file.stat().st_uid  # the server made it
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        if AS_ROOT:
            assert user != 0
            assert server.folder.parent == ROOT_PLACE
            assert note.read_text().strip() == str(server.folder)
            assert (server.folder / "moved-from").read_text().strip() == str(folder / kind.name)
        else:
            assert user == os.geteuid()
            assert server.folder == folder / kind.name
            assert not note.exists()
        kind.keep(server.url)
    with kind.start(folder) as again:
        assert again.folder == server.folder
        assert kind.kept(again.url)
    reset(folder)
    assert not server.folder.exists()
    assert list(folder.iterdir()) == []


def test_data_stay_in_a_folder_that_all_accounts_can_enter(kind: Kind, public: Path) -> None:
    with kind.start(public) as server:
        assert server.folder == public / kind.name
    reset(public)
    assert list(public.iterdir()) == []


def test_a_new_clone_at_the_path_of_a_deleted_one_starts_empty(kind: Kind, folder: Path) -> None:
    with kind.start(folder) as server:
        kind.keep(server.url)
    shutil.rmtree(folder / kind.name)
    with kind.start(folder) as server:
        assert not kind.kept(server.url)


def test_root_refuses_a_place_for_the_data_that_somebody_else_made(kind: Kind, folder: Path, tmp_path: Path) -> None:
    trap = _moved(folder / kind.name)
    trap.symlink_to(tmp_path)
    try:
        if AS_ROOT:
            with pytest.raises(ServersError, match="only root can change"):
                kind.start(folder)
        else:  # it never goes there
            kind.start(folder).stop()
    finally:
        trap.unlink()
    assert list(tmp_path.iterdir()) == [folder]
