"""Run the victim again over stored rows, and report what no longer holds in a file beside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, HarnessError, MissingFileError, VictimError
from harness.core.files import hash_file, read_json, write_json
from harness.core.progress import Progress
from harness.core.runs import MANIFEST, known_config
from harness.text.adversarial import ROWS_FILE, AdversarialRow, read_rows
from harness.text.row_checks import FAULTS, Answer, Fault, check_answers, check_sources, check_stored, result_of
from harness.text.sources import load_from_pointer
from harness.text.victims import Victim

REPORT_FILE = "verify.json"
# Texts asked about at a time: a whole set's encodings would take more memory than its rows.
_CHUNK = 2048
# Probabilities in bf16 move by about as much with the batch that a text is in.
_BF16_TOLERANCE = 0.02


@dataclass(frozen=True)
class Verification:
    """What became of checking a set of rows.

    Attributes:
        rows: The rows that were checked.
        faults: What is wrong, row by row.
        notes: What has to be said of the set as a whole.
        facts: The checked file's hash, victim, precision and tolerance.
    """

    rows: list[AdversarialRow]
    faults: list[Fault]
    notes: list[str]
    facts: dict[str, Any]

    @property
    def holding(self) -> int:
        """How many rows hold."""
        return len(self.rows) - len({fault.position for fault in self.faults})

    @property
    def counts(self) -> dict[str, int]:
        """Rows by kind of fault, in the order of `FAULTS`; a row with two faults counts twice."""
        found = Counter(fault.kind for fault in self.faults)
        return {kind: found[kind] for kind in FAULTS if found[kind]}

    def report(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {
            **self.facts,
            "rows": len(self.rows),
            "holding": self.holding,
            "counts": self.counts,
            "notes": self.notes,
            "faults": [{**asdict(fault), "index": self.rows[fault.position].index} for fault in self.faults],
        }


def verify_rows(
    path: Path,
    *,
    victim: str | None = None,
    tolerance: float = 1e-4,
    dtype: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
) -> Verification:
    """Check every row of a set against its victim, its dataset and itself.

    Args:
        path: The run folder of an attack or an import, or a file of rows.
        victim: The victim to ask; by default the attacked one, found through the run's manifest.
        tolerance: How far a probability may be off.
        dtype: The victim's precision; by default that of the attack.
        max_length: Tokens a text may have; by default as in the attack.
        batch_size: Texts in one forward.

    Raises:
        ConfigurationError: There is no victim to ask, or a tolerance that is none.
        VictimError: The victim does not know the labels of the rows.
        MissingFileError: There are no rows, or the victim is not where it was.
    """
    if not 0 <= tolerance < 1:
        raise ConfigurationError(f"--tolerance {tolerance:g} is not between 0 and 1.")
    rows = read_rows(path)
    config, manifest = _run_facts(path)
    sources = manifest.get("sources", {})
    spec = victim or sources.get("victim")
    if spec is None:
        raise ConfigurationError(f"{path} does not say which victim was attacked.", "Name it with --victim.")
    precision = dtype or str(config.get("dtype", "fp32"))
    try:
        model = Victim.load(
            spec, dtype=precision, max_length=max_length or config.get("max_length"), batch_size=batch_size
        )
    except MissingFileError as error:
        raise MissingFileError(error.message, "Say where the victim is now with --victim.") from error
    highest = max((row.label for row in rows), default=0)
    if highest >= model.num_labels:
        raise VictimError(
            f"the rows of {path} have labels up to {highest}, the victim {model.name!r} knows 0 to "
            f"{model.num_labels - 1}.",
            "Name the victim that was attacked with --victim.",
        )
    file = path / ROWS_FILE if path.is_dir() else path
    rows_hash = hash_file(file)
    notes = _notes(rows, rows_hash, model, manifest)
    if "bf16" in (precision, config.get("dtype")) and tolerance < _BF16_TOLERANCE:
        notes.append(f"in bf16 probabilities move with the batch: --tolerance {_BF16_TOLERANCE} allows for it.")
    faults = check_stored(rows) + check_answers(rows, ask(model, rows), tolerance)
    found, note = _dataset_faults(rows, sources.get("dataset"))
    notes += [note] if note else []
    order = list(FAULTS)
    faults = sorted(faults + found, key=lambda fault: (fault.position, order.index(fault.kind)))
    facts = {
        "rows_file": file.name,
        "rows_hash": rows_hash,
        "victim": model.name,
        "victim_hash": model.hash,
        "dtype": precision,
        "max_length": model.max_length,
        "tolerance": tolerance,
    }
    return Verification(rows, faults, notes, facts)


def ask(victim: Victim, rows: list[AdversarialRow]) -> list[Answer]:
    """What a victim says of the original and the perturbed text of each row; each text is asked about once."""
    texts = list(dict.fromkeys(text for row in rows for text in (row.original_text, row.perturbed_text)))
    said: dict[str, Any] = {}
    with Progress("verifying", total=len(texts), unit="text") as bar:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            said.update(zip(chunk, victim.read(chunk).probabilities, strict=True))
            bar.advance(len(chunk))
    return [Answer(said[row.original_text], said[row.perturbed_text]) for row in rows]


def other_outcomes(rows: list[AdversarialRow], victim: Victim) -> int:
    """How many rows end otherwise when this victim is asked: another prediction, or another result.

    Args:
        rows: Rows of an attack on the same victim in another precision.
        victim: The victim in the precision to compare with.
    """
    faults = check_answers(rows, ask(victim, rows), 0.0)
    return len({fault.position for fault in faults if not fault.kind.endswith("probabilities")})


def reanswered(rows: list[AdversarialRow], victim: Victim) -> list[AdversarialRow]:
    """The rows as the answers of this victim make them: of another precision, or of another classifier.

    A success is a text that this victim reads right before the attack and, as the goal wants it, wrong after it. A
    detector that was to be passed is not asked again.

    Args:
        rows: Rows of an attack.
        victim: Whose predictions, probabilities and results the new rows hold.

    Raises:
        VictimError: It does not know the labels of the rows.
    """
    highest = max((row.label for row in rows), default=0)
    if highest >= victim.num_labels:
        raise VictimError(
            f"the rows have labels up to {highest}, the victim {victim.name!r} knows 0 to {victim.num_labels - 1}."
        )
    found = []
    for row, answer in zip(rows, ask(victim, rows), strict=True):
        before, after = int(answer.original.argmax()), int(answer.perturbed.argmax())
        found.append(
            replace(
                row,
                original_output=before,
                perturbed_output=after,
                original_probabilities=answer.original.tolist(),
                perturbed_probabilities=answer.perturbed.tolist(),
                original_score=1.0 - float(answer.original[row.label]),
                perturbed_score=1.0 - float(answer.perturbed[row.label]),
                result=result_of(row, before, after, float(answer.perturbed[after])),
                victim=victim.name,
                victim_hash=victim.hash,
            )
        )
    return found


def write_report(path: Path, found: Verification) -> Path:
    """Write the report beside the rows, which stay as they are.

    Args:
        path: The run folder or the file of rows.
        found: What was found.

    Returns:
        Where it lies: `verify.json` in a folder, `NAME.verify.json` beside a file.
    """
    target = path / REPORT_FILE if path.is_dir() else path.with_suffix(f".{REPORT_FILE}")
    write_json(target, found.report())
    return target


def _run_facts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and manifest of the run that a path belongs to; empty where it is no run."""
    folder = path if path.is_dir() else path.parent
    config = known_config(folder)
    manifest = folder / MANIFEST
    return config, dict(read_json(manifest)) if config and manifest.is_file() else {}


def _notes(rows: list[AdversarialRow], rows_hash: str, victim: Victim, manifest: dict[str, Any]) -> list[str]:
    notes = []
    known = {row.victim_hash for row in rows} - {None}
    if known and known != {victim.hash}:
        notes.append("the victim's weights hash is not that of the rows: it is not the model that was attacked.")
    written = manifest.get("outputs", {}).get(ROWS_FILE)
    if written is not None and written != rows_hash:
        notes.append("the file of rows is not the one that the run wrote: it was changed afterwards.")
    return notes


def _dataset_faults(rows: list[AdversarialRow], pointer: dict[str, Any] | None) -> tuple[list[Fault], str]:
    """Faults of texts against the dataset, or why they were not checked."""
    if pointer is None:
        return [], "original texts were not checked: the run does not say which dataset was attacked."
    faults = []
    for split in sorted({row.split for row in rows}):
        try:
            dataset = load_from_pointer(pointer, split)
        except HarnessError as error:
            return [], f"original texts were not checked: {error.message}"
        places = [place for place, row in enumerate(rows) if row.split == split]
        found = check_sources([rows[place] for place in places], dataset)
        faults += [Fault(places[fault.position], fault.id, fault.kind, fault.detail) for fault in found]
    return faults, ""
