"""Whose folder is it: the lock, the place of the data, and a server that a dead owner left running.

```
FOLDER/postgres/   lock        held by the owner while its server may run; contains the owner's pid
                   data/       the server's own, and all that it may write
                   password    log    log.previous
                   moved-to    or this instead of all but the lock: see below
FOLDER/redis/      the same, and redis.conf
```

Where the account that runs the servers for root cannot enter FOLDER (see `account`), all but the lock goes to
`/var/tmp/pg-analytics-<hash of the path>`, and `moved-to` says so. What lies there without a `moved-to` that
names it belonged to a folder of the same path that has been deleted since, and is removed.
"""

import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import Final

from pg_analytics.embedded.account import (
    ROOT_PLACE,
    Account,
    ServersError,
    account_for,
    can_enter,
    make_root_folder,
    run,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """What every PostgreSQL, or every Redis, of ours has in common."""

    name: str
    folder: str
    programs: tuple[str, ...]  # the server's program goes by one of these names
    pid_file: str  # in the data folder; its first line is the pid
    stop_signal: Signals  # disconnects clients and leaves clean data
    abort_signal: Signals  # ends at once, with a recovery at the next start


POSTGRES: Final = Kind(
    name="PostgreSQL",
    folder="postgres",
    programs=("postgres",),
    pid_file="postmaster.pid",
    stop_signal=SIGINT,  # SIGTERM would wait until the clients leave by themselves
    abort_signal=SIGQUIT,
)
REDIS: Final = Kind(
    name="Redis",
    folder="redis",
    programs=("valkey-server", "redis-server"),
    pid_file="redis.pid",
    stop_signal=SIGTERM,
    abort_signal=SIGKILL,
)

#: Seconds that a server gets for a clean end, and then for an abrupt one.
STOP_PATIENCE: Final = 20.0
ABORT_PATIENCE: Final = 5.0


class Lock:
    """An advisory lock on a file, for one owner at a time; it ends with the owner's process at the latest.

    `flock`, since a record lock would let the same process in twice. Servers do not inherit it (the
    descriptor closes on exec); a fork of the owner that executes nothing else does, and holds the folder
    while it lives.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise `ServersError` with the pid of its owner."""
        while self._descriptor is None:
            descriptor = open_private(self._path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 20).decode().strip() or "unknown"
                os.close(descriptor)
                folder = self._path.parent
                raise ServersError(f"{folder} is already in use by process {owner}: stop it first") from None
            # Since reset() removes the file while it holds the lock, ours may be that of a file that is gone.
            if self._path.exists() and self._path.stat().st_ino == os.fstat(descriptor).st_ino:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                self._descriptor = descriptor
            else:
                os.close(descriptor)

    def release(self) -> None:
        """Let the next owner in; does nothing when not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True, slots=True)
class Home:
    """The claimed folder of one server, and where its data really lie."""

    kind: Kind
    folder: Path
    account: Account | None
    lock: Lock

    @property
    def data(self) -> Path:
        """The server's data folder; it exists once the server was initialised."""
        return self.folder / "data"

    def make_folder(self, name: str) -> Path:
        """An empty folder of the server's, in place of what there was by that name."""
        path = self.folder / name
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(mode=0o700)
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        return path

    def write(self, name: str, text: str) -> Path:
        """A file with `text` that only we and the server can read."""
        path = self.folder / name
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_TRUNC, self.account), "w") as file:
            file.write(text)
        return path

    def password(self) -> str:
        """The password of this folder's server, made up at the first call."""
        path = self.folder / "password"
        if not path.exists():
            self.write("password", f"{secrets.token_hex(16)}\n")
        return path.read_text().strip()


def open_private(path: Path, flags: int, owner: Account | None = None) -> int:
    """Open or make a file of mode 0600 that belongs to `owner`; never through a symbolic link."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, mode=0o600)
    if owner is not None:
        os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
    return descriptor


def claim(requested: Path, kind: Kind) -> Home:
    """Make us the owner of the server of this kind in `requested`, which is created if need be.

    A server that a dead owner left running there is stopped, with a warning. Raises `ServersError` when
    another owner lives, or the folder cannot be used.
    """
    here = requested.resolve() / kind.folder
    lock = Lock(here / "lock")
    try:
        here.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock.acquire()
        home = _place(here, kind, lock)
        stop_leftover(home)
    except OSError as error:
        lock.release()
        raise ServersError(f"cannot use {here}: {error.strerror or error}") from error
    except BaseException:
        lock.release()
        raise
    return home


def _place(here: Path, kind: Kind, lock: Lock) -> Home:
    """Decide where the data lie; `here` is ours by `lock`."""
    account = account_for(here / "data")
    if account is None:
        return Home(kind, here, None, lock)
    moved = _moved(here)
    noted = _note(here).exists() and _note(here).read_text().strip() == str(moved)
    if not noted and can_enter(account, here):
        return Home(kind, here, account, lock)
    make_root_folder(moved)
    home = Home(kind, moved, account_for(moved / "data"), lock)
    if not noted:
        stop_leftover(home)
        shutil.rmtree(moved)
        make_root_folder(moved)
        (moved / "moved-from").write_text(f"{here}\n")  # for a person who wonders whose it is
        _note(here).write_text(f"{moved}\n")
    return home


def _moved(here: Path) -> Path:
    return ROOT_PLACE / f"pg-analytics-{hashlib.sha256(os.fsencode(here)).hexdigest()[:16]}"


def _note(here: Path) -> Path:
    return here / "moved-to"


def reset(requested: Path) -> None:
    """Remove all data of the servers in `requested`, wherever they lie; `ServersError` while in use."""
    for kind in (POSTGRES, REDIS):
        here = requested.resolve() / kind.folder
        if here.exists():
            home = claim(requested, kind)
            try:
                shutil.rmtree(home.folder)
                if home.folder != here:
                    shutil.rmtree(here)
            finally:
                home.lock.release()


def stop_leftover(home: Home) -> None:
    """Stop the server that runs in this folder though its owner died, and remove the pid file.

    The file alone proves nothing: its process may have ended, and the number be somebody else's now.
    """
    kind = home.kind
    pid_file = home.data / kind.pid_file
    pid = _first_number(pid_file)
    if pid is not None and _runs_here(pid, home):
        logger.warning(
            "stopping %s (process %d), left running in %s by an owner that died", kind.name, pid, home.folder
        )
        stages = (
            (kind.stop_signal, STOP_PATIENCE),
            (kind.abort_signal, ABORT_PATIENCE),
            (SIGKILL, ABORT_PATIENCE),
        )
        if not any(_ends(pid, home, number, patience) for number, patience in stages):
            raise ServersError(f"{kind.name} (process {pid}) in {home.folder} does not stop: end it yourself")
    # PostgreSQL would believe a reused number. It knows survivors of a killed server by their shared memory.
    pid_file.unlink(missing_ok=True)


def _ends(pid: int, home: Home, number: Signals, patience: float) -> bool:
    """Signal a leftover; whether it ends within `patience` seconds. No child of ours, it must be watched."""
    deadline = time.monotonic() + patience
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    while _runs_here(pid, home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _first_number(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _runs_here(pid: int, home: Home) -> bool:
    """Whether this process lives, and is a server of this kind that was given a path in this folder."""
    programs = "|".join(home.kind.programs)
    given = rf"{re.escape(str(home.folder))}/(data|redis\.conf)"
    return re.search(rf"^(\S.*/)?({programs}) (.* )?{given}( |$)", command_line(pid)) is not None


def command_line(pid: int) -> str:
    """Arguments of a process with blanks between them; empty when it is dead, reaped or not."""
    if sys.platform == "linux":
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        except OSError:
            return ""
    return run(["ps", "-ww", "-o", "command=", "-p", str(pid)], account=None, folder=Path("/")).stdout
