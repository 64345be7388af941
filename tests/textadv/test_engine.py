import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.core.errors import DataError
from harness.core.runs import Run
from harness.text.adversarial import COLUMNS, ROWS_FILE, TIMINGS_FILE, AdversarialRow, read_rows
from harness.text.datasets import TextDataset, row_id
from harness.text.victims import Victim
from textadv.engine import ERRORS_FILE, attack_config, check_texts, one_process, run_attack
from textadv.goals import Goal
from textadv.journal import JOURNAL, Finished, Journal
from textadv.parts import Parts
from textadv.recipes import RECIPES, Recipe
from textadv.runtime import SPLIT_MARK
from textadv.shards import ShardWorker

# Neighbours share variants ("a good film" is a candidate of "a right film"), and one text is there twice.
TEXTS = [
    "a good film",
    "a right film",
    "a good film",
    "The plot is dull, and the acting is worse than dull!",
    "funny, warm\nand clever",
    "the of and",
    "It's a well-made picture; don't miss it 😀",
    "a poor start, a great end",
    "people love life",
    "never watched a weak, shallow and boring comedy so long",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads gain nothing on tiny victims, and wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_dataset(victim: Victim, texts: Sequence[str], *, wrong: Sequence[int] = ()) -> TextDataset:
    """`texts` with the victim's own labels, flipped at `wrong`: those are skipped."""
    labels = victim.read(texts).predictions
    labels[list(wrong)] = 1 - labels[list(wrong)]
    return TextDataset("tiny", "test", list(texts), labels, np.arange(len(texts)), None, {})


def write_csv(path: Path, dataset: TextDataset) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows(zip(dataset.texts, dataset.labels.tolist(), strict=True))
    return path


def attack_all(
    dataset: TextDataset,
    victim: Victim,
    folder: Path,
    recipe: Recipe | None = None,
    *,
    goal: Goal | None = None,
    shard_size: int = 4,
) -> list[AdversarialRow]:
    worker = ShardWorker(Parts(victim, goal), recipe or RECIPES.get("pwws"), seed=0)
    with Run(folder, "attack run", attack_config(dataset, worker, shard_size)) as run:
        return run_attack(dataset, one_process(worker), run, shard_size=shard_size)[0]


@pytest.fixture(scope="module")
def single(tiny_victim_folder: Any) -> Victim:
    """One text a forward, so that a probability does not depend on its neighbours in a batch, not by the last bit."""
    return Victim.load(str(tiny_victim_folder()), device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def dataset(tiny_victim: Victim) -> TextDataset:
    return make_dataset(tiny_victim, TEXTS, wrong=[7])


@pytest.fixture(scope="module")
def attacked(dataset: TextDataset, tiny_victim: Victim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one uninterrupted attack on `dataset`."""
    folder = tmp_path_factory.mktemp("attacked") / "run"
    attack_all(dataset, tiny_victim, folder)
    return folder


def test_rows_say_what_the_victim_says(attacked: Path, dataset: TextDataset, tiny_victim: Victim) -> None:
    rows = read_rows(attacked)
    assert [row.original_text for row in rows] == TEXTS
    assert [row.index for row in rows] == list(range(len(TEXTS)))
    assert {row.result for row in rows} == {"success", "failure", "skipped"}
    for side in ("original", "perturbed"):
        outputs = tiny_victim.read([getattr(row, f"{side}_text") for row in rows])
        stored = np.array([getattr(row, f"{side}_probabilities") for row in rows])
        np.testing.assert_allclose(stored, outputs.probabilities, atol=1e-6)
        assert [getattr(row, f"{side}_output") for row in rows] == outputs.predictions.tolist()
        scores = [getattr(row, f"{side}_score") for row in rows]
        np.testing.assert_allclose(scores, 1 - outputs.probabilities[range(len(rows)), dataset.labels], atol=1e-6)
    for row in rows:
        assert row.id == row_id(row.original_text, "tiny", row.index)
        assert (row.result == "success") == (row.original_output == row.label != row.perturbed_output)
        assert (row.result == "skipped") == (row.original_output != row.label)
        assert (row.perturbed_text == row.original_text) or row.result != "skipped"
    assert rows[7].result == "skipped"
    assert rows[7].queries == 1


def test_a_text_without_a_word_to_replace_fails(dataset: TextDataset, attacked: Path) -> None:
    row = read_rows(attacked)[TEXTS.index("the of and")]
    assert (row.result, row.changed_positions, row.perturbed_text) == ("failure", [], row.original_text)


@pytest.mark.parametrize(
    "text", ["!!!", "_ - '", "😀", "电影很好看", "\u2028good", "x" * 3000, "a\x00b", "don't [[x]] good"]
)
def test_odd_texts_do_not_stop_a_run(text: str, tiny_victim: Victim, tmp_path: Path) -> None:
    (row,) = attack_all(make_dataset(tiny_victim, [text]), tiny_victim, tmp_path / "run")
    assert row.original_text == text
    assert row.result in ("success", "failure")


def test_textattacks_own_mark_goes_through_and_ours_is_refused(tiny_victim: Victim, tmp_path: Path) -> None:
    texts = make_dataset(tiny_victim, ["a good film", "a good<SPLIT>film", f"good{SPLIT_MARK}film"])
    check_texts(texts.take([0, 1]))
    with pytest.raises(DataError, match="text 2 of 'tiny' holds"):
        check_texts(texts.take([2]))
    rows = attack_all(texts.take([0, 1]), tiny_victim, tmp_path / "run")
    assert "<SPLIT>" in rows[1].original_text
    assert "<SPLIT>" in rows[1].perturbed_text


def test_rows_do_not_depend_on_the_texts_beside(dataset: TextDataset, single: Victim, tmp_path: Path) -> None:
    together = attack_all(dataset, single, tmp_path / "together", shard_size=len(dataset))
    for i in range(len(dataset)):
        assert attack_all(dataset.take([i]), single, tmp_path / str(i)) == [together[i]]
    backwards = attack_all(dataset.take(range(len(dataset))[::-1]), single, tmp_path / "backwards", shard_size=3)
    assert backwards[::-1] == together


def random_recipe(parts: Parts) -> Any:
    from textattack import Attack
    from textattack.constraints.pre_transformation import RepeatModification
    from textattack.search_methods import GreedySearch
    from textattack.transformations import WordSwapRandomCharacterSubstitution

    swap = WordSwapRandomCharacterSubstitution(random_one=True)
    return Attack(parts.goal_function(), [RepeatModification()], swap, GreedySearch())


RANDOM = Recipe("random", "characters", {"constraints": []}, random_recipe)


def test_a_random_recipe_is_seeded_by_text(single: Victim, tmp_path: Path) -> None:
    dataset = make_dataset(single, ["honest and charming music", "people love life", "people love life"])
    together = attack_all(dataset, single, tmp_path / "all", RANDOM)
    random.seed(99)  # whatever the process drew before
    np.random.seed(99)  # noqa: NPY002
    alone = [attack_all(dataset.take([i]), single, tmp_path / str(i), RANDOM)[0] for i in (2, 1, 0)]
    assert alone[::-1] == together
    # The seed is there for something: equal texts at different rows draw differently.
    assert together[1].perturbed_text != together[2].perturbed_text


# --- texts whose attack raises ------------------------------------------------------------------------------------


def failing_recipe(parts: Parts) -> Any:
    attack = RECIPES.get("pwws").build(parts)
    whole = attack.attack

    def fail(text: str, label: int) -> Any:
        if "clever" in text:
            raise RuntimeError("no clever text, please")
        return whole(text, label)

    attack.attack = fail
    return attack


def test_a_text_that_raises_is_set_aside(dataset: TextDataset, single: Victim, tmp_path: Path) -> None:
    failing = Recipe("failing", "words", {"constraints": []}, failing_recipe)
    rows = attack_all(dataset, single, tmp_path / "run", failing, shard_size=len(dataset))
    whole = attack_all(dataset, single, tmp_path / "whole", shard_size=len(dataset))
    (bad,) = (i for i, text in enumerate(dataset.texts) if "clever" in text)
    assert [row.index for row in rows] == [i for i in range(len(dataset)) if i != bad]
    assert [row.perturbed_text for row in rows] == [row.perturbed_text for row in whole if row.index != bad]
    (told,) = map(json.loads, (tmp_path / "run" / ERRORS_FILE).read_text().splitlines())
    assert told["index"] == bad
    assert "no clever text, please" in told["traceback"]
    assert not (tmp_path / "whole" / ERRORS_FILE).exists()
    assert len(pq.read_table(tmp_path / "run" / TIMINGS_FILE)) == len(rows)


def test_a_run_in_which_every_text_raises_stops(single: Victim, tmp_path: Path) -> None:
    failing = Recipe("failing", "words", {"constraints": []}, failing_recipe)
    dataset = make_dataset(single, ["a clever film"] * 5)
    with pytest.raises(DataError, match="all 4 texts of the first shard raised"):
        attack_all(dataset, single, tmp_path / "run", failing)
    assert (tmp_path / "run" / JOURNAL).read_bytes() == b""


def test_a_victim_that_fails_on_a_text_fails_that_text_alone(
    dataset: TextDataset, tiny_victim_folder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    victim = Victim.load(str(tiny_victim_folder()), device="cpu", batch_size=1)
    read = victim.read

    def fail(texts: Sequence[str], layers: Sequence[int] = ()) -> Any:
        if any("comedy" in text for text in texts):
            raise MemoryError("too long")
        return read(texts, layers)

    monkeypatch.setattr(victim, "read", fail)
    rows = attack_all(dataset, victim, tmp_path / "run", shard_size=len(dataset))
    monkeypatch.undo()
    whole = attack_all(dataset, victim, tmp_path / "whole", shard_size=len(dataset))
    assert rows == [row for row in whole if "comedy" not in row.original_text]
    assert len(rows) == len(whole) - 1


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 13])
def test_a_query_limit_ends_the_search_and_is_recorded(
    limit: int, dataset: TextDataset, single: Victim, tmp_path: Path
) -> None:
    rows = attack_all(dataset, single, tmp_path / "run", goal=Goal(query_limit=limit))
    whole = {row.index: row for row in attack_all(dataset, single, tmp_path / "whole")}
    assert {row.query_limit for row in rows} == {limit}
    assert all(row.queries <= limit for row in rows)
    assert all((row.stopped_by == "queries") == (row.queries == limit) for row in rows)
    assert any(row.stopped_by for row in rows)
    for row in rows:
        if row.stopped_by is None:
            assert replace(row, query_limit=None) == whole[row.index]


def test_a_time_limit_ends_the_search_and_is_recorded(dataset: TextDataset, single: Victim, tmp_path: Path) -> None:
    rows = attack_all(dataset, single, tmp_path / "run", goal=Goal(seconds_limit=1e-9))
    attacked = [row for row in rows if row.result != "skipped"]
    assert {row.stopped_by for row in rows} == {"seconds"}
    assert len(attacked) > 5
    assert all(row.result == "failure" for row in attacked)
    relaxed = attack_all(dataset, single, tmp_path / "relaxed", goal=Goal(seconds_limit=1e9))
    assert {row.stopped_by for row in relaxed} == {None}
    assert {row.seconds_limit for row in relaxed} == {1e9}


def test_timings_have_a_file_of_their_own(attacked: Path) -> None:
    rows, timings = pq.read_table(attacked / ROWS_FILE), pq.read_table(attacked / TIMINGS_FILE)
    assert rows.column_names == list(COLUMNS)
    # A limit is a setting; what a text took is not for the rows.
    assert not [name for name in rows.column_names if name == "seconds" or "time" in name or "duration" in name]
    assert timings.column_names == ["id", "seconds", "queries"]
    assert timings["id"].to_pylist() == rows["id"].to_pylist()
    assert timings["queries"].to_pylist() == rows["queries"].to_pylist()
    assert all(seconds > 0 for seconds in timings["seconds"].to_pylist())


# --- the journal ---------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(attacked: Path, tmp_path: Path) -> Journal:
    copy = tmp_path / JOURNAL
    copy.write_bytes((attacked / JOURNAL).read_bytes())
    return Journal(copy)


def test_journal_gives_back_what_was_appended(attacked: Path, journal: Journal) -> None:
    rows = read_rows(attacked)
    shards = journal.read()
    assert [text.row for shard in shards.values() for text in shard] == rows
    assert [len(shard) for shard in shards.values()] == [4, 4, 2]
    odd = replace(rows[0], index=99, original_text='\u2028 "\n\x00\x85😀', original_score=0.1 + 0.2)
    with journal:
        journal.append(7, [Finished(99, 1.5, odd), Finished(100, 0.25, None, "Traceback ...")])
    assert journal.read()[7] == [Finished(99, 1.5, odd), Finished(100, 0.25, None, "Traceback ...")]
    assert len(journal.read()) == len(shards) + 1


def test_journal_is_right_whatever_is_left_of_its_last_line(journal: Journal) -> None:
    data = journal.path.read_bytes()
    start = data.rfind(b"\n", 0, -1) + 1
    whole = journal.read()
    number, last = list(whole.items())[-1]
    for end in range(start, len(data), 7):  # a torn last line, from nothing to all but its line feed
        journal.path.write_bytes(data[:end])
        assert list(journal.read()) == list(whole)[:-1]
        assert journal.path.read_bytes() == data[:start]
    with journal:
        journal.append(number, last)
    assert journal.read() == whole
    assert journal.path.read_bytes() == data


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2],
        lambda line: b"\x00" * len(line),
        lambda line: line.replace(b'"text', b'"\xff\xfe', 1),
        lambda line: b"",
        lambda line: b"[]",
        lambda line: b'{"shard": 1, "texts": [{}]}',
        lambda line: line.replace(b'"traceback": ""', b'"traceback": "a row and an error"', 1),
        lambda line: line.replace(b'"index"', b'"indes"'),
        lambda line: line.replace(b'"shard": 1', b'"shard": [1]'),
        lambda line: line.replace(b'"success"', b'"succes"').replace(b'"failure"', b'"failur"'),
    ],
)
def test_a_damaged_line_in_the_middle_is_named(damage: Callable[[bytes], bytes], journal: Journal) -> None:
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = damage(lines[1])
    data = b"\n".join(lines)
    journal.path.write_bytes(data)
    with pytest.raises(DataError, match=r"line 2 of .*journal\.jsonl is damaged") as found:
        journal.read()
    assert "attacked again" in found.value.hint
    assert journal.path.read_bytes() == data  # nothing is thrown away
    del lines[1]  # what the hint says
    journal.path.write_bytes(b"\n".join(lines))
    assert sorted(journal.read()) == [0, 2]


# --- killed and resumed, through the command ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(dataset: TextDataset, tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`harness attack run` on 40 texts, but for --out."""
    tiny = Victim.load(str(tiny_victim_folder()), device="cpu")
    words = [
        "film",
        "actor",
        "comedy",
        "drama",
        "dialogue",
        "awful",
        "tedious",
        "boring",
        "clumsy",
        "thriller",
        "music",
    ]
    draw = random.Random(5)
    texts = ["the " + " ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(40)]
    path = write_csv(
        tmp_path_factory.mktemp("data") / "reviews.csv", make_dataset(tiny, texts, wrong=range(0, len(texts), 9))
    )
    options = ["--seed", "3", "--shard-size", "4"]
    return ["attack", "run", "--dataset", str(path), "--victim", str(tiny_victim_folder()), *options]


# Imports once, then forks: each child is a process of its own that runs the whole command and dies by SIGKILL, but
# does not pay ten seconds of imports. The parent runs no forward, so there are no threads to lose in a fork.
DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
import datasets, transformers, sklearn, pyarrow.parquet, scipy.stats
import harness.cli, harness.text.victims
from textadv.runtime import load_textattack
load_textattack()

def start(out):
    pid = os.fork()
    if pid:
        return pid
    log = os.open(out + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.argv = ["harness", *command, "--out", out]
    code = 1
    try:
        harness.cli.main()
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)

def lines(journal):
    return journal.read_bytes().count(b"\\n") if journal.exists() else 0

command, kills, folder, seed = json.load(sys.stdin)
started = time.monotonic()
reference = os.waitstatus_to_exitcode(os.waitpid(start(folder + "/reference"), 0)[1])
whole = time.monotonic() - started
draw, out, journal = random.Random(seed), folder + "/killed", Path(folder, "killed", "journal.jsonl")
story = []
while len(story) < kills:
    before, pid = lines(journal), start(out)
    if draw.random() < 0.6:  # as soon as some lines more are there
        wanted, until = before + draw.randint(1, 2), time.monotonic() + 60
    else:  # at any moment
        wanted, until = 10**9, time.monotonic() + draw.random() * whole * 0.5
    ended = 0
    while not ended and lines(journal) < wanted and time.monotonic() < until:
        ended = os.waitpid(pid, os.WNOHANG)[0]
    if ended:
        break
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = journal.read_bytes() if journal.exists() else b""
    story.append({
        "code": code,
        "before": before,
        "rows": [text["index"] for line in left.split(b"\\n")[:-1] for text in json.loads(line)["texts"]],
        "final": Path(out, "adversarial.parquet").exists(),
    })
last = os.waitstatus_to_exitcode(os.waitpid(start(out), 0)[1])
print(json.dumps({"reference": reference, "story": story, "last": last}))
"""


@pytest.fixture(scope="module")
def killed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("killed")
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"kill seed {seed}")
    found = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([command, 10, str(folder), seed]),
        env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    return folder, json.loads(found.stdout)


def test_a_run_killed_ten_times_gives_the_bytes_of_one_that_was_not(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, found = killed
    logs = {name: (folder / f"{name}.log").read_text() for name in ("reference", "killed")}
    assert found["reference"] == 0, logs["reference"]
    assert found["last"] == 0, logs["killed"]
    story = found["story"]
    assert [round_["code"] for round_ in story] == [-signal.SIGKILL] * len(story)
    assert len(story) >= 6  # the run was long enough to be killed again and again
    assert len({len(round_["rows"]) for round_ in story}) >= 3  # at different places
    for before, after in zip([[], *(r["rows"] for r in story)], (r["rows"] for r in story), strict=False):
        assert after[: len(before)] == before  # no finished row is lost
        assert len(set(after)) == len(after)  # or made twice
    lines = map(json.loads, (folder / "killed" / JOURNAL).read_text().splitlines())
    assert [text["index"] for line in lines for text in line["texts"]] == list(range(40))
    assert not any(round_["final"] for round_ in story)
    assert (folder / "killed" / ROWS_FILE).read_bytes() == (folder / "reference" / ROWS_FILE).read_bytes()
    assert not list((folder / "killed").glob("*.tmp"))


def test_rows_do_not_depend_on_the_hash_seed(
    killed: tuple[Path, dict[str, Any]], command: list[str], run_harness: Any, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    found = run_harness(*command, "--out", out, env={"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "1"})
    assert found.returncode == 0, found.stderr
    assert (out / ROWS_FILE).read_bytes() == (killed[0] / "reference" / ROWS_FILE).read_bytes()


@pytest.mark.slow
def test_the_command_itself_killed_at_any_moment(
    killed: tuple[Path, dict[str, Any]], command: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    full = [sys.executable, "-m", "harness", *command, "--out", str(out)]
    started = time.monotonic()
    subprocess.run([*full[:-1], str(tmp_path / "timed")], capture_output=True, check=True)
    whole = time.monotonic() - started
    for _ in range(10):
        process = subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=whole * random.uniform(0.1, 0.95))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run(full, capture_output=True, check=True)
    assert (out / ROWS_FILE).read_bytes() == (killed[0] / "reference" / ROWS_FILE).read_bytes()


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(place)]
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def run_in_process(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    import harness.cli

    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    return int(left.value.code or 0)


def test_a_full_disk_keeps_every_finished_shard(
    small_disk: Path,
    command: list[str],
    killed: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, ballast = small_disk / "run", small_disk / "ballast"
    ballast.write_bytes(b"x" * 64 * 1024)
    assert run_in_process(monkeypatch, *command, "--out", str(out)) == 2
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if line.startswith("error: ")] == [
        f"error: no space left on the device while writing {out / JOURNAL}."
    ]
    assert "Traceback" not in said
    left = (out / JOURNAL).read_bytes()
    assert left.endswith(b"\n")
    kept = Journal(out / JOURNAL).read()
    assert list(kept) == list(range(len(kept)))
    assert 0 < len(kept) < 10
    assert (out / JOURNAL).read_bytes() == left  # there was no torn line to cut off
    assert not (out / ROWS_FILE).exists()

    ballast.unlink()
    assert run_in_process(monkeypatch, *command, "--out", str(out)) == 0
    assert (out / JOURNAL).read_bytes().startswith(left)
    assert (out / ROWS_FILE).read_bytes() == (killed[0] / "reference" / ROWS_FILE).read_bytes()


# --- the same folder again -----------------------------------------------------------------------------------------


def test_a_finished_run_is_not_made_again(
    killed: tuple[Path, dict[str, Any]],
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = killed[0] / "reference"
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "run.log"}

    def fail(*_: Any) -> None:
        raise AssertionError("the victim was asked")

    monkeypatch.setattr(Victim, "read", fail)
    assert run_in_process(monkeypatch, *command, "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "complete already" in said
    assert "success rate" in said
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "run.log"} == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [(["--seed", "4"], "seed: 3 -> 4"), (["--limit", "5"], "texts: 40 -> 5"), (["--max-length", "64"], "128 -> 64")],
)
def test_another_configuration_is_refused_and_named(
    changed: list[str],
    named: str,
    killed: tuple[Path, dict[str, Any]],
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = killed[0] / "reference"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run_in_process(monkeypatch, *command, *changed, "--out", str(out)) == 2
    said = capsys.readouterr().err
    assert "was made by another configuration" in said
    assert named in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
