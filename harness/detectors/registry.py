"""Detectors by name."""

from __future__ import annotations

from harness.core.registry import Registry
from harness.detectors.base import Detector

DETECTORS: Registry[type[Detector]] = Registry("detector")
DETECTORS.add("rde", "harness.detectors.rde:RDE", "kernel PCA, then a robust Gaussian a class")
DETECTORS.add("rde-empirical", "harness.detectors.rde:RDEEmpirical", "RDE(-MCD): with the empirical Gaussian")
DETECTORS.add("mle", "harness.detectors.mle:MLE", "an empirical Gaussian a class on the raw features")
DETECTORS.add("msp", "harness.detectors.msp:MSP", "one minus the maximal softmax probability")
