"""Who runs a server when we are root, what that account can reach, and commands run by it.

PostgreSQL refuses to be root, so another account must run it: the owner of the data where there are some,
else `postgres`, else `nobody`. Such an account often cannot enter a checkout (/root, `mktemp -d`), and
opening those up is not our business: what it needs is put into folders that root makes in /var/tmp. An
ordinary user runs the servers under its own account, written `None` here, and none of this happens.
"""

import os
import pwd
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

Account = pwd.struct_passwd

#: Exists on every Unix, is open to all and outlives a reboot.
ROOT_PLACE: Final = Path("/var/tmp")  # noqa: S108 - make_root_folder() refuses what others made there

#: Longest time for a command to end, and for a server to be ready, in seconds.
START_TIMEOUT: Final = 30.0

_ACCOUNTS: Final = ("postgres", "_postgres", "nobody")
_INHERITED: Final = ("PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class ServersError(Exception):
    """A server cannot be had. The first line is for a person, with the ways out; log lines may follow."""


def account_for(data: Path) -> Account | None:
    """Who shall run the server with these data, there or not yet; None: ourselves, who are not root."""
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    if owner != 0:
        try:
            return pwd.getpwuid(owner)
        except KeyError:
            raise ServersError(f"{data} belongs to user {owner}, who has no account here") from None
    for name in _ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServersError(
        f"root cannot run the servers and none of the accounts {', '.join(_ACCOUNTS)} exists: "
        "be an ordinary user, or set DATABASE_URL and REDIS_URL"
    )


def can_enter(account: Account | None, path: Path) -> bool:
    """Whether `account` can search this folder or execute this file; tried, as modes are half the truth."""
    if account is None:
        return os.access(path, os.X_OK)
    return run(["test", "-x", path], account=account, folder=Path("/")).returncode == 0


def make_root_folder(path: Path) -> None:
    """Make `path`, which all can enter and root can write, or verify that it is so; `ServersError` if not.

    Verified, as anybody may put anything in its place into a folder such as /var/tmp.
    """
    try:
        path.mkdir()
        path.chmod(0o755)  # whatever the umask is
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
            raise ServersError(f"{path} is not a folder that only root can change: remove it") from None


def environment() -> dict[str, str]:
    """For the servers and their tools: no PGPORT or LC_MESSAGES of the user's changes what they do."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_ALL": "C"}


def run(
    command: Sequence[str | Path], *, account: Account | None, folder: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a short command as `account` in `folder`; its output and its errors together are `stdout`.

    Raises `ServersError` when it takes longer than `START_TIMEOUT` or cannot be executed.
    """
    identity: dict[str, Any] = {}
    if account is not None:
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        return subprocess.run(  # noqa: S603 - the programs are found by us, the arguments made by us
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            errors="replace",
            timeout=START_TIMEOUT,
            cwd=folder,
            env=environment(),
            umask=0o077,
            **identity,
        )
    except subprocess.TimeoutExpired:
        raise ServersError(f"{command[0]} did not end within {START_TIMEOUT:.0f} seconds") from None
    except OSError as error:
        raise ServersError(f"{command[0]} cannot be executed: {error.strerror}") from None
