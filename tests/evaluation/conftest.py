"""What tests of evaluations share: a dataset, and attacks on the tiny victim that are made up and so cost nothing."""

import numpy as np
import pandas as pd
import pytest

from harness.core.runs import Run
from harness.text.adversarial import ROWS_FILE, AdversarialRow, compare_words, write_rows
from harness.text.datasets import load_dataset, row_id
from harness.text.victims import Victim

WORDS = ("good", "bad", "film", "plot", "actor", "scene", "story", "dull", "bright", "slow", "quick", "warm", "cold")


def sentences(n, seed):
    """n different random sentences."""
    rng = np.random.default_rng(seed)
    return [f"{' '.join(rng.choice(WORDS, size=rng.integers(4, 12)))} {i}" for i in range(n)]


@pytest.fixture(scope="session")
def folders(tiny_victim_folder, tmp_path_factory):
    """(victim folder, dataset folder, function that makes an attack folder)."""
    root = tmp_path_factory.mktemp("evaluation")
    victim_folder = tiny_victim_folder("bert")
    victim = Victim.load(str(victim_folder))
    data = root / "toy"
    data.mkdir()
    for split, seed in (("train", 1), ("test", 2)):
        texts = sentences(400, seed)
        frame = pd.DataFrame({"text": texts, "label": victim.read(texts).predictions})
        frame.loc[:1, "label"] = [0, 1]
        frame.to_csv(data / f"{split}.csv", index=False)

    def attack(name, *, dataset="toy", success=0.6, change=None, config=None):
        """Rows whose 'perturbed' text is a sentence that the victim gives the other label."""
        source = load_dataset(str(data), "test")
        outputs = victim.read(source.texts)
        others = {label: [] for label in (0, 1)}
        spare = sentences(1500, 3)
        for text, label in zip(spare, victim.read(spare).predictions, strict=True):
            others[int(label)].append(text)
        rng = np.random.default_rng(0)
        rows = []
        for i, (text, label) in enumerate(zip(source.texts, source.labels.tolist(), strict=True)):
            predicted = int(outputs.predictions[i])
            result = "skipped" if predicted != label else ("success" if rng.random() < success else "failure")
            pool = others[1 - label]
            perturbed = pool[i % len(pool)] if result == "success" else text
            after = victim.read([perturbed]).probabilities[0].tolist()
            changed, percent = compare_words(text, perturbed)
            rows.append(
                AdversarialRow(
                    id=row_id(text, dataset, i),
                    dataset=dataset,
                    split="test",
                    index=i,
                    label=label,
                    original_text=text,
                    perturbed_text=perturbed,
                    changed_positions=changed,
                    original_output=predicted,
                    perturbed_output=int(np.argmax(after)),
                    original_score=0.5,
                    perturbed_score=0.5,
                    original_probabilities=None,
                    perturbed_probabilities=None,
                    result=result,
                    goal="untargeted",
                    min_confidence=None,
                    recipe="made-up",
                    recipe_parameters="{}",
                    victim=victim.name,
                    victim_hash=victim.hash,
                    queries=1,
                    words_changed_percent=percent,
                    seed=0,
                    textattack_version=None,
                )
            )
        rows = change(rows) if change else rows
        with Run(root / name, "attack run", {"name": name, **(config or {})}) as run:
            write_rows(run.path(ROWS_FILE), rows)
            run.finish([ROWS_FILE], sources={"victim": str(victim_folder), "dataset": {"spec": str(data)}})
        return root / name

    return victim_folder, data, attack
