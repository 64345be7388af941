"""Every command line of README, CONTRIBUTING and docs: it is understood, and it is run, or it is said what runs it.

A document is a story: its commands are run in order, in one folder, where stand-ins lie at the paths that they read
(tests/docs/conftest.py). What needs a network, a cluster or hours is listed in `RUN_ELSEWHERE`. A new line that is
neither fails.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import documents
import pytest
import typer
from documents import Command

ROOT = documents.ROOT
# Recent versions of Typer carry a click of their own.
(USAGE_ERROR,) = typer.BadParameter.__bases__
PAGES = documents.documents()
LINES = [line for page in PAGES for line in documents.commands(page)]
OURS = [line for line in LINES if line.program == "harness"]
# What else a page may ask a shell for.
OTHERS = {"python3", "pip", "ray", "torchrun", "touch", "echo", "git"}
# Command lines that a machine without network, with two cores and little time, does not run here: pattern -> what does,
# a recipe of the Justfile or a test.
RUN_ELSEWHERE = {
    r"harness fetch ": "tests/textadv/artifacts/test_fetching.py",
    r"harness attack run .*--workers \d+ ": "tests/textadv/test_ray_workers.py",
    r"harness attack run .*--recipe textfooler ": "tests/textadv/test_engine.py",
    r"harness (attack|detect) push (?!.*--dry-run)": "tests/hub/test_publishing.py",
    r"harness attack restore attacks/sets/offline ": "tests/text/release/test_offline_set.py",
    r"harness attack restore hub:": "tests/hub/test_round_trips.py",
    r"harness ssl push ": "tests/sdssl/test_publishing.py",
    r"harness detect .*hub:": "tests/hub/test_fetching.py",
    r"harness eval ssl --encoder (timm:)?hf_hub:": "tests/sdssl/test_publishing.py",
    r"harness eval detect --suite offline (?!.*--dry-run)": "just offline-grid",
}
# Python that asks the Hub, by a part of it.
CODE_ELSEWHERE = {r"hf_hub:ORG/NAME": "tests/sdssl/test_publishing.py"}
# Pages that another test follows, command by command.
FOLLOWED_ELSEWHERE = {"docs/adding.md": "tests/docs/test_add_ons.py::test_every_command_of_the_page_succeeds"}
# Exit codes that are an answer and no failure: a missing artifact, with --strict.
ANSWERS = {r"harness doctor --strict ": 1}


def elsewhere(line: Command) -> str:
    """What runs this line, if not its document's story."""
    found = [where for pattern, where in RUN_ELSEWHERE.items() if re.match(pattern, line.text)]
    return FOLLOWED_ELSEWHERE.get(line.document) or (found[0] if found else "")


def test_the_documents_are_read() -> None:
    assert {"README.md", "docs/adding.md", "docs/layers.md"} <= {line.document for line in LINES}
    assert len(OURS) > 60


def test_lines_are_of_programs_that_are_known() -> None:
    wrong = [str(line) for line in LINES if line.program not in (*documents.PROGRAMS, *OTHERS)]
    assert wrong == []


def test_no_command_hides_in_another_block() -> None:
    hidden = [
        f"{block.document}:{block.line}"
        for page in PAGES
        for block in documents.blocks(page)
        if block.language not in ("sh", "text", "python") and re.search(r"^(harness|just) ", block.text, re.MULTILINE)
    ]
    assert hidden == []


def contexts(words: list[str]) -> Iterator[Any]:
    """The contexts that click makes of a command line, from the program to the verb; nothing is run."""
    from harness.cli import app
    from harness.cli.evaluate import spread

    command, name, rest = typer.main.get_command(app), "harness", spread(words[1:])
    parent = None
    while True:
        parent = command.make_context(name, list(rest), parent=parent)
        yield parent
        if not hasattr(command, "resolve_command"):
            return
        name, command, rest = command.resolve_command(parent, [*parent._protected_args, *parent.args])


@pytest.mark.parametrize("line", OURS, ids=str)
def test_a_command_line_is_understood(line: Command) -> None:
    """Verbs and options exist, required ones are there, values are of their types."""
    try:
        told = [context.info_name for context in contexts(line.words)]
    except USAGE_ERROR as error:
        pytest.fail(f"{line}: {error.format_message()}")
    assert told[0] == "harness"


@pytest.mark.parametrize(
    "text",
    [
        "harness attack rum --out x",
        "harness attack show",
        "harness attack run --dataset x --victim y",
        "harness attack show x --example 3",
        "harness attack show x --examples three",
        "harness attack show x y",
        "harness attack run ... --workers 8",
    ],
)
def test_the_check_sees_a_line_that_is_wrong(text: str) -> None:
    with pytest.raises(pytest.fail.Exception):
        test_a_command_line_is_understood(Command("a page", 1, text))


# `harness attack run` in running text: a verb, with some of its options or none.
SPOKEN = sorted(
    {
        (page.relative_to(ROOT).as_posix(), " ".join(found[1].split()))
        for page in PAGES
        for found in re.finditer(
            r"`(harness [^`]*)`", re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        )
    }
)


@pytest.mark.parametrize(("document", "text"), SPOKEN)
def test_a_command_in_running_text_has_a_verb_and_options_that_exist(document: str, text: str) -> None:
    from harness.cli import app

    command, told = typer.main.get_command(app), Command(document, 0, text)
    for word in told.words[1:]:
        if word.startswith("--"):
            known = {option for parameter in command.params for option in parameter.opts}
            assert word in known, f"{document}: {text}: there is no {word}"
        elif hasattr(command, "commands") and word != "...":
            assert word in command.commands, f"{document}: {text}: there is no {word}"
            command = command.commands[word]


def recipes() -> dict[str, tuple[int, int]]:
    """The recipes of the Justfile, with how many arguments each takes at least and at most."""
    found = {}
    for line in (ROOT / "Justfile").read_text(encoding="utf-8").splitlines():
        head = re.match(r"([a-z][\w-]*)((?: [*+]?\w+)*):(?!=)", line)
        if head:
            taken = head[2].split()
            least = sum(not name.startswith("*") for name in taken)
            found[head[1]] = (least, 1000 if any(name[0] in "*+" for name in taken) else least)
    return found


# A recipe in running text counts as well.
MENTIONED = sorted(
    {
        (page.relative_to(ROOT).as_posix(), found[1])
        for page in PAGES
        for found in re.finditer(r"`(just [a-z][^`]*)`", page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize(
    ("document", "text"), [*((line.document, line.text) for line in LINES if line.program == "just"), *MENTIONED]
)
def test_a_recipe_exists_and_takes_its_arguments(document: str, text: str) -> None:
    _, name, *given = Command(document, 0, text).words
    assert name in recipes(), f"{document}: there is no recipe {name}"
    least, most = recipes()[name]
    assert not given or least <= len(given) <= most, f"{document}: {text}"


def test_what_runs_a_line_elsewhere_is_there() -> None:
    for pattern in RUN_ELSEWHERE:
        assert any(re.match(pattern, line.text) for line in OURS), f"no document has {pattern!r} any more"
    for where in [*RUN_ELSEWHERE.values(), *CODE_ELSEWHERE.values(), *FOLLOWED_ELSEWHERE.values()]:
        program, _, recipe = where.partition(" ")
        if program == "just":
            assert recipe in recipes(), where
            continue
        file, _, name = where.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert any(test.startswith("test_") for test in tests)
        assert not name or name in tests, where


# What a story needs beside its own commands is made from the words of each: paths that a stand-in is known for.
def run_story(page: Path, folder: Path, stand_ins: Any, main: Callable[..., int]) -> list[str]:
    """Run a document's lines in order, Python blocks among them: what went wrong."""
    wrong = []
    steps: list[tuple[int, Command | str]] = [(line.line, line) for line in documents.commands(page)]
    steps += [
        (block.line, block.text) for block in documents.blocks(page) if block.language == "python" and not block.file
    ]
    for number, step in sorted(steps, key=lambda pair: pair[0]):
        if isinstance(step, str):
            if any(re.search(part, step) for part in CODE_ELSEWHERE):
                continue
            for name in re.findall(r'"([\w./-]+)"', step):
                stand_ins.place(name.partition("/encoder.")[0], folder)
            exec(compile(step, f"{page.name}:{number}", "exec"), {"__name__": "page"})
            continue
        if step.program != "harness" or elsewhere(step):
            continue
        words = step.words
        for before, word in pairwise(words):
            if before != "--out":
                stand_ins.place(word, folder)
        code = main(*words[1:])
        expected = next((code for pattern, code in ANSWERS.items() if re.match(pattern, step.text)), 0)
        if code != expected:
            wrong.append(f"{step} left with {code}")
    return wrong


def as_checkout(folder: Path, stand_ins: Any) -> None:
    """Make the story's folder a git checkout with a leaderboard in it, where `origin/main` is."""
    stand_ins.place("leaderboards/", folder)
    stand_ins.run("leaderboard", "build", "leaderboards")
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for words in (["init"], ["add", "."], ["commit", "-m", "rows"], ["update-ref", "refs/remotes/origin/main", "HEAD"]):
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_document_is_a_story_that_can_be_followed(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stand_ins: Any,
    small_machine: None,
    main: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if page.name == "CONTRIBUTING.md":
        as_checkout(tmp_path, stand_ins)
    wrong = run_story(page, tmp_path, stand_ins, main)
    assert wrong == [], "\n".join(
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "hint"))
    )
