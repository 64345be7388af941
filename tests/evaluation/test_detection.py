"""An evaluation from attack folder to result rows, on a tiny victim and made-up attacks."""

import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from harness.core.errors import ConfigurationError, DataError, VictimError
from harness.core.rows import read_rows as read_result_rows
from harness.detectors.fitting import build_detector, fit_detectors, save_detector
from harness.detectors.specs import parse_spec
from harness.evaluation.detection import EvaluationSettings
from harness.evaluation.figures import _style
from harness.evaluation.metrics import threshold_at_fpr
from harness.evaluation.runs import EvaluationRequest, run_evaluation
from harness.evaluation.sampling import draw_sample
from harness.leaderboard.board import add
from harness.text.adversarial import read_rows
from harness.text.datasets import load_dataset
from harness.text.seen_texts import save_seen
from harness.text.victims import Victim

DETECTORS = ("rde-empirical", "mle", "msp")


def request(folder, *, detectors=DETECTORS, **settings):
    """A small evaluation."""
    chosen = EvaluationSettings(**{"replicates": 50, "seeds": (0, 1), **settings})
    return EvaluationRequest([folder], detectors, {"components": 5}, chosen)


@pytest.fixture(scope="module")
def attacked(folders):
    return folders[2]("attacked")


@pytest.mark.parametrize("scenario", ["s1", "s2"])
def test_rows_hold_what_the_scores_give(scenario, attacked, tmp_path):
    outcome = run_evaluation(request(attacked, scenario=scenario), tmp_path / "out")
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    rows = read_rows(attacked)
    assert len(outcome.rows) == 6
    for row in outcome.rows:
        part = scores[(scores.detector == row["detector"]) & (scores.seed == row["seed"])]
        truth, values = part.adversarial.to_numpy(), part.score.to_numpy()
        assert (row["n_adversarial"], row["n_clean"]) == (truth.sum(), (~truth).sum())
        drawn = draw_sample([r.result for r in rows], scenario, row["seed"])
        assert set(part.id[truth]) == {rows[i].id for i in drawn.adversarial}
        assert set(part.id[~truth]) == {rows[i].id for i in drawn.clean}
        assert row["n_calibration"] == len(drawn.validation)
        metrics = {name: found["value"] for name, found in row["metrics"].items()}
        assert metrics["auc"] == pytest.approx(roc_auc_score(truth, values))
        assert metrics["aupr"] == pytest.approx(average_precision_score(truth, values))
        threshold = row["protocol"]["calibration"]["thresholds"]["10"]
        flagged = values > threshold
        assert metrics["heldout_tpr_10"] == pytest.approx(flagged[truth].mean())
        assert metrics["realised_fpr_10"] == pytest.approx(flagged[~truth].mean())
        assert metrics["heldout_f1_10"] == pytest.approx(f1_score(truth, flagged))
        for found in row["metrics"].values():
            if found["value"] is not None and found["low"] is not None:
                assert 0 <= found["low"] <= found["high"] <= 1


def test_a_finished_run_is_read_back_and_not_computed_again(attacked, tmp_path, monkeypatch):
    first = run_evaluation(request(attacked), tmp_path / "out")
    monkeypatch.setattr("harness.evaluation.runs.evaluate_attack", lambda *_: pytest.fail("computed again"))
    again = run_evaluation(request(attacked), tmp_path / "out")
    assert again == first
    assert [row["detector"] for row in again.tables[0].rows] == ["RDE(-MCD)", "MLE", "MSP"]
    with pytest.raises(ConfigurationError):
        run_evaluation(request(attacked, detectors=("msp",)), tmp_path / "out")


def test_detectors_are_fitted_on_the_attacked_dataset_wherever_it_is(attacked, folders, tmp_path):
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(folders[1], moved)
    other.mkdir()
    for split in ("train", "test"):
        (other / f"{split}.csv").write_text("text,label\n" + "".join(f"words {split} {i},{i % 2}\n" for i in range(40)))
    asked = request(attacked, detectors=("msp",))
    assert run_evaluation(dataclasses.replace(asked, dataset=str(moved)), tmp_path / "out").rows
    (tmp_path / "alone").mkdir()
    shutil.copy(moved / "train.csv", tmp_path / "alone")
    for spec in (moved / "train.csv", tmp_path / "alone"):
        assert run_evaluation(dataclasses.replace(asked, dataset=str(spec)), tmp_path / f"out-{spec.stem}").rows
    with pytest.raises(ConfigurationError, match=r"no text that was attacked in .* is in the split 'test' of 'other'"):
        run_evaluation(dataclasses.replace(asked, dataset=str(other)), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_every_curve_looks_another_way():
    looks = [tuple(sorted(_style(number).items())) for number in range(23)]
    assert len(set(looks)) == 23


def test_the_heldout_threshold_comes_from_originals_of_validation_rows(attacked, tiny_victim_folder, tmp_path):
    outcome = run_evaluation(request(attacked, detectors=("msp",), seeds=(3,)), tmp_path / "out")
    rows = read_rows(attacked)
    drawn = draw_sample([r.result for r in rows], "s1", 3)
    victim = Victim.load(str(tiny_victim_folder("bert")))
    clean = 1 - victim.read([rows[i].original_text for i in drawn.validation]).probabilities.max(axis=1)
    found = outcome.rows[0]["protocol"]["calibration"]
    assert found["source"] == "validation rows"
    assert found["thresholds"]["5"] == pytest.approx(threshold_at_fpr(clean, 0.05), abs=1e-6)


def test_sst2_calibrates_on_unsampled_rows_and_says_so(folders, tmp_path):
    folder = folders[2]("sst2", dataset="sst2")
    first = run_evaluation(request(folder, detectors=("msp",)), tmp_path / "s1")
    assert first.rows[0]["protocol"]["sampling"]["validation_fraction"] == 0.0
    assert first.rows[0]["protocol"]["calibration"]["source"] == "unsampled test rows"
    assert any("unsampled" in note for note in first.tables[0].notes)
    second = run_evaluation(request(folder, detectors=("msp",), scenario="s2"), tmp_path / "s2")
    assert second.rows[0]["n_calibration"] == 0
    assert second.rows[0]["metrics"]["realised_fpr_10"]["value"] is None
    assert any("no held-out" in note for note in second.tables[0].notes)


def test_a_text_that_is_scored_does_not_calibrate(folders, tmp_path):
    def repeat(rows):
        half = len(rows) // 2
        return [
            dataclasses.replace(row, original_text=rows[i % half].original_text, id=f"{i:016x}", result=row.result)
            for i, row in enumerate(rows)
        ]

    folder = folders[2]("repeated", change=repeat)
    rows = read_rows(folder)
    results, texts = [row.result for row in rows], [row.original_text for row in rows]
    # Validation rows tune and calibrate, so that it is the test rows of their texts that are left out.
    (row,) = run_evaluation(request(folder, detectors=("msp",), scenario="s2", seeds=(0,)), tmp_path / "out").rows
    drawn = draw_sample(results, "s2", 0)
    held = {texts[i] for i in drawn.validation}
    assert row["n_calibration"] == len(drawn.validation)
    assert row["n_clean"] == sum(texts[i] not in held for i in drawn.clean) < len(drawn.clean)
    assert row["n_adversarial"] == sum(texts[i] not in held for i in drawn.adversarial) < len(drawn.adversarial)
    # Where the rows that were not sampled calibrate, it is theirs.
    alone = {"scenario": "s1", "target": 60, "validation_fraction": 0.0}
    (row,) = run_evaluation(request(folder, detectors=("msp",), seeds=(0,), **alone), tmp_path / "alone").rows
    drawn = draw_sample(results, "s1", 0, target=60, validation_fraction=0.0, sources=texts)
    scored = {texts[i] for i in [*drawn.clean, *drawn.adversarial]}
    assert len({texts[i] for i in drawn.clean} & {texts[i] for i in drawn.adversarial}) == 0
    assert row["n_calibration"] == sum(texts[i] not in scored for i in drawn.unsampled) < len(drawn.unsampled)


def test_the_same_work_gives_the_same_ids_and_one_file_a_row(attacked, tmp_path):
    first = run_evaluation(request(attacked), tmp_path / "one")
    second = run_evaluation(request(attacked), tmp_path / "two")
    assert [row["id"] for row in first.rows] == [row["id"] for row in second.rows]
    add(tmp_path / "board", first.rows)
    before = (tmp_path / "board" / "detection.csv").read_bytes()
    csv_path, page = add(tmp_path / "board", second.rows)
    assert csv_path.read_bytes() == before
    assert len(read_result_rows(tmp_path / "board", "detection")) == len(first.rows)
    assert "made-up" in page.read_text()


def test_a_fitted_folder_scores_as_the_same_fit_by_name(attacked, folders, tmp_path):
    victim_folder, data, _ = folders
    victim = Victim.load(str(victim_folder))
    train = load_dataset(str(data), "train")
    detector = build_detector("mle", victim, {})
    fit_detectors([detector], victim, train)
    facts = {
        "victim_hash": victim.hash,
        "max_length": victim.max_length,
        "dtype": victim.dtype,
        "train_rows": len(train),
        "dataset_hash": train.hash,
        "seed": 0,
    }
    save_detector(tmp_path / "mle", detector, facts)
    by_name = run_evaluation(request(attacked, detectors=("mle",)), tmp_path / "a")
    by_folder = run_evaluation(request(attacked, detectors=(str(tmp_path / "mle"),)), tmp_path / "b")
    assert [r["metrics"] for r in by_name.rows] == [r["metrics"] for r in by_folder.rows]
    assert [r["protocol"]["detector"] for r in by_name.rows] == [r["protocol"]["detector"] for r in by_folder.rows]
    assert by_folder.rows[0]["protocol"]["detector"]["train_rows_seen"] == len(train)
    for change, message in (({"victim_hash": "another"}, "another victim"), ({"max_length": 7}, "max_length 7")):
        save_detector(tmp_path / "mle", detector, {**facts, **change})
        with pytest.raises(VictimError, match=message):
            run_evaluation(request(attacked, detectors=(str(tmp_path / "mle"),)), tmp_path / "c")


@pytest.fixture(scope="module")
def fit(folders, tmp_path_factory):
    """Fits a detector and keeps it as `detect fit` does: a spec, texts that tune it, which are adversarial, facts."""
    victim_folder, data, _ = folders
    victim, train = Victim.load(str(victim_folder)), load_dataset(str(data), "train")

    def make(spec, tuned=(), adversarial=(), **facts):
        folder = tmp_path_factory.mktemp("fitted")
        name, parameters = parse_spec(spec)
        detector = build_detector(name, victim, parameters)
        fit_detectors([detector], victim, train, corpus=train)
        if tuned:
            detector.fit_adversarial(victim.read(tuned), np.array(adversarial))
        known = {"max_length": victim.max_length, "dtype": victim.dtype, "train_rows": len(train), "seed": 0}
        seen = save_seen(folder, train.texts, tuned)
        known |= {"victim_hash": victim.hash, "dataset_hash": train.hash, "seen_sha256": seen}
        save_detector(folder, detector, {**known, **facts})
        return str(folder)

    return make


def test_fitted_folders_of_one_kind_are_told_apart(attacked, fit, tmp_path):
    folders = [fit("knn"), fit("knn:layer=1"), fit("msp"), fit("rde-empirical:components=5")]
    got = run_evaluation(dataclasses.replace(request(attacked, detectors=folders), parameters={}), tmp_path / "a")
    specs = ("knn", "knn:layer=1", "msp", "rde-empirical:components=5")
    by_name = run_evaluation(dataclasses.replace(request(attacked, detectors=specs), parameters={}), tmp_path / "b")
    assert tuple(dict.fromkeys(row["detector"] for row in got.rows)) == specs
    for name in ("detector", "metrics", "comparisons"):
        assert [row[name] for row in got.rows] == [row[name] for row in by_name.rows]
    with pytest.raises(ConfigurationError, match="two of the detectors are 'knn'"):
        run_evaluation(request(attacked, detectors=(folders[0], "knn")), tmp_path / "c")


def test_a_tuned_folder_is_used_as_it_is_and_on_no_text_that_tuned_it(attacked, fit, tmp_path):
    rows = read_rows(attacked)
    drawn = draw_sample([row.result for row in rows], "s1", 0, target=60, validation_fraction=0.3)
    wins = [i for i in drawn.validation if rows[i].result == "success"]
    texts = [*(rows[i].original_text for i in drawn.validation), *(rows[i].perturbed_text for i in wins)]
    told = {"recipe": "pwws", "clean": len(drawn.validation), "adversarial": len(wins)}
    folder = fit("wdr", texts, np.arange(len(texts)) >= len(drawn.validation), tuned_on=told)
    settings = EvaluationSettings(replicates=20, seeds=(0,), target=60, validation_fraction=0.3, dear_texts=10)
    asked = dataclasses.replace(request(attacked, detectors=(folder, "msp")), settings=settings)
    found = {row["detector"]: row for row in run_evaluation(asked, tmp_path / "a").rows}
    assert found["wdr"]["protocol"]["detector"]["tuned_on"] == told
    assert (found["wdr"]["n_calibration"], found["msp"]["n_calibration"]) == (0, len(drawn.validation))
    # Without validation rows it is asked to score the very texts that trained it.
    none_held = dataclasses.replace(settings, validation_fraction=0.0)
    (table,) = run_evaluation(dataclasses.replace(asked, settings=none_held), tmp_path / "b").tables
    assert any(re.search(r"could not be used: it was fitted or tuned on \d+ of the texts", n) for n in table.notes)


def test_attacked_training_texts_are_refused(folders, tmp_path):
    train = load_dataset(str(folders[1]), "train").texts

    def leak(rows):
        return [dataclasses.replace(row, original_text=train[i]) if i % 4 == 0 else row for i, row in enumerate(rows)]

    with pytest.raises(DataError, match=r"100 of the 400 attacked texts .* are training texts"):
        run_evaluation(request(folders[2]("leaky", change=leak)), tmp_path / "out")


def test_a_training_text_does_not_calibrate(folders, tmp_path):
    train = load_dataset(str(folders[1]), "train").texts
    few = range(0, 400, 20)

    def leak(rows):
        return [dataclasses.replace(row, original_text=train[i]) if i in few else row for i, row in enumerate(rows)]

    folder = folders[2]("leaky-a-little", change=leak)
    row = run_evaluation(request(folder, detectors=("msp",), seeds=(0,)), tmp_path / "out").rows[0]
    drawn = draw_sample([r.result for r in read_rows(folder)], "s1", 0)
    assert row["n_calibration"] == len([i for i in drawn.validation if i not in few]) < len(drawn.validation)


def test_another_victim_is_refused(attacked, tiny_victim_folder, tmp_path):
    other = dataclasses.replace(request(attacked), victim=str(tiny_victim_folder("bert", seed=5)))
    with pytest.raises(VictimError, match="not the one that was attacked"):
        run_evaluation(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_log_that_the_victim_does_not_reproduce_is_refused(folders, tmp_path):
    def spoil(rows):
        return [dataclasses.replace(row, perturbed_text=row.original_text, victim_hash=None) for row in rows]

    folder = folders[2]("stale", change=spoil)
    with pytest.raises(VictimError, match="adversarial texts right"):
        run_evaluation(request(folder, detectors=("msp",)), tmp_path / "out")


def test_rows_of_two_datasets_in_one_folder_are_refused(folders, tmp_path):
    folder = folders[2]("mixed", change=lambda rows: [dataclasses.replace(rows[0], dataset="b"), *rows[1:]])
    with pytest.raises(DataError, match="mixes"):
        run_evaluation(request(folder), tmp_path / "out")


def test_too_few_successes_leave_nothing_behind(folders, tmp_path):
    folder = folders[2]("weak", success=0.0)
    with pytest.raises(DataError):
        run_evaluation(request(folder, detectors=("msp",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_attack_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="not a run folder"):
        run_evaluation(request(tmp_path), tmp_path / "out")


def test_pictures_are_drawn(attacked, tmp_path):
    run_evaluation(request(attacked), tmp_path / "out")
    for name in ("toy-made-up-roc.png", "toy-made-up-scores.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
