from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.core.rows import write_row
from harness.leaderboard.board import build

WriteAtOnce = Callable[..., "list[int | None]"]

_VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Tags, text and packed rows of a page; fails where a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: dict[str, Any] = {}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if (
            self.tags
            and self.tags[-1] == ("script", {"type": "application/json", "id": "data"})
            and self.open[-1] == "script"
        ):
            self.data = json.loads(data)
        else:
            self.texts.append(data)


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Outline]:
    """`(page)` -> its tags, each with its attributes, and its texts."""
    return Outline


def _work(leaderboard: Path, index: int, rows: Sequence[dict[str, Any]], every_nth_row: int, build_every: int) -> None:
    """One process: its share of the rows, which others write too, under a name of its own, and builds in between."""
    named = [{**row, "run": f"process {index}"} for row in rows]
    mine = [row for place, row in enumerate(named) if place % every_nth_row == index % every_nth_row]
    random.Random(index).shuffle(mine)
    for place, row in enumerate(mine):
        write_row(leaderboard, row)
        if place % build_every == 0:
            build(leaderboard)
    build(leaderboard)


@pytest.fixture(scope="session")
def write_at_once() -> WriteAtOnce:
    """`(leaderboard, rows, processes, every_nth_row, build_every)` -> the exit codes of processes that all write."""

    def run(
        leaderboard: Path, rows: Sequence[dict[str, Any]], *, processes: int, every_nth_row: int, build_every: int
    ) -> list[int | None]:
        context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
        given = [(leaderboard, index, rows, every_nth_row, build_every) for index in range(processes)]
        workers = [context.Process(target=_work, args=arguments) for arguments in given]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        return [worker.exitcode for worker in workers]

    return run
