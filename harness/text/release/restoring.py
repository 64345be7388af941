"""From a set back to attack runs: texts come from the user's own copy of the corpus, each checked by its hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, DataError, UnknownNameError
from harness.core.files import hash_file
from harness.core.runs import Run
from harness.text.adversarial import COLUMNS, ROWS_FILE, AdversarialRow, rows_from_values, write_rows
from harness.text.datasets import TextDataset, load_dataset
from harness.text.release.description import DESCRIPTION_FILE, checked_file, read_description
from harness.text.release.replacements import Edit, apply_edits, text_hash
from harness.text.release.tables import EDITS_COLUMN, HASH_COLUMNS, TEXT_COLUMNS, read_table
from harness.text.sources import dataset_pointer, victim_pointer
from harness.text.victims import VICTIMS

COMMAND = "attack restore"


@dataclass
class Restored:
    """What became of one configuration.

    Attributes:
        name: The configuration.
        folder: The run folder of its rows.
        rows: The rows, as they were when the set was made.
        missing: Ids of rows whose source text is not in the corpus.
        withheld: Ids of rows whose perturbed text the set does not hold.
        moved: How many source texts were found at another index than the set says.
        other_labels: How many texts have another label in the corpus.
    """

    name: str
    folder: Path
    rows: list[AdversarialRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)
    moved: int = 0
    other_labels: int = 0

    def notes(self) -> list[str]:
        """What has to be said of it, a sentence each."""
        counts = (
            (len(self.missing), "source texts are not in the corpus and were left out"),
            (len(self.withheld), "perturbed texts are not in the set and were left out"),
            (self.moved, "source texts stand at another index in this copy of the corpus"),
            (self.other_labels, "texts have another label in this copy of the corpus; the set's was kept"),
        )
        return [f"{self.name}: {count} {what}." for count, what in counts if count]


class Corpus:
    """The user's copy of a corpus, loaded split by split as it is asked."""

    def __init__(self, spec: str, text_column: str | None = None, label_column: str | None = None) -> None:
        self.spec = spec
        self.pointer = dataset_pointer(spec, text_column, label_column)
        self._columns = (text_column, label_column)
        self._splits: dict[str, TextDataset] = {}
        self._places: dict[str, dict[int, int]] = {}
        self._hashes: dict[str, dict[str, int]] = {}

    def split(self, name: str) -> TextDataset:
        """One split of it; errors as in `load_dataset`."""
        if name not in self._splits:
            self._splits[name] = load_dataset(
                self.spec, name, text_column=self._columns[0], label_column=self._columns[1]
            )
            self._places[name] = {int(index): at for at, index in enumerate(self._splits[name].indices)}
        return self._splits[name]

    def find(self, split: str, index: int, wanted: str) -> int | None:
        """The place of the text with a hash: at the index if it is there, else wherever it is in the split."""
        texts = self.split(split).texts
        place = self._places[split].get(index)
        if place is not None and text_hash(texts[place]) == wanted:
            return place
        if split not in self._hashes:
            # The first of equal texts: they are one text.
            self._hashes[split] = {text_hash(text): at for at, text in reversed(list(enumerate(texts)))}
        return self._hashes[split].get(wanted)


def restore_attacks(
    folder: Path,
    out: Path,
    *,
    dataset: str | None = None,
    configuration: str | None = None,
    victim: str | None = None,
    allow_missing: bool = False,
    text_column: str | None = None,
    label_column: str | None = None,
) -> list[Restored]:
    """Make attack run folders of a set, which `attack show`, `verify`, `stats` and `eval detect` take like any other.

    A source text is looked for at its split and index, then by its hash in the whole split. Nothing is written before
    every row is rebuilt and checked. Rows whose perturbed text the set withholds are left out.

    Args:
        folder: The set.
        out: The run folder to make; with more than one configuration, the folder of theirs.
        dataset: The corpus, as `load_dataset` takes it; needed where texts are withheld.
        configuration: Which one to restore; by default the only one, or all of the corpus (by its name).
        victim: Where the attacked victim is, for the run's manifest; by default it says so only of one of this package.
        allow_missing: Leave out rows whose source text the corpus lacks, instead of stopping.
        text_column: The corpus's column of texts, where it is not the usual one.
        label_column: Its column of labels.

    Raises:
        ConfigurationError: No corpus was named, or no configuration is of it.
        UnknownNameError: There is no such configuration.
        DataError: The set is damaged, texts of it are not in the corpus, or it holds no perturbed text.
    """
    description = read_description(folder)
    corpus = None if dataset is None else Corpus(dataset, text_column, label_column)
    names = _chosen(description["configurations"], configuration, corpus)
    plan = [
        _restore(folder, name, description["configurations"][name], out if len(names) == 1 else out / name, corpus)
        for name in names
    ]
    for restored in plan:
        _refuse_missing(restored, corpus, allow_missing)
    identity = hash_file(Path(folder) / DESCRIPTION_FILE)
    # Each refuses a folder that holds something else, so all are asked before one is written.
    runs = [_run(restored, description["configurations"][restored.name], identity) for restored in plan]
    for restored, run in zip(plan, runs, strict=True):
        _write(restored, run, description["configurations"][restored.name], corpus, victim)
    return plan


def _chosen(configurations: dict[str, Any], wanted: str | None, corpus: Corpus | None) -> list[str]:
    """The configurations to restore."""
    if wanted is not None and wanted not in configurations:
        raise UnknownNameError("configuration of this set", wanted, configurations)
    names = [wanted] if wanted is not None else list(configurations)
    if wanted is None and len(names) > 1 and corpus is not None:
        known = sorted({configurations[name]["dataset"]["name"] for name in names})
        mine = _corpus_name(corpus)
        names = [name for name in names if configurations[name]["dataset"]["name"] == mine]
        if not names:
            raise ConfigurationError(
                f"no configuration of the set is of a dataset named {mine!r}; they are of {', '.join(known)}.",
                "Name one with --config.",
            )
    if corpus is None and any(configurations[name]["texts"] == "withheld" for name in names):
        raise ConfigurationError(
            "the source texts are not in the set.", "Say with --dataset where your own copy of the corpus is."
        )
    return names


def _corpus_name(corpus: Corpus) -> str:
    """What rows call a dataset: its registered name, its folder's name, or its file's stem."""
    path = Path(corpus.pointer["spec"])
    return path.stem if path.is_file() else path.name


def _restore(folder: Path, name: str, facts: dict[str, Any], out: Path, corpus: Corpus | None) -> Restored:
    restored = Restored(name, out)
    with_texts = facts["texts"] == "included"
    values: list[dict[str, Any]] = []
    for part in facts["splits"].values():
        path = checked_file(folder, part)
        for row in read_table(path, with_texts, part["rows"]):
            where = f"row {str(row['id'])[:40]} of {name}"
            if with_texts:
                _check_texts(row, where)
            elif corpus is None or not _rebuild(row, where, corpus, restored):
                continue
            values.append({column: row[column] for column in COLUMNS})
    try:
        restored.rows = rows_from_values(values)
    except DataError as error:
        raise DataError(f"{name} of the set in {folder} is damaged: {error.message}") from error
    return restored


def _check_texts(row: dict[str, Any], where: str) -> None:
    for text, wanted in zip(TEXT_COLUMNS, HASH_COLUMNS, strict=True):
        if not isinstance(row[text], str) or text_hash(row[text]) != row[wanted]:
            raise DataError(f"{where}: the {text.replace('_', ' ')} is not the one that its hash names.")


def _rebuild(row: dict[str, Any], where: str, corpus: Corpus, restored: Restored) -> bool:
    """Put both texts into a row; whether that could be done."""
    split, index, wanted = row["split"], row["index"], row["original_sha256"]
    if not isinstance(split, str) or not isinstance(index, int) or not isinstance(wanted, str):
        raise DataError(f"{where}: split, index or hash is missing.")
    place = corpus.find(split, index, wanted)
    if place is None:
        restored.missing.append(row["id"])
        return False
    if row[EDITS_COLUMN] is None:
        restored.withheld.append(row["id"])
        return False
    source = corpus.split(split)
    original = source.texts[place]
    try:
        perturbed = apply_edits(original, _edits(row[EDITS_COLUMN]))
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from error
    if text_hash(perturbed) != row["perturbed_sha256"]:
        raise DataError(f"{where}: its edits do not make the perturbed text that its hash names.")
    row.update(zip(TEXT_COLUMNS, (original, perturbed), strict=True))
    restored.moved += int(source.indices[place]) != index
    restored.other_labels += int(source.labels[place]) != row["label"]
    return True


def _edits(values: Iterable[Any]) -> Iterable[Edit]:
    kinds: dict[str, Callable[[Any], bool]] = {
        "start": lambda value: isinstance(value, int),
        "end": lambda value: isinstance(value, int),
        "text": lambda value: isinstance(value, str),
    }
    for value in values:
        if value is None or not all(fits(value[name]) for name, fits in kinds.items()):
            raise DataError("an edit has no start, end or text.")
        yield Edit(**value)


def _refuse_missing(restored: Restored, corpus: Corpus | None, allow_missing: bool) -> None:
    """Refuse a corpus that lacks texts; what the set itself withholds no corpus gives back, so that is left out."""
    missing, withheld, kept = len(restored.missing), len(restored.withheld), len(restored.rows)
    whole = missing + withheld + kept
    if missing and not (allow_missing and kept):
        spec = corpus.spec if corpus else ""
        raise DataError(
            f"{missing} of {whole} source texts of {restored.name} are not in {spec}.",
            "They may be in another version of the corpus, or in another split"
            + ("; --allow-missing leaves them out." if kept else "."),
        )
    if withheld and not kept:
        raise DataError(
            f"{restored.name} withholds all of its {withheld} perturbed texts.",
            "No copy of the corpus gives them back.",
        )


def _run(restored: Restored, facts: dict[str, Any], identity: str) -> Run:
    config = {
        "set_hash": identity,
        "configuration": restored.name,
        "dataset": facts["dataset"]["name"],
        "dataset_source": facts["dataset"].get("source"),
        "dataset_hash": facts["dataset"].get("attacked_texts_hash"),
        "rows": len(restored.rows),
        **facts["run"],
    }
    return Run(restored.folder, COMMAND, config)


def _write(restored: Restored, run: Run, facts: dict[str, Any], corpus: Corpus | None, victim: str | None) -> None:
    sources: dict[str, Any] = {}
    if corpus is not None:
        sources["dataset"] = corpus.pointer
    # A victim of this package is found by its name; its hash is checked wherever it is asked.
    own = facts["victim"]["name"] if facts["victim"]["name"] in VICTIMS else None
    if (found := victim or own) is not None:
        sources["victim"] = victim_pointer(found)
    with run:
        write_rows(run.path(ROWS_FILE), restored.rows)
        run.finish(
            [ROWS_FILE],
            sources=sources,
            label_names=facts["label_names"],
            texts=len(restored.rows),
            missing=restored.missing,
            withheld=restored.withheld,
            moved=restored.moved,
        )
