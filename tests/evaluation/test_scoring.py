"""One protocol for all detectors: what is set aside, tuned, limited, compared, matched and asked again."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from harness.core.errors import DataError, HarnessError, VictimError
from harness.core.rows import finish_row
from harness.detectors.confidence import MSP
from harness.detectors.fgws import FGWS
from harness.detectors.wdr import WDR
from harness.evaluation.detection import EvaluationSettings
from harness.evaluation.runs import EvaluationRequest, run_evaluation
from harness.evaluation.sampling import draw_sample
from harness.text.adversarial import read_rows
from harness.text.verification import reanswered
from harness.text.victims import Victim

ALL = ("rde", "msp", "fgws", "mlmd", "rtd-guard", "wdr", "addmu")
DEAR = 6


def request(folder, *detectors, **settings):
    """A small evaluation."""
    chosen = EvaluationSettings(**{"replicates": 30, "seeds": (0,), "target": 60, "dear_texts": DEAR, **settings})
    return EvaluationRequest([folder], detectors, {"components": 5}, chosen)


def of_detector(outcome, name):
    """The rows of one detector."""
    return [row for row in outcome.rows if row["detector"] == name]


@pytest.fixture(scope="module")
def attacked(folders):
    return folders[2]("protocol")


@pytest.fixture(scope="module")
def whole(attacked, tmp_path_factory):
    """An evaluation in which some detectors cannot be used: (outcome, what results.json says)."""
    outcome = run_evaluation(request(attacked, *ALL, words=True), tmp_path_factory.mktemp("whole") / "out")
    (found,) = json.loads((outcome.folder / "results.json").read_text())
    return outcome, found


def test_a_detector_that_cannot_be_used_is_set_aside_by_name(whole):
    outcome, found = whole
    # No masked LM was fetched, no discriminator comes along, and the tiny victim has no dropout.
    assert set(found["unavailable"]) == {"mlmd", "rtd-guard", "addmu"}
    assert "masked language model" in found["unavailable"]["mlmd"]
    assert "harness fetch" in found["unavailable"]["mlmd"]
    assert "discriminator" in found["unavailable"]["rtd-guard"]
    assert "dropout" in found["unavailable"]["addmu"]
    assert [row["detector"] for row in outcome.rows] == ["rde", "msp", "fgws", "wdr"]
    assert set(found["mean_over_seeds"]) == {"rde", "msp", "fgws", "wdr"}
    (table,) = outcome.tables
    for title in ("MLMD", "RTD-Guard", "ADDMU"):
        assert any(note.startswith(f"{title} could not be used: ") for note in table.notes)


def test_a_finished_evaluation_takes_up_a_detector_whose_model_was_fetched_since(
    attacked, tiny_masked_lm_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    asked = request(attacked, "msp", "gradmlmd", "rtd-guard", "wdr", validation_fraction=0.0)
    first = run_evaluation(asked, tmp_path / "out")
    assert [row["detector"] for row in first.rows] == ["msp"]
    finished = (tmp_path / "out" / "results.json").stat().st_mtime_ns

    run_evaluation(asked, tmp_path / "out")  # what the texts do not allow (wdr) is no reason to try again
    assert (tmp_path / "out" / "results.json").stat().st_mtime_ns == finished

    shutil.copytree(tiny_masked_lm_folder(), tmp_path / "cache" / "artifacts" / "minilm-masked-lm")
    again = run_evaluation(asked, tmp_path / "out")
    assert [row["detector"] for row in again.rows] == ["msp", "gradmlmd"]
    assert again.rows[0]["metrics"] == first.rows[0]["metrics"]


def test_where_none_can_be_used_the_first_reason_is_told(attacked, tmp_path):
    with pytest.raises(DataError, match=r"no detector could be used; mlmd: .*masked language model"):
        run_evaluation(request(attacked, "mlmd", "rtd-guard"), tmp_path / "out")


def test_rows_are_sound_and_hold_the_whole_protocol(whole):
    outcome, _ = whole
    for row in outcome.rows:
        assert finish_row(row) == row
        assert row["goal"] == "flip"
        assert set(row["prevalence"]) == {"0.01", "0.001"}
    told = {row["detector"]: row["protocol"]["detector"]["adversarial_texts"] for row in outcome.rows}
    assert told == {"rde": "none", "msp": "none", "fgws": "tunes", "wdr": "trains"}
    assert {row["detector"]: row["trains_on_adversarial_texts"] for row in outcome.rows}["wdr"] is True
    assert sum(row["trains_on_adversarial_texts"] for row in outcome.rows) == 1


def test_the_dear_score_the_first_texts_only_and_say_so(whole, attacked):
    outcome, _ = whole
    (row,) = of_detector(outcome, "wdr")
    assert (row["n_clean"], row["n_adversarial"], row["n_calibration"]) == (DEAR, DEAR, DEAR)
    assert row["limited"]
    assert row["protocol"]["sampling"]["dear_texts"] == DEAR
    assert row["failures"]["texts"] == DEAR
    rows = read_rows(attacked)
    drawn = draw_sample([r.result for r in rows], "s1", 0, target=60, validation_fraction=0.3)
    scores = pd.read_parquet(outcome.folder / "scores.parquet")
    part = scores[scores.detector == "wdr"]
    assert list(part.id) == [rows[i].id for i in (*drawn.clean[:DEAR], *drawn.adversarial[:DEAR])]
    for name in ("rde", "msp", "fgws"):
        (other,) = of_detector(outcome, name)
        assert not other["limited"]
        assert other["n_clean"] > DEAR
        assert other["failures"]["texts"] == sum(rows[i].result == "failure" for i in drawn.test)
    assert any(f"first {DEAR} texts" in note and "WDR" in note for note in outcome.tables[0].notes)


def test_with_same_texts_all_score_what_the_dear_score(whole, attacked, tmp_path):
    outcome = run_evaluation(request(attacked, "rde", "msp", "wdr", same_texts=True), tmp_path / "out")
    scores = pd.read_parquet(outcome.folder / "scores.parquet")
    before = pd.read_parquet(whole[0].folder / "scores.parquet")
    (dear,) = of_detector(outcome, "wdr")
    for row in outcome.rows:
        assert finish_row(row) == row
        assert (row["n_clean"], row["n_adversarial"], row["n_calibration"]) == (DEAR, DEAR, DEAR)
        assert row["limited"]
        assert row["protocol"]["sampling"]["dear_texts"] == DEAR
        part = scores[scores.detector == row["detector"]]
        assert list(part.id) == list(before[before.detector == "wdr"].id)
        assert ((clean := part[~part.adversarial]).id).tolist() == list(clean.id.drop_duplicates())
    assert {one["reference"] for one in dear["comparisons"]} == {"rde", "msp"}


def test_precision_is_said_where_clean_texts_are_drawn_and_some_are_flagged(attacked, tmp_path):
    drawn = run_evaluation(request(attacked, "rde", "msp", seeds=(0, 1, 2)), tmp_path / "drawn").rows
    matched = run_evaluation(request(attacked, "rde", "msp", scenario="matched"), tmp_path / "matched").rows
    said = []
    for row in [*drawn, *matched]:
        assert row["protocol"]["calibration"]["exchangeable"] == (row["scenario"] == "s1")
        for share in ("0.01", "0.001"):
            for rate in ("1", "5", "10"):
                fpr, tpr = (row["metrics"][f"{name}_{rate}"]["value"] for name in ("realised_fpr", "heldout_tpr"))
                got = row["prevalence"][share][f"precision_{rate}"]
                if row["scenario"] == "matched" or not fpr:
                    assert got is None
                else:
                    said.append(got)
                    pi = float(share)
                    assert got == pytest.approx(pi * tpr / (pi * tpr + (1 - pi) * fpr))
    assert said


def test_every_detector_is_compared_with_rde_and_msp_on_the_same_texts(whole):
    outcome, found = whole
    scores = pd.read_parquet(outcome.folder / "scores.parquet")
    for row in outcome.rows:
        name = row["detector"]
        # The two references are compared with each other once, in the row of the second.
        wanted = {"rde": [], "msp": ["rde"]}.get(name, ["rde", "msp"])
        assert [one["reference"] for one in row["comparisons"]] == wanted
        own = scores[scores.detector == name].set_index(["id", "adversarial"]).score
        for one in row["comparisons"]:
            other = scores[scores.detector == one["reference"]].set_index(["id", "adversarial"]).score.loc[own.index]
            truth = own.index.get_level_values("adversarial")
            difference = roc_auc_score(truth, own) - roc_auc_score(truth, other)
            assert one["auc_difference"]["value"] == pytest.approx(difference)
            assert one["p"] <= one["p_holm"]
        assert len(found["mean_over_seeds"][name]["comparisons"]) == len(wanted)


def test_failed_attacks_are_a_class_of_their_own(whole, attacked, tiny_victim):
    outcome, _ = whole
    (row,) = of_detector(outcome, "msp")
    rows = read_rows(attacked)
    drawn = draw_sample([r.result for r in rows], "s1", 0, target=60, validation_fraction=0.3)
    failed = tiny_victim.read([rows[i].perturbed_text for i in drawn.test if rows[i].result == "failure"])
    clean = tiny_victim.read([rows[i].original_text for i in drawn.clean])
    values = 1 - np.concatenate([failed.probabilities.max(axis=1), clean.probabilities.max(axis=1)])
    auc = roc_auc_score(np.arange(len(values)) < len(failed.probabilities), values)
    assert row["failures"]["auc_against_clean"] == pytest.approx(auc, abs=1e-3)
    limit = row["protocol"]["calibration"]["thresholds"]["10"]
    share = (values[: len(failed.probabilities)] > limit).mean()
    assert row["failures"]["flagged"]["10"] == pytest.approx(share, abs=0.02)


def test_words_are_scored_for_those_that_can_say(whole):
    outcome, _ = whole
    for row in outcome.rows:
        assert (row["words"] is None) == (row["detector"] in ("rde", "msp"))
    (row,) = of_detector(outcome, "wdr")
    assert row["words"]["texts"] <= DEAR
    assert row["words"]["substituted"] <= row["words"]["words"]


def test_cost_is_what_the_detectors_asked(whole):
    outcome, _ = whole
    forwards = {row["detector"]: row["cost"]["forwards_per_text"] for row in outcome.rows}
    assert forwards["rde"] == forwards["msp"] == 1
    assert 1 <= forwards["fgws"] <= 2
    assert forwards["wdr"] > 4


def test_a_detector_tunes_on_half_of_the_validation_rows_and_calibrates_on_the_others(attacked, tmp_path, monkeypatch):
    told = []
    tune = FGWS.fit_adversarial

    def watched(self, outputs, adversarial):
        told.append((outputs.texts, np.asarray(adversarial)))
        return tune(self, outputs, adversarial)

    monkeypatch.setattr(FGWS, "fit_adversarial", watched)
    outcome = run_evaluation(request(attacked, "msp", "fgws", seeds=(0, 1)), tmp_path / "out")
    rows = read_rows(attacked)
    assert len(told) == 2
    for row, msp, (texts, adversarial) in zip(
        of_detector(outcome, "fgws"), of_detector(outcome, "msp"), told, strict=True
    ):
        drawn = draw_sample([r.result for r in rows], "s1", row["seed"], target=60, validation_fraction=0.3)
        half = (len(drawn.validation) + 1) // 2
        first, second = drawn.validation[:half], drawn.validation[half:]
        wins = [i for i in first if rows[i].result == "success"]
        assert list(texts) == [rows[i].original_text for i in first] + [rows[i].perturbed_text for i in wins]
        assert adversarial.tolist() == [False] * half + [True] * len(wins)
        told_on = {"recipe": "made-up", "clean": half, "adversarial": len(wins)}
        assert row["protocol"]["detector"]["tuned_on"] == told_on
        assert row["n_calibration"] == len(second)
        assert msp["n_calibration"] == len(drawn.validation)
        assert msp["protocol"]["detector"]["tuned_on"] is None


def test_a_text_that_tunes_does_not_calibrate(folders, tmp_path):
    order = np.random.RandomState(0).permutation(400)
    half = 60
    again = dict(zip(order[half : half + 7], order[:7], strict=True))  # seven texts of the first half, in both

    def change(rows):
        return [
            dataclasses.replace(row, original_text=rows[again.get(i, i)].original_text) for i, row in enumerate(rows)
        ]

    outcome = run_evaluation(request(folders[2]("repeated", change=change), "msp", "fgws"), tmp_path / "out")
    assert [row["n_calibration"] for row in outcome.rows] == [2 * half, half - 7]


def test_every_row_says_what_its_own_seed_tuned(attacked, tmp_path, monkeypatch):
    def tune(self, outputs, adversarial):
        self._arrays["delta"] = np.array([float(adversarial.sum())])  # another one for each seed
        return self

    monkeypatch.setattr(FGWS, "fit_adversarial", tune)
    seeds = tuple(range(4))
    together = run_evaluation(request(attacked, "fgws", seeds=seeds, words=True), tmp_path / "together").rows
    alone = [
        run_evaluation(request(attacked, "fgws", seeds=(seed,), words=True), tmp_path / f"{seed}").rows[0]
        for seed in seeds
    ]
    told = [row["protocol"]["detector"]["parameters"] for row in together]
    assert told == [row["protocol"]["detector"]["parameters"] for row in alone]
    assert len({facts["tuned_delta"] for facts in told}) > 1  # else this shows nothing
    assert {json.dumps(row["words"]) for row in together} == {json.dumps(alone[0]["words"])}


def test_words_are_left_out_where_an_attack_only_deletes(folders, tmp_path):
    def delete(rows):
        return [
            dataclasses.replace(row, original_text=f"{row.perturbed_text} number {number}")
            if row.result == "success"
            else row
            for number, row in enumerate(rows)
        ]

    folder = folders[2]("deletes", change=delete)
    outcome = run_evaluation(request(folder, "msp", "fgws", words=True), tmp_path / "out")
    assert [row["words"] for row in outcome.rows] == [None, None]
    assert any("to score words on: FGWS" in note for note in outcome.tables[0].notes)


def test_a_run_is_another_with_another_version_of_a_detector(attacked, tmp_path, monkeypatch):
    asked = request(attacked, "msp")
    run_evaluation(asked, tmp_path / "out")
    config = (tmp_path / "out" / "config.yaml").read_text()
    # Absent where they say nothing, as in runs made before there were such keys.
    assert "same_texts" not in config
    assert "detector_versions" not in config
    monkeypatch.setattr(MSP, "info", dataclasses.replace(MSP.info, version=2))
    with pytest.raises(HarnessError, match="another configuration"):
        run_evaluation(asked, tmp_path / "out")


def test_a_run_is_another_with_other_vectors_in_the_same_file(attacked, tmp_path):
    vectors = tmp_path / "vectors.npz"
    words = np.array(["a", "b"])
    np.savez(vectors, words=words, vectors=np.eye(2, dtype=np.float32))
    asked = dataclasses.replace(request(attacked, "msp"), parameters={"vectors": str(vectors)})
    run_evaluation(asked, tmp_path / "out")
    run_evaluation(asked, tmp_path / "out")
    np.savez(vectors, words=words, vectors=2 * np.eye(2, dtype=np.float32))
    with pytest.raises(HarnessError, match="another configuration"):
        run_evaluation(asked, tmp_path / "out")


def test_without_validation_rows_what_trains_is_unavailable_and_what_tunes_takes_its_default(attacked, tmp_path):
    outcome = run_evaluation(request(attacked, "msp", "fgws", "wdr", validation_fraction=0.0), tmp_path / "out")
    (found,) = json.loads((outcome.folder / "results.json").read_text())
    assert set(found["unavailable"]) == {"wdr"}
    assert "'wdr' trains on adversarial texts of validation rows" in found["unavailable"]["wdr"]
    assert "--validation-fraction" in found["unavailable"]["wdr"]
    (row,) = of_detector(outcome, "fgws")
    assert row["protocol"]["detector"]["tuned_on"] is None
    (msp,) = of_detector(outcome, "msp")
    assert row["n_calibration"] == msp["n_calibration"]


def test_another_attack_tunes_and_trains(attacked, folders, tmp_path, monkeypatch):
    other = folders[2](
        "tuner", success=0.9, change=lambda rows: [dataclasses.replace(row, recipe="other") for row in rows]
    )
    trained = []
    monkeypatch.setattr(
        WDR, "fit_adversarial", lambda self, outputs, adversarial: trained.append(adversarial.sum()) or self
    )
    monkeypatch.setattr(WDR, "score", lambda self, outputs: np.arange(len(outputs.probabilities), dtype=np.float64))
    asked = dataclasses.replace(request(attacked, "msp", "wdr"), tune_attack=other)
    outcome = run_evaluation(asked, tmp_path / "out")
    (row,) = of_detector(outcome, "wdr")
    assert row["recipe"] == "made-up"
    assert row["protocol"]["detector"]["tuned_on"]["recipe"] == "other"
    assert trained == [row["protocol"]["detector"]["tuned_on"]["adversarial"]]


def test_validation_texts_of_another_attack_that_are_scored_are_refused(attacked, folders, tmp_path):
    backwards = folders[2]("backwards", change=lambda rows: rows[::-1])
    with pytest.raises(DataError, match="tuning on them would leak"):
        run_evaluation(dataclasses.replace(request(attacked, "msp", "fgws"), tune_attack=backwards), tmp_path / "out")


def test_confidence_says_nothing_on_matched_texts(attacked, tmp_path):
    outcome = run_evaluation(
        request(attacked, "msp", "rde-empirical", scenario="matched", seeds=(0, 1, 2)), tmp_path / "out"
    )
    for row in of_detector(outcome, "msp"):
        assert row["scenario"] == "matched"
        assert row["n_clean"] == row["n_adversarial"] > 30
        assert row["metrics"]["auc"]["value"] == pytest.approx(0.5, abs=0.03)
        assert row["protocol"]["sampling"]["matching"] is not None


def test_another_victim_answers_for_itself(attacked, tiny_victim_folder, tmp_path):
    folder = str(tiny_victim_folder("bert", seed=5))
    with pytest.raises(VictimError, match="not the one that was attacked") as refused:
        run_evaluation(dataclasses.replace(request(attacked, "msp"), victim=folder), tmp_path / "refused")
    assert "--other-victim" in refused.value.hint
    asked = dataclasses.replace(request(attacked, "msp", target=20), victim=folder, transfer=True)
    outcome = run_evaluation(asked, tmp_path / "out")
    (row,) = outcome.rows
    assert row["goal"] == "flip, transferred"
    rows = read_rows(attacked)
    other = Victim.load(folder)
    answered = reanswered(rows, other)
    facts = row["protocol"]["attack"]
    assert facts["asked_again"] == {
        "victim": rows[0].victim,
        "victim_hash": rows[0].victim_hash,
        "other_results": sum(a.result != b.result for a, b in zip(rows, answered, strict=True)),
    }
    for result in ("success", "failure", "skipped"):
        assert facts[result] == sum(one.result == result for one in answered)
    assert row["protocol"]["victim"]["hash"] == other.hash
    assert row["protocol"]["victim"]["not_reproduced"] == 0
    assert any("asked again" in note for note in outcome.tables[0].notes)


def test_an_attack_in_another_precision_is_asked_again(folders, tmp_path):
    spoiled = []

    def spoil(rows):
        """Thirty flips that this precision does not show."""
        found = []
        for row in rows:
            if row.result == "success" and len(spoiled) < 30:
                spoiled.append(row.id)
                found.append(dataclasses.replace(row, perturbed_text=row.original_text))
            else:
                found.append(row)
        return found

    folder = folders[2]("bf16", change=spoil, config={"dtype": "bf16"})
    outcome = run_evaluation(request(folder, "msp"), tmp_path / "out")
    (row,) = outcome.rows
    wins = sum(one.result == "success" for one in read_rows(folder))
    assert row["goal"] == "flip"
    assert row["protocol"]["victim"]["dtype"] == "fp32"
    assert row["protocol"]["attack"]["asked_again"] == {"dtype": "bf16", "other_results": 30}
    assert row["protocol"]["attack"]["success"] == wins - 30
    scores = pd.read_parquet(outcome.folder / "scores.parquet")
    assert not set(scores[scores.adversarial].id) & set(spoiled)
    assert any("asked again" in note and "bf16" in note for note in outcome.tables[0].notes)
    # In the attack's own precision nothing is asked again.
    plain = run_evaluation(request(folders[2]("fp32", config={"dtype": "fp32"}), "msp"), tmp_path / "fp32")
    assert plain.rows[0]["protocol"]["attack"]["asked_again"] is None


def test_a_spec_with_parameters_is_a_detector_of_its_own(attacked, tmp_path):
    outcome = run_evaluation(request(attacked, "knn", "knn: layer=all, k=5", "msp"), tmp_path / "out")
    assert [row["detector"] for row in outcome.rows] == ["knn", "knn:k=5,layer=all", "msp"]
    assert outcome.rows[1]["protocol"]["detector"]["parameters"]["k"] == 5
    assert [line["detector"] for line in outcome.tables[0].rows] == ["KNN", "KNN (k 5, layer all)", "MSP"]
