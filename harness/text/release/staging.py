"""From attack runs to the folder that a push to the Hub would send: exactly the files that may leave."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError
from harness.core.files import disk_errors, hash_file, write_json, write_text
from harness.text.release.card import (
    CARD_FILE,
    DATASHEET_FILE,
    check_licence,
    render_card,
    render_datasheet,
)
from harness.text.release.corpora import corpus_of, known_label_names
from harness.text.release.description import DESCRIPTION_FILE, data_file, describe_configuration, describe_set
from harness.text.release.sources import Configuration, find_runs, read_configurations
from harness.text.release.tables import EDITS_COLUMN, fitting_names, set_features, set_values, write_table


def stage_attacks(
    source: Path,
    staging: Path,
    *,
    repo: str | None = None,
    with_texts: bool = False,
    licence: str | None = None,
) -> list[str]:
    """Write a set of adversarial texts: Parquet a configuration and split, card, datasheet, `release.json`.

    The same rows give the same bytes. Manifests, timings and paths stay behind, and so do the source texts of corpora
    whose licence does not let them be passed on: then a row holds their hash and, as edits, what the attack put in.

    Args:
        source: The run folder of an attack or an import, a suite's folder, or a folder of such runs; runs that are not
            finished are left out and named in the card.
        staging: An empty folder, or one to be made.
        repo: Where the set will be published, as ORG/NAME, for the card.
        with_texts: Include all texts, whatever the licences; for those who have the right.
        licence: Short name of the licence of what the set adds, such as cc-by-4.0.

    Returns:
        The files, relative to `staging`, sorted.

    Raises:
        ConfigurationError: There is no finished run, or the folder is not empty.
        DataError: A run's rows are not those that it wrote.
    """
    check_licence(licence)
    staging = Path(staging)
    if staging.exists() and (not staging.is_dir() or any(staging.iterdir())):
        raise ConfigurationError(f"{staging} is not an empty folder.", "Choose a new name.")
    found = find_runs(source)
    files: list[str] = []
    described: dict[str, Any] = {}
    for configuration in read_configurations(found.finished):
        described[configuration.name] = _write_configuration(configuration, staging, with_texts)
        files += [part["file"] for part in described[configuration.name]["splits"].values()]
    description = describe_set(described, found.unfinished)
    write_json(staging / DESCRIPTION_FILE, description)
    write_text(staging / CARD_FILE, render_card(description, repo, licence))
    write_text(staging / DATASHEET_FILE, render_datasheet(description, repo, licence))
    return sorted([*files, DESCRIPTION_FILE, CARD_FILE, DATASHEET_FILE])


def release_attacks(
    source: Path, out: Path, *, repo: str | None = None, with_texts: bool = False, licence: str | None = None
) -> list[str]:
    """`stage_attacks` into a new folder that is whole or not there; arguments and errors are the same."""
    out = Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"{out} is not an empty folder.", "Choose a new name for --out.")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        staging = temporary / "set"  # made with the usual rights, which a temporary folder lacks
        files = stage_attacks(source, staging, repo=repo, with_texts=with_texts, licence=licence)
        os.replace(staging, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return files


def _write_configuration(configuration: Configuration, staging: Path, with_texts: bool) -> dict[str, Any]:
    """Write the files of one configuration; what the description says of it."""
    head = configuration.head
    included = with_texts or corpus_of(head.dataset).may_redistribute
    names = configuration.label_names or known_label_names(head.dataset, configuration.config.get("dataset_source"))
    names = fitting_names(names, configuration.rows)
    features = set_features(included, names)
    splits: dict[str, Any] = {}
    withheld = 0
    for split, rows in configuration.splits().items():
        values = [set_values(row, included) for row in rows]
        withheld += 0 if included else sum(value[EDITS_COLUMN] is None for value in values)
        file = data_file(configuration.name, split)
        path = staging / file
        write_table(path, values, features)
        splits[split] = {
            "file": file,
            "rows": len(rows),
            "sha256": hash_file(path),
            "bytes": path.stat().st_size,
        }
    return describe_configuration(
        configuration, with_texts=included, label_names=names, withheld=withheld, splits=splits
    )
