"""Training a victim on a tiny encoder, and which rows it may see."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError, VictimError
from harness.core.files import read_json
from harness.core.runs import Run
from harness.text.datasets import TextDataset
from harness.text.seen_texts import SEEN_FILE, text_keys
from harness.text.starting_points import encoder_hash, encoder_name, pretrained_classifier
from harness.text.training import TrainingData, TrainingSettings, train_victim, training_data, training_settings
from harness.text.victims import Victim
from harness.text.word_vocabulary import StartVectors

Folder = Callable[..., Path]

GOOD = ("good", "great", "warm", "funny", "moving", "brilliant", "charming", "delightful")
BAD = ("bad", "poor", "dull", "tepid", "awful", "boring", "clumsy", "tedious")


def separable(rows: int, seed: int, split: str) -> TextDataset:
    """Sentences whose class one word gives away."""
    generator = random.Random(seed)
    labels = np.arange(rows, dtype=np.int64) % 2
    words = [" ".join(generator.choices(("the", "film", "plot", "is", "and", "a", "very"), k=6)) for _ in range(rows)]
    texts = [f"{generator.choice((BAD, GOOD)[label])} {rest}" for label, rest in zip(labels, words, strict=True)]
    return TextDataset("tiny", split, texts, labels, np.arange(rows, dtype=np.int64), ["neg", "pos"], {"kind": "x"})


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return TrainingData(separable(320, 1, "train"), separable(100, 2, "validation"), "validation")


def train(
    encoder: str | Path,
    data: TrainingData,
    folder: Path,
    vectors: StartVectors | None = None,
    adapter_rank: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    settings = TrainingSettings(**{"learning_rate": 3e-3, "batch_size": 8, **changes})
    with Run(folder, "victim train", {}) as run:
        return train_victim(str(encoder), data, settings, run, vectors=vectors, adapter_rank=adapter_rank)


@pytest.fixture(scope="module")
def trained(encoder: Path, data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "victim"
    return folder, train(encoder, data, folder)


def test_an_adapter_learns_and_its_folder_is_that_victim(encoder: Path, data: TrainingData, tmp_path: Path) -> None:
    facts = train(encoder, data, tmp_path / "adapter", adapter_rank=4, learning_rate=1e-2)
    assert facts["accuracy"] > 0.85
    victim = Victim.load(str(tmp_path / "adapter"), device="cpu")
    assert victim.hash == facts["victim_hash"]  # measured as it is written, in half precision
    assert float((victim.read(data.heldout.texts).predictions == data.heldout.labels).mean()) == facts["accuracy"]
    assert victim.label_names == ["neg", "pos"]
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    untuned, _, _ = pretrained_classifier(str(encoder), ["neg", "pos"])
    before, after = untuned.state_dict(), victim.model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert "distilbert.embeddings.word_embeddings.weight" in same
    assert "distilbert.transformer.layer.0.attention.q_lin.weight" not in same


def test_an_adapter_is_of_a_pretrained_encoder(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="an adapter is one of a pretrained encoder"):
        train("wordcnn", data, tmp_path / "cnn", adapter_rank=4)


def test_it_learns_and_the_folder_is_that_victim(trained: tuple[Path, dict[str, Any]], data: TrainingData) -> None:
    folder, facts = trained
    assert facts["accuracy"] > 0.85
    victim = Victim.load(str(folder), device="cpu")
    predictions = victim.read(data.heldout.texts).predictions
    assert float((predictions == data.heldout.labels).mean()) == facts["accuracy"]
    assert victim.hash == facts["victim_hash"]
    assert victim.label_names == ["neg", "pos"]


def test_what_trained_it_is_kept_as_hashes(trained: tuple[Path, dict[str, Any]], data: TrainingData) -> None:
    victim = Victim.load(str(trained[0]))
    assert set(text_keys(data.train.texts)) == set(victim.seen)
    assert len(set(text_keys(data.heldout.texts)) - set(victim.seen)) > 0
    assert not any(text.encode() in (trained[0] / SEEN_FILE).read_bytes() for text in data.train.texts)


def test_facts_are_kept(trained: tuple[Path, dict[str, Any]], data: TrainingData) -> None:
    folder, facts = trained
    assert read_json(folder / "victim.json") == facts
    assert facts["encoder"] == "tiny-encoder"
    assert (facts["train_rows"], facts["heldout_rows"]) == (320, 100)
    assert (facts["dataset_hash"], facts["heldout_hash"]) == (data.train.hash, data.heldout.hash)
    assert facts["settings"]["learning_rate"] == 3e-3
    correct = round(facts["accuracy"] * 100)
    interval = binomtest(correct, 100).proportion_ci(0.95, method="wilson")
    assert (facts["accuracy_low"], facts["accuracy_high"]) == (interval.low, interval.high)
    assert str(folder.parent) not in (folder / "victim.json").read_text()  # names, never paths


def test_the_seed_decides_the_weights(
    encoder: Path, data: TrainingData, tmp_path: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    assert train(encoder, data, tmp_path / "again")["victim_hash"] == trained[1]["victim_hash"]
    assert train(encoder, data, tmp_path / "other", seed=1)["victim_hash"] != trained[1]["victim_hash"]


def test_texts_longer_than_the_encoder_takes_are_cut(encoder: Path, tmp_path: Path) -> None:
    short = separable(8, 1, "train")
    texts = [text + " film" * 300 for text in short.texts]  # 306 words, 128 positions
    long = TextDataset("tiny", "train", texts, short.labels, short.indices, None, {})
    facts = train(encoder, TrainingData(long, short, "validation"), tmp_path / "long", epochs=1)
    assert facts["train_rows"] == 8


def test_encoders_that_cannot_be_used(
    data: TrainingData, tiny_victim_folder: Folder, encoder: Path, tmp_path: Path
) -> None:
    import shutil

    from transformers import AutoConfig

    AutoConfig.for_model("t5", d_model=8, num_layers=1, num_heads=2).save_pretrained(tmp_path / "t5")
    broken = Path(shutil.copytree(encoder, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"\0" * 64)
    pickled = Path(shutil.copytree(encoder, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cases: list[tuple[Path | str, type[HarnessError], str]] = [
        (tmp_path / "nowhere", MissingFileError, "no encoder folder"),
        (tmp_path / "t5", VictimError, "'t5' is not supported"),
        (broken, VictimError, "cannot be loaded"),
        (pickled, VictimError, "safetensors"),
        ("nobody/no-such-encoder", VictimError, "cannot be loaded"),
    ]
    for number, (spec, kind, message) in enumerate(cases):
        with pytest.raises(kind, match=message):
            train(spec, data, tmp_path / f"run{number}")


def test_encoder_names_are_never_paths(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(encoder)
    assert [encoder_name(spec) for spec in (str(encoder), ".", "org/name")] == ["tiny-encoder"] * 2 + ["org/name"]


@pytest.mark.parametrize("kind", ["wordcnn", "lstm"])
def test_word_models_learn_from_scratch(kind: str, data: TrainingData, tmp_path: Path) -> None:
    facts = train(kind, data, tmp_path / kind)
    assert facts["accuracy"] > 0.95
    assert facts["encoder"] == kind
    victim = Victim.load(str(tmp_path / kind), device="cpu")
    assert victim.model.config.model_type == f"palimpsest-{kind}"
    assert float((victim.read(data.heldout.texts).predictions == data.heldout.labels).mean()) == facts["accuracy"]
    assert victim.hash == facts["victim_hash"]
    assert victim.label_names == ["neg", "pos"]
    assert train(kind, data, tmp_path / "again")["victim_hash"] == victim.hash
    assert train(kind, data, tmp_path / "other", seed=1)["victim_hash"] != victim.hash
    # Training goes on from such a folder as from any other encoder.
    more = train(tmp_path / kind, data, tmp_path / "more", epochs=1)
    assert more["accuracy"] > 0.95
    assert more["victim_hash"] != victim.hash


@pytest.mark.parametrize("kind", ["wordcnn", "lstm"])
def test_start_vectors_teach_words_that_training_texts_lack(kind: str, data: TrainingData, tmp_path: Path) -> None:
    """ "superb" lies beside "good" and "vile" beside "bad": whoever knows these knows those."""
    draw = np.random.default_rng(0)
    words = [*GOOD, *BAD, "superb", "vile", "the", "film"]
    matrix = draw.normal(0, 0.1, (len(words), 8))
    matrix[:, 0] += [*[1.0] * 8, *[-1.0] * 8, 1.0, -1.0, 0.0, 0.0]
    vectors = StartVectors(words, matrix.astype(np.float32))
    train(kind, data, tmp_path / "victim", vectors=vectors, learning_rate=1e-3)
    victim = Victim.load(str(tmp_path / "victim"), device="cpu")
    assert victim.width(0) == 8
    assert victim.read(["superb the film is", "vile the film is"]).predictions.tolist() == [1, 0]


def test_each_encoder_has_its_own_settings() -> None:
    assert training_settings("embedded") == TrainingSettings()
    assert training_settings("org/bert", epochs=None, seed=3) == TrainingSettings(seed=3)
    for kind in ("wordcnn", "lstm"):
        assert training_settings(kind).learning_rate >= 10 * TrainingSettings().learning_rate
        assert training_settings(kind, learning_rate=0.5, epochs=1).learning_rate == 0.5


def test_word_vectors_are_for_word_models(encoder: Path, data: TrainingData, tmp_path: Path) -> None:
    vectors = StartVectors(["film"], np.ones((1, 4), np.float32))
    with pytest.raises(ConfigurationError, match="takes no word vectors"):
        train(encoder, data, tmp_path / "run", vectors=vectors)


def test_an_encoder_is_identified_by_what_decides_its_start(encoder: Path, tmp_path: Path) -> None:
    import shutil

    known = encoder_hash(str(encoder))
    copied = Path(shutil.copytree(encoder, tmp_path / "elsewhere"))
    (copied / "notes.txt").write_text("mine")
    assert encoder_hash(str(copied)) == known
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        changed = Path(shutil.copytree(encoder, tmp_path / name))
        (changed / name).write_bytes((changed / name).read_bytes() + b" ")
        assert encoder_hash(str(changed)) != known
    assert encoder_hash("lstm") is None
    with pytest.raises(VictimError, match="cannot be loaded"):
        encoder_hash("nobody/no-such-encoder")
    with pytest.raises(MissingFileError, match="no encoder folder"):
        encoder_hash("./lstm")


def test_the_command_trains_a_word_model(main: Callable[..., int], tmp_path: Path, capsys: Any) -> None:
    import yaml

    (tmp_path / "data").mkdir()
    for split, seed in (("train", 1), ("validation", 2)):
        made = separable(64, seed, split)
        write_csv(tmp_path / "data" / f"{split}.csv", list(zip(made.texts, made.labels.tolist(), strict=True)))
    np.savez(tmp_path / "v.npz", words="good\nbad", vectors=np.eye(2, 6, dtype=np.float16))
    arguments = ("victim", "train", "--encoder", "lstm", "--dataset", tmp_path / "data", "--out", tmp_path / "run")
    assert main(*arguments, "--vectors", tmp_path / "v.npz", "--epochs", 1) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["learning_rate"] == training_settings("lstm").learning_rate
    assert (config["epochs"], config["encoder_hash"], len(config["vectors_hash"])) == (1, None, 64)
    assert "64 held-out texts (validation)" in capsys.readouterr().out
    assert Victim.load(str(tmp_path / "run"), device="cpu").width(0) == 6
    # Other vectors, threads, held-out texts: another victim.
    assert main(*arguments, "--epochs", 1) == 2
    assert "vectors_hash" in capsys.readouterr().err
    torch.set_num_threads(2)
    assert main(*arguments, "--vectors", tmp_path / "v.npz", "--epochs", 1, "--threads", 1) == 2
    assert torch.get_num_threads() == 1
    assert "threads" in capsys.readouterr().err
    (tmp_path / "data" / "validation.csv").write_text("text,label\nbad,0\ngood,1\n")
    assert main(*arguments, "--vectors", tmp_path / "v.npz", "--epochs", 1) == 2
    assert "heldout_hash" in capsys.readouterr().err


def write_csv(path: Path, rows: list[tuple[str, int]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows])


ROWS = st.lists(
    st.tuples(st.sampled_from([f"text {n}" for n in range(30)]), st.integers(0, 1)), min_size=4, max_size=60
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train_rows=ROWS, heldout_rows=st.none() | ROWS, limit=st.none() | st.integers(1, 40), seed=st.integers(0, 5))
def test_heldout_texts_are_never_trained_on(
    tmp_path: Path,
    train_rows: list[tuple[str, int]],
    heldout_rows: list[tuple[str, int]] | None,
    limit: int | None,
    seed: int,
) -> None:
    write_csv(tmp_path / "train.csv", train_rows)
    if heldout_rows is not None:
        write_csv(tmp_path / "validation.csv", heldout_rows)
    try:
        made = training_data(str(tmp_path), limit, seed)
    except DataError:  # one class is left: it has a test of its own
        return
    finally:
        (tmp_path / "validation.csv").unlink(missing_ok=True)
    assert not set(made.train.texts) & set(made.heldout.texts)
    pairs = list(zip(made.train.texts, made.train.labels.tolist(), made.train.indices.tolist(), strict=True))
    assert [train_rows[index] for _, _, index in pairs] == [(text, label) for text, label, _ in pairs]
    assert len({index for *_, index in pairs}) == len(pairs) <= (limit or len(train_rows))
    assert set(made.train.labels.tolist()) == {0, 1}
    if heldout_rows is not None:
        assert list(zip(made.heldout.texts, made.heldout.labels.tolist(), strict=True)) == heldout_rows
        assert made.heldout_split == "validation"
    else:
        assert len(made.heldout) == max(1, len(train_rows) // 10)
        assert made.heldout_split.startswith("train")
    if limit is None:  # nothing is dropped without need
        heldout = set(made.heldout.texts)
        assert made.train.texts == [text for text, _ in train_rows if text not in heldout]


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", [(f"text {n}", 1) for n in range(20)])
    with pytest.raises(DataError, match="fewer than two classes"):
        training_data(str(tmp_path), None, 0)
