"""The word CNN and LSTM against slow, obvious NumPy versions, and as victims."""

from __future__ import annotations

import json
import pickle
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.core.devices import bf16_supported
from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError, VictimError
from harness.text.gradients import token_gradients
from harness.text.text_dataset import TextDataset
from harness.text.victims import Victim
from harness.text.word_vocabulary import StartVectors, new_word_classifier, read_start_vectors, word_tokenizer

Floats = np.ndarray[Any, np.dtype[np.float64]]
KINDS = ("wordcnn", "lstm")
CORPUS = [
    "a warm and funny film , but not too long",
    "A dull film: it's not funny, and too long!",
    "warm , dull ; a b c",
]
CORPUS *= 2  # each word occurs twice
TEXTS = [
    "a warm film",
    "",
    "dull",
    "Not FUNNY",
    "unheard words only",
    "a dull film , and too long ! " * 12,
    " \t\n",
    "it's warm; [PAD] it's [UNK]",
    "\u200b\ufeff",
    "a b c d",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained classifiers of both kinds, saved; their weights are wide, so that texts differ."""
    import torch

    made = {}
    for kind in KINDS:
        torch.manual_seed(3)
        model, tokenizer = new_word_classifier(kind, CORPUS, ["bad", "fair", "good"])
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if not name.startswith("embeddings"):
                    tensor.normal_(0, 0.3)
        made[kind] = tmp_path_factory.mktemp("word-victims") / kind
        model.save_pretrained(made[kind], safe_serialization=True)
        tokenizer.save_pretrained(made[kind])
    return made


@pytest.fixture(scope="module")
def victims(folders: dict[str, Path]) -> dict[str, Victim]:
    return {kind: Victim.load(str(folder), device="cpu", batch_size=4) for kind, folder in folders.items()}


@pytest.fixture(params=KINDS)
def victim(request: pytest.FixtureRequest, victims: dict[str, Victim]) -> Victim:
    return victims[request.param]


def weights(victim: Victim) -> dict[str, Floats]:
    return {name: tensor.double().numpy() for name, tensor in victim.model.state_dict().items()}


def words_of(text: str, victim: Victim) -> list[int]:
    """The rule of the tokenizer, for ASCII: lower case, each mark alone, unheard words are number 1."""
    vocabulary = victim.tokenizer.get_vocab()
    found = re.findall(r"\[PAD\]|\[UNK\]|[a-zA-Z0-9]+|[!-/:-@\[-`{-~]", text)
    return [vocabulary.get(word if word in ("[PAD]", "[UNK]") else word.lower(), 1) for word in found]


def cnn_pooled(w: dict[str, Floats], words: Floats) -> Floats:
    pooled = []
    for number, width in enumerate((3, 4, 5)):
        kernel, bias = w[f"convolutions.{number}.weight"], w[f"convolutions.{number}.bias"]
        text = words if len(words) >= width else np.vstack([words, np.zeros((width - len(words), words.shape[1]))])
        for unit in range(len(kernel)):
            responses = [
                (kernel[unit] * text[i : i + width].T).sum() + bias[unit] for i in range(len(text) - width + 1)
            ]
            pooled.append(max(0.0, *responses))
    return np.array(pooled)


def lstm_pooled(w: dict[str, Floats], words: Floats) -> Floats:
    def sigmoid(x: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-x)))

    text = words if len(words) else np.zeros((1, words.shape[1]))
    sides = []
    for suffix, order in (("", text), ("_reverse", text[::-1])):
        weight_x, weight_h = w[f"lstm.weight_ih_l0{suffix}"], w[f"lstm.weight_hh_l0{suffix}"]
        bias = w[f"lstm.bias_ih_l0{suffix}"] + w[f"lstm.bias_hh_l0{suffix}"]
        hidden = cell = np.zeros(weight_h.shape[1])
        states = []
        for word in order:
            into, forget, new, out = np.split(weight_x @ word + weight_h @ hidden + bias, 4)
            cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(new)
            hidden = sigmoid(out) * np.tanh(cell)
            states.append(hidden)
        sides.append(np.max(states, axis=0))
    return np.concatenate(sides)


def softmax(logits: Floats) -> Floats:
    values = np.exp(logits - logits.max())
    return np.asarray(values / values.sum())


def test_outputs_are_those_of_a_slow_version(victim: Victim) -> None:
    w = weights(victim)
    texts = [text for text in TEXTS if text.isascii()]
    outputs = victim.read(texts, [0, 1])
    for row, text in enumerate(texts):
        words = w["embeddings.weight"][words_of(text, victim)]
        pooled = (cnn_pooled if "convolutions.0.weight" in w else lstm_pooled)(w, words)
        mean = words.mean(axis=0) if len(words) else np.zeros(words.shape[1])
        np.testing.assert_allclose(outputs.features[0][row], mean, atol=1e-6)
        np.testing.assert_allclose(outputs.features[1][row], pooled, atol=1e-4)
        logits = w["classifier.weight"] @ pooled + w["classifier.bias"]
        np.testing.assert_allclose(outputs.probabilities[row], softmax(logits), atol=1e-4)
    assert np.ptp(outputs.probabilities, axis=0).max() > 0.1  # the texts are told apart


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.sampled_from(TEXTS) | st.text(max_size=30), min_size=2, max_size=8),
    batch_size=st.integers(1, 8),
)
@example(texts=["", ""], batch_size=2)
@example(texts=["", "film", "a b c d", "a dull film " * 80], batch_size=4)
def test_the_padding_beside_a_text_says_nothing(victims: dict[str, Victim], texts: list[str], batch_size: int) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    for victim in victims.values():
        alone = [victim.read([text], [0, 1]) for text in texts]
        before = victim.batch_size
        victim.batch_size = batch_size
        try:
            together = victim.read(texts, [0, 1])
        finally:
            victim.batch_size = before
        np.testing.assert_allclose(together.probabilities, [one.probabilities[0] for one in alone], atol=1e-5)
        for layer, values in together.features.items():
            np.testing.assert_allclose(values, [one.features[layer][0] for one in alone], atol=1e-4)


def test_what_stands_at_padding_is_not_read(victim: Victim) -> None:
    import torch

    encoded = victim.tokenizer(["a warm film", "a b c d film too long"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = victim.model(**encoded, output_hidden_states=True)
        words = victim.model.get_input_embeddings()(encoded["input_ids"])
        words[encoded["attention_mask"] == 0] = 100.0
        mask = encoded["attention_mask"]
        found = victim.model(inputs_embeds=words, attention_mask=mask, output_hidden_states=True)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(found.hidden_states[0], expected.hidden_states[0], atol=1e-5)


def test_layers_are_two_and_no_class_tokens(victim: Victim) -> None:
    pooled = {"palimpsest-wordcnn": 450, "palimpsest-lstm": 150}[victim.model.config.model_type]
    assert not victim.has_class_token
    assert victim.num_layers == 1
    assert [victim.width(layer) for layer in (0, 1, -1)] == [200, pooled, pooled]
    assert victim.layer(-1) == 1
    with pytest.raises(ConfigurationError, match="no layer 2"):
        victim.read(["a film"], [2])
    shapes = {layer: values.shape for layer, values in victim.read([], [0, -1]).features.items()}
    assert shapes == {0: (0, 200), 1: (0, pooled)}


def test_a_class_token_is_in_every_layer_of_the_others(tiny_victim: Victim) -> None:
    assert tiny_victim.has_class_token
    assert {tiny_victim.width(layer) for layer in range(4)} == {32}


def test_last_layer_is_what_the_head_reads(victim: Victim) -> None:
    w = weights(victim)
    outputs = victim.read(TEXTS, [-1])
    logits = outputs.features[1] @ w["classifier.weight"].T + w["classifier.bias"]
    np.testing.assert_allclose(outputs.probabilities, [softmax(row) for row in logits], atol=1e-5)


def test_a_folder_is_the_victim_that_was_saved(folders: dict[str, Path], victim: Victim, tmp_path: Path) -> None:
    victim.read(["a film " * 900], [0])
    victim.model.save_pretrained(tmp_path, safe_serialization=True)
    victim.tokenizer.save_pretrained(tmp_path)
    again = Victim.load(str(tmp_path), device="cpu", batch_size=victim.batch_size)
    assert again.hash == victim.hash
    np.testing.assert_array_equal(again.read(TEXTS).probabilities, victim.read(TEXTS).probabilities)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]
    assert len({other.hash for other in (Victim.load(str(f), device="cpu") for f in folders.values())}) == 2


def test_long_texts_are_cut_and_counted(victim: Victim) -> None:
    assert victim.max_length == 512
    fits, cut = "film " * 512, "film " * 512 + "dull"
    assert victim.count_truncated([fits, cut]) == victim.read([fits, cut]).truncated == 1
    np.testing.assert_allclose(victim.read([cut]).probabilities, victim.read([fits]).probabilities, atol=1e-6)


def test_bf16_is_close_or_refused(folders: dict[str, Path], victim: Victim) -> None:
    import torch

    folder = str(folders[victim.name])
    if not bf16_supported(torch.device("cpu")):
        with pytest.raises(ConfigurationError, match="no bf16 arithmetic"):
            Victim.load(folder, device="cpu", dtype="bf16")
        return
    half = Victim.load(folder, device="cpu", dtype="bf16")
    outputs = half.read(TEXTS, [0, 1])
    assert outputs.features[1].dtype == np.float32
    np.testing.assert_allclose(outputs.probabilities, victim.read(TEXTS).probabilities, atol=0.05)
    assert half.hash == victim.hash


def test_gradients_at_the_word_vectors_are_slopes(victim: Victim) -> None:
    import torch

    texts = ["a warm and funny film", "dull", "it ' s too long , and not funny"]
    gradients = token_gradients(victim, texts)
    for text, found in zip(texts, gradients, strict=True):
        words = weights(victim)["embeddings.weight"][found.ids]
        step = 1e-3 * found.gradient / np.linalg.norm(found.gradient)
        label = int(victim.read([text]).predictions[0])
        losses = []
        for sign in (-1, 1):
            given = torch.as_tensor(words + sign * step, dtype=torch.float32)[None]
            with torch.no_grad():
                logits = victim.model(inputs_embeds=given).logits[0].double().numpy()
            losses.append(-np.log(softmax(logits)[label]))
        assert np.linalg.norm(found.gradient) == pytest.approx((losses[1] - losses[0]) / 2e-3, rel=0.02)


def test_detectors_read_the_pooled_features(victim: Victim) -> None:
    from harness.detectors.fitting import build_detector, fit_detectors
    from harness.detectors.scoring import score

    draw = np.random.default_rng(0)
    words = ["a", "warm", "funny", "film", "dull", "long", "b", "c"]
    texts = [" ".join(draw.choice(words, size=6)) for _ in range(90)]
    labels = victim.read(texts).predictions
    labels[:30] = np.arange(30) % 3
    data = TextDataset("words", "train", texts, labels, np.arange(90, dtype=np.int64), None, {})
    detectors = [build_detector("rde", victim, {"layer": -1, "components": 5}), build_detector("msp", victim, {})]
    fit_detectors(detectors, victim, data)
    outputs = victim.read(texts, [-1])
    for detector in detectors:
        scores = score(detector, outputs)
        assert np.isfinite(scores).all()
        assert np.ptp(scores) > 0


def tokens(text: str) -> list[str]:
    return [str(token) for token in word_tokenizer([text, text]).tokenize(text)]


@given(st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + " \n\t", max_size=60))
@settings(max_examples=60, deadline=None)
def test_words_are_lower_case_runs_and_single_marks(text: str) -> None:
    if "[PAD]" not in text and "[UNK]" not in text:
        assert tokens(text) == re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower())


def test_words_of_other_scripts() -> None:
    assert tokens("Ça va, 映画\u200b! ДЖ") == ["ça", "va", ",", "映", "画", "!", "дж"]


def test_rare_words_are_unknown_unless_vectors_have_them() -> None:
    texts = ["film film plot Plot once"]
    assert set(word_tokenizer(texts).get_vocab()) == {"[PAD]", "[UNK]", "film", "plot"}
    vectors = StartVectors(["once", "never", "u.s.", "Film", "[PAD]"], np.eye(5, dtype=np.float32) * 7)
    tokenizer = word_tokenizer(texts, vectors)
    # "u.s." and "Film" are words that this tokenizer never makes.
    assert set(tokenizer.get_vocab()) == {"[PAD]", "[UNK]", "film", "plot", "once", "never"}
    assert sorted(tokenizer.get_vocab().values()) == list(range(6))
    assert tokenizer.pad_token_id == 0


@pytest.mark.parametrize("kind", KINDS)
def test_start_vectors_are_where_the_model_starts(kind: str) -> None:
    import torch

    words = ["film", "once", "[PAD]"]
    vectors = StartVectors(words, np.array([[3, 4, 0], [0, 0, 2], [1, 1, 1]], dtype=np.float32))
    torch.manual_seed(0)
    model, tokenizer = new_word_classifier(kind, ["film film plot plot"], ["no", "yes"], vectors)
    rows = model.get_input_embeddings().weight.detach().numpy()
    numbers = tokenizer.get_vocab()
    assert rows.shape == (5, 3)
    np.testing.assert_allclose(rows[numbers["film"]], [0.6, 0.8, 0])
    np.testing.assert_allclose(rows[numbers["once"]], [0, 0, 1])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [0, 1, 1, 1, 1], atol=1e-6)


def test_real_vectors_are_read(shared_data: Path) -> None:
    folder = shared_data / "lexical"
    vectors = read_start_vectors(folder / "glove6B_50d_fp16.npz")
    assert vectors.matrix.shape == (len(vectors.words), 50)
    place = {word: row for row, word in enumerate(vectors.words)}

    def likeness(a: str, b: str) -> float:
        x, y = vectors.matrix[place[a]], vectors.matrix[place[b]]
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert likeness("film", "movie") > 0.8 > likeness("film", "senate")
    assert read_start_vectors(folder).hash == vectors.hash  # a folder that holds one such file


def test_vectors_that_cannot_be_read(tmp_path: Path) -> None:
    words, matrix = "a\nb", np.ones((2, 3), np.float16)
    bad: dict[str, dict[str, Any]] = {
        "pickled": {"words": np.array([{"a": 1}], dtype=object), "vectors": matrix},
        "short": {"words": words, "vectors": matrix[:1]},
        "flat": {"words": words, "vectors": matrix[0][:2]},
        "nan": {"words": words, "vectors": matrix * np.nan},
        "other": {"names": words},
        "letters": {"words": words, "vectors": np.array([["x"], ["y"]])},
    }
    for name, arrays in bad.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(DataError, match=re.escape(f"{name}.npz")):
            read_start_vectors(tmp_path / f"{name}.npz")
    (tmp_path / "text.npz").write_text("a 1 2 3")
    with pytest.raises(DataError, match=r"text\.npz"):
        read_start_vectors(tmp_path / "text.npz")
    for missing in (tmp_path / "nowhere.npz", tmp_path):  # the folder holds several
        with pytest.raises(MissingFileError, match="no word vectors"):
            read_start_vectors(missing)
    one = StartVectors(["a", "b"], np.ones((2, 1), np.float32))
    others = [StartVectors(["ab", ""], one.matrix), StartVectors(one.words, one.matrix * 2)]
    assert one.hash not in {other.hash for other in others}


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def refused(spec: str | Path, kind: type[HarnessError] = VictimError) -> str:
    with pytest.raises(kind) as caught:
        Victim.load(str(spec), device="cpu")
    return f"{caught.value.message} {caught.value.hint}"


def test_checkpoints_of_textattack_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "executed"
    for folder, name, encoder in (
        ("cnn", "WordCNNForClassification", "wordcnn"),
        ("lstm", "LSTMForClassification", "lstm"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({"architectures": name, "hidden_size": 150}))
        (tmp_path / folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary(canary)))
        for spec in (tmp_path / folder, f"textattack/{folder}-imdb", f"{folder}-ag-news"):
            message = refused(spec)
            assert "pickles are never loaded" in message
            assert f"--encoder {encoder}" in message
    assert not canary.exists()
    # A folder of that name is what it holds.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cnn-mr").mkdir()
    assert "config.json is missing" in refused("cnn-mr")


def test_damaged_folders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "widths": lambda config: config.update(kernel_widths=[3, 4]),
        "filters": lambda config: config.update(filters=10),
        "words": lambda config: config.update(vocab_size=5),
        "sizes": lambda config: config.update(embedding_size="many"),
    }
    for name, change in changes.items():
        folder = Path(shutil.copytree(folders["wordcnn"], tmp_path / name))
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        assert str(folder) in refused(folder) or repr(name) in refused(folder), name


def test_info_says_that_there_is_no_class_token(
    main: Callable[..., int], folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("victim", "info", folders["wordcnn"]) == 0
    said = capsys.readouterr().out
    assert "palimpsest-wordcnn" in said
    assert "no per-layer class token; 0 = mean of word vectors (200), 1 = pooled (450)" in said
