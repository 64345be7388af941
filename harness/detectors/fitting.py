"""Build, fit, save and load detectors.

A fit depends on the victim and the training texts, never on an attack, so it is kept in the user's cache folder and
used again for every attack on that victim. State is safetensors and JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError
from harness.core.files import atomic_writer, cache_folder, hash_file, hash_json, read_json, write_json
from harness.core.loading import summary
from harness.core.runs import versions
from harness.core.tensors import read_arrays
from harness.detectors.base import Detector
from harness.detectors.joint_detector import JOINT, JointDetector, check_version
from harness.detectors.layered import checked_layer
from harness.detectors.other_model import expect_other_model, other_model_facts
from harness.detectors.registry import DETECTORS
from harness.detectors.specs import constructor_parameters
from harness.detectors.states import check_parameters
from harness.text.datasets import TextDataset
from harness.text.reading import read_texts
from harness.text.victims import Victim

DETECTOR_FILE, STATE_FILE = "detector.json", "state.safetensors"
_FORMAT = 3
_MOST_FACTS = 2**24  # bytes
# What every detector means by them: NumPy and scikit-learn take seeds of 32 bits, and nothing is fitted on no rows.
_RANGES = {"seed": (0, 2**32 - 1), "rows": (1, None)}


def build_detector(name: str, victim: Victim, parameters: Mapping[str, Any], seed: int = 0) -> Detector:
    """An unfitted detector, attached to a victim.

    Args:
        name: A name in the registry.
        victim: Its layers are what `layer` counts.
        parameters: Constructor arguments; None means the detector's own default.
        seed: Seed of a detector that draws, where the parameters give none.

    Raises:
        UnknownNameError: There is no such detector.
        ConfigurationError: It does not take a given parameter, or not such a value.
    """
    kind = DETECTORS.get(name)
    given = {key: value for key, value in parameters.items() if value is not None}
    known = constructor_parameters(name)
    foreign = sorted(set(given) - known)
    if foreign:
        raise ConfigurationError(
            f"the detector {name!r} takes no {foreign[0]}.",
            f"It takes: {', '.join(sorted(known)) or 'nothing'}.",
        )
    _check_values(name, given)
    if "seed" in known:
        given.setdefault("seed", seed)
    if "layer" in known:
        layer = checked_layer(given.get("layer", -1))
        given["layer"] = layer if isinstance(layer, str) else victim.layer(layer)
    return kind(**given).attach(victim)


def _check_values(name: str, given: Mapping[str, Any]) -> None:
    """Refuse constructor arguments, as somebody wrote them, that the detector cannot take."""
    # What a layer may be is told by `checked_layer`, and which layers a detector reads by itself.
    others = {key: value for key, value in given.items() if key != "layer"}
    try:
        check_parameters(DETECTORS.get(name), others)
    except DataError as error:
        raise ConfigurationError(f"the detector {name!r} cannot be made: {error.message}.", error.hint) from error
    for key, (least, most) in _RANGES.items():
        value = others.get(key)
        if isinstance(value, int) and (value < least or (most is not None and value > most)):
            span = f"from {least} to {most}" if most is not None else f"of at least {least}"
            raise ConfigurationError(
                f"the detector {name!r} cannot be made: its parameter {key} is {value}, which it cannot be.",
                f"Give {key} a whole number {span}.",
            )


def fit_detectors(
    detectors: Sequence[Detector],
    victim: Victim,
    train: TextDataset | None,
    seed: int = 0,
    *,
    corpus: TextDataset | None = None,
    other_layers: Sequence[int] = (),
) -> int:
    """Fit detectors on clean training texts, reading the victim once for all of them.

    Only the rows that some detector wants are run through the victim. Fits are kept in, and taken from, the cache.

    Args:
        detectors: Unfitted detectors; fitted in place.
        victim: Whose features they read.
        train: Training texts with gold labels; may be None when no detector wants any.
        seed: Seed of the draw of training rows.
        corpus: Clean training texts whose words are counted, which takes no forward, where they are more than `train`.
        other_layers: Layers to read besides, so that detectors that are fitted one after the other, on the same rows,
            share one reading.

    Returns:
        How many of the training texts that were read are longer than the victim takes, and so were cut.

    Raises:
        DataError: Training texts are needed and missing, or too few.
    """
    waiting = [detector for detector in detectors if detector.fit_rows != 0 or detector.reads_corpus]
    if not waiting:
        return 0
    if train is None:
        raise DataError(
            f"the detector {waiting[0].info.name!r} is fitted on clean training texts, and none were given.",
            "Pass --dataset, with a train split.",
        )
    victim.check_labels(train.labels, train.name)
    unfitted = []
    truncated = 0
    for detector in waiting:
        folder = _cache_folder(detector, victim, train, corpus or train, seed)
        facts = _cached(folder)
        if facts is None:
            unfitted.append((detector, folder))
        else:
            detector.restore(_read_state(folder))
            truncated = max(truncated, int(facts["truncated"]))
    if not unfitted:
        return truncated
    draws = [_draw(len(train), detector.fit_rows, seed) for detector, _ in unfitted]
    needed = np.unique(np.concatenate(draws))
    own = [layer for detector, _ in unfitted for layer in detector.layers]
    layers = sorted({victim.layer(layer) for layer in (*own, *other_layers)})
    reading = read_texts(victim, [train.texts[i] for i in needed], layers, what="reading training texts")
    for (detector, folder), drawn in zip(unfitted, draws, strict=True):
        if detector.reads_corpus:
            detector.fit_corpus((corpus or train).texts)
        rows = np.searchsorted(needed, drawn)
        detector.fit(reading.outputs.take(rows), train.labels[drawn])
        save_detector(folder, detector, {"truncated": reading.outputs.truncated})
    return max(truncated, reading.outputs.truncated)


def save_detector(folder: Path, detector: Detector, facts: Mapping[str, Any]) -> None:
    """Write a fitted detector: arrays as safetensors, the rest as JSON; the JSON comes last and makes it whole."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(values) for name, values in detector.arrays().items()}
    with atomic_writer(folder / STATE_FILE) as handle:
        handle.write(save(arrays))
    write_json(
        folder / DETECTOR_FILE,
        {
            "format": _FORMAT,
            "detector": detector.info.name,
            "detector_version": detector.info.version,
            "parameters": detector.parameters(),
            "versions": versions(),
            **add_on_facts(detector),
            **other_model_facts(detector),
            "state_sha256": hash_file(folder / STATE_FILE),
            **facts,
        },
    )


def load_detector(folder: Path) -> tuple[Detector, dict[str, Any]]:
    """Read a fitted detector and the facts kept beside it.

    Raises:
        MissingFileError: The folder holds no detector.
        ConfigurationError: It was written by another version.
        DataError: It is damaged.
    """
    if not (folder / DETECTOR_FILE).is_file():
        raise MissingFileError(
            f"there is no fitted detector in {folder}.",
            "Make one: harness detect fit --detector NAME --out DIR.",
        )
    facts = read_json(folder / DETECTOR_FILE, most=_MOST_FACTS)
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise DataError(f"{folder / DETECTOR_FILE} does not describe a detector.", "Fit the detector again.")
    if facts["format"] != _FORMAT:
        newer = "It was written by another version of palimpsest: use that one, or fit the detector again."
        raise ConfigurationError(f"{folder} holds a detector of format {facts['format']}, this reads {_FORMAT}.", newer)
    if isinstance(given := facts.get("add_on"), dict) and str(facts.get("detector")) not in DETECTORS:
        raise ConfigurationError(
            f"the detector {facts.get('detector')!r} in {folder} comes with the package {given.get('package')}, "
            "which is not installed.",
            f"Install {given.get('package')}=={given.get('version')}.",
        )
    detector = _unfitted(folder, facts)
    if not _state_holds(folder, facts):
        raise DataError(f"{folder / STATE_FILE} is missing or damaged.", "Fit the detector again.")
    arrays = _read_state(folder)
    detector.check(arrays)
    return detector.restore(arrays), facts


def _unfitted(folder: Path, facts: Mapping[str, Any]) -> Detector:
    """The detector that facts describe. They may be a stranger's: types are checked before anything is made."""
    name, parameters = facts.get("detector"), facts.get("parameters")
    if not isinstance(name, str):
        raise DataError(f"{folder / DETECTOR_FILE} is damaged: it names no detector.", "Fit the detector again.")
    kind = JointDetector if name == JOINT else DETECTORS.get(name)
    check_version(folder, name, kind.info, facts.get("detector_version", 1))
    try:
        if kind is JointDetector:
            JointDetector.check_members(parameters, folder)
        return expect_other_model(kind(**check_parameters(kind, parameters)), facts)
    except (DataError, TypeError, ValueError) as error:
        reason = error.message.rstrip(".") if isinstance(error, DataError) else summary(error)
        raise DataError(f"{folder / DETECTOR_FILE} is damaged: {reason}.", "Fit the detector again.") from error


def _state_holds(folder: Path, facts: Mapping[str, Any]) -> bool:
    path = folder / STATE_FILE
    return path.is_file() and hash_file(path) == facts.get("state_sha256")


def _read_state(folder: Path) -> dict[str, Any]:
    return read_arrays(folder / STATE_FILE)


def _cached(folder: Path) -> dict[str, Any] | None:
    """The facts of a fit in the cache; None where there is none that can be trusted."""
    try:
        facts = dict(read_json(folder / DETECTOR_FILE))
    except (HarnessError, TypeError, ValueError):
        return None
    return facts if _state_holds(folder, facts) else None


def corpus_facts(detector: Detector, corpus: TextDataset | None) -> dict[str, Any]:
    """Of which texts a detector counted the words: `corpus_rows` and `corpus_hash`; nothing where it counts none."""
    if not detector.reads_corpus or corpus is None:
        return {}
    return {"corpus_rows": len(corpus), "corpus_hash": corpus.hash}


def _cache_folder(detector: Detector, victim: Victim, train: TextDataset, corpus: TextDataset, seed: int) -> Path:
    found = versions()
    key = {
        "format": _FORMAT,
        "detector": detector.info.name,
        "detector_version": detector.info.version,
        "parameters": detector.parameters(),
        "victim": victim.hash,
        "max_length": victim.max_length,
        "dtype": victim.dtype,
        "data": train.hash,
        **corpus_facts(detector, corpus),
        "seed": seed,
        # A fit by another version of what computes it is another fit.
        "versions": {name: found.get(name) for name in ("palimpsest", "scikit-learn", "numpy")},
        **add_on_facts(detector),
    }
    return cache_folder("detectors", hash_json(key)[:24])


def add_on_facts(detector: Detector) -> dict[str, Any]:
    """What identifies another package's detector beside its name: `add_on`; nothing for those of this package."""
    found = DETECTORS.add_on(detector.info.name)
    return {"add_on": found} if found else {}


def _draw(rows: int, limit: int | None, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions of the training rows to fit on, in their own order."""
    if limit is None or limit >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=limit, replace=False))
