"""The folder that a push would send: opened by `datasets`, complete, and with nothing in it that should stay."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError
from harness.text.adversarial import ROWS_FILE, AdversarialRow, read_rows, write_rows
from harness.text.datasets import load_dataset
from harness.text.release import release_attacks, stage_attacks
from harness.text.release.corpora import CORPORA, corpus_of, known_label_names
from harness.text.release.sources import split_name

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def staged(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "set"
    stage_attacks(suite, folder)
    return folder


@pytest.fixture(scope="module")
def staged_with_texts(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "set"
    stage_attacks(suite, folder, with_texts=True, licence="cc-by-4.0")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def strings(value: Any) -> Iterator[str]:
    """All strings in a value, with keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in strings(part))


def readable(folder: Path) -> list[str]:
    """Everything that somebody can read in a folder, Parquet files and their metadata too."""
    found = []
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            found += [*strings(table.to_pylist()), str(pq.read_metadata(path)), str(table.schema.metadata)]
        elif path.is_file():
            found += [path.read_text(encoding="utf-8"), str(path.relative_to(folder))]
    return found


def test_datasets_opens_every_configuration_and_split_with_its_types(suite: Path, staged: Path) -> None:
    names = datasets.get_dataset_config_names(str(staged))
    runs = {recipe: read_rows(suite / "attacks" / recipe) for recipe in ("pwws", "deepwordbug")}
    assert len(names) == 2
    for name in names:
        loaded = datasets.load_dataset(str(staged), name)
        assert set(loaded) == {"test"}
        features = loaded["test"].features
        assert features["label"].names == ["negative", "positive"]
        assert features["label"] == features["perturbed_output"] == features["original_output"]
        assert features["changed_positions"] == datasets.List(datasets.Value("int32"))
        assert features["result"] == datasets.Value("string")
        assert features["edits"].feature.keys() == {"start", "end", "text"}
        assert not {"original_text", "perturbed_text"} & set(features)
        rows = runs[name.split("-")[1]]
        for before, after in zip(rows, loaded["test"], strict=True):
            known = {key: value for key, value in asdict(before).items() if key in after}
            assert known == {key: after[key] for key in known}


def test_a_set_with_texts_holds_whole_rows(suite: Path, staged_with_texts: Path) -> None:
    (name,) = (one for one in datasets.get_dataset_config_names(str(staged_with_texts)) if "pwws" in one)
    loaded = datasets.load_dataset(str(staged_with_texts), name, split="test")
    rows = read_rows(suite / "attacks" / "pwws")
    assert [{key: row[key] for key in asdict(rows[0])} for row in loaded] == [asdict(row) for row in rows]
    card = (staged_with_texts / "README.md").read_text()
    assert "The makers of this set said that they may pass on the source texts" in card
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "other"  # cc-by-4.0 is not the licence of the texts
    assert "is under `cc-by-4.0`" in card


def word_runs(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Every three consecutive words of some texts."""
    found = set()
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        found |= {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
    return found


def test_no_three_words_of_the_corpus_are_in_any_file(
    suite: Path, staged: Path, staged_with_texts: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    rows = [row for name in ("pwws", "deepwordbug") for row in read_rows(suite / "attacks" / name)]
    # What the card of any set says ("this is not a") may stand in a review too.
    stage_attacks(make_run(tmp_path / "other", [("zebra", "quagga")]), tmp_path / "other-set")
    corpus = word_runs(row.original_text for row in rows) - word_runs(readable(tmp_path / "other-set"))
    assert len(corpus) > 100
    assert corpus & word_runs(readable(staged)) == set()
    assert len(corpus & word_runs(readable(staged_with_texts))) == len(corpus)


def test_the_list_is_all_that_lies_there(suite: Path, tmp_path: Path) -> None:
    files = stage_attacks(suite, tmp_path / "set")
    assert files == sorted(contents(tmp_path / "set"))
    assert {Path(file).suffix for file in files} == {".md", ".json", ".parquet"}
    assert {"README.md", "DATASHEET.md", "release.json"} <= set(files)


def test_nothing_of_the_machine_or_of_the_run_leaves(suite: Path, staged: Path, staged_with_texts: Path) -> None:
    manifest = json.loads((suite / "attacks" / "pwws" / "manifest.json").read_text())
    secrets = [str(suite), suite.name, str(suite.parent), str(Path.home()), manifest["finished"], manifest["run"]]
    secrets += [manifest["sources"]["victim"], "wall_seconds", "device_seconds", "torch_threads", "timings"]
    for folder in (staged, staged_with_texts):
        everything = "\n".join(readable(folder))
        assert [secret for secret in secrets if secret in everything] == []


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(suite: Path, staged: Path, tmp_path: Path) -> None:
    shutil.copytree(suite, tmp_path / "elsewhere")
    stage_attacks(tmp_path / "elsewhere", tmp_path / "set")
    assert contents(tmp_path / "set") == contents(staged)


def test_unfinished_attacks_are_left_out_and_named(staged: Path) -> None:
    description = json.loads((staged / "release.json").read_text())
    assert description["unfinished"] == ["textfooler-broken-off"]
    assert "textfooler-broken-off" in (staged / "README.md").read_text().replace("\\", "")
    assert len(description["configurations"]) == 2


def test_card_and_description_count_what_the_rows_say(suite: Path, staged: Path) -> None:
    description = json.loads((staged / "release.json").read_text())
    card = (staged / "README.md").read_text()
    for recipe in ("pwws", "deepwordbug"):
        rows = read_rows(suite / "attacks" / recipe)
        (name,) = (name for name in description["configurations"] if recipe in name)
        results = [row.result for row in rows]
        counts = [results.count(result) for result in ("success", "failure", "skipped")]
        assert [
            description["configurations"][name]["counts"][key] for key in ("success", "failure", "skipped")
        ] == counts
        line = next(line for line in card.splitlines() if line.startswith(f"| `{name}`"))
        assert f"| {len(rows)} | {' / '.join(map(str, counts))} |" in line
        assert rows[0].victim_hash in card


def test_the_command_in_the_card_makes_the_rows_again(
    suite: Path, staged: Path, tmp_path: Path, main: Callable[..., int], tiny_victim_folder: Any
) -> None:
    card = (staged / "README.md").read_text()
    command = next(line for line in card.splitlines() if line.startswith("harness attack run") and "pwws" in line)
    words = command.split()[1:]
    words[words.index("--victim") + 1] = str(tiny_victim_folder())
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main(*words) == 0
    assert (tmp_path / "again" / ROWS_FILE).read_bytes() == (suite / "attacks" / "pwws" / ROWS_FILE).read_bytes()


def test_runs_with_other_settings_get_names_of_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    pairs = [("a warm film", "a cold film")]
    make_run(tmp_path / "runs" / "a", pairs, seed=0)
    make_run(tmp_path / "runs" / "b", pairs, seed=1)
    make_run(tmp_path / "runs" / "c", pairs, min_confidence=0.9, victim="Org/Model", recipe="textfooler+glove")
    stage_attacks(tmp_path / "runs", tmp_path / "set")
    names = list(json.loads((tmp_path / "set" / "release.json").read_text())["configurations"])
    assert "reviews-textfooler_glove-untargeted_p0.9-Org_Model" in names
    assert len({name.casefold() for name in names}) == 3
    assert all(datasets.load_dataset(str(tmp_path / "set"), name, split="test").num_rows == 1 for name in names)


def test_odd_names_become_safe_ones(make_run: MakeRun, tmp_path: Path) -> None:
    odd = {"dataset": "../../étc|`x`\n# a: {b}", "split": "my test/1", "recipe": "'\"", "victim": "..\\" + "v" * 300}
    make_run(tmp_path / "run", [("a warm film", "a cold film")], **odd)
    files = stage_attacks(tmp_path / "run", tmp_path / "set")
    (file,) = (file for file in files if file.endswith(".parquet"))
    assert re.fullmatch(r"data/[A-Za-z0-9_][A-Za-z0-9_.-]{1,119}/my_test_1\.parquet", file)
    (row,) = datasets.load_dataset(str(tmp_path / "set"))["my_test_1"]
    assert {name: row[name] for name in odd} == odd
    assert "\n# a" not in (tmp_path / "set" / "README.md").read_text()


@given(st.text(max_size=30))
def test_any_split_has_a_name_that_datasets_takes(split: str) -> None:
    datasets.NamedSplit(split_name(split))
    assert re.fullmatch(r"[A-Za-z0-9_]+", split_name(split))


def test_class_names_come_from_the_run_and_only_where_they_cover_the_rows(make_run: MakeRun, tmp_path: Path) -> None:
    pairs = [("a warm film", "a cold film")]
    for name, label_names in (("fits", ["bad", "good"]), ("short", ["bad"]), ("none", None)):
        make_run(tmp_path / name, pairs, label_names=label_names)
        stage_attacks(tmp_path / name, tmp_path / f"{name}-set")
        label = datasets.load_dataset(str(tmp_path / f"{name}-set"), split="test").features["label"]
        assert getattr(label, "names", None) == (label_names if name == "fits" else None)


@pytest.mark.usefixtures("suite")  # skips where the embedded texts are not installed
def test_class_names_of_pinned_datasets_are_no_guess_from_a_name() -> None:
    assert known_label_names("sst2", {"kind": "folder", "name": "sst2"}) is None
    assert known_label_names("sst2", {"kind": "hub", "id": "stanfordnlp/sst2"}) == ["negative", "positive"]
    assert known_label_names("reviews", {"kind": "hub", "id": "someone/reviews"}) is None
    embedded = load_dataset("embedded", "test")
    assert known_label_names("embedded", embedded.source) == ["negative", "positive"]


def test_no_known_corpus_grants_what_its_licence_does_not() -> None:
    assert {"imdb", "ag_news", "sst2", "yelp_polarity", "mr", "embedded"} <= set(CORPORA)
    assert not any(corpus.may_redistribute for corpus in CORPORA.values())
    assert not corpus_of("my own reviews").may_redistribute
    assert all(corpus.licence and corpus.source for corpus in CORPORA.values())


def test_a_rewritten_text_is_withheld_whole_and_counted(make_run: MakeRun, tmp_path: Path) -> None:
    pairs = [
        ("a warm and funny film", "a cold and funny film"),
        ("a slow and talky film about nothing", "A SLOW AND TALKY FILM about nothing"),
        ("the plot is thin", "its story lacks substance, while none of the humour manages to land anywhere"),
    ]
    make_run(tmp_path / "run", pairs)
    stage_attacks(tmp_path / "run", tmp_path / "set")
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="test")
    assert [row["edits"] is None for row in loaded] == [False, True, True]
    assert "Of 2 rows the perturbed text is withheld" in (tmp_path / "set" / "README.md").read_text()


def test_rows_changed_after_the_run_do_not_leave(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a warm film", "a cold film")])
    rows: list[AdversarialRow] = read_rows(run)
    write_rows(run / ROWS_FILE, [*rows, *rows])
    with pytest.raises(DataError, match="changed afterwards"):
        release_attacks(run, tmp_path / "set")
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["datasets-cache", "run"] or not (tmp_path / "set").exists()
    )
    assert not list(tmp_path.glob(".set*"))


def test_the_same_rows_twice_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", [("a warm film", "a cold film")])
    make_run(tmp_path / "runs" / "b", [("a warm film", "a cold film")])
    with pytest.raises(DataError, match="in two of the runs"):
        stage_attacks(tmp_path / "runs", tmp_path / "set")


@pytest.mark.parametrize("kind", ["nothing", "empty", "unfinished", "detector"])
def test_a_folder_without_finished_attacks_is_refused(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    source = tmp_path / "source"
    if kind == "empty":
        source.mkdir()
    elif kind != "nothing":
        folder = make_run(source / "one" if kind == "unfinished" else source, [("a", "b")])
        if kind == "unfinished":
            (folder / "manifest.json").unlink()
        else:
            (folder / "config.yaml").write_text("command: detect fit\n")
    with pytest.raises(ConfigurationError, match=r"no finished attack|was made by"):
        release_attacks(source, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_folder_with_something_in_it_stays_as_it_is(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a warm film", "a cold film")])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("mine")
    for write in (stage_attacks, release_attacks):
        with pytest.raises(ConfigurationError, match="not an empty folder"):
            write(run, tmp_path / "set")
    assert contents(tmp_path / "set") == {"mine": b"mine"}


def test_a_licence_is_a_short_name(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a warm film", "a cold film")])
    with pytest.raises(ConfigurationError, match="short name"):
        release_attacks(run, tmp_path / "set", licence="Do what you like\n---")
    release_attacks(run, tmp_path / "set", licence="cc0-1.0", repo="org/texts")
    card = (tmp_path / "set" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc0-1.0"
    assert 'load_dataset("org/texts"' in card
