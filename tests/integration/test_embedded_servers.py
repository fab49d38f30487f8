"""What holds for both servers of our own: the folder and its owner, leftovers, ports, restarts, root.

Faults are real: processes are killed and frozen, ports are taken, pid files lie. As root the very same tests also
show that the servers run under another account, with their data where it can reach them.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis as redis_client

from pg_analytics.embedded import postgres, process, redis
from pg_analytics.embedded.account import ROOT_PLACE, ServersError
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import Lock, _moved, command_line, reset
from pg_analytics.embedded.process import Server

pytestmark = [pytest.mark.servers, pytest.mark.own_servers]

AS_ROOT = os.geteuid() == 0


def _query(url: str, statement: str) -> Any:
    async def ask() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def _keep_in_postgres(url: str) -> None:
    _query(url, "CREATE TABLE kept AS SELECT 'yes' AS answer")


def _kept_in_postgres(url: str) -> bool:
    return _query(url, "SELECT to_regclass('kept')::text") is not None


def _keep_in_redis(url: str) -> None:
    with redis_client.Redis.from_url(url) as client:
        client.set("kept", "yes")


def _kept_in_redis(url: str) -> bool:
    with redis_client.Redis.from_url(url) as client:
        return client.get("kept") is not None


@dataclass(frozen=True)
class Kind:
    """One of the servers, and how a test leaves a trace in it."""

    name: str
    start: Callable[..., Server]
    keep: Callable[[str], None]
    kept: Callable[[str], bool]
    binaries: Binaries

    def start_in(self, folder: Path) -> Server:
        """Start it so that what it holds outlives it, on this machine."""
        return self.start(folder, binaries=self.binaries, durable=self.name == "redis")


@pytest.fixture(params=["postgres", "redis"])
def kind(request: pytest.FixtureRequest, binaries: Binaries) -> Kind:
    if request.param == "postgres":
        return Kind("postgres", postgres.start, _keep_in_postgres, _kept_in_postgres, binaries)
    return Kind("redis", redis.start, _keep_in_redis, _kept_in_redis, binaries)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """As in a clone below /root or `mktemp -d`: nobody but its owner can enter it."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    yield private
    reset(private)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every account can enter, which `tmp_path` is not."""
    path = Path(mkdtemp(prefix="pg-analytics-test-", dir=ROOT_PLACE))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def _is_dead(pid: int) -> bool:
    return command_line(pid) == ""


def _log(server: Server) -> str:
    return (server.folder / "log").read_text(errors="replace")


def _run_as_servers_account(server: Server, command: list[str]) -> subprocess.Popen[bytes]:
    owner = (server.folder / "data").stat()
    identity: dict[str, Any] = {}
    if AS_ROOT:
        identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    with (server.folder / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=server.folder / "data",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            **identity,
        )


OWNER = """
import sys
from pathlib import Path
from pg_analytics.embedded import postgres, redis
from pg_analytics.embedded.binaries import Binaries
server = {"postgres": postgres, "redis": redis}[sys.argv[1]].start(
    Path(sys.argv[2]), binaries=Binaries(sys.argv[3]), durable=sys.argv[1] == "redis"
)
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""


def _start_owner(kind: Kind, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OWNER, kind.name, str(folder), kind.binaries]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _pid_and_url(owner: subprocess.Popen[str]) -> tuple[int, str]:
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    return int(pid), url


def test_data_and_password_are_kept_from_one_start_to_the_next(kind: Kind, folder: Path) -> None:
    with kind.start_in(folder) as server:
        first = urlsplit(server.url)
        kind.keep(server.url)
    assert not server.alive()
    with kind.start_in(folder) as server:
        assert kind.kept(server.url)
        assert urlsplit(server.url).password == first.password


def test_the_password_is_in_a_private_file_and_on_no_command_line(kind: Kind, folder: Path) -> None:
    with kind.start_in(folder) as server:
        password = urlsplit(server.url).password
        assert password is not None
        assert password not in command_line(server.pid)
        holding = [
            file for file in server.folder.rglob("*") if file.is_file() and password.encode() in file.read_bytes()
        ]
        assert server.folder / "password" in holding
        assert {stat.S_IMODE(file.stat().st_mode) for file in holding} == {0o600}


def test_stop_can_be_called_again_and_gives_the_folder_back(kind: Kind, folder: Path) -> None:
    server = kind.start_in(folder)
    server.stop()
    server.stop()
    kind.start_in(folder).stop()


def test_a_folder_in_use_is_refused_and_its_owner_is_named(kind: Kind, folder: Path) -> None:
    with _start_owner(kind, folder) as owner:
        _, url = _pid_and_url(owner)
        with pytest.raises(ServersError, match=rf"in use by process {owner.pid}\b"):
            kind.start_in(folder)
        with pytest.raises(ServersError, match=rf"in use by process {owner.pid}\b"):
            reset(folder)
        kind.keep(url)  # the server in use noticed nothing
        assert kind.kept(url)


def test_a_second_start_in_the_same_process_is_refused_too(kind: Kind, folder: Path) -> None:
    with (
        kind.start_in(folder) as server,
        pytest.raises(ServersError, match=rf"in use by process {os.getpid()}\b"),
    ):
        kind.start_in(folder)
    assert not server.alive()


def test_data_outlive_an_owner_that_is_killed_and_on_linux_the_server_does_not(kind: Kind, folder: Path) -> None:
    with _start_owner(kind, folder) as owner:
        pid, url = _pid_and_url(owner)
        kind.keep(url)
        owner.kill()
        owner.wait()
        if sys.platform == "linux":
            _until(lambda: _is_dead(pid), "the server followed its owner")
    with kind.start_in(folder) as server:
        assert kind.kept(server.url)


def test_a_server_does_not_inherit_the_lock_of_its_owner(kind: Kind, folder: Path) -> None:
    with _start_owner(kind, folder) as owner:
        pid, _ = _pid_and_url(owner)
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
    with kind.start_in(folder) as server:
        kind.keep(server.url)
        command = server._program.command(server._port)
    with _run_as_servers_account(server, command) as leftover:
        _until(lambda: _answers(server, leftover.pid), "the leftover is ready")
        with caplog.at_level(logging.WARNING), kind.start_in(folder) as server:
            assert leftover.wait() == 0, "it was asked to stop, not killed"
            assert kind.kept(server.url)
    assert [f"process {leftover.pid})" in record.message for record in caplog.records] == [True]


def _answers(server: Server, pid: int) -> bool:
    return server._program.is_ready(pid, server._port)


def test_a_pid_file_that_names_a_process_of_somebody_else_harms_nobody(
    kind: Kind, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with kind.start_in(folder) as server:
        kind.keep(server.url)
        pid_file = server.folder / "data" / server._program.home.kind.pid_file
        content = pid_file.read_text()
    # A process of the very account, with the folder on its command line: but not the server.
    command = ["sh", "-c", "read line", f"{server.folder}/data"]
    with _run_as_servers_account(server, command) as stranger:
        try:
            pid_file.write_text(content.replace(str(server.pid), str(stranger.pid)))
            with caplog.at_level(logging.WARNING), kind.start_in(folder) as server:
                assert kind.kept(server.url)
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert caplog.records == []


@pytest.mark.parametrize("before", ["nothing", "stop", "kill", "freeze"])
def test_a_server_comes_back_under_its_url_whatever_happened_before(kind: Kind, folder: Path, before: str) -> None:
    with kind.start_in(folder) as server:
        url, pid = server.url, server.pid
        kind.keep(url)
        if before == "stop":
            server.stop()
        elif before == "kill":
            server.kill()
        elif before == "freeze":
            os.kill(server.pid, signal.SIGSTOP)
        server.restart()
        assert server.alive()
        assert (server.url, server.pid != pid) == (url, True)
        # Redis writes its data when it is asked to stop; PostgreSQL has them on disk already.
        assert kind.kept(url) == (kind.name == "postgres" or before != "kill")
        with pytest.raises(ServersError, match="in use"):
            kind.start_in(folder)
    assert _is_dead(pid)


def test_a_port_taken_since_it_was_chosen_is_given_up_for_another(
    kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [other.getsockname()[1], process.free_port()]
        monkeypatch.setattr(process, "free_port", lambda: ports.pop(0))
        with kind.start_in(folder) as server:
            assert ports == []
            kind.keep(server.url)


def test_a_restart_waits_until_its_port_is_free(kind: Kind, folder: Path) -> None:
    with kind.start_in(folder) as server:
        server.stop()
        with socket.create_server(("127.0.0.1", server._port)):
            restarting = threading.Thread(target=server.restart)
            restarting.start()
            _until(lambda: "Address already in use" in _log(server), "the server met the other one")
        restarting.join()
        kind.keep(server.url)


def test_a_server_outlives_the_thread_that_started_it(kind: Kind, folder: Path) -> None:
    started: list[Server] = []
    thread = threading.Thread(target=lambda: started.append(kind.start_in(folder)))
    thread.start()
    thread.join()
    task = Path(f"/proc/self/task/{thread.native_id}")
    _until(lambda: not task.exists(), "the kernel's thread is gone, and the signal sent if there is one")
    with started[0] as server:
        kind.keep(server.url)
        assert kind.kept(server.url)


def test_a_server_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(kind: Kind, folder: Path) -> None:
    with kind.start_in(folder) as server:
        assert os.getsid(server.pid) == server.pid
        assert os.getpgid(server.pid) == server.pid


def test_signals_that_the_owner_blocks_still_reach_its_servers(kind: Kind, folder: Path) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        server = kind.start_in(folder)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.kill(server.pid, server._program.home.kind.stop_signal)
    _until(lambda: not server.alive(), "the server heard the signal")
    server.stop()


def test_settings_in_the_users_environment_do_not_reach_the_servers(
    kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as environment:
        for name in ("PGDATA", "PGPORT", "PGOPTIONS", "LC_ALL", "LANG"):
            environment.setenv(name, "nonsense")
        server = kind.start_in(folder)
    with server:
        kind.keep(server.url)


def test_a_private_folder_stays_private_and_no_server_runs_as_root(kind: Kind, folder: Path) -> None:
    note = folder / kind.name / "moved-to"
    with kind.start_in(folder) as server:
        assert (server.folder / "data").stat().st_uid == _user_of(server.pid)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        if AS_ROOT:
            assert _user_of(server.pid) != 0
            assert server.folder.parent == ROOT_PLACE
            assert note.read_text().strip() == str(server.folder)
            assert (server.folder / "moved-from").read_text().strip() == str(folder / kind.name)
        else:
            assert server.folder == folder / kind.name
            assert not note.exists()
        kind.keep(server.url)
    with kind.start_in(folder) as again:
        assert again.folder == server.folder
        assert kind.kept(again.url)
    reset(folder)
    assert not server.folder.exists()
    assert list(folder.iterdir()) == []


def _user_of(pid: int) -> int:
    command = ["ps", "-o", "uid=", "-p", str(pid)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def test_data_stay_in_a_folder_that_all_accounts_can_enter(kind: Kind, public: Path) -> None:
    with kind.start_in(public) as server:
        assert server.folder == public / kind.name
    reset(public)
    assert list(public.iterdir()) == []


def test_a_new_clone_at_the_path_of_a_deleted_one_starts_empty(kind: Kind, folder: Path) -> None:
    with kind.start_in(folder) as server:
        kind.keep(server.url)
    shutil.rmtree(folder / kind.name)
    with kind.start_in(folder) as server:
        assert not kind.kept(server.url)


def test_root_refuses_a_place_for_the_data_that_somebody_else_made(kind: Kind, folder: Path, tmp_path: Path) -> None:
    trap = _moved(folder / kind.name)
    trap.symlink_to(tmp_path)
    try:
        if AS_ROOT:
            with pytest.raises(ServersError, match="only root can change"):
                kind.start_in(folder)
        else:  # it never goes there
            kind.start_in(folder).stop()
    finally:
        trap.unlink()
    assert list(tmp_path.iterdir()) == [folder]
