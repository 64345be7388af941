"""What an `eval detect` run holds: results, and every score behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.conformal import threshold_at_fpr
from harness.core.errors import DataError
from harness.core.files import read_json
from harness.evaluation.runs import RESULTS_FILE, SCORES_FILE
from harness.report.finished import FinishedRun

FPR = 0.10


@dataclass(frozen=True)
class Sample:
    """What one detector said of one seed's texts.

    Attributes:
        seed: Sampling seed.
        ids: Row ids, n of them; a row's two texts may both be among the texts.
        adversarial: (n,) which texts are adversarial.
        scores: (n,) float64.
        threshold: What a score has to exceed to be flagged.
        heldout: Whether the threshold comes from held-out clean texts, and not from the sampled ones.
        tuned: Whether the detector was tuned or trained for this seed, so that other seeds' scores are of another one.
    """

    seed: int
    ids: Sequence[str]
    adversarial: NDArray[np.bool_]
    scores: NDArray[np.float64]
    threshold: float
    heldout: bool
    tuned: bool


@dataclass(frozen=True)
class EvaluatedDetector:
    """One detector on one attack.

    Attributes:
        spec: As the command line names it.
        title: As tables call it.
        mean: What the run keeps of its mean over seeds.
        rows: Its result rows, one a seed.
        samples: Its scores, one a seed.
    """

    spec: str
    title: str
    mean: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Evaluated:
    """One attack with all its detectors, those that trained on adversarial texts last.

    Attributes:
        title: What was evaluated on what.
        notes: What has to be said beside the figures.
        identity: What the run's configuration says of the attack, its rows' hash among it.
        detectors: Its detectors.
    """

    title: str
    notes: Sequence[str]
    identity: Mapping[str, Any]
    detectors: Sequence[EvaluatedDetector]

    @property
    def name(self) -> str:
        """Recipe and dataset."""
        return f"{self.identity['recipe']} on {self.identity['dataset']}"


def read_evaluated(run: FinishedRun) -> list[Evaluated]:
    """Read results and scores of a run.

    Raises:
        DataError: A file is damaged, or they do not belong together.
    """
    import pyarrow.parquet as pq

    found = read_json(run.output(RESULTS_FILE))
    scores = pq.read_table(run.output(SCORES_FILE)).to_pandas()
    columns = {name: scores[name].to_numpy() for name in ("detector", "seed", "adversarial", "score")}
    ids = scores["id"].tolist()
    start = 0
    attacks = []
    for identity, result in zip(run.config["attacks"], found, strict=True):
        by_spec: dict[str, list[Mapping[str, Any]]] = {}
        for row in result["rows"]:
            by_spec.setdefault(row["detector"], []).append(row)
        detectors = []
        for spec, rows in by_spec.items():
            samples = []
            # Scores lie in the order of the rows: two attacks may share recipe, dataset, detectors and seeds.
            for row in rows:
                stop = start + row["n_clean"] + row["n_adversarial"]
                part = {name: values[start:stop] for name, values in columns.items()}
                if set(part["detector"]) != {spec} or set(part["seed"]) != {row["seed"]}:
                    raise DataError(f"{run.folder / SCORES_FILE} does not fit {RESULTS_FILE}.")
                samples.append(_sample(row, ids[start:stop], part["adversarial"], part["score"]))
                start = stop
            mean = result["mean_over_seeds"][spec]
            detectors.append(EvaluatedDetector(spec, mean["title"], mean, rows, samples))
        detectors.sort(key=lambda one: bool(one.mean["trains_on_adversarial_texts"]))
        attacks.append(Evaluated(result["title"], result["notes"], identity, detectors))
    return attacks


def _sample(
    row: Mapping[str, Any], ids: Sequence[str], adversarial: NDArray[np.bool_], scores: NDArray[np.float64]
) -> Sample:
    adversarial = adversarial.astype(np.bool_)
    heldout = row["protocol"]["calibration"]["thresholds"].get("10")
    threshold = threshold_at_fpr(scores[~adversarial], FPR) if heldout is None else float(heldout)
    tuned = row["protocol"]["detector"].get("tuned_on") is not None
    return Sample(row["seed"], ids, adversarial, scores, threshold, heldout is not None, tuned)
