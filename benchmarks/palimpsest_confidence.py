"""What confidence would bring to palimpsest, and what it would take, in finished cells of the offline grid.

Adds the logit of MSP, divided by its deviation over the clean texts of the dataset's S1 cells, to the scores that the
cells hold, at several weights, and prints the mean AUC by scenario and goal, and in how many plain S1 cells it is above
MSP and RDE. It chooses nothing: palimpsest has weight 0.

    python benchmarks/palimpsest_confidence.py runs/grid/cells/*-{s1,matched}
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.core.files import read_json
from harness.evaluation.metrics import detection_metrics

WEIGHTS = (0.0, 0.5, 1.0, 2.0)
REFERENCES = ("msp", "rde")


class Cell(NamedTuple):
    """What a finished evaluation holds: scenario and goal, the dataset, and a table of scores a seed."""

    group: str
    dataset: str
    samples: list[pd.DataFrame]


def read_cell(folder: Path) -> Cell:
    """Read the scores, with the logit of MSP beside them."""
    row = read_json(folder / "results.json")[0]["rows"][0]
    scores = pd.read_parquet(folder / "scores.parquet")
    scores = scores[scores.detector.isin(("palimpsest", *REFERENCES))]
    samples = []
    for _, sample in scores.groupby("seed"):
        table = sample.pivot_table(index=["adversarial", "id"], columns="detector", values="score").reset_index()
        unsure = np.clip(table.msp.to_numpy(), 1e-4, 1 - 1e-4)
        samples.append(table.assign(unsure=np.log(unsure) - np.log(1 - unsure)))
    return Cell(f"{row['scenario']}, {'plain' if row['goal'] == 'flip' else 'far'}", row["dataset"], samples)


def mean_aucs(cell: Cell, deviation: float) -> dict[str, float]:
    """Mean AUC over the seeds by weight and reference, in percent."""
    found = defaultdict(list)
    for table in cell.samples:
        columns = {f"{weight:g}": table.palimpsest + weight / deviation * table.unsure for weight in WEIGHTS}
        columns |= {name: table[name] for name in REFERENCES}
        for name, values in columns.items():
            found[name].append(100 * detection_metrics(values, table.adversarial)["auc"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def main() -> None:
    """Read, add and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", type=Path, help="run folders of `eval detect` with palimpsest, msp and rde")
    given = parser.parse_args()
    cells = [read_cell(folder) for folder in given.cells if (folder / "results.json").is_file()]
    clean = defaultdict(list)
    for cell in cells:
        if cell.group.startswith("s1"):
            clean[cell.dataset] += [table.unsure[~table.adversarial] for table in cell.samples]
    groups = defaultdict(list)
    for cell in cells:
        groups[cell.group].append(mean_aucs(cell, float(np.concatenate(clean[cell.dataset]).std())))
    names = [f"{weight:g}" for weight in WEIGHTS]
    print(f"{'mean AUC':20}" + "".join(f"{f'weight {name}':>12}" for name in names) + f"{'MSP':>12}{'RDE':>12}")
    for group, found in sorted(groups.items()):
        means = [np.mean([cell[name] for cell in found]) for name in (*names, *REFERENCES)]
        print(f"{f'{group} ({len(found)})':20}" + "".join(f"{mean:12.1f}" for mean in means))
    plain = groups.get("s1, plain", [])
    for reference in REFERENCES:
        above = [sum(cell[name] > cell[reference] for cell in plain) for name in names]
        print(f"{f'above {reference}, s1, plain':20}" + "".join(f"{f'{count} of {len(plain)}':>12}" for count in above))


if __name__ == "__main__":
    main()
