"""What holds for every detector, and what their `info` claims."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from harness.core.compat import prepare_torchvision
from harness.core.errors import (
    ConfigurationError,
    DataError,
    HarnessError,
    MissingFileError,
    NotFittedError,
    UnknownNameError,
)
from harness.core.files import hash_file
from harness.core.runs import Run
from harness.detectors.fitting import build_detector, corpus_facts, fit_detectors, load_detector, save_detector
from harness.detectors.publishing import stage_detector
from harness.detectors.registry import DETECTORS
from harness.detectors.scoring import score
from harness.detectors.specs import parse_spec
from harness.text.datasets import TextDataset
from harness.text.victims import Victim, VictimOutputs
from harness.text.words import find_words

NAMES = DETECTORS.names()
WORDS = ("good", "bad", "film", "plot", "actor", "scene", "story", "dull", "bright", "slow", "quick", "warm", "cold")
TEXTS = [
    "a good film",
    "the plot isn't clever; qzjx acting!",
    "",
    "... !",
    "dull",
    "I loved it , not at all",
    "bad bad",
]
CHEAP = ("probabilities", "features")


def build(victim, name, models, **parameters):
    """A detector small enough for the tiny victim."""
    small = {
        "rde": {"components": 5},
        "rde-empirical": {"components": 5},
        "rde-linear": {"components": 5},
        "addmu": {"rows": 25},
        **models,
    }
    return build_detector(name, victim, {**small.get(name, {}), **parameters})


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_victim_folder):
    """Tiny random models for the detectors that read another one than the victim."""
    prepare_torchvision()
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForMaskedLM,
        ElectraForPreTraining,
        GPT2Config,
        GPT2LMHeadModel,
        GPT2TokenizerFast,
    )

    root = tmp_path_factory.mktemp("models")
    files = tiny_victim_folder("roberta")
    masked, marks = tiny_victim_folder("bert"), tiny_victim_folder("electra")
    tokenizer = GPT2TokenizerFast(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = GPT2Config(len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
        made = {
            "causal": GPT2LMHeadModel(size),
            "masked": AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(masked)),
            "marks": ElectraForPreTraining(AutoConfig.from_pretrained(marks)),
        }
    shutil.copytree(masked, root / "masked")
    shutil.copytree(marks, root / "marks")
    tokenizer.save_pretrained(root / "causal")
    for name, model in made.items():
        model.save_pretrained(root / name, safe_serialization=True)
    return {
        "ppl": {"language_model": str(root / "causal")},
        "mlmd": {"masked_lm": str(root / "masked")},
        "gradmlmd": {"masked_lm": str(root / "masked")},
        "rtd-guard": {"discriminator": str(root / "marks")},
    }


@pytest.fixture(scope="module")
def victim(tiny_victim_folder):
    """A tiny victim with dropout, as every trained one has; the session's own has none."""
    import torch

    found = Victim.load(str(tiny_victim_folder("bert")), device="cpu")
    for module in found.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    return found


@pytest.fixture(scope="module")
def train():
    """300 random sentences of 2 classes."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(3, 12))) for _ in range(300)]
    labels = rng.integers(0, 2, 300)
    return TextDataset("toy", "train", texts, labels, np.arange(300), None, {"kind": "test"})


@pytest.fixture(scope="module")
def fitted(victim, train, models):
    """Every detector, fitted together; those that train on adversarial texts also on sentences called so."""
    detectors = [build(victim, name, models) for name in NAMES]
    fit_detectors(detectors, victim, train)
    for detector in detectors:
        if detector.info.needs_adversarial_labels:
            detector.fit_adversarial(victim.read(train.texts[:40]), np.arange(40) % 2 == 0)
    return {detector.info.name: detector for detector in detectors}


def ask(detector, victim, texts):
    """What the victim says of texts, with the layers that a detector reads."""
    return victim.read(texts, [victim.layer(n) for n in detector.layers])


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_float64_one_a_text_and_in_the_order_given(name, fitted, victim, train):
    detector = fitted[name]
    outputs = ask(detector, victim, [*train.texts[:5], *TEXTS])
    scores = score(detector, outputs)
    assert scores.dtype == np.float64
    assert scores.shape == (12,)
    assert np.isfinite(scores).all()
    assert len(set(scores)) > 1 or name in ("mlmd", "gradmlmd", "rsv")  # shares of votes, which may all be none
    order = np.random.default_rng(0).permutation(12)
    # The same outputs in another order: only detectors that ask again meet other batches.
    slack = {"rtol": 1e-9} if detector.info.reads in ("probabilities", "features") else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(score(detector, outputs.take(order)), scores[order], **slack)
    assert score(detector, outputs.take(np.zeros(0, np.int64))).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_no_other_text_and_no_batch_size(name, fitted, victim, train, monkeypatch):
    detector = fitted[name]
    outputs = ask(detector, victim, [*train.texts[:3], *TEXTS])
    scores = score(detector, outputs)
    alone = np.concatenate([score(detector, outputs.take(np.array([i]))) for i in range(10)])
    np.testing.assert_allclose(alone, scores, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(victim, "batch_size", 3)
    np.testing.assert_allclose(score(detector, outputs), scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_detector_scores_the_same_to_the_last_bit(name, fitted, victim, train, tmp_path):
    detector = fitted[name]
    save_detector(tmp_path, detector, {"victim_hash": victim.hash})
    again, facts = load_detector(tmp_path)
    again.attach(victim)
    outputs = ask(detector, victim, [*train.texts[:5], *TEXTS])
    np.testing.assert_array_equal(score(again, outputs), score(detector, outputs))
    assert facts["victim_hash"] == victim.hash
    assert again.parameters() == detector.parameters()
    assert again.facts() == detector.facts()
    assert sorted(again.arrays()) == sorted(detector.arrays())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.json", "state.safetensors"]


def save_run(folder, detector, victim):
    """A run folder as `harness detect fit` leaves it."""
    facts = {
        "victim": victim.name,
        "victim_hash": victim.hash,
        "victim_source": f"/somewhere/on/this/machine/{victim.name}",
        "max_length": victim.max_length,
        "dtype": victim.dtype,
        "dataset": "toy",
        "dataset_hash": "0" * 64,
        "dataset_split": "train",
        "train_rows": 300,
        "seed": 0,
    }
    with Run(folder, "detect fit", {"detector": detector.info.name}) as run:
        save_detector(folder, detector, facts)
        run.finish(["detector.json", "state.safetensors"])
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_published_detector_scores_the_same_to_the_last_bit(name, fitted, victim, train, models, tmp_path):
    detector, staging = fitted[name], tmp_path / "staging"
    run = save_run(tmp_path / "run", detector, victim)
    if name in models:  # another model, that lies in a folder of this machine
        with pytest.raises(ConfigurationError, match=f"'{name}' names a file or folder of this machine"):
            stage_detector(run, staging)
        assert not staging.exists()
        return
    assert stage_detector(run, staging) == ["README.md", "detector.json", "state.safetensors"]
    again, facts = load_detector(staging)
    again.attach(victim)
    outputs = ask(detector, victim, [*train.texts[:3], *TEXTS])
    np.testing.assert_array_equal(score(again, outputs), score(detector, outputs))
    assert facts["victim_hash"] == victim.hash
    told = "".join(path.read_text(errors="replace") for path in staging.iterdir())
    assert "/somewhere" not in told
    assert str(tmp_path) not in told
    assert detector.info.paper in (staging / "README.md").read_text()


def spoilt(values):
    """An array in several ways that no fit leaves it in, and some that it might."""
    yield values.astype("float32" if values.dtype == np.float64 else "float64")
    yield values[None]
    yield values[:0]
    yield values[:-1]
    yield values.reshape(-1)
    if values.ndim > 1:
        yield values[..., :-1]
        yield np.repeat(values, 2, axis=1)
    for number in (-1, 0, 2**31 - 1, *((np.nan, np.inf, -1e308) if values.dtype.kind == "f" else ())):
        yield np.full_like(values, np.array(number).astype(values.dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", [*NAMES, "knn:all", "mahalanobis:all"])
def test_a_spoilt_state_scores_or_is_refused_in_one_sentence(name, fitted, victim, train, models, tmp_path):
    from safetensors.numpy import save_file

    detector = fitted.get(name)
    if detector is None:
        detector = build_detector(name.partition(":")[0], victim, {"layer": "all"})
        fit_detectors([detector], victim, train)
    save_detector(tmp_path, detector, {})
    facts = json.loads((tmp_path / "detector.json").read_text())
    arrays = {key: np.ascontiguousarray(values) for key, values in detector.arrays().items()}
    outputs = ask(detector, victim, train.texts[:2])
    states = [{**arrays, "../../x": np.zeros(3)}, {**arrays, "x": np.zeros(3, np.float16)}]
    for key, values in arrays.items():
        states.append({other: arrays[other] for other in arrays if other != key})
        states += [{**arrays, key: np.ascontiguousarray(other)} for other in spoilt(values)]
    refused = []
    for state in states:
        save_file(state, tmp_path / "state.safetensors")
        (tmp_path / "detector.json").write_text(
            json.dumps({**facts, "state_sha256": hash_file(tmp_path / "state.safetensors")})
        )
        try:
            assert score(load_detector(tmp_path)[0].attach(victim), outputs).shape == (2,)
        except HarnessError as error:
            refused.append(error.message)
    assert len(refused) > len(states) / 2
    assert all(detector.info.name in message for message in refused)


@pytest.mark.parametrize("name", NAMES)
def test_spoilt_parameters_are_refused_in_one_sentence(name, fitted, tmp_path):
    save_detector(tmp_path, fitted[name], {})
    facts = json.loads((tmp_path / "detector.json").read_text())
    for parameter in [*facts["parameters"], "../x"]:
        for value in ({}, [[1]], 10**40, float("inf")):
            facts["parameters"] = {**fitted[name].parameters(), parameter: value}
            (tmp_path / "detector.json").write_text(json.dumps(facts))
            if parameter in ("seed", "rows") and value == 10**40:
                continue  # how a fit was drawn, which costs nothing any more
            with pytest.raises(HarnessError):
                load_detector(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_info_is_what_the_detector_does(name, fitted, victim, train):
    detector = fitted[name]
    info = detector.info
    assert info.name == name
    assert info.title
    assert info.paper
    assert bool(detector.layers) == (info.reads == "features")
    assert info.needs_adversarial_labels == (info.adversarial_texts == "trains") == (name == "wdr")
    before = victim.forwards, victim.backwards
    # Words that the victim reads, and no text twice: nothing is spared.
    outputs = ask(detector, victim, train.texts[:6])
    asked = victim.forwards
    detector.score(outputs)
    measured = (victim.forwards - before[0]) / 6
    if info.forwards_per_text is not None:
        assert measured == info.forwards_per_text
        assert info.at_most is None
    elif info.at_most is not None:
        assert 1 <= measured <= info.at_most
    else:
        assert measured > 1
    assert info.reads not in CHEAP or victim.forwards == asked
    assert (victim.backwards > before[1]) == (info.reads == "gradients" or name == "gradmlmd")
    # What other models were asked is counted too.
    assert (detector.other_forwards > 0) == (info.reads == "language model")


@pytest.mark.parametrize("name", NAMES)
def test_what_it_does_not_read_changes_nothing(name, fitted, victim, train):
    detector = fitted[name]
    outputs = ask(detector, victim, train.texts[:4])
    if detector.info.reads == "features":
        with pytest.raises(DataError):
            detector.score(dataclasses.replace(outputs, features={}))
        plain = dataclasses.replace(outputs, texts=None, logits=None)
    elif detector.info.reads == "probabilities":
        plain = dataclasses.replace(outputs, texts=None)
    else:
        with pytest.raises(DataError, match="texts"):
            detector.score(dataclasses.replace(outputs, texts=None))
        plain = dataclasses.replace(outputs, features={})
    np.testing.assert_array_equal(detector.score(plain), detector.score(outputs))


@pytest.mark.parametrize("name", NAMES)
def test_words_are_scored_where_info_says_so(name, fitted, victim, train):
    detector = fitted[name]
    texts = [*train.texts[:2], *TEXTS]
    outputs = ask(detector, victim, texts)
    if not detector.info.scores_words:
        with pytest.raises(ConfigurationError, match=name):
            detector.word_scores(outputs)
        return
    found = detector.word_scores(outputs)
    assert [len(of_text) for of_text in found] == [len(find_words(text)) for text in texts]
    for of_text in found:
        assert of_text.dtype == np.float64
        assert np.isfinite(of_text).all()
    assert len({value for of_text in found for value in of_text}) > 1


@pytest.mark.parametrize("name", NAMES)
def test_adversarial_texts_are_taken_where_info_says_so(name, victim, train, models):
    detector = build(victim, name, models)
    fit_detectors([detector], victim, train)
    outputs = ask(detector, victim, train.texts[:40])
    marks = np.arange(40) % 2 == 0
    if detector.info.adversarial_texts == "none":
        with pytest.raises(ConfigurationError, match=name):
            detector.fit_adversarial(outputs, marks)
        return
    if detector.info.needs_adversarial_labels:
        with pytest.raises(NotFittedError, match=name):
            detector.score(outputs)
    assert detector.fit_adversarial(outputs, marks) is detector
    first = detector.score(outputs)
    # Another tuning and the first one again: nothing stays of what was tuned in between.
    detector.fit_adversarial(outputs, np.arange(40) < 20)
    detector.fit_adversarial(outputs, marks)
    np.testing.assert_array_equal(detector.score(outputs), first)


@pytest.mark.parametrize("name", NAMES)
def test_rows_hold_no_path(name, fitted, models):
    told = json.dumps(fitted[name].facts())
    assert not any(str(value) in told for value in models.get(name, {}).values())


@pytest.mark.parametrize("name", [name for name in NAMES if DETECTORS.get(name).info.reads not in CHEAP])
def test_a_detector_without_a_victim_says_so(name, fitted, victim, train, tmp_path):
    save_detector(tmp_path, fitted[name], {})
    with pytest.raises(NotFittedError, match=name):
        load_detector(tmp_path)[0].score(victim.read(train.texts[:2]))


def test_msp_is_one_minus_the_largest_probability(fitted):
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
    np.testing.assert_allclose(fitted["msp"].score(VictimOutputs(probabilities)), [0.5, 0.1, 0.0])


def test_a_second_fit_comes_from_the_cache(fitted, victim, train, models):
    before = victim.forwards
    again = [build(victim, name, models) for name in NAMES]
    fit_detectors(again, victim, train)
    assert victim.forwards == before
    for detector in again:
        if detector.info.needs_adversarial_labels:
            continue  # what it trained on is an attack's, and not kept
        assert sorted(detector.arrays()) == sorted(fitted[detector.info.name].arrays())
        for key, values in fitted[detector.info.name].arrays().items():
            np.testing.assert_array_equal(values, detector.arrays()[key])


def test_a_damaged_fit_in_the_cache_is_fitted_again(victim, train, tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path))
    first, second = build(victim, "mle", {}), build(victim, "mle", {})
    fit_detectors([first], victim, train)
    (state,) = (tmp_path / "detectors").rglob("state.safetensors")
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(data)
    fit_detectors([second], victim, train)
    np.testing.assert_array_equal(first.arrays()["precisions"], second.arrays()["precisions"])
    state.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        load_detector(state.parent)


def test_a_seed_reaches_the_detectors_that_draw(victim):
    assert build_detector("rde", victim, {}, seed=7).parameters()["seed"] == 7
    assert "seed" not in build_detector("mle", victim, {}, seed=7).parameters()
    assert build_detector("rde", victim, {"seed": 3}, seed=7).parameters()["seed"] == 3
    assert build_detector("rsv", victim, {"seed": None}, seed=7).parameters()["seed"] == 7


def test_a_class_of_the_victim_without_training_texts_is_refused(victim, train):
    one = train.take(np.flatnonzero(train.labels == 0))
    with pytest.raises(DataError, match="class 1 has 0"):
        fit_detectors([build(victim, "rde-empirical", {})], victim, one)


def test_another_seed_or_parameter_is_another_fit(victim, train):
    first, second, third = build(victim, "rde", {}), build(victim, "rde", {}, components=4), build(victim, "rde", {})
    fit_detectors([first, second], victim, train)
    third.rows = 200
    fit_detectors([third], victim, train, seed=1)
    assert first.arrays()["means"].shape != second.arrays()["means"].shape
    assert third.arrays()["reference"].shape[0] == 200


def test_only_the_rows_that_are_wanted_are_read(victim, train):
    detector = build(victim, "rde-empirical", {})
    detector.rows = 120
    before = victim.forwards
    fit_detectors([detector], victim, train, seed=7)
    assert victim.forwards - before == 120


def test_a_fit_of_another_version_is_none_of_this(victim, train, tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path))
    first = build(victim, "mle", {})
    fit_detectors([first], victim, train)
    (state,) = (tmp_path / "detectors").rglob("state.safetensors")
    monkeypatch.setattr(type(first), "info", dataclasses.replace(first.info, version=7))
    with pytest.raises(ConfigurationError, match="holds mle of version 1, and this is version 7"):
        load_detector(state.parent)
    fit_detectors([build(victim, "mle", {})], victim, train)
    assert len([*(tmp_path / "detectors").rglob("state.safetensors")]) == 2


def test_words_are_counted_in_texts_that_are_not_read(victim, train):
    few, few_again, all_of_them = (build(victim, "fgws", {}) for _ in range(3))
    rows = train.take(range(20))
    before = victim.forwards
    fit_detectors([few], victim, rows)
    fit_detectors([all_of_them], victim, rows, corpus=train)
    fit_detectors([few_again], victim, rows, corpus=rows)
    assert victim.forwards == before
    counted = [int(detector.arrays()["counts"].sum()) for detector in (few, few_again, all_of_them)]
    assert counted[0] == counted[1] == sum(len(find_words(text)) for text in rows.texts)
    assert counted[2] == sum(len(find_words(text)) for text in train.texts) > counted[0]
    assert corpus_facts(few, train) == {"corpus_rows": len(train), "corpus_hash": train.hash}
    assert corpus_facts(build(victim, "mle", {}), train) == {}


def test_fitting_without_texts_is_refused(victim):
    with pytest.raises(DataError, match="clean training texts"):
        fit_detectors([build(victim, "mle", {})], victim, None)
    fit_detectors([build(victim, "msp", {})], victim, None)


def test_wrong_names_and_parameters_are_refused(victim):
    with pytest.raises(UnknownNameError, match="mlee"):
        build_detector("mlee", victim, {})
    with pytest.raises(ConfigurationError, match="takes no components"):
        build_detector("msp", victim, {"components": 3})
    with pytest.raises(ConfigurationError, match="no layer 99"):
        build_detector("mle", victim, {"layer": 99})


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("rde:components=abc", "whole number"),
        ("rde:components=50.5", "whole number"),
        ("rde:rows=abc", "whole number"),
        ("rde:seed=-1", "from 0 to 4294967295"),
        ("rde:seed=4294967296", "from 0 to 4294967295"),
        ("rde:support=true", "a number or null"),
        ("rde:support=half", "a number or null"),
        ("rsv:k=abc", "whole number"),
        ("rsv:k=2.5", "whole number"),
        ("rsv:k=true", "whole number"),
        ("rsv:k=100001", "100000 at most"),
        ("rsv:seed=x", "whole number"),
        ("rsv:seed=-1", "from 0 to 4294967295"),
        ("fgws:delta=abc", "a number"),
        ("fgws:vectors=5", "text or null"),
        ("gradmask:share=half", "a number"),
        ("wdr:length=abc", "whole number"),
        ("rtd-guard:share=nan", "a number"),
        ("rtd-guard:share=NaN", "finite"),
        ("mlmd:masked_lm=5", "text or null"),
        ("sharpness:rise=maybe", "true or false"),
        ("sharpness:radius=1e999", "finite"),
        ("addmu:rows=0", "at least 1"),
    ],
)
def test_what_a_parameter_cannot_be_is_refused_by_name(spec, hint, victim):
    name, parameters = parse_spec(spec)
    (parameter,) = parameters
    with pytest.raises(ConfigurationError, match=f"'{name}' cannot be made: its parameter {parameter} is ") as found:
        build_detector(name, victim, parameters)
    assert found.value.message.endswith(".")
    assert found.value.hint.startswith(f"Give {parameter} ")
    assert hint in found.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_its_own_parameters_build_it_again(name, fitted, victim):
    parameters = fitted[name].parameters()
    assert build_detector(name, victim, parameters).parameters() == parameters


def test_numbers_are_taken_as_they_are_written(victim):
    for spec in ("fgws:delta=30", "gradmask:share=1", "rde:support=1", "sharpness:radius=1,rise=false"):
        name, parameters = parse_spec(spec)
        assert build_detector(name, victim, parameters).parameters().items() >= parameters.items()


def test_a_folder_without_a_detector_is_refused(tmp_path):
    with pytest.raises(MissingFileError):
        load_detector(tmp_path)
    (tmp_path / "detector.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ConfigurationError, match="format 99"):
        load_detector(tmp_path)


def test_nan_scores_are_refused(fitted, victim, train, monkeypatch):
    detector = fitted["msp"]
    monkeypatch.setattr(type(detector), "score", lambda self, outputs: np.full(len(outputs.probabilities), np.nan))
    with pytest.raises(DataError, match="msp"):
        score(detector, victim.read(train.texts[:2]))
