"""What a victim says of texts, computed once and kept in the feature store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.features import Arrays, FeatureStore
from harness.core.files import cache_folder, hash_strings
from harness.text.victims import Victim, VictimOutputs


@dataclass(frozen=True)
class Reading:
    """A victim's outputs on texts and what they cost when they were computed."""

    outputs: VictimOutputs
    seconds: float


def read_texts(victim: Victim, texts: Sequence[str], layers: Sequence[int], *, what: str) -> Reading:
    """Read a victim over texts through the feature store in the user's cache folder.

    Args:
        victim: The classifier.
        texts: n texts.
        layers: Layers to read (-1 is the last).
        what: What the progress bar says.
    """
    numbers = sorted({victim.layer(layer) for layer in layers})
    key = {
        "weights": victim.hash,
        "data": hash_strings(texts),
        "layers": numbers,
        "pooling": "class",
        "max_length": victim.max_length,
        "dtype": victim.dtype,
        "logits": True,
    }

    def compute(start: int, stop: int) -> tuple[Arrays, float, int]:
        started = time.perf_counter()
        outputs = victim.read(texts[start:stop], numbers)
        assert outputs.logits is not None
        arrays: Arrays = {"probabilities": outputs.probabilities, "logits": outputs.logits}
        arrays.update({f"layer.{number}": outputs.features[number] for number in numbers})
        return arrays, time.perf_counter() - started, outputs.truncated

    stored = FeatureStore(cache_folder("features")).get(key, len(texts), compute, what=what)
    if not texts:
        return Reading(victim.read(texts, numbers), 0.0)
    features = {number: stored.arrays[f"layer.{number}"] for number in numbers}
    arrays = stored.arrays
    outputs = VictimOutputs(
        arrays["probabilities"], features, stored.truncated, logits=arrays["logits"], texts=tuple(texts)
    )
    return Reading(outputs, stored.seconds)
