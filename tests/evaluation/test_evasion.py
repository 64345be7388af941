import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, VictimError
from harness.detectors.fitting import build_detector, fit_detectors, load_detector, save_detector
from harness.detectors.scoring import score
from harness.evaluation.evasion import evasion_facts, evasion_threshold, scoring_function
from harness.text.datasets import TextDataset, source_key
from harness.text.seen_texts import save_seen
from harness.text.victims import Victim
from textadv.plan import AttackPlan, EvasionPlan


def texts_of(words: list[str], rows: int, seed: int, split: str) -> TextDataset:
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(words, draw.integers(2, 9))) for _ in range(rows)]
    return TextDataset("tiny", split, texts, draw.integers(0, 2, rows), np.arange(rows), None, {})


@pytest.fixture(scope="module")
def folder(tiny_victim: Victim, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted detector that was tuned on ten texts of another split."""
    train = texts_of(words, 300, 1, "train")
    detector = build_detector("mle", tiny_victim, {})
    fit_detectors([detector], tiny_victim, train)
    place = tmp_path_factory.mktemp("detector")
    tuned = texts_of(words, 60, 2, "test").texts[:10]
    facts = {
        "seen_sha256": save_seen(place, train.texts, tuned),
        "victim": tiny_victim.name,
        "victim_hash": tiny_victim.hash,
        "max_length": tiny_victim.max_length,
        "dtype": tiny_victim.dtype,
        "dataset": train.name,
        "dataset_hash": train.hash,
        "dataset_split": "train",
        "train_rows": len(train),
        "seed": 0,
        "victim_source": "somewhere",
    }
    save_detector(place, detector, facts)
    return place


def test_scores_are_the_detectors(folder: Path, tiny_victim: Victim) -> None:
    detector, _ = load_detector(folder)
    asked = ["a good film", "an awful, boring story"]
    expected = score(detector, tiny_victim.read(asked, detector.layers))
    assert scoring_function(folder, tiny_victim)(asked).tolist() == expected.tolist()


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_the_threshold_lets_pass_what_was_promised(
    rate: float, folder: Path, tiny_victim: Victim, words: list[str]
) -> None:
    split = texts_of(words, 600, 2, "test")
    attacked = split.take(range(50))
    threshold, facts = evasion_threshold(folder, tiny_victim, split, attacked, fpr=rate, seed=0)
    tuned = texts_of(words, 60, 2, "test").texts[:10]
    keys = {source_key(text) for text in (*attacked.texts, *tuned)}
    rest = [text for text in split.texts if source_key(text) not in keys]
    above = (scoring_function(folder, tiny_victim)(rest) > threshold).mean()
    assert rate - 0.01 <= above <= rate  # the threshold's own texts
    fresh = scoring_function(folder, tiny_victim)(texts_of(words, 2000, 3, "test").texts)
    assert abs((fresh > threshold).mean() - rate) < 0.04
    told = json.loads(facts)
    assert told["detector"] == "mle"
    assert (told["threshold"], told["fpr"], told["calibration_texts"]) == (threshold, rate, len(rest))


def test_attacked_and_seen_texts_do_not_place_it(folder: Path, tiny_victim: Victim, words: list[str]) -> None:
    split = texts_of(words, 60, 2, "test")
    with pytest.raises(ConfigurationError, match="0 clean texts are too few"):
        evasion_threshold(folder, tiny_victim, split, split, fpr=0.1, seed=0)
    with pytest.raises(ConfigurationError, match="5 clean texts are too few"):
        evasion_threshold(folder, tiny_victim, split, split.take(range(10, 55)), fpr=0.1, seed=0)
    train = texts_of(words, 300, 1, "train")
    with pytest.raises(ConfigurationError, match="0 clean texts are too few") as found:
        evasion_threshold(folder, tiny_victim, train, train.take([0]), fpr=0.1, seed=0)
    assert "--evade-threshold" in found.value.hint
    # The train split under another name, with texts of its own: only those are new.
    known = TextDataset("other", "test", [*train.texts, *split.texts], *[np.arange(360)] * 2, None, {})
    with pytest.raises(ConfigurationError, match=f"{len(set(split.texts[10:]))} clean texts are too few"):
        evasion_threshold(folder, tiny_victim, known, train.take([0]), fpr=0.01, seed=0)


def test_a_detector_of_another_victim_is_refused(folder: Path, tiny_victim_folder: Any) -> None:
    other = Victim.load(str(tiny_victim_folder("bert", 2, 7)), device="cpu")
    with pytest.raises(VictimError, match="fitted on another victim"):
        scoring_function(folder, other)


def test_an_evasive_attack_passes_a_real_detector(
    folder: Path, tiny_victim: Victim, tiny_victim_folder: Any, words: list[str]
) -> None:
    split = texts_of(words, 200, 4, "test")
    split.labels[:] = tiny_victim.read(split.texts).predictions
    attacked = split.take(range(30))
    threshold = float(np.median(scoring_function(folder, tiny_victim)(split.texts)))
    evasion = EvasionPlan(partial(scoring_function, folder), threshold, evasion_facts(folder, threshold))
    plan = AttackPlan(str(tiny_victim_folder()), "pwws", evasion=evasion)
    rows = [text.row for text in plan.build(tiny_victim).attack(attacked) if text.row]
    wins = [row for row in rows if row.result == "success"]
    assert wins
    scores = scoring_function(folder, tiny_victim)([row.perturbed_text for row in wins])
    assert (scores <= threshold + 1e-4 * abs(threshold)).all()
    plain = [
        text.row
        for text in AttackPlan(str(tiny_victim_folder()), "pwws").build(tiny_victim).attack(attacked)
        if text.row
    ]
    flipped = [row.perturbed_text for row in plain if row.result == "success"]
    assert (scoring_function(folder, tiny_victim)(flipped) > threshold).any()  # it had something to evade
    assert {json.loads(row.evaded or "{}")["detector"] for row in rows} == {"mle"}
