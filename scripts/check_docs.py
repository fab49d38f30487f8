"""Check what the documentation says against what is there.

- A link to a file of the repository leads to one, and its `#anchor` to a heading.
- `make <target>` names a target of the Makefile, in prose and in shell blocks.
- `pg-analytics …` in a shell block is a command line that the program accepts: it is parsed by the command
  line itself, and not run.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cyclopts

from pg_analytics.cli import app

ROOT: Final = Path(__file__).resolve().parent.parent
TARGETS: Final = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

_SHELL_BLOCK: Final = re.compile(r"^ *```(?:sh|console)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_ANY_BLOCK: Final = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_MAKE_IN_PROSE: Final = re.compile(r"`make ([a-z-]+)[^`]*`")
_HEADING: Final = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
_SEPARATORS: Final = "();<>|&\n"


def main() -> None:
    """Print every fault as `file: fault`; exit 1 if there are any."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    faults = [f"{page.relative_to(ROOT)}: {fault}" for page in pages for fault in check_page(page)]
    print("\n".join(faults) or f"{len(pages)} pages: links, targets and commands are right")
    sys.exit(1 if faults else 0)


def check_page(page: Path) -> Iterator[str]:
    """Yield what is wrong on one page."""
    text = page.read_text(encoding="utf-8")
    prose = _ANY_BLOCK.sub("", text)
    for link in _LINK.findall(prose):
        yield from check_link(page, link)
    for target in _MAKE_IN_PROSE.findall(prose):
        yield from check_command(["make", target])
    for block in _SHELL_BLOCK.findall(text):
        for command in commands(block):
            yield from check_command(command)


def check_link(page: Path, link: str) -> Iterator[str]:
    """Yield the fault of a link that leads nowhere; links out of the repository are not followed."""
    if re.match(r"[a-z]+:", link):
        return
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        yield f"no file {path}"
    elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
        yield f"no heading #{anchor} in {target.relative_to(ROOT)}"


def anchors(text: str) -> set[str]:
    """Return the anchors that a Markdown renderer gives to the headings."""
    headings = _HEADING.findall(_ANY_BLOCK.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(block: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block: of a session only the typed lines, pipes taken apart."""
    typed = re.findall(r"^ *\$ ((?:.*\\\n)*.*)", block, re.MULTILINE)
    text = "\n".join(typed) if typed else block
    text = re.sub(r"\\\n|(?:^|[ \t])#.*", " ", text, flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=_SEPARATORS)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and not word.strip(_SEPARATORS):
            yield words
            words = []
        elif words or not re.match(r"[A-Z_]+=", word):
            words.append(word)


def check_command(words: list[str]) -> Iterator[str]:
    """Yield the fault of a `make` or `pg-analytics` command line; others are not ours to check."""
    match words:
        case ["make", *arguments]:
            for target in arguments:
                if "=" not in target and target not in TARGETS:
                    yield f"no target: make {target}"
        case ["pg-analytics" | ".venv/bin/pg-analytics", *arguments]:
            try:
                app.parse_args(arguments, exit_on_error=False, print_error=False)
            except cyclopts.CycloptsError as error:
                yield f"{shlex.join(words)}: {error}"


if __name__ == "__main__":
    main()
