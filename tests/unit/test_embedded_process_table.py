"""What is read from the table of processes: from /proc on Linux, else from `ps`, which Linux mostly has too."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_analytics.embedded.account import account_for
from pg_analytics.embedded.folder import POSTGRES, Home, Lock, _runs_here, command_line
from pg_analytics.embedded.process import _children

WAYS = [sys.platform] if sys.platform != "linux" or shutil.which("ps") is None else ["linux", "by ps"]


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", request.param)


def _process(name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process of ours that calls itself `name` and ends with its input."""
    command = [name, "-c", "echo; read line", *arguments]
    process = subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # only now is it sure to have its command line
    return process


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with _process("/opt/of mine/postgres", "-D", "/some/where/data", "it's") as process:
        yield process


def test_a_command_line_is_read_with_its_arguments(child: subprocess.Popen[bytes]) -> None:
    assert command_line(child.pid).strip() == "/opt/of mine/postgres -c echo; read line -D /some/where/data it's"


def test_the_dead_have_no_command_line_reaped_or_not(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    unreaped = command_line(child.pid)
    child.wait()
    assert "/some/where" not in unreaped
    assert command_line(child.pid) == ""


def test_children_are_found_and_other_processes_are_not(child: subprocess.Popen[bytes]) -> None:
    assert child.pid in _children(os.getpid())
    assert os.getppid() not in _children(os.getpid())
    assert _children(child.pid) == []


@pytest.mark.parametrize(
    "name, arguments, ours",
    [
        ("/usr/bin/postgres", ["-D", "/some/where/data", "-c", "port=1"], True),
        ("postgres", ["-D", "/some/where/data"], True),
        ("/usr/bin/postgres", ["-D", "/some/where/else/data"], False),
        ("/usr/bin/postgres", ["-D", "/some/where/database"], False),
        ("/usr/bin/postgres", ["-D", "/some/where-else/data"], False),
        ("/usr/bin/vim", ["/some/where/data/postgresql.conf"], False),
        ("/usr/bin/not-postgres", ["-D", "/some/where/data"], False),
        ("postgres:", ["/some/where/data"], False),
    ],
)
def test_a_leftover_is_the_servers_program_in_our_folder(name: str, arguments: list[str], *, ours: bool) -> None:
    folder = Path("/some/where")
    home = Home(POSTGRES, folder, account_for(folder), Lock(folder / "lock"))
    with _process(name, *arguments) as process:
        assert _runs_here(process.pid, home) is ours
