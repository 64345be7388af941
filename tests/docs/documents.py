"""What stands in the fences of README, CONTRIBUTING and docs: blocks, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("harness", "just")
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
# The line above a block that gives a file's content: the file's name and nothing else.
_FILE = re.compile(r"^`([\w./-]+)`:$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: The document's path from the repository's root.
        line: Number of its first line.
        language: What stands behind the fence.
        text: What is in it.
        file: The file whose content it is, where the line above says so.
    """

    document: str
    line: int
    language: str
    text: str
    file: str


@dataclass(frozen=True)
class Command:
    """A command line in a fence.

    Attributes:
        document: The document's path from the repository's root.
        line: Number of its first line.
        text: As it is written, without its comment, on one line.
    """

    document: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """Its words, as a shell splits them."""
        return shlex.split(self.text)

    @property
    def program(self) -> str:
        """The first word, without the folder it lies in."""
        return Path(self.words[0]).name

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def documents() -> list[Path]:
    """README, CONTRIBUTING where there is one, and every page of docs."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path for path in found if path.is_file()]


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    lines = path.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str] | None = None
    above = ""
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                named = _FILE.match(above)
                opened = (number + 1, fence[2], named[1] if named else "")
            elif line.strip():
                above = line.strip()
        elif fence and not fence[2]:
            first, language, file = opened
            yield Block(name, first, language, "".join(f"{text}\n" for text in lines[first - 1 : number - 1]), file)
            opened, above = None, ""
    assert opened is None, f"{name}: the fence at line {opened[0] - 1} is never closed"


def commands(path: Path) -> Iterator[Command]:
    """The command lines of a document, in order: those of `sh` blocks, and those behind `$ ` in `text` blocks."""
    for block in blocks(path):
        if block.language not in ("sh", "text"):
            continue
        waiting, first = "", 0
        for number, line in enumerate(block.text.splitlines(), block.line):
            if not waiting:
                if block.language == "text" and not line.startswith("$ "):
                    continue
                first = number
            waiting = f"{waiting} {line.removeprefix('$ ').strip()}".strip()
            if waiting.endswith("\\"):
                waiting = waiting[:-1].rstrip()
                continue
            for text in _split(_without_comment(waiting)):
                yield Command(block.document, first, text)
            waiting = ""
        assert not waiting, f"{block.document}:{first}: the line goes on behind the end of its block"


def _without_comment(line: str) -> str:
    # `shlex` takes a `#` inside a word for a comment too.
    found = re.match(r"""(?:[^\s#'"]+(?:'[^']*'|"[^"]*"|[^\s'"])*|'[^']*'|"[^"]*"|\s+)*""", line)
    return found[0].strip() if found else ""


def _split(line: str) -> list[str]:
    return [part.strip() for part in line.split("&&") if part.strip()]
