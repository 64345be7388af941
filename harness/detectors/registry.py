"""Detectors by name."""

from __future__ import annotations

from harness.core.registry import Registry
from harness.detectors.base import Detector

DETECTORS: Registry[type[Detector]] = Registry("detector")
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
    "palimpsest", "harness.detectors.palimpsest:Palimpsest", "find overwritten words, read the text without them"
)
