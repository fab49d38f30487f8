"""Lines of the log: which of them go out together, and that none is lost."""

import json
import os
import subprocess
import sys
from typing import Any

SETUP = """
import asyncio, logging, structlog
from pg_analytics import logs

logs.configure(format_="json", level="info", env="test")
log = structlog.get_logger()
"""


def lines(program: str, *, status: int = 0) -> list[dict[str, Any]]:
    """What a program wrote into its log until it ended with `status`."""
    ended = subprocess.run([sys.executable, "-c", SETUP + program], capture_output=True, check=False)
    assert ended.returncode == status, ended.stderr.decode()
    return [json.loads(line) for line in ended.stderr.splitlines()]


def writes(program: str) -> list[list[dict[str, Any]]]:
    """The lines of each write of a program."""
    reader, writer = os.pipe()
    prepared = f"import os\nos.dup2({writer}, 2)\nos.set_blocking(2, True)\n"
    with subprocess.Popen([sys.executable, "-c", prepared + SETUP + program], pass_fds=[writer]) as running:
        os.close(writer)
        found = []
        while piece := os.read(reader, 1 << 20):
            found.append([json.loads(line) for line in piece.splitlines()])
    os.close(reader)
    assert running.returncode == 0
    return found


def test_the_lines_of_one_turn_of_the_loop_are_one_write_in_their_order() -> None:
    program = """
async def main():
    for number in range(3):
        log.info("turn", number=number)
    await asyncio.sleep(0.3)
    log.info("later")
    await asyncio.sleep(0.3)

asyncio.run(main())
"""
    assert [[line.get("number") for line in piece] for piece in writes(program)] == [[0, 1, 2], [None]]


def test_without_a_loop_a_line_goes_out_at_once() -> None:
    program = """
import os
log.info("first")
os.write(2, b'{"event": "between"}\\n')
log.info("last")
os._exit(0)
"""
    assert [line["event"] for line in lines(program)] == ["first", "between", "last"]


def test_no_line_is_lost_when_the_loop_or_the_program_ends() -> None:
    program = """
async def main():
    log.info("at the end of the loop")

async def failing():
    log.info("before a failure")
    raise SystemExit(3)

asyncio.run(main())
asyncio.run(failing())
"""
    assert [line["event"] for line in lines(program, status=3)] == ["at the end of the loop", "before a failure"]


def test_lines_of_libraries_look_like_ours() -> None:
    program = """
log.warning("ours", number=1)
logging.getLogger("library").warning("theirs")
"""
    ours, theirs = lines(program)
    assert set(theirs) | {"number"} == set(ours)
    assert theirs["event"] == "theirs"
    assert ours["timestamp"].endswith("Z")
    assert theirs["timestamp"].endswith("Z")


def test_a_log_that_nobody_reads_ends_no_service() -> None:
    program = """
import os, sys
reader, writer = os.pipe()
os.close(reader)
kept = os.dup(2)
os.dup2(writer, 2)
log.info("lost without a loop")

async def main():
    log.info("lost")
    await asyncio.sleep(0.01)
    log.info("lost too")
    await asyncio.sleep(0.01)
    os.dup2(kept, 2)
    log.info("heard")
    await asyncio.sleep(0.01)

asyncio.run(main())
"""
    assert lines(program)[-1]["event"] == "heard"
