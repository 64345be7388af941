"""Calibrations: what they promise, keep and refuse; which texts may calibrate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from harness.core.errors import ConfigurationError, DataError, VictimError
from harness.core.files import hash_file
from harness.detectors import clean_texts
from harness.detectors.clean_texts import (
    CleanTexts,
    load_clean_texts,
    load_seen,
    tune_detector,
    tuning_rows,
    validation_rows,
)
from harness.detectors.decisions import (
    CALIBRATION_FILE,
    CALIBRATION_SCORES,
    Calibration,
    calibrate,
    load_calibration,
    save_calibration,
)
from harness.detectors.fitting import build_detector, fit_detectors, save_detector
from harness.evaluation.sampling import draw_sample
from harness.text.adversarial import AdversarialRow, write_rows
from harness.text.datasets import TextDataset
from harness.text.seen_texts import save_seen, text_keys

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")


def sentences(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=3 + i % 9)) for i in range(count)]


def attack_row(i: int, text: str, victim_hash: str | None = None, **more: Any) -> AdversarialRow:
    result = ("success", "skipped", "failure")[i % 3]
    perturbed = text if result == "skipped" else text + " clumsy"
    row = AdversarialRow(
        f"{i:016x}", "toy", "test", i, i % 2, text, perturbed, [], i % 2, i % 2, 0.1, 0.9, None, None, result,
        "untargeted", None, "pwws", "{}", "tiny", victim_hash, 5, 10.0, 0, None,
    )  # fmt: skip
    return replace(row, **more)


def attack_run(folder: Path, texts: list[str], victim_hash: str | None = None, status: str = "complete") -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"command": "attack run"}))
    (folder / "manifest.json").write_text(json.dumps({"status": status}))
    write_rows(folder / "adversarial.parquet", [attack_row(i, text, victim_hash) for i, text in enumerate(texts)])
    return folder


@pytest.fixture(scope="module")
def train() -> TextDataset:
    return TextDataset("toy", "train", sentences(120, 1), np.arange(120) % 2, np.arange(120), None, {"kind": "test"})


@pytest.fixture(scope="module")
def detector(tiny_victim: Any, train: TextDataset) -> Any:
    built = build_detector("rde-empirical", tiny_victim, {"components": 4})
    fit_detectors([built], tiny_victim, train)
    return built


@pytest.fixture
def folder(tiny_victim: Any, detector: Any, train: TextDataset, tmp_path: Path) -> Path:
    seen = save_seen(tmp_path / "rde", train.texts)
    save_detector(tmp_path / "rde", detector, {"victim_hash": tiny_victim.hash, "seen_sha256": seen})
    return tmp_path / "rde"


def plain(scores: Any, fpr: float = 0.1, confidence: float | None = None) -> Calibration:
    return Calibration(np.sort(np.asarray(scores, dtype=float)), fpr, confidence, {})


def test_a_decision_follows_the_p_value() -> None:
    held, scores = plain(np.arange(19), 0.1), np.array([-5.0, 16.0, 17.0, 17.5, 18.0, 30.0])
    assert held.threshold == 17
    decided = held.decide(scores)
    assert [one["p_value"] for one in decided] == [1.0, 0.2, 0.15, 0.1, 0.1, 0.05]
    assert [one["decision"] for one in decided] == ["clean", "clean", "clean", *["adversarial"] * 3]


def test_what_is_promised_is_said() -> None:
    held = plain(np.arange(100), 0.05)
    assert "above 95: over draws of calibration and new clean texts" in held.promise()
    assert "expected false-positive rate is at most 0.05" in held.promise()
    sure = plain(np.arange(100), 0.05, 0.95)
    assert sure.threshold == 98  # P(Binomial(100, 0.05) <= 1) = 3.7 %, <= 2: 11.8 %
    assert "with probability 0.95 over the draw of the 100 calibration texts" in sure.promise()
    few = plain(np.arange(18), 0.05)
    assert not few.can_flag
    assert few.promise() == "nothing can be flagged: a false-positive rate of 0.05 takes at least 19 calibration " + (
        "texts, there are 18."
    )
    assert {one["decision"] for one in few.decide(np.array([0.0, math.inf]))} == {"clean"}
    assert "with confidence 0.95 takes at least 59 calibration texts" in plain(np.arange(58), 0.05, 0.95).promise()


def test_the_mean_over_200_splits_of_a_victims_scores_keeps_the_rate(tiny_victim: Any, detector: Any) -> None:
    texts = list(dict.fromkeys(sentences(400, 7)))
    scores = detector.score(tiny_victim.read(texts, detector.layers))
    draw = np.random.default_rng(0)
    realised = []
    for _ in range(200):
        order = draw.permutation(len(texts))
        held = plain(scores[order[:100]], 0.1)
        realised.append(held.flags(scores[order[100:]]).mean())
    error = 3 * np.std(realised) / math.sqrt(200)
    assert 0.1 * 100 / 101 - error <= np.mean(realised) <= 0.1 + error


def test_calibrating_scores_the_texts(tiny_victim: Any, detector: Any) -> None:
    texts = CleanTexts("other", "test", tuple(sentences(40, 3)), left_out=2)
    found = calibrate(detector, tiny_victim, texts, fpr=0.1)
    wanted = np.sort(detector.score(tiny_victim.read(texts.texts, detector.layers)))
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-9)
    assert {k: found.facts[k] for k in ("dataset", "split", "texts", "left_out", "truncated")} == {
        "dataset": "other", "split": "test", "texts": 40, "left_out": 2, "truncated": 0,
    }  # fmt: skip
    again = CleanTexts("other", "test", ("good film " * 300, *texts.texts))
    assert calibrate(detector, tiny_victim, again, fpr=0.1).facts["truncated"] == 1


@pytest.mark.parametrize(("fpr", "confidence"), [(0.0, None), (1.0, None), (0.1, 0.0), (0.1, 1.0), (math.nan, None)])
def test_a_promise_that_nothing_keeps_is_refused(
    fpr: float, confidence: float | None, tiny_victim: Any, detector: Any
) -> None:
    with pytest.raises(ConfigurationError, match="not above 0 and below 1"):
        calibrate(detector, tiny_victim, CleanTexts("o", "", ("a film",)), fpr=fpr, confidence=confidence)


def test_a_query_detector_is_attached(tiny_victim: Any) -> None:
    built = build_detector("sharpness", tiny_victim, {})
    fresh = type(built)(**built.parameters())
    found = calibrate(fresh, tiny_victim, CleanTexts("o", "", tuple(sentences(5, 3))), fpr=0.3)
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_calibration_reads_back_to_the_last_bit(folder: Path, confidence: float | None) -> None:
    assert load_calibration(folder) is None
    scores = np.sort([*np.random.default_rng(0).normal(size=60), math.inf, -math.inf, 1e-320])
    save_calibration(folder, Calibration(scores, 0.05, confidence, {"dataset": "toy", "texts": 63}))
    found = load_calibration(folder)
    assert found is not None
    np.testing.assert_array_equal(found.scores, scores)
    assert (found.fpr, found.confidence, found.facts["dataset"]) == (0.05, confidence, "toy")
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


def damage_scores(folder: Path) -> None:
    scores = load_file(folder / CALIBRATION_SCORES)["scores"]
    scores[-1] += 1
    save_file({"scores": scores}, folder / CALIBRATION_SCORES)


def change(**facts: Any) -> Any:
    def apply(folder: Path) -> None:
        path = folder / CALIBRATION_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))

    return apply


DAMAGES: dict[str, tuple[Any, type[Exception], str]] = {
    "other scores": (damage_scores, DataError, "missing or damaged"),
    "no scores": (lambda folder: (folder / CALIBRATION_SCORES).unlink(), DataError, "missing or damaged"),
    "another format": (change(format=9), ConfigurationError, "format 9, this reads 1"),
    "a list": (lambda folder: (folder / CALIBRATION_FILE).write_text("[]"), ConfigurationError, "format None"),
    "no JSON": (lambda folder: (folder / CALIBRATION_FILE).write_text("{"), DataError, "not valid JSON"),
    "another rate": (change(fpr=0.3), DataError, "threshold is not that of its scores"),
    "no rate": (change(fpr=None), DataError, "damaged"),
    "a refitted detector": (
        lambda folder: (folder / "detector.json").write_text((folder / "detector.json").read_text() + " "),
        ConfigurationError,
        "of another fit",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_foreign_calibration_is_refused(name: str, folder: Path) -> None:
    apply, kind, message = DAMAGES[name]
    save_calibration(folder, Calibration(np.arange(50.0), 0.1, None, {}))
    apply(folder)
    with pytest.raises(kind, match=message):
        load_calibration(folder)


# --- which texts may calibrate -------------------------------------------------------------------------------------


def test_seen_texts_are_left_out_and_counted(train: TextDataset) -> None:
    fresh = ["one new text", "another new text", "a third"]
    texts = CleanTexts("toy", "test", (*train.texts[:4], *fresh, "one new text"))
    found = texts.unseen(text_keys(train.texts), None, 0)
    assert found.texts == (*fresh, "one new text")
    assert found.left_out == 4
    drawn = texts.unseen(text_keys(train.texts), 2, 0)
    assert len(drawn.texts) == 2
    assert drawn.left_out == 4
    assert set(drawn.texts) <= set(fresh)
    assert drawn.texts == texts.unseen(text_keys(train.texts), 2, 0).texts


def test_training_data_is_refused(train: TextDataset) -> None:
    for texts in (train.texts, train.texts[:5]):
        with pytest.raises(DataError, match=r"all \d+ calibration texts of toy \(train\) are training texts"):
            CleanTexts("toy", "train", tuple(texts)).unseen(text_keys(train.texts), None, 0)


def test_case_and_white_space_make_no_new_text(folder: Path, train: TextDataset) -> None:
    facts = json.loads((folder / "detector.json").read_text())
    seen = load_seen(folder, facts)
    for change in (str, str.upper, lambda text: text + " ", lambda text: "\t" + text.replace(" ", "  ")):
        assert np.isin(text_keys([change(text) for text in train.texts]), seen).all()
    assert not np.isin(text_keys([text + "!" for text in train.texts]), seen).any()
    path = folder / "seen.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="missing or damaged"):
        load_seen(folder, facts)
    with pytest.raises(ConfigurationError, match="does not say which texts"):
        load_seen(folder, {})
    # Keys of exact texts, as they were kept once, would let these texts pass.
    save_file({"keys": np.zeros(3, np.uint64)}, path)
    with pytest.raises(ConfigurationError, match="an earlier version wrote"):
        load_seen(folder, {"seen_sha256": hash_file(path)})


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_validation_rows_are_those_of_the_protocol(seed: int, tmp_path: Path) -> None:
    texts = sentences(101, 5)
    run = attack_run(tmp_path / "run", texts)
    results = [attack_row(i, text).result for i, text in enumerate(texts)]
    sample = draw_sample(results, "s2", seed, validation_fraction=0.3)
    found = load_clean_texts(str(run), seed=seed)
    assert found.texts == tuple(texts[i] for i in sample.validation)
    assert len(found.texts) == 30
    assert found.title == "toy (validation rows)"
    assert {row.result for row in validation_rows(run, seed)} == {"success", "failure", "skipped"}


def test_an_attack_that_cannot_calibrate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not finished"):
        load_clean_texts(str(attack_run(tmp_path / "half", sentences(9, 0), status="running")))
    with pytest.raises(DataError, match="only 3 rows"):
        load_clean_texts(str(attack_run(tmp_path / "small", sentences(3, 0))))
    with pytest.raises(ConfigurationError, match="no splits"):
        load_clean_texts(str(tmp_path / "small"), split="test")


def test_files_need_no_labels(tmp_path: Path) -> None:
    texts = ["a good film", "é, \u2028 'x'", "NA"]
    (tmp_path / "a.txt").write_bytes("\ufeff".encode() + "\r\n".join(texts).encode() + b"\n")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "c.csv").write_text("review\na good film\n\"é, \u2028 'x'\"\nNA\n", encoding="utf-8")
    assert load_clean_texts(str(tmp_path / "a.txt")).texts == tuple(texts)
    assert load_clean_texts(str(tmp_path / "b.jsonl")).texts == tuple(texts)
    found = load_clean_texts(str(tmp_path / "c.csv"), text_column="review")
    assert found.texts == tuple(texts)
    assert (found.name, found.title) == ("c", "c")
    with pytest.raises(DataError, match="no column 'text' or 'sentence'; it has: review"):
        load_clean_texts(str(tmp_path / "c.csv"))
    with pytest.raises(ConfigurationError, match="no splits"):
        load_clean_texts(str(tmp_path / "b.jsonl"), split="train")
    for name, data in (("d.txt", b""), ("e.txt", b"a\n\nb\n"), ("f.txt", b"caf\xe9\n"), ("g.xlsx", b"a")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError):
            load_clean_texts(str(tmp_path / name))


def test_a_folder_of_splits_calibrates_on_test_by_default(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{split} one,0\n{split} two,1\n")
    assert load_clean_texts(str(tmp_path)).texts == ("test one", "test two")
    assert load_clean_texts(str(tmp_path), split="train").texts == ("train one", "train two")


# --- tuning on attacks ---------------------------------------------------------------------------------------------


def test_the_first_half_of_the_validation_rows_tunes(tiny_victim: Any, tmp_path: Path) -> None:
    texts = list(dict.fromkeys(sentences(250, 4)))
    run = attack_run(tmp_path / "run", texts, tiny_victim.hash)
    rows = tuning_rows(run, tiny_victim, 3)
    valid = validation_rows(run, 3)
    half = valid[: (len(valid) + 1) // 2]
    assert rows.originals == tuple(row.original_text for row in half)
    assert rows.adversarial == tuple(row.perturbed_text for row in half if row.result == "success")
    assert rows.facts["recipe"] == "pwws"
    assert (rows.facts["clean"], rows.facts["adversarial"]) == (len(half), len(rows.adversarial))
    # What tuned does not calibrate: the other half is left.
    left = load_clean_texts(str(run), seed=3).unseen(text_keys(rows.originals), None, 0)
    assert left.texts == tuple(row.original_text for row in valid[len(half) :])


def test_wdr_trains_and_others_refuse(tiny_victim: Any, tmp_path: Path) -> None:
    rows = tuning_rows(attack_run(tmp_path / "run", sentences(300, 4), tiny_victim.hash), tiny_victim, 0)
    wdr = build_detector("wdr", tiny_victim, {})
    with pytest.raises(ConfigurationError, match="'wdr' trains on adversarial texts"):
        clean_texts.check_needs_no_attacks(wdr)
    tune_detector(wdr, tiny_victim, rows)
    assert np.isfinite(wdr.score(tiny_victim.read(rows.originals))).all()
    msp = build_detector("msp", tiny_victim, {})
    clean_texts.check_needs_no_attacks(msp)
    with pytest.raises(ConfigurationError, match="'msp' takes no adversarial texts"):
        tune_detector(msp, tiny_victim, rows)


def test_an_attack_on_another_victim_or_without_success_does_not_tune(tiny_victim: Any, tmp_path: Path) -> None:
    with pytest.raises(VictimError, match="not the one that was attacked"):
        tuning_rows(attack_run(tmp_path / "other", sentences(30, 4), "0" * 64), tiny_victim, 0)
    run = attack_run(tmp_path / "run", sentences(30, 4))
    failed = [attack_row(i, text, result="failure") for i, text in enumerate(sentences(30, 4))]
    write_rows(run / "adversarial.parquet", failed)
    with pytest.raises(DataError, match=r"no attack in .* succeeded on the 5 rows"):
        tuning_rows(run, tiny_victim, 0)
