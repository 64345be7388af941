"""What detectors of one forward add to it, and what they take to fit; then cost and AUC of every detector in one table.

The victim reads a text plainly, then with the features of every layer, and each detector scores what that gave.
Detectors take turns; times are medians of CPU time on one thread, which a busy machine blurs less than wall time.
`added` is a detector's score against the plain reading; the line `features` is what reading every layer adds to that.

    python benchmarks/detector_cost.py [--victim NAME --dataset PATH] [--rows 2000] [--texts 300 | --attacks DIR]

Then PWWS attacks texts of the test split (or `--attacks` are taken as they are), and all detectors of the registry are
evaluated on the same texts of it, wall time a text beside the AUC; those that need what is not at hand are named.
`--texts 0` leaves that out. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from harness.cli.tables import print_detectors
from harness.core.errors import HarnessError
from harness.detectors.base import Detector
from harness.detectors.fitting import build_detector
from harness.detectors.registry import DETECTORS
from harness.evaluation.detection import EvaluationSettings
from harness.evaluation.runs import EvaluationRequest, run_evaluation
from harness.text.datasets import TextDataset, load_dataset
from harness.text.victims import Victim

READ, FEATURES = "plain reading", "features"


def fit_all(victim: Victim, train: TextDataset, rows: int) -> tuple[list[Detector], dict[str, float]]:
    """Fit every detector that reads a text once, on the same rows, and time each fit without the reading."""
    drawn = train.sample(rows, 0) if rows < len(train) else train
    layers = range(victim.num_layers + 1)
    outputs = victim.read(drawn.texts, layers)
    fitted, seconds = [], {}
    for name in DETECTORS.names():
        try:
            info = DETECTORS.get(name).info
            if info.reads not in ("probabilities", "features") or info.forwards_per_text != 1:
                continue
            detector = build_detector(name, victim, {})
            started = time.process_time()
            detector.fit(outputs, drawn.labels)
        except (HarnessError, ImportError, AttributeError) as error:
            print(f"{name}: not measured: {error}")
            continue
        seconds[name] = time.process_time() - started
        fitted.append(detector)
    return fitted, seconds


def measure(
    victim: Victim, detectors: Sequence[Detector], texts: Sequence[str], size: int, repetitions: int
) -> dict[str, float]:
    """Median milliseconds a text of reading and of each detector's score, in batches of `size` texts."""
    taken: dict[str, list[float]] = {name: [] for name in (READ, FEATURES, *(d.info.name for d in detectors))}
    every_layer = range(victim.num_layers + 1)
    for turn in range(repetitions):
        batch = [texts[(turn * size + i) % len(texts)] for i in range(size)]
        times = [time.process_time()]
        victim.read(batch)
        times.append(time.process_time())
        outputs = victim.read(batch, every_layer)
        times.append(time.process_time())
        # They take turns in being the first, which finds the caches as the victim left them.
        order = [*detectors[turn % len(detectors) :], *detectors[: turn % len(detectors)]]
        for detector in order:
            detector.score(outputs)
            times.append(time.process_time())
        for name, one in zip((READ, FEATURES, *(d.info.name for d in order)), np.diff(times), strict=True):
            taken[name].append(1e3 * float(one) / size)
    found = {name: statistics.median(values) for name, values in taken.items()}
    found[FEATURES] -= found[READ]
    return found


def attack(options: argparse.Namespace) -> Path:
    """Attack `options.texts` texts of the test split with PWWS, or go on with it; the run's folder."""
    out: Path = options.out / "attack"
    what = ["--victim", options.victim, "--dataset", options.dataset, "--recipe", "pwws", "--limit", str(options.texts)]
    subprocess.run([sys.executable, "-m", "harness", "attack", "run", *what, "--out", str(out)], check=True)
    return out


def evaluate(attacks: Sequence[Path], options: argparse.Namespace) -> None:
    """Print a table an attack: AUC and cost of every detector, all on the same texts of one sample."""
    # A victim by name is the attack's own; its manifest says where its texts came from.
    settings = EvaluationSettings(seeds=(0,), train_limit=options.rows, dear_texts=options.dear_texts, same_texts=True)
    request = EvaluationRequest(attacks, DETECTORS.names(), {}, settings)
    for table in run_evaluation(request, options.out / "evaluation").tables:
        print_detectors(table.title, table.rows)
        for note in table.notes:
            print(note)


def main() -> None:
    """Fit, measure and print; then attack and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victim", default="embedded")
    parser.add_argument("--dataset", default="embedded")
    parser.add_argument("--rows", type=int, default=2000, help="training rows the detectors are fitted on")
    parser.add_argument("--repetitions", type=int, default=200, help="of single texts; an eighth of it of batches")
    parser.add_argument("--texts", type=int, default=300, help="texts that are attacked; 0 for no evaluation")
    parser.add_argument("--attacks", type=Path, nargs="*", default=[], help="finished attacks, to be evaluated instead")
    parser.add_argument("--dear-texts", type=int, default=100, help="texts of each class that detectors score")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-detect"), help="folder of attack and evaluation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    victim = Victim.load(options.victim)
    detectors, seconds = fit_all(victim, load_dataset(options.dataset, "train"), options.rows)
    texts = load_dataset(options.dataset, "test").texts[:512]
    columns = {
        size: measure(victim, detectors, texts, size, -(-options.repetitions // (8 if size > 1 else 1)))
        for size in (1, 32)
    }
    print(f"{victim.name}, {len(texts)} texts of {options.dataset}, {options.rows} training rows")
    heads = "".join(f"{f'{size} at once: ms':>18}{'added':>8}" for size in columns)
    print(f"{'':16}{'fit, s':>8}{heads}")
    for name in (READ, FEATURES, *seconds):
        fit = f"{seconds[name]:8.2f}" if name in seconds else f"{'':8}"
        cells = [
            f"{column[name]:18.3f}" + (f"{'':8}" if name == READ else f"{100 * column[name] / column[READ]:6.1f} %")
            for column in columns.values()
        ]
        print(f"{name:16}{fit}{''.join(cells)}")
    if options.attacks or options.texts:
        evaluate(options.attacks or [attack(options)], options)


if __name__ == "__main__":
    main()
