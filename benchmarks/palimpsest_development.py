"""AUC of palimpsest, FGWS, RDE and MSP on development attacks: the first table of docs/palimpsest.md.

All originals against the successes, then pairs of equal confidence. Palimpsest's signals were chosen on attacks on
SST-2's validation split, with their adversarial labels, so its figures there are optimistic.

    harness attack run --dataset SST2 --victim VICTIM --recipe pwws --split validation --limit 300 --max-length 128 \
        --dtype bf16 --threads 1 --out runs/dev/pwws-reg                # and the others; far: --min-confidence 0.9
    python benchmarks/palimpsest_development.py --victim VICTIM --dataset SST2 runs/dev/*
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from harness.detectors.fitting import build_detector
from harness.detectors.scoring import score
from harness.evaluation.matching import match_confidences
from harness.evaluation.metrics import detection_metrics
from harness.evaluation.word_evidence import substituted_positions, word_evidence
from harness.text.adversarial import read_rows
from harness.text.datasets import load_dataset, source_key
from harness.text.victims import Victim

NAMES = ("palimpsest", "msp", "rde", "fgws")
ROWS = 4000
PROBE_ROWS = 3000


def auc(clean: np.ndarray, adversarial: np.ndarray) -> float:
    labels = np.arange(len(clean) + len(adversarial)) >= len(clean)
    return detection_metrics(np.concatenate([clean, adversarial]), labels)["auc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victim", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("attacks", nargs="+", type=Path)
    given = parser.parse_args()
    victim = Victim.load(given.victim, max_length=128)
    train = load_dataset(given.dataset, "train")
    drawn = np.random.default_rng(1).permutation(len(train))[:ROWS]
    read = victim.read([train.texts[i] for i in drawn], [-1])
    detectors = {name: build_detector(name, victim, {}) for name in NAMES}
    for name, detector in detectors.items():
        if detector.reads_corpus:
            detector.fit_corpus(train.texts)
        rows = np.arange(PROBE_ROWS if name == "palimpsest" else ROWS)
        detector.fit(read.take(rows), train.labels[drawn[rows]])
    for folder in given.attacks:
        rows = read_rows(folder)
        wins = [row for row in rows if row.result == "success"]
        clean = victim.read([row.original_text for row in rows], [-1])
        attacked = victim.read([row.perturbed_text for row in wins], [-1])
        pairs = match_confidences(
            clean.probabilities.max(axis=1),
            attacked.probabilities.max(axis=1),
            [source_key(row.original_text) for row in rows],
            [source_key(row.original_text) for row in wins],
        )
        print(f"{folder.name}: {len(rows)} originals, {len(wins)} successes, {len(pairs.clean)} pairs")
        for name, detector in detectors.items():
            below, above = score(detector, clean), score(detector, attacked)
            matched = auc(below[pairs.clean], above[pairs.adversarial])
            print(f"  {name:<11} AUC {auc(below, above):.3f}  matched {matched:.3f}")
        words = word_evidence(
            detectors["palimpsest"].word_scores(attacked), [substituted_positions(row) for row in wins], replicates=1
        )
        print(f"  palimpsest, AUC over words {words.metrics['auc_pooled'].value:.3f}")


if __name__ == "__main__":
    main()
