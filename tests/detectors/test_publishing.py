"""What leaves of a fitted detector: loads, scores and says what it is, and nothing of the machine; hostile folders."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from harness.core.cards import render_card
from harness.core.errors import ConfigurationError, DataError, HarnessError
from harness.core.files import hash_file, read_json
from harness.core.tensors import read_arrays
from harness.detectors.clean_texts import load_seen
from harness.detectors.decisions import load_calibration
from harness.detectors.fitting import load_detector
from harness.detectors.pairing import load_victim
from harness.detectors.publishing import stage_detector
from harness.detectors.wdr import WDR

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")
HOSTILE = 'evil`\n---\n<script>alert(1)</script> **bold** "quoted" [a](http://b) |'


def sentences(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=3 + i % 9)) + f" {i}" for i in range(count)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_victim_folder: Any, main: Any) -> Path:
    """Runs of the commands: `rde` calibrated, `knn`, and both joined."""
    root = tmp_path_factory.mktemp("published")
    lines = [f"{text},{i % 2}" for i, text in enumerate(sentences(120, 1))]
    (root / "reviews.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (root / "clean.txt").write_text("\n".join(sentences(80, 2)) + "\n")
    usual = ("--victim", tiny_victim_folder(), "--dataset", root / "reviews.csv", "--split", "train")
    fit = ("detect", "fit", *usual)
    promise = ("--calibration", root / "clean.txt")
    assert main(*fit, "--detector", "rde", "--components", 4, *promise, "--fpr", 0.1, "--out", root / "rde") == 0
    assert main(*fit, "--detector", "knn", "--out", root / "knn") == 0
    assert main("detect", "joint", root / "rde", root / "knn", *promise, "--out", root / "joint") == 0
    return root


@pytest.fixture(scope="module")
def staged(runs: Path) -> Path:
    stage_detector(runs / "rde", runs / "staged", repo="someone/rde-reviews")
    return runs / "staged"


@pytest.fixture
def folder(staged: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(staged, tmp_path / "fetched"))


def test_what_is_staged_is_what_loads_and_a_card(runs: Path, tmp_path: Path) -> None:
    calibrated = ["calibration.json", "calibration.safetensors"]
    whole = ["README.md", "detector.json", "seen.safetensors", "state.safetensors"]
    assert stage_detector(runs / "knn", tmp_path / "knn") == whole
    assert stage_detector(runs / "joint", tmp_path / "joint") == sorted([*whole, *calibrated])
    assert stage_detector(runs / "rde", tmp_path / "rde") == sorted(path.name for path in (tmp_path / "rde").iterdir())


def test_which_other_model_a_detector_was_fitted_with_is_published(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "knn", tmp_path / "run"))
    facts = {**read_json(run / "detector.json"), "other_model_hash": "ab" * 32}
    (run / "detector.json").write_text(json.dumps(facts))
    stage_detector(run, tmp_path / "staged")
    assert read_json(tmp_path / "staged" / "detector.json")["other_model_hash"] == "ab" * 32


def test_nothing_of_the_machine_leaves(runs: Path, staged: Path) -> None:
    manifest = read_json(runs / "rde" / "manifest.json")
    told = b"".join(path.read_bytes() for path in staged.iterdir())
    machine = str(Path(read_json(runs / "rde" / "detector.json")["victim_source"]).parent)  # the scan must see this
    secrets = [machine, str(runs), manifest["hardware"]["machine"], manifest["finished"], "wall_seconds", "git", "+cpu"]
    assert [secret for secret in secrets if secret.encode() in told] == []
    assert machine.encode() in (runs / "rde" / "detector.json").read_bytes()


@pytest.mark.parametrize("name", ["rde", "joint"])
def test_a_staged_folder_scores_and_decides_as_its_run(name: str, runs: Path, tmp_path: Path, main: Any) -> None:
    stage_detector(runs / name, tmp_path / "staged")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(15, 3)) + "\n")
    victim = read_json(runs / name / "detector.json")["victim_source"]
    for folder, more in ((runs / name, ()), (tmp_path / "staged", ("--victim", victim))):
        assert main("detect", "score", folder, texts, "--out", tmp_path / f"{folder.name}.jsonl", *more) == 0
    first, second = ((tmp_path / f"{kind}.jsonl").read_bytes() for kind in (name, "staged"))
    assert first == second
    assert b"p_value" in first
    before, after = load_calibration(runs / name), load_calibration(tmp_path / "staged")
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before.scores, after.scores)
    assert before.promise() == after.promise()


def test_a_fetched_detector_can_be_calibrated_and_never_on_its_own_texts(
    runs: Path, folder: Path, tmp_path: Path, main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = read_json(runs / "rde" / "detector.json")["victim_source"]
    own, fresh = tmp_path / "own.txt", tmp_path / "fresh.txt"
    own.write_text("\n".join(sentences(120, 1)) + "\n")
    fresh.write_text("\n".join(sentences(60, 9)) + "\n")
    assert main("detect", "calibrate", folder, "--calibration", own, "--victim", victim) == 2
    assert "training texts of the detector" in capsys.readouterr().err
    assert main("detect", "calibrate", folder, "--calibration", fresh, "--victim", victim) == 0
    assert len(load_seen(folder, load_detector(folder)[1])) == 120


def test_a_victim_that_nobody_names_or_another_one_is_refused(
    folder: Path, tiny_victim_folder: Any, main: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("a good film\n")
    score = ("detect", "score", folder, tmp_path / "texts.txt")
    assert main(*score) == 2
    assert "does not say where its victim 'tiny-bert-2-0' is" in " ".join(capsys.readouterr().err.split())
    assert main(*score, "--victim", tiny_victim_folder(seed=1)) == 2
    assert "is not the one that the detector in" in " ".join(capsys.readouterr().err.split())


def test_a_hub_victim_and_a_hub_dataset_are_in_the_header(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "rde", tmp_path / "run"))
    facts = {"victim": "org/victim", "victim_source": "org/victim", "dataset_id": "stanfordnlp/imdb"}
    respell(run / "detector.json", calibration=run / "calibration.json", **facts)
    stage_detector(run, tmp_path / "staged", repo="me/mine")
    header = ModelCard.load(tmp_path / "staged" / "README.md").data.to_dict()
    assert header["base_model"] == "org/victim"
    assert header["datasets"] == ["stanfordnlp/imdb"]
    assert read_json(tmp_path / "staged" / "detector.json")["victim_source"] == "org/victim"
    assert "--victim" not in (tmp_path / "staged" / "README.md").read_text().split("## Known limits")[0]


def respell(path: Path, calibration: Path | None = None, **changes: Any) -> None:
    """Change facts; the calibration that is bound to them is bound anew."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if calibration is not None:
        respell(calibration, detector_sha256=hash_file(path))


def test_the_card_says_what_it_is(staged: Path) -> None:
    card = (staged / "README.md").read_text()
    header = ModelCard.load(staged / "README.md").data.to_dict()
    assert header["library_name"] == "palimpsest"
    assert {"adversarial-text-detection", "rde"} <= set(header["tags"])
    facts = read_json(staged / "detector.json")
    for told in (
        facts["victim_hash"],
        "`tiny-bert-2-0`",
        "120 of `reviews`",
        "Yoo et al., Findings of ACL 2022",
        "`4`",
    ):
        assert told in card
    calibration = load_calibration(staged)
    assert calibration is not None
    assert calibration.promise() in card
    assert "harness detect score hub:someone/rde-reviews texts.jsonl" in card
    assert "None" not in card.replace("None is stated", "")
    assert re.search(r"\n{4,}|[ \t]\n", card) is None


def test_the_cards_python_runs(staged: Path, tiny_victim_folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (staged / "README.md").read_text(), re.DOTALL)
    code = code.replace('snapshot_download("someone/rde-reviews")', repr(str(staged)))
    code = code.replace("path/to/victim", str(tiny_victim_folder()))
    compiled = compile(code, "card", "exec")
    exec(compiled, {})
    assert re.fullmatch(r"\[-?\d[\d.e+-]*\]\n", capsys.readouterr().out)


def test_hostile_names_stay_text_on_the_card(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "rde", tmp_path / "run"))
    respell(run / "detector.json", run / "calibration.json", victim=HOSTILE, dataset=HOSTILE)
    respell(run / "calibration.json", dataset=HOSTILE)
    stage_detector(run, tmp_path / "staged")
    card = (tmp_path / "staged" / "README.md").read_text()
    header, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert set(yaml.safe_load(header)) == {"library_name", "license", "tags"}
    assert ModelCard(card).data.to_dict()["library_name"] == "palimpsest"
    html = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False}).render(body)
    assert "<script" not in html
    assert "<strong>bold" not in html
    assert 'href="http://b"' not in html
    assert html.count("<hr") == 0
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_every_value_that_no_filter_made_code_is_escaped() -> None:
    values = {**_values(HOSTILE), "repo": "a/b", "cited": [{"title": HOSTILE, "paper": HOSTILE}]}
    values["victim"] = {**values["victim"], "loadable": "a/b"}
    body = render_card("harness.detectors", "model_card.md.j2", {}, **values).partition("\n---\n")[2]
    html = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False}).render(body)
    assert html.count("&lt;script&gt;") > 10
    assert not any(tag in html for tag in ("<script", "<strong", 'href="http://b"', "<hr", "<table"))


def test_trees_that_go_round_are_refused() -> None:
    """A walk down them would never end."""
    zeros = {name: np.zeros(3, np.int64) for name in ("left", "right", "feature")}
    floats = {name: np.zeros(3) for name in ("threshold", "value")}
    trees = {"prior": np.zeros(1), "roots": np.array([0]), **zeros, **floats}
    trees |= {"left": np.array([1, 0, 2]), "right": np.array([2, 0, 2])}
    with pytest.raises(DataError, match="does not lead down a tree"):
        WDR().check(trees)
    WDR().check({**trees, "left": np.array([1, 1, 2]), "right": np.array([2, 1, 2])})


def test_a_header_keeps_every_value_as_it_is() -> None:
    header = {"name": HOSTILE, "list": ["- a", "b: c", "!!python/object:os.system", "x" * 500, "\u2028"], "none": None}
    card = render_card("harness.detectors", "model_card.md.j2", header, **_values("x"))
    data = ModelCard(card).data.to_dict()
    assert data["name"] == HOSTILE
    assert data["list"] == header["list"]
    assert "none" not in data


def _values(text: str) -> dict[str, Any]:
    """What the template needs, with one text at every place."""
    names = ("name", "title", "paper", "reads", "cost", "per_word", "adversarial_texts")
    fit = ("train_rows", "dataset", "dataset_hash", "seed", "tuning_texts", "tuned_on", "split")
    victim = ("name", "hash", "max_length", "dtype", "source", "built_in", "loadable")
    return {
        "title": text,
        "repo": "a/b",
        "detector": dict.fromkeys(names, text),
        "parameters": [(text, text)],
        "members": [(text, text)],
        "cited": [],
        "fit": dict.fromkeys(fit, text) | {"tuned_on": None},
        "versions": text,
        "victim": dict.fromkeys(victim, text),
        "calibration": None,
        "holds": {"words": True, "features": True, "seen": True},
    }


@pytest.mark.parametrize(
    ("name", "code"),
    [("plain", "`plain`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("", "`  `"), ("a\nb", "`a b`")],
)
def test_a_name_is_code_whatever_it_holds(name: str, code: str) -> None:
    values = {**_values("x"), "victim": dict.fromkeys(_values("x")["victim"], name)}
    assert f"- Name: {code}." in render_card("harness.detectors", "model_card.md.j2", {}, **values)


@pytest.mark.parametrize("repo", ["", "one", "a/b/c", "../x", "a/b\n", 'a/"b"', "a/b`", "-a/b", "a b/c"])
def test_what_is_no_repository_is_refused_before_anything_is_written(repo: str, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no repository of a hub"):
        stage_detector(runs / "rde", tmp_path / "staged", repo=repo)
    assert not (tmp_path / "staged").exists()


def test_what_is_no_detectors_run_is_refused(runs: Path, staged: Path, tmp_path: Path) -> None:
    for source, said in ((tmp_path, "not a run folder"), (staged, "not a run folder")):
        with pytest.raises(ConfigurationError, match=said):
            stage_detector(source, tmp_path / "staged")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        stage_detector(runs / "rde", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_fault_while_staging_leaves_nothing(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.detectors.publishing.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        stage_detector(runs / "rde", tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


HEADERS = {
    "a header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "a header of 17 MB": struct.pack("<Q", 17 * 2**20) + b" " * (17 * 2**20),
    "no header": b"",
    "seven bytes": b"\0" * 7,
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "no JSON": struct.pack("<Q", 4) + b"nope",
    "a header nested deeply": struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995,
    "an array beyond the file": b"".join(
        (lambda text: (struct.pack("<Q", len(text)), text))(
            b'{"means":{"dtype":"F64","shape":[1099511627776],"data_offsets":[0,8796093022208]}}'
        )
    ),
    "offsets that overlap": b"".join(
        (lambda text: (struct.pack("<Q", len(text)), text, b"\0" * 8))(
            b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}'
        )
    ),
    "a type that NumPy lacks": b"".join(
        (lambda text: (struct.pack("<Q", len(text)), text, b"\0" * 8))(
            b'{"means":{"dtype":"F8_E8M0","shape":[8],"data_offsets":[0,8]}}'
        )
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("name", ["state", "calibration", "seen"])
def test_what_is_no_sound_safetensors_file_is_refused_in_one_sentence(kind: str, name: str, folder: Path) -> None:
    path = folder / f"{name}.safetensors"
    path.write_bytes(HEADERS[kind])
    digest = hash_file(path)
    if name == "calibration":
        respell(folder / "calibration.json", scores_sha256=digest)
    else:
        changed = {f"{name}_sha256": digest}
        respell(folder / "detector.json", folder / "calibration.json", **changed)
    with pytest.raises(HarnessError) as caught:
        read_all(folder)
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


def test_a_header_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HEADERS["a header of 17 MB"])
    monkeypatch.setattr("safetensors.numpy.load_file", lambda _: pytest.fail("it was read"))
    with pytest.raises(DataError, match="its header has"):
        read_arrays(path)


def read_all(folder: Path) -> None:
    _, facts = load_detector(folder)
    load_calibration(folder)
    load_seen(folder, facts)


DEEP = "[" * 100_000 + "]" * 100_000
JSON = {
    "nested too deeply": f'{{"format": 3, "x": {DEEP}}}',
    "no JSON": "{",
    "not UTF-8": b"\xff\xfe{}",
    "a list": "[]",
    "a number": "3",
    "no format": "{}",
    "a format that is text": '{"format": "3"}',
    "a format that is a list": '{"format": [3]}',
    "a number of 5,000 digits": '{"format": ' + "9" * 5000 + "}",
    "too long": " " * (2**24) + "{}",
}


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("name", ["detector", "calibration"])
def test_json_that_is_none_is_refused_in_one_sentence(kind: str, name: str, folder: Path) -> None:
    text = JSON[kind]
    (folder / f"{name}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(HarnessError) as caught:
        read_all(folder)
    assert len(caught.value.message) < 400


def test_a_detector_or_calibration_of_the_future_is_told(folder: Path) -> None:
    respell(folder / "calibration.json", format=2)
    with pytest.raises(ConfigurationError, match="a calibration of format 2, this reads 1"):
        load_calibration(folder)
    respell(folder / "detector.json", format=4)
    with pytest.raises(ConfigurationError, match="a detector of format 4, this reads 3") as caught:
        load_detector(folder)
    assert "another version" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"detector": "../../etc/passwd"},
        {"detector": ["rde"]},
        {"detector": None},
        {"parameters": []},
        {"parameters": {"layer": 3, "evil": 1}},
        {"parameters": {"layer": "__import__('os')"}},
        {"detector": "joint", "parameters": {}},
        {"detector": "joint", "parameters": {"members": [["rde", {}]], "method": "fisher"}},
        {"detector": "joint", "parameters": {"members": [["joint", {}], ["rde", {}]]}},
        {"detector": "joint", "parameters": {"members": [["rde", {}], ["msp", {}]], "method": [], "fpr": 0.1}},
        {"detector": "joint", "parameters": {"members": [["rde", {"layer": {}}], ["msp", {}]]}},
        {"detector": "joint", "parameters": {"members": [["msp", {}]] * 5000}},
    ],
    ids=str,
)
def test_facts_that_describe_no_detector_are_refused_in_one_sentence(changes: dict[str, Any], folder: Path) -> None:
    respell(folder / "detector.json", **changes)
    with pytest.raises(HarnessError) as caught:
        load_detector(folder)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "changes",
    [
        {"victim": None},
        {"victim": 3},
        {"victim_hash": "../x"},
        {"victim_source": ["x"]},
        {"victim_source": ""},
        {"victim_source": "a\0b"},
        {"victim_source": "../../../../nowhere/at/all"},
        {"max_length": "128"},
        {"max_length": 10**30},
        {"max_length": True},
        {"dtype": "fp8"},
        {"dtype": {}},
        {"train_rows": -1},
        {"dataset": {}},
    ],
    ids=str,
)
def test_facts_that_name_no_victim_are_refused_in_one_sentence(changes: dict[str, Any], folder: Path) -> None:
    respell(folder / "detector.json", **changes)
    with pytest.raises(HarnessError) as caught:
        load_victim(folder, load_detector(folder)[1])
    assert len(caught.value.message) < 400


def test_fields_that_nobody_knows_and_files_that_nobody_reads_change_nothing(folder: Path, tiny_victim: Any) -> None:
    (folder / "pytorch_model.bin").write_bytes(HEADERS["a pickle"])
    (folder / "state.pkl").write_bytes(HEADERS["a pickle"])
    respell(folder / "detector.json", evil={"__class__": "os.system"})
    detector, facts = load_detector(folder)
    assert load_victim(folder, facts, str(tiny_victim.model.name_or_path)).hash == facts["victim_hash"]
    assert np.isfinite(detector.score(tiny_victim.read(["a good film"], detector.layers))).all()


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (np.array([2.0, 1.0]), "no ascending numbers"),
        (np.array([1.0, np.nan]), "NaN"),
        (np.zeros((2, 2)), "no ascending numbers"),
        (np.zeros(0), "no ascending numbers"),
        (np.arange(3), "no ascending numbers"),
    ],
)
def test_scores_that_are_no_calibration_are_refused(scores: Any, said: str, folder: Path) -> None:
    save_file({"scores": scores}, folder / "calibration.safetensors")
    respell(folder / "calibration.json", scores_sha256=hash_file(folder / "calibration.safetensors"))
    with pytest.raises(DataError, match=said):
        load_calibration(folder)


@pytest.mark.parametrize("changes", [{"fpr": 10**400}, {"fpr": None}, {"fpr": 2}, {"confidence": "x"}, {"fpr": []}])
def test_a_promise_that_is_none_is_refused(changes: dict[str, Any], folder: Path) -> None:
    respell(folder / "calibration.json", **changes)
    with pytest.raises(HarnessError):
        load_calibration(folder)


def test_a_state_of_another_victims_size_is_refused(folder: Path, tiny_victim: Any) -> None:
    arrays = load_file(folder / "state.safetensors")
    arrays["reference"] = np.zeros((len(arrays["reference"]), 7), np.float32)
    save_file(arrays, folder / "state.safetensors")
    respell(folder / "detector.json", state_sha256=hash_file(folder / "state.safetensors"))
    detector, _ = load_detector(folder)
    with pytest.raises(DataError, match="fitted on 7 features, and this victim gives 32"):
        detector.score(tiny_victim.read(["a good film"], detector.layers))


def test_an_unknown_detector_is_told_by_name(folder: Path) -> None:
    respell(folder / "detector.json", detector="rdee")
    with pytest.raises(HarnessError, match="no detector named 'rdee'"):
        load_detector(folder)


def test_a_joint_detector_needs_facts_of_every_member(runs: Path, folder: Path, main: Any, tmp_path: Path) -> None:
    path = folder / "detector.json"
    facts = read_json(path)
    facts.pop("train_rows")
    path.write_text(json.dumps(facts))
    more = ("--calibration", runs / "clean.txt", "--out", tmp_path / "joint")
    assert main("detect", "joint", folder, runs / "knn", *more) == 2
    assert not (tmp_path / "joint").exists()
