"""Detectors by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from harness.core.registry import Registry
from harness.detectors.base import Detector, DetectorInfo


def what_is_wrong(name: str, found: Any) -> str:
    """What keeps another package's object from being the detector `name`; empty for nothing.

    Only what can be seen without fitting it: the class, its methods, and that its `info` is one.
    """
    return next(_faults(name, found), "")


def _faults(name: str, found: Any) -> Iterator[str]:
    # Only the first is asked for: what comes after it may not make sense.
    if not (isinstance(found, type) and issubclass(found, Detector)):
        yield f"{found!r} is no class derived from harness.detectors.base.Detector"
    if inspect.isabstract(found):
        yield f"it does not define {', '.join(sorted(found.__abstractmethods__))}"
    info: Any = getattr(found, "info", None)
    if not isinstance(info, DetectorInfo):
        yield "it has no `info`, a harness.detectors.base.DetectorInfo"
    if info.name != name:
        yield f"its info calls it {info.name!r}"
    hints = get_type_hints(DetectorInfo)
    for field in ("reads", "adversarial_texts"):
        if getattr(info, field) not in (known := get_args(hints[field])):
            yield f"its info.{field} is {getattr(info, field)!r}, not one of {', '.join(known)}"
    for field in ("title", "paper", "cost"):
        if not (isinstance(getattr(info, field), str) and getattr(info, field)):
            yield f"its info.{field} is no text"
    for field in ("forwards_per_text", "at_most"):
        number = getattr(info, field)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float) or not number > 0):
            yield f"its info.{field} is {number!r}, neither a number above 0 nor None"
    for field, claimed, method in (
        ("adversarial_texts", info.adversarial_texts != "none", "fit_adversarial"),
        ("scores_words", bool(info.scores_words), "word_scores"),
    ):
        if claimed and getattr(found, method) is getattr(Detector, method):
            yield f"its info.{field} is {getattr(info, field)!r}, but it does not define {method}"


DETECTORS: Registry[type[Detector]] = Registry("detector", what_is_wrong)
DETECTORS.add("rde", "harness.detectors.rde:RDE", "kernel PCA, then a robust Gaussian a class")
DETECTORS.add("rde-empirical", "harness.detectors.rde:RDEEmpirical", "RDE(-MCD): with the empirical Gaussian")
DETECTORS.add("rde-linear", "harness.detectors.rde:RDELinear", "RDE with linear PCA")
DETECTORS.add("mle", "harness.detectors.mle:MLE", "an empirical Gaussian a class on the raw features")
DETECTORS.add("msp", "harness.detectors.confidence:MSP", "one minus the maximal softmax probability")
DETECTORS.add("entropy", "harness.detectors.confidence:Entropy", "entropy of the softmax probabilities")
DETECTORS.add("energy", "harness.detectors.confidence:Energy", "minus the log-sum-exp of the logits")
DETECTORS.add("maxlogit", "harness.detectors.confidence:MaxLogit", "minus the largest logit")
DETECTORS.add("mahalanobis", "harness.detectors.mahalanobis:Mahalanobis", "distance to the nearest class")
DETECTORS.add("rmd", "harness.detectors.mahalanobis:RelativeMahalanobis", "the same, less the distance to all texts")
DETECTORS.add("knn", "harness.detectors.knn:KNN", "distance to the k-th nearest training text")
DETECTORS.add("lid", "harness.detectors.lid:LID", "local intrinsic dimensionality among training texts")
DETECTORS.add("ppl", "harness.detectors.ppl:Perplexity", "token surprise of a causal language model")
DETECTORS.add("fgws", "harness.detectors.fgws:FGWS", "swap rare words for frequent synonyms, watch the confidence")
DETECTORS.add("rsv", "harness.detectors.rsv:RSV", "vote over random synonym swaps")
DETECTORS.add("wdr", "harness.detectors.wdr:WDR", "logit reaction to leaving out each word; trains on attacks")
DETECTORS.add("addmu", "harness.detectors.addmu:ADDMU", "MC dropout and masked neighbours, joined as p-values")
DETECTORS.add("gradmask", "harness.detectors.gradmask:GradMask", "mask the words of largest gradient")
DETECTORS.add("sharpness", "harness.detectors.sharpness:Sharpness", "rise of the loss around the embedding")
DETECTORS.add("mlmd", "harness.detectors.mlmd:MLMD", "mask and refill every word, watch the prediction")
DETECTORS.add("gradmlmd", "harness.detectors.mlmd:GradMLMD", "the same for the words of largest gradient")
DETECTORS.add("rtd-guard", "harness.detectors.rtd_guard:RTDGuard", "mask what a replaced-token discriminator marks")
DETECTORS.add(
    "palimpsest", "harness.detectors.palimpsest:Palimpsest", "find overwritten words, read what may have stood there"
)
