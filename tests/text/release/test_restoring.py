"""A set and the user's own copy of the corpus give the rows back, or say why not and write nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError, UnknownNameError
from harness.core.files import hash_file
from harness.core.runs import known_config, read_run
from harness.text.adversarial import ROWS_FILE, read_rows, write_rows
from harness.text.release import release_attacks
from harness.text.release.restoring import restore_attacks

MakeRun = Callable[..., Path]

PAIRS = [
    ("a warm and funny film", "a cold and funny film"),
    ("naïve, but “charming” —\r\na film", "naive, but “charming” —\na  fіlm"),  # noqa: RUF001
    ("電影 很 好", "電影 很 壞"),
    ("the same text", "the same text"),
    ("the same text", "the other text"),
    ("<b>bold</b> claims\u2028and an odd break", "<b>b\u200bold</b> claim\u2028sand an odd break"),
    ("so good, so very good", "so good"),
    ("an e\u0301tude for piano", "an \u00e9tude for piano 😀"),
]
CONFIGURATION = "reviews-pwws-untargeted-tiny"


def corpus(folder: Path, texts: list[str], labels: list[int] | None = None) -> Path:
    """A folder `reviews` with a test split of texts."""
    folder = folder / "reviews"
    folder.mkdir(parents=True)
    table = pa.table({"text": texts, "label": labels or [0] * len(texts)})
    pq.write_table(table, folder / "test.parquet")
    return folder


@pytest.fixture
def made(make_run: MakeRun, tmp_path: Path) -> Path:
    """The folder of a set of `PAIRS`; the run lies beside it, in `run`."""
    release_attacks(make_run(tmp_path / "run", PAIRS), tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("recipe", ["pwws", "deepwordbug"])
def test_rows_of_real_attacks_come_back_to_the_byte(suite: Path, recipe: str, tmp_path: Path) -> None:
    release_attacks(suite, tmp_path / "set")
    restored = restore_attacks(tmp_path / "set", tmp_path / "back", dataset="embedded")
    (found,) = (one for one in restored if recipe in one.name)
    assert found.folder == tmp_path / "back" / found.name
    assert (found.folder / ROWS_FILE).read_bytes() == (suite / "attacks" / recipe / ROWS_FILE).read_bytes()
    assert (found.missing, found.withheld, found.moved, found.other_labels) == ([], [], 0, 0)


def test_rows_with_texts_need_no_corpus(suite: Path, tmp_path: Path) -> None:
    release_attacks(suite / "attacks" / "pwws", tmp_path / "set", with_texts=True)
    (restored,) = restore_attacks(tmp_path / "set", tmp_path / "back")
    assert (restored.folder / ROWS_FILE).read_bytes() == (suite / "attacks" / "pwws" / ROWS_FILE).read_bytes()
    assert "sources" in read_run(tmp_path / "back", "attack")[1]


def test_every_field_comes_back_whatever_the_texts_hold(made: Path, tmp_path: Path) -> None:
    restore_attacks(made, tmp_path / "back", dataset=str(corpus(tmp_path, [text for text, _ in PAIRS])))
    assert read_rows(tmp_path / "back") == read_rows(tmp_path / "run")


def test_a_restored_run_knows_what_an_evaluation_asks_and_can_be_released_again(
    suite: Path, tmp_path: Path, tiny_victim_folder: Any
) -> None:
    release_attacks(suite / "attacks" / "pwws", tmp_path / "set")
    victim = str(tiny_victim_folder())
    restore_attacks(tmp_path / "set", tmp_path / "back", dataset="embedded", victim=victim)
    config, manifest = read_run(tmp_path / "back", "attack")
    before = known_config(suite / "attacks" / "pwws")
    assert {key: config[key] for key in ("max_length", "dtype", "dataset")} == {
        key: before[key] for key in ("max_length", "dtype", "dataset")
    }
    assert manifest["sources"]["dataset"]["spec"] == "embedded"
    assert manifest["sources"]["victim"] == victim
    release_attacks(tmp_path / "back", tmp_path / "again")
    for path in (tmp_path / "set").rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(tmp_path / "set")).read_bytes() == path.read_bytes()


def test_a_corpus_in_another_order_is_searched_by_hash(made: Path, tmp_path: Path) -> None:
    texts = ["something else", *reversed([text for text, _ in PAIRS])]
    data = corpus(tmp_path, texts, [1, *[0] * len(PAIRS)])
    (restored,) = restore_attacks(made, tmp_path / "back", dataset=str(data))
    assert restored.rows == read_rows(tmp_path / "run")
    assert restored.moved == sum(text != there for (text, _), there in zip(PAIRS, texts, strict=False)) > 1
    assert any("another index" in note for note in restored.notes())


def test_other_labels_are_told_and_not_taken(made: Path, tmp_path: Path) -> None:
    data = corpus(tmp_path, [text for text, _ in PAIRS], [1] * len(PAIRS))
    (restored,) = restore_attacks(made, tmp_path / "back", dataset=str(data))
    assert restored.rows == read_rows(tmp_path / "run")
    assert restored.other_labels == len(PAIRS)


def test_texts_that_are_not_there_stop_it_unless_that_is_allowed(made: Path, tmp_path: Path) -> None:
    texts = [text for text, _ in PAIRS]
    texts[0] += " "  # another edition of the corpus
    data = str(corpus(tmp_path, texts))
    with pytest.raises(DataError, match=r"1 of 8 source texts of reviews-pwws-untargeted-tiny are not in .*reviews"):
        restore_attacks(made, tmp_path / "back", dataset=data)
    assert not (tmp_path / "back").exists()
    (restored,) = restore_attacks(made, tmp_path / "back", dataset=data, allow_missing=True)
    assert restored.missing == [read_rows(tmp_path / "run")[0].id]
    assert read_rows(tmp_path / "back") == read_rows(tmp_path / "run")[1:]
    other = corpus(tmp_path / "other", ["no such text"])
    with pytest.raises(DataError, match="8 of 8"):
        restore_attacks(made, tmp_path / "nothing", dataset=str(other), allow_missing=True)
    assert not (tmp_path / "nothing").exists()


def test_rows_whose_perturbed_text_is_withheld_are_left_out_and_told(make_run: MakeRun, tmp_path: Path) -> None:
    pairs = [*PAIRS, ("a slow and talky film", "A SLOW AND TALKY FILM")]
    release_attacks(make_run(tmp_path / "run", pairs), tmp_path / "set")
    data = str(corpus(tmp_path, [text for text, _ in pairs]))
    (restored,) = restore_attacks(tmp_path / "set", tmp_path / "back", dataset=data)
    assert restored.rows == read_rows(tmp_path / "run")[:-1]
    assert restored.withheld == [read_rows(tmp_path / "run")[-1].id]
    assert any("1 perturbed texts are not in the set" in note for note in restored.notes())
    # A corpus that lacks texts is refused all the same, and so is a set that has nothing to give.
    with pytest.raises(DataError, match="1 of 9 source texts"):
        restore_attacks(
            tmp_path / "set", tmp_path / "no", dataset=str(corpus(tmp_path / "x", [t for t, _ in pairs[1:]]))
        )
    release_attacks(make_run(tmp_path / "capitals", pairs[-1:]), tmp_path / "nothing")
    with pytest.raises(DataError, match="withholds all of its 1 perturbed texts"):
        restore_attacks(tmp_path / "nothing", tmp_path / "no", dataset=data)
    assert not (tmp_path / "no").exists()


def test_configurations_are_chosen_by_name_or_by_corpus(make_run: MakeRun, tmp_path: Path) -> None:
    for name, more in (("a", {}), ("b", {"recipe": "bae"}), ("c", {"dataset": "news"})):
        make_run(tmp_path / "runs" / name, PAIRS, **more)
    release_attacks(tmp_path / "runs", tmp_path / "set")
    data = str(corpus(tmp_path, [text for text, _ in PAIRS]))
    restored = restore_attacks(tmp_path / "set", tmp_path / "back", dataset=data)
    assert [one.folder.name for one in restored] == ["reviews-bae-untargeted-tiny", CONFIGURATION]
    (one,) = restore_attacks(tmp_path / "set", tmp_path / "one", dataset=data, configuration=CONFIGURATION)
    assert one.folder == tmp_path / "one"
    with pytest.raises(UnknownNameError, match="no configuration of this set named 'reviews-pwws'"):
        restore_attacks(tmp_path / "set", tmp_path / "no", dataset=data, configuration="reviews-pwws")
    others = Path(data).rename(tmp_path / "others")
    with pytest.raises(ConfigurationError, match="dataset named 'others'; they are of news, reviews"):
        restore_attacks(tmp_path / "set", tmp_path / "no", dataset=str(others))
    with pytest.raises(ConfigurationError, match="source texts are not in the set"):
        restore_attacks(tmp_path / "set", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_several_splits_are_files_and_come_back_together(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PAIRS)
    rows = [replace(row, split="dev" if row.index % 2 else "test") for row in read_rows(run)]
    write_rows(run / ROWS_FILE, rows)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["outputs"][ROWS_FILE] = hash_file(run / ROWS_FILE)
    (run / "manifest.json").write_text(json.dumps(manifest))
    release_attacks(run, tmp_path / "set")
    loaded = datasets.load_dataset(str(tmp_path / "set"), CONFIGURATION, cache_dir=str(tmp_path / "cache"))
    assert {split: part.num_rows for split, part in loaded.items()} == {"dev": 4, "test": 4}
    data = corpus(tmp_path, [text for text, _ in PAIRS])
    shutil.copy(data / "test.parquet", data / "validation.parquet")
    (restored,) = restore_attacks(tmp_path / "set", tmp_path / "back", dataset=str(data))
    assert sorted(restored.rows, key=lambda row: row.index) == rows


def test_a_folder_in_the_way_stops_all_before_one_is_written(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", PAIRS)
    make_run(tmp_path / "runs" / "b", PAIRS, recipe="zoo")
    release_attacks(tmp_path / "runs", tmp_path / "set")
    data = str(corpus(tmp_path, [text for text, _ in PAIRS]))
    mine = tmp_path / "back" / "reviews-zoo-untargeted-tiny" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ConfigurationError, match="not empty and holds no run"):
        restore_attacks(tmp_path / "set", tmp_path / "back", dataset=data)
    assert [path for path in (tmp_path / "back").rglob("*") if path.is_file()] == [mine]


def test_a_file_that_would_fill_the_memory_is_not_read(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(corpus(tmp_path, [text for text, _ in PAIRS]))
    monkeypatch.setattr("harness.text.release.tables._MOST_BYTES", 1000)
    with pytest.raises(DataError, match=r"would take .* in memory"):
        restore_attacks(made, tmp_path / "back", dataset=data)
    assert not (tmp_path / "back").exists()


Harm = Callable[[Path], None]


def described(change: Callable[[dict[str, Any]], None]) -> Harm:
    """A set whose `release.json` was changed."""

    def harm(folder: Path) -> None:
        path = folder / "release.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return harm


def written(data: bytes) -> Harm:
    return lambda folder: void((folder / "release.json").write_bytes(data))


def void(_: object) -> None:
    return None


def tabled(change: Callable[[pa.Table], pa.Table]) -> Harm:
    """A set whose rows were changed by somebody who also mended the hash."""

    def harm(folder: Path) -> None:
        (path,) = folder.rglob("*.parquet")
        pq.write_table(change(pq.read_table(path)), path)
        part = {"sha256": hash_file(path), "bytes": path.stat().st_size}
        described(lambda value: first(value)["splits"]["test"].update(part))(folder)

    return harm


def first(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["configurations"][CONFIGURATION]
    return found


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Harm:
    def changed(table: pa.Table) -> pa.Table:
        at = table.column_names.index(name)
        field = table.schema.field(name)
        return table.set_column(at, field, pa.array(change(table[name].to_pylist()), field.type))

    return tabled(changed)


def renamed(name: str) -> Harm:
    return described(lambda value: value["configurations"].update({name: value["configurations"].pop(CONFIGURATION)}))


def edits(*edit: tuple[int, int, str | None]) -> Harm:
    values = [dict(zip(("start", "end", "text"), one, strict=True)) for one in edit]
    return column("edits", lambda old: [values, *old[1:]])


HARMS: dict[str, tuple[Harm, str]] = {
    "no description": (lambda folder: (folder / "release.json").unlink(), "it has no release.json"),
    "no JSON": (written(b"{"), "not valid JSON"),
    "not UTF-8": (written(b'"\xff"'), "not valid JSON"),
    "deep": (written(b"[" * 200_000), "not valid JSON"),
    "a list": (written(b"[]"), "does not describe a set"),
    "huge": (written(b" " * (17 * 2**20)), "larger than any set"),
    "the future": (described(lambda value: value.update(format=2)), "of format 2; this version reads up to 1"),
    "an unknown format": (described(lambda value: value.update(format="x")), "does not describe a set"),
    "nothing in it": (described(lambda value: value.update(configurations={})), "does not describe a set"),
    "up and away": (renamed("../../evil"), "does not describe a set"),
    "dots": (renamed(".."), "does not describe a set"),
    "absolute": (renamed("/etc/evil"), "does not describe a set"),
    "a line break": (renamed("evil\n"), "does not describe a set"),
    "another's file": (
        described(lambda value: first(value)["splits"]["test"].update(file="../run/adversarial.parquet")),
        "it has to be 'data/",
    ),
    "no file": (lambda folder: next(folder.rglob("*.parquet")).unlink(), "lacks its file data/"),
    "another hash": (
        described(lambda value: first(value)["splits"]["test"].update(sha256="0" * 64)),
        "its hash differs",
    ),
    "other counts": (described(lambda value: first(value)["splits"]["test"].update(rows=7)), "holds 8 rows"),
    "too many rows": (described(lambda value: first(value)["splits"]["test"].update(rows=10**9)), "does not describe"),
    "no Parquet": (
        lambda folder: void(
            (
                next(folder.rglob("*.parquet")).write_bytes(b"PAR1 or not"),
                described(
                    lambda value: first(value)["splits"]["test"].update(
                        sha256=hash_file(next(folder.rglob("*.parquet"))), bytes=11
                    )
                )(folder),
            )
        ),
        "not a Parquet file of this set",
    ),
    "an unknown column": (
        tabled(lambda table: table.append_column("evil", pa.nulls(len(table)))),
        "a column 'evil' that no set has",
    ),
    "a lacking column": (tabled(lambda table: table.drop_columns(["queries"])), "has no column 'queries'"),
    "a column twice": (tabled(lambda table: table.append_column("goal", table["goal"])), "a column twice"),
    "another type": (
        tabled(
            lambda table: table.set_column(
                table.column_names.index("queries"), "queries", pa.array(["many"] * len(table))
            )
        ),
        "not a Parquet file of this set",
    ),
    "an edit out of range": (edits((100, 200, "x")), "row .* is out of place|an edit of characters 100 to 200"),
    "a negative edit": (edits((-5, 2, "x")), "an edit of characters -5 to 2"),
    "edits in disorder": (edits((2, 6, "cold"), (0, 1, "a")), "out of place"),
    "half an edit": (edits((2, 6, None)), "no start, end or text"),
    "other edits": (edits((2, 6, "evil")), "do not make the perturbed text that its hash names"),
    "another original": (column("original_sha256", lambda old: ["0" * 64, *old[1:]]), "1 of 8 source texts"),
    "no split": (column("split", lambda old: [None, *old[1:]]), "split, index or hash is missing"),
    "no id": (column("id", lambda old: [None, *old[1:]]), "a row has no id"),
    "a result that is none": (column("result", lambda old: ["won", *old[1:]]), "result 'won'"),
    "a gap": (column("changed_positions", lambda old: [[None], *old[1:]]), "changed_positions has a gap"),
}


@pytest.mark.parametrize("case", HARMS)
def test_a_set_of_a_stranger_is_refused_in_a_sentence_and_nothing_is_written(
    case: str, made: Path, tmp_path: Path
) -> None:
    harm, message = HARMS[case]
    harm(made)
    data = corpus(tmp_path / "mine", [text for text, _ in PAIRS])
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(HarnessError, match=message) as caught:
        restore_attacks(made, tmp_path / "back", dataset=str(data))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_texts_that_their_hashes_do_not_name_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    release_attacks(make_run(tmp_path / "run", PAIRS), tmp_path / "set", with_texts=True)
    column("perturbed_text", lambda old: ["another", *old[1:]])(tmp_path / "set")
    with pytest.raises(DataError, match="the perturbed text is not the one that its hash names"):
        restore_attacks(tmp_path / "set", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_set_whose_files_are_links_is_read(made: Path, tmp_path: Path) -> None:
    """The Hub's cache keeps files under their hashes and links to them."""
    (path,) = made.rglob("*.parquet")
    shutil.move(path, tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    data = corpus(tmp_path, [text for text, _ in PAIRS])
    (restored,) = restore_attacks(made, tmp_path / "back", dataset=str(data))
    assert len(restored.rows) == len(PAIRS)


def test_a_folder_that_is_no_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="not a set of adversarial texts"):
        restore_attacks(tmp_path, tmp_path / "back", dataset="embedded")
