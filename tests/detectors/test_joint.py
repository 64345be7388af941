"""Detectors joined under one budget, against plain Python and scipy."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.core.conformal import threshold_at_fpr
from harness.core.errors import ConfigurationError, DataError, NotFittedError, VictimError
from harness.detectors.clean_texts import CleanTexts, TuningRows
from harness.detectors.fitting import build_detector, fit_detectors, load_detector, save_detector
from harness.detectors.joining import join, load_members, member_scores, split_halves
from harness.detectors.joint import METHODS, JointDecision, compare_methods
from harness.detectors.joint_detector import JointDetector
from harness.text.datasets import TextDataset
from harness.text.seen_texts import save_seen, text_keys

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")


def clean(count: int, seed: int, tied: bool = False) -> Any:
    """Scores of three detectors, two of them dependent, on scales of their own; tied ones are often 0."""
    draw = np.random.default_rng(seed)
    base = draw.normal(size=(count, 3))
    base[:, 1] = 0.8 * base[:, 0] + 0.6 * base[:, 1]
    scores = base * [1.0, 50.0, 1e-3] + [0.0, 900.0, 1.0]
    return np.where(draw.random((count, 3)) < 0.4, 0.0, np.round(scores, 2)) if tied else scores


def attacked(count: int, seed: int) -> Any:
    """Only the third detector sees anything, and half of the texts."""
    scores = clean(count, seed)
    scores[::2, 2] += 6e-3
    return scores


def p_value(tuning: Any, score: float) -> float:
    return (1 + sum(t >= score for t in tuning)) / (len(tuning) + 1)


def by_hand(method: str, p: list[float]) -> float:
    ranked = sorted(p)
    if method in ("thresholds", "bonferroni"):
        return -math.log(min(p))
    if method == "simes":
        return -math.log(min(len(p) * value / (i + 1) for i, value in enumerate(ranked)))
    if method == "fisher":
        return float(stats.combine_pvalues(p, "fisher").statistic)
    if method == "harmonic":
        return -math.log(len(p) / sum(1 / value for value in p))
    return sum(math.tan(math.pi * (0.5 - value)) for value in p) / len(p)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tied", [False, True])
def test_at_the_tuning_scores_it_is_the_textbook_combination(method: str, tied: bool) -> None:
    tuning = clean(60, 0, tied)
    joint = JointDecision(method).fit(tuning)
    rows = np.stack([np.random.default_rng(1).permutation(column) for column in tuning.T], axis=1)
    # p = 1, at the lowest score, is the one value that the mean of tangents cannot take.
    rows = rows[(rows > tuning.min(axis=0)).all(axis=1)]
    assert len(rows) > 5
    wanted = [by_hand(method, [p_value(tuning[:, d], row[d]) for d in range(3)]) for row in rows]
    np.testing.assert_allclose(joint.score(rows), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_higher_score_of_any_detector_is_never_less_adversarial(method: str) -> None:
    joint = JointDecision(method, 0.1).fit(clean(80, 0), attacked(40, 1))
    start = clean(20, 2)
    for d, step in itertools.product(range(3), (0.1, 3.0, 1e3, 1e9, math.inf)):
        more = start.copy()
        more[:, d] += step * [1.0, 50.0, 1e-3][d]
        found = joint.score(more)
        assert not np.isnan(found).any()
        assert (found >= joint.score(start) - 1e-12).all()
    assert not np.isnan(joint.score(np.full((1, 3), -math.inf))).any()


def test_beyond_the_tuning_texts_scores_are_still_told_apart() -> None:
    tuning = clean(50, 0)
    joint = JointDecision().fit(tuning)
    far = np.tile(tuning.max(axis=0), (5, 1)) + np.arange(5)[:, None] * tuning.std(axis=0)
    assert (np.diff(joint.score(far)) > 0.1).all()
    same = JointDecision().fit(np.zeros((10, 2)))  # nothing to take a scale from
    np.testing.assert_allclose(
        np.diff(same.score(np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 3.0]]))), [0, 1, 2]
    )


@pytest.mark.parametrize("method", ["thresholds", "bonferroni"])
@pytest.mark.parametrize("tied", [False, True])
def test_flagged_is_what_any_detector_flags_by_its_own_threshold(method: str, tied: bool) -> None:
    joint = JointDecision(method, 0.1).fit(clean(90, 0, tied), attacked(60, 1))
    held, new = clean(70, 2, tied), np.concatenate([clean(300, 3, tied), attacked(300, 4)])
    for fpr in (0.02, 0.1, 0.5):
        threshold = threshold_at_fpr(joint.score(held), fpr) + 1e-9  # off the grid, where rounding would decide
        own = joint.thresholds(threshold)
        np.testing.assert_array_equal(joint.score(new) > threshold, (new > own).any(axis=1))
    assert (joint.thresholds(-100.0)[np.isfinite(joint.log_weights)] == -math.inf).all()
    assert (joint.thresholds(math.inf) == math.inf).all()


def test_the_search_spends_the_budget_where_it_pays() -> None:
    tuning, adversarial = clean(400, 0), clean(300, 1) + np.array([0.0, 0.0, 2e-3])  # two standard deviations
    equal, tuned = JointDecision(fpr=0.05).fit(tuning), JointDecision(fpr=0.05).fit(tuning, adversarial)
    np.testing.assert_array_equal(equal.log_weights, np.zeros(3))
    assert tuned.log_weights.argmax() == 2
    assert tuned.log_weights[:2].max() < -1

    def rate(joint: JointDecision) -> float:
        threshold = threshold_at_fpr(joint.score(tuning), 0.05)
        return float((joint.score(adversarial) > threshold).mean())

    assert rate(tuned) >= rate(equal)
    # An exhaustive search over a coarse grid finds nothing better than a text or two.
    best = 0.0
    for weights in itertools.product([-np.inf, -6, -4, -2, -1, 0.0], repeat=3):
        if max(weights) == 0.0:
            one = JointDecision(fpr=0.05).fit(tuning)
            one.restore({**one.arrays(), "log_weights": np.array(weights)})
            best = max(best, rate(one))
    assert rate(tuned) >= best - 2 / 300


def test_equal_shares_stay_where_nothing_is_better() -> None:
    alike = clean(100, 0) + np.array([1e9, 1e9, 1e9])  # every detector flags every adversarial text
    np.testing.assert_array_equal(JointDecision().fit(clean(100, 1), alike).log_weights, np.zeros(3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tied", [False, True])
def test_the_promise_holds_for_every_method(method: str, tied: bool) -> None:
    """200 splits of one pool in tuning, calibration and test texts; weights tuned on adversarial texts too."""
    pool, adversarial = clean(360, 5, tied), attacked(30, 6)
    draw = np.random.default_rng(7)
    realised = []
    for _ in range(200):
        first, second, test = np.split(pool[draw.permutation(360)], [80, 160])
        # The search takes longest: a few splits are tuned by it, the others get its usual kind of weights at random.
        joint = JointDecision(method, 0.1).fit(first, adversarial if len(realised) < 10 else None)
        if method == "thresholds" and len(realised) >= 10:
            joint.restore({**joint.arrays(), "log_weights": draw.integers(-4, 1, 3) / 2})
        realised.append((joint.score(test) > threshold_at_fpr(joint.score(second), 0.1)).mean())
    error = 3 * np.std(realised) / math.sqrt(200)
    assert np.mean(realised) <= 0.1 + error
    if not tied:
        assert np.mean(realised) >= 8 / 81 - error


def test_methods_are_compared_on_texts_of_their_own() -> None:
    data = [clean(300, i) for i in range(3)]
    names = ("one", "two", "three")
    rows = compare_methods(*data, attacked(300, 3), names=names, fpr=0.05, tuning_adversarial=attacked(200, 4))
    assert [row["method"] for row in rows] == [*names, *METHODS]
    found = {row["method"]: row for row in rows}
    threshold = threshold_at_fpr(data[1][:, 2], 0.05)
    assert found["three"]["tpr"] == (attacked(300, 3)[:, 2] > threshold).mean()
    assert found["three"]["fpr"] == (data[2][:, 2] > threshold).mean()
    assert all(row["fpr"] < 0.12 for row in rows)
    assert found["thresholds"]["tpr"] > found["bonferroni"]["tpr"] - 0.05


@pytest.mark.parametrize("method", METHODS)
def test_the_arrays_are_the_whole_state(method: str) -> None:
    joint = JointDecision(method).fit(clean(50, 0), attacked(30, 1))
    again = JointDecision(method).restore({name: values.copy() for name, values in joint.arrays().items()})
    np.testing.assert_array_equal(again.score(attacked(40, 2)), joint.score(attacked(40, 2)))
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(joint.score(attacked(40, 2)[order]), joint.score(attacked(40, 2))[order])
    np.testing.assert_array_equal(joint.score(attacked(40, 2)[:1]), joint.score(attacked(40, 2))[:1])


def test_what_cannot_be_joined_is_told() -> None:
    for arguments, message in (
        (("mean",), "no way 'mean'.*"),
        (("thresholds", 0.0), "not above 0 and below 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            JointDecision(*arguments)
    with pytest.raises(NotFittedError):
        JointDecision().score(clean(3, 0))
    for scores, message in (
        (clean(1, 0), "at least two clean texts, there are 1"),
        (np.where(np.eye(3) > 0, np.inf, 0.0), "is infinite"),
        (np.where(np.eye(3) > 0, np.nan, 0.0), "is NaN"),
        (np.zeros(3), r"got shape \(3,\)"),
    ):
        with pytest.raises(DataError, match=message):
            JointDecision().fit(scores)
    with pytest.raises(DataError, match="texts by 3 detectors"):
        JointDecision().fit(clean(9, 0)).score(np.zeros((4, 2)))
    with pytest.raises(ConfigurationError, match="no thresholds of their own"):
        JointDecision("fisher").fit(clean(9, 0)).thresholds(1.0)


# --- as a detector -------------------------------------------------------------------------------------------------


def sentences(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return list(dict.fromkeys(" ".join(draw.choice(WORDS, size=4 + i % 9)) for i in range(count)))


@pytest.fixture(scope="module")
def folders(tiny_victim: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    texts = sentences(150, 1)
    labels = np.arange(len(texts)) % 2
    train = TextDataset("toy", "train", texts, labels, np.arange(len(texts)), None, {"kind": "test"})
    root = tmp_path_factory.mktemp("members")
    for name, parameters in (("rde-empirical", {"components": 4}), ("msp", {}), ("sharpness", {})):
        detector = build_detector(name, tiny_victim, parameters)
        fit_detectors([detector], tiny_victim, train)
        seen = save_seen(root / name, texts)
        facts = {"victim_hash": tiny_victim.hash, "max_length": tiny_victim.max_length, "dtype": "fp32"}
        save_detector(root / name, detector, {**facts, "seen_sha256": seen})
    return {path.name: path for path in root.iterdir()}


def test_a_joint_detector_is_saved_loaded_and_scores_like_any_other(
    tiny_victim: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    members = load_members(list(folders.values()))
    tuning = TuningRows(tuple(sentences(9, 3)), tuple(text + " clumsy" for text in sentences(9, 3)), {})
    joint = join(members, tiny_victim, sentences(40, 2), tuning, method="thresholds", fpr=0.1)
    save_detector(tmp_path, joint, {"victim_hash": tiny_victim.hash})
    again, facts = load_detector(tmp_path)
    assert isinstance(again, JointDetector)
    again.attach(tiny_victim)
    outputs = tiny_victim.read(sentences(20, 4), again.layers)
    np.testing.assert_array_equal(again.score(outputs), joint.attach(tiny_victim).score(outputs))
    matrix = member_scores(members, tiny_victim, outputs.texts, what="test")
    np.testing.assert_allclose(again.score(outputs), joint.decision.score(matrix), rtol=1e-9)
    assert again.parameters() == joint.parameters() == facts["parameters"]
    json.dumps(again.facts())
    assert abs(sum(again.facts()["shares"]) - 1) < 1e-5
    assert again.info.name == "joint"
    assert again.info.adversarial_texts == "tunes"
    assert again.info.reads == "gradients"  # what the dearest member reads


def test_a_member_of_another_version_is_refused_as_its_own_folder_is(
    tiny_victim: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = load_members([folders["msp"], folders["rde-empirical"]])
    joint = join(members, tiny_victim, sentences(40, 2), None, method="fisher", fpr=0.1)
    save_detector(tmp_path / "first", joint, {})
    kind = type(joint.members[1])
    monkeypatch.setattr(kind, "info", dataclasses.replace(kind.info, version=2))
    for folder in (tmp_path / "first", folders["rde-empirical"]):
        with pytest.raises(
            ConfigurationError, match=rf"{folder} holds rde-empirical of version 1, and this is version 2"
        ):
            load_detector(folder)
    save_detector(tmp_path / "second", joint, {})
    again, facts = load_detector(tmp_path / "second")
    assert facts["parameters"]["members"][0] == ["msp", {}]
    assert facts["parameters"]["members"][1][2] == {"version": 2}
    assert again.parameters() == joint.parameters() == facts["parameters"]
    # Scores are stored by facts, which say no version.
    assert again.facts()["members"] == joint.facts()["members"] == [[m.info.name, m.facts()] for m in joint.members]
    outputs = tiny_victim.read(sentences(9, 4), again.attach(tiny_victim).layers)
    np.testing.assert_array_equal(again.score(outputs), joint.score(outputs))
    monkeypatch.setattr(kind, "info", dataclasses.replace(kind.info, version=1))
    with pytest.raises(ConfigurationError, match="holds rde-empirical of version 2, and this is version 1"):
        load_detector(tmp_path / "second")
    for wrong in ([], {"x": 1}, {"other_model_hash": 1}):
        facts["parameters"]["members"][0] = ["msp", {}, wrong]
        (tmp_path / "second" / "detector.json").write_text(json.dumps(facts))
        with pytest.raises(DataError, match="is damaged"):
            load_detector(tmp_path / "second")
        facts["parameters"]["members"][1] = facts["parameters"]["members"][1][:2]


def test_it_learns_from_validation_rows_like_a_detector_that_tunes(tiny_victim: Any, folders: dict[str, Path]) -> None:
    members = load_members([folders["msp"], folders["rde-empirical"]])
    joint = JointDetector(members.detectors, fpr=0.1)
    texts = [*sentences(40, 2), *(text + " clumsy clumsy" for text in sentences(20, 3))]
    outputs = tiny_victim.read(texts, joint.layers)
    adversarial = np.arange(len(texts)) >= len(sentences(40, 2))
    joint.fit_adversarial(outputs, adversarial)
    matrix = joint.scores(outputs)
    wanted = JointDecision(fpr=0.1).fit(matrix[~adversarial], matrix[adversarial])
    np.testing.assert_array_equal(joint.score(outputs), wanted.score(matrix))
    joint.fit(outputs, np.zeros(len(texts), np.int64))
    np.testing.assert_array_equal(joint.score(outputs), JointDecision(fpr=0.1).fit(matrix).score(matrix))
    assert joint.info.forwards_per_text == 1
    assert joint.info.reads == "features"


def test_members_that_do_not_fit_are_refused(tiny_victim: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    for given in ([folders["msp"]], [folders["msp"], folders["msp"]]):
        with pytest.raises(ConfigurationError, match="at least two different"):
            load_members(given)
    detector, facts = load_detector(folders["msp"])
    for name, value in (("victim_hash", "0" * 64), ("max_length", 7), ("dtype", "bf16")):
        save_detector(tmp_path / name, detector, {**facts, name: value})
        with pytest.raises(VictimError, match=rf"are not of the same victim \(its {name} differs\)"):
            load_members([folders["msp"], tmp_path / name])
    members = load_members([folders["msp"], folders["rde-empirical"]])
    joint = join(members, tiny_victim, sentences(30, 2), None, method="fisher", fpr=0.1)
    save_detector(tmp_path / "joint", joint, {k: facts[k] for k in ("victim_hash", "max_length", "dtype")})
    with pytest.raises(ConfigurationError, match="is a joint detector already"):
        load_members([folders["msp"], tmp_path / "joint"])
    with pytest.raises(ConfigurationError, match="at least two"):
        JointDetector([detector])


@pytest.mark.parametrize("drawn", [False, True])
def test_halves_share_no_text(drawn: bool) -> None:
    texts = tuple([*sentences(51, 2), "twice", *sentences(20, 9), "twice"])
    tuning = TuningRows((texts[-2],), ("x",), {})
    first, second = split_halves(CleanTexts("toy", "", texts, in_drawn_order=drawn), tuning, 0)
    assert sorted([*first, *second.texts]) == sorted(texts)
    assert not {*first} & {*second.texts}
    assert texts[-2] in first
    assert len(second.texts) >= len(texts) // 2 - 2
    if drawn:
        assert first[:5] == texts[:5]
    else:
        assert first[:5] != texts[:5]
    with pytest.raises(DataError, match="too few to tune"):
        split_halves(CleanTexts("toy", "", ("one", "two")), None, 0)


def test_adversarial_texts_that_a_member_has_seen_do_not_tune() -> None:
    rows = TuningRows(("one", "two"), ("on", "to"), {"recipe": "x", "adversarial": 2})
    left = rows.unseen(text_keys(["to", "one", "three"]))
    assert left.originals == rows.originals  # they tune nothing, and never calibrate
    assert left.adversarial == ("on",)
    assert left.facts == {"recipe": "x", "adversarial": 1}
    with pytest.raises(DataError, match="all 2 adversarial texts to tune on have tuned or trained a member"):
        rows.unseen(text_keys(["to", "on"]))
