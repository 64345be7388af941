"""`release.json`: what a set holds, for programs. Whoever wrote it, it is trusted only as far as it is checked."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.core.errors import DataError, MissingFileError
from harness.core.files import hash_file
from harness.text.adversarial import AdversarialRow, summarise
from harness.text.release.corpora import corpus_of
from harness.text.release.sources import Configuration, evaded_facts, recipe_parameters

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

DESCRIPTION_FILE = "release.json"
FORMAT = 1
# What of a run's configuration an evaluation, or somebody who repeats the attack, has to know.
RUN_FACTS = ("max_length", "dtype", "batch_size", "shard_size", "threads", "texts")

_LARGEST = 16 * 2**20
_LONGEST_REASON = 200
_IDS = (
    "The first 16 hexadecimal digits of SHA-256 over original text, name of the dataset and index in decimal digits, "
    "each preceded by its length in UTF-8 bytes as 8 bytes, little-endian."
)
_HASHES = (
    "original_sha256 and perturbed_sha256: SHA-256 (hex) of the text's UTF-8 bytes. sha256 of a file: of its bytes."
)
_EDITS = (
    "Where texts are withheld: each edit replaces original[start:end], in Unicode code points, by its text; they are "
    "in order and do not overlap. Null: the perturbed text would tell too much of the original and is withheld too."
)


def data_file(configuration: str, split: str) -> str:
    """The name of a configuration's file within a set."""
    return f"data/{configuration}/{split}.parquet"


def describe_set(configurations: Mapping[str, Any], unfinished: Sequence[str]) -> dict[str, Any]:
    """The content of `release.json`.

    Args:
        configurations: By name, as `describe_configuration` makes them.
        unfinished: Names of attacks that were left out.
    """
    return {
        "format": FORMAT,
        "generator": f"palimpsest {harness.__version__}",
        "ids": _IDS,
        "hashes": _HASHES,
        "edits": _EDITS,
        "unfinished": list(unfinished),
        "configurations": dict(configurations),
    }


def describe_configuration(
    configuration: Configuration,
    *,
    with_texts: bool,
    label_names: list[str] | None,
    withheld: int,
    splits: Mapping[str, Any],
) -> dict[str, Any]:
    """What `release.json` says of one configuration.

    Args:
        configuration: Its rows and the configuration of its run.
        with_texts: Whether its texts are included.
        label_names: The class names that its files hold.
        withheld: How many rows have neither perturbed text nor edits.
        splits: Name -> file, rows, sha256, bytes.
    """
    head, config = configuration.head, configuration.config
    corpus = corpus_of(head.dataset)
    return {
        "dataset": {
            "name": head.dataset,
            "title": corpus.title,
            "licence": corpus.licence,
            "licence_source": corpus.source,
            "source": config.get("dataset_source"),
            "attacked_texts_hash": config.get("dataset_hash"),
        },
        "texts": "included" if with_texts else "withheld",
        "recipe": {"name": head.recipe, "parameters": recipe_parameters(head)},
        "goal": {
            "name": head.goal,
            "target_class": head.target_class,
            "min_confidence": head.min_confidence,
            "evaded": evaded_facts(head) or None,
            "query_limit": head.query_limit,
            "seconds_limit": head.seconds_limit,
        },
        "victim": {"name": head.victim, "hash": head.victim_hash},
        "seed": head.seed,
        "textattack_version": head.textattack_version,
        "run": {name: config[name] for name in RUN_FACTS if config.get(name) is not None},
        "label_names": label_names,
        "counts": {**count_results(configuration.rows), "withheld": withheld},
        "figures": _figures(configuration.rows),
        "splits": dict(splits),
    }


def count_results(rows: Sequence[AdversarialRow]) -> dict[str, int]:
    """Rows in all, and by result."""
    found = Counter(row.result for row in rows)
    return {"rows": len(rows), **{name: found[name] for name in ("success", "failure", "maximized", "skipped")}}


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check the `release.json` of a set, whoever wrote it.

    Raises:
        MissingFileError: The folder holds none.
        DataError: It is not one, of another format, or names files that are not its own.
    """
    path = Path(folder) / DESCRIPTION_FILE
    if not path.is_file():
        raise MissingFileError(
            f"{folder} is not a set of adversarial texts: it has no {DESCRIPTION_FILE}.",
            "Give a folder that `harness attack release` made.",
        )
    if path.stat().st_size > _LARGEST:
        raise DataError(f"{path} is larger than any set's description ({_LARGEST // 2**20} MiB).")
    try:
        value = json.loads(path.read_bytes())
        wrong = next(iter(sorted(_validator().iter_errors(value), key=lambda error: error.json_path)), None)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON.") from error
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > FORMAT:
        raise DataError(
            f"{path} is of format {value['format']}; this version reads up to {FORMAT}.", "Update palimpsest."
        )
    if wrong is not None:
        reason = wrong.message if len(wrong.message) <= _LONGEST_REASON else f"... {wrong.message[-_LONGEST_REASON:]}"
        raise DataError(f"{path} does not describe a set: {wrong.json_path}: {reason}.")
    for name, facts in value["configurations"].items():
        for split, part in facts["splits"].items():
            if part["file"] != data_file(name, split):
                raise DataError(
                    f"{path} names the file {part['file'][:80]!r} for {name} ({split}); it has to be "
                    f"{data_file(name, split)!r}."
                )
    found: dict[str, Any] = value
    return found


def checked_file(folder: Path, part: Mapping[str, Any]) -> Path:
    """The path of a set's file whose bytes are those that the description promises.

    Raises:
        MissingFileError: It is not there.
        DataError: Its bytes are others.
    """
    path = Path(folder) / str(part["file"])
    if not path.is_file():
        raise MissingFileError(f"the set in {folder} lacks its file {part['file']}.", "Download the set again.")
    if path.stat().st_size != part["bytes"] or hash_file(path) != part["sha256"]:
        raise DataError(
            f"{path} is not the file that {DESCRIPTION_FILE} describes: its hash differs.", "Download the set again."
        )
    return path


def _figures(rows: Sequence[AdversarialRow]) -> dict[str, float | None]:
    summary = summarise(rows)
    figures = {
        "accuracy": summary.accuracy,
        "accuracy_under_attack": summary.accuracy_under_attack,
        "success_rate": summary.success_rate,
        "words_changed_percent": summary.words_changed_percent,
        "queries": summary.queries,
    }
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in figures.items()}


@functools.cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    text = resources.files("harness.text.release").joinpath("release.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))
