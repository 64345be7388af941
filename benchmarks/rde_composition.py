"""RDE in finished evaluations against the same detector put together from scikit-learn: AUC on the same texts.

For every cell (a run folder of `harness eval detect` with the detector `rde`), the texts are those that it scored. The
composition reads the victim's last hidden state by a forward of its own, reduces it by `KernelPCA` with full
decomposition and takes distances to a `MinCovDet` a class; of this package it uses the loaded model and the draw of
training rows, and no detector. Compositions are fitted once a victim.

    python benchmarks/rde_composition.py runs/offline/cells/*-s1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.covariance import MinCovDet
from sklearn.decomposition import KernelPCA
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from harness.core.files import read_json
from harness.evaluation.attacks import load_attack
from harness.text.victims import Victim

COMPONENTS = 100


def read(victim: Victim, texts: Sequence[str], size: int = 64) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(n, d) last hidden states of the class token, and (n,) predictions."""
    states, predictions = [], []
    for start in range(0, len(texts), size):
        batch = victim.tokenizer(
            list(texts[start : start + size]),
            padding=True,
            truncation=True,
            max_length=victim.max_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            said = victim.model(**batch.to(victim.device), output_hidden_states=True)
        states.append(said.hidden_states[-1][:, 0].double().cpu().numpy())
        predictions.append(said.logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(states), np.concatenate(predictions)


class Composition:
    """RDE of scikit-learn's classes on one victim."""

    def __init__(self, victim: Victim, texts: Sequence[str], labels: NDArray[np.int64]) -> None:
        self.victim = victim
        features, _ = read(victim, texts)
        self.pca = KernelPCA(COMPONENTS, kernel="rbf", eigen_solver="dense")
        reduced = self.pca.fit_transform(features)
        with threadpool_limits(1, user_api="blas"):
            self.fits = [MinCovDet(random_state=0).fit(reduced[labels == c]) for c in range(int(labels.max()) + 1)]

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(n,) squared distances to the Gaussian of the predicted class."""
        features, predictions = read(self.victim, texts)
        reduced = self.pca.transform(features)
        return np.array([self.fits[c].mahalanobis(row[None])[0] for row, c in zip(reduced, predictions, strict=True)])


def main() -> None:
    """Print a line a cell and seed, and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", type=Path)
    compositions: dict[str, Composition] = {}
    largest = 0.0
    print(f"{'cell':<34} seed texts    rde   composition  difference  rank correlation")
    for cell in parser.parse_args().cells:
        settings = yaml.safe_load((cell / "config.yaml").read_text())
        (folder,) = read_json(cell / "manifest.json")["sources"]["attacks"]
        attack = load_attack(Path(folder))
        by_id = {row.id: row for row in attack.rows}
        if attack.victim.hash not in compositions:
            train = attack.train.sample(settings["train_limit"], settings["fit_seed"])
            compositions[attack.victim.hash] = Composition(attack.victim, train.texts, train.labels)
        composition = compositions[attack.victim.hash]
        scored = pq.read_table(cell / "scores.parquet").to_pylist()
        for seed in settings["seeds"]:
            rows = [row for row in scored if row["detector"] == "rde" and row["seed"] == seed]
            texts = [
                by_id[row["id"]].perturbed_text if row["adversarial"] else by_id[row["id"]].original_text
                for row in rows
            ]
            ours, adversarial = np.array([r["score"] for r in rows]), [r["adversarial"] for r in rows]
            theirs = composition.score(texts)
            aucs = [100 * roc_auc_score(adversarial, scores) for scores in (ours, theirs)]
            largest = max(largest, abs(aucs[0] - aucs[1]))
            print(
                f"{cell.name:<34} {seed:>4} {len(rows):>5} {aucs[0]:>6.2f} {aucs[1]:>13.2f} "
                f"{aucs[0] - aucs[1]:>+11.3f} {spearmanr(ours, theirs).statistic:>17.6f}",
                flush=True,
            )
    print(f"largest difference: {largest:.3f} points of AUC")


if __name__ == "__main__":
    main()
