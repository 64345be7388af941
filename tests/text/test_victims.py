"""Victims against the raw Hugging Face models, and everything that is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.devices import bf16_supported
from harness.core.errors import ConfigurationError, HarnessError, MissingFileError, VictimError
from harness.text.datasets import TextDataset
from harness.text.victims import Victim

Folder = Callable[..., Path]

TYPES = ("bert", "roberta", "distilbert", "electra")
TEXTS = [
    "a good film",
    "the plot of this movie is dull , and the actress never looks at the audience",
    "x",
    "",
    "WARM, funny & 'honest' -- (very) moving!",
    "it was a long and boring film that keeps on and on until the end of time " * 4,
    "a naïve 映画 \U0001f600 story",
    "a good film",
]


@pytest.fixture(params=TYPES)
def folder(request: pytest.FixtureRequest, tiny_victim_folder: Folder) -> Path:
    return tiny_victim_folder(request.param, 3, 7)


@pytest.fixture
def raw(folder: Path) -> Iterator[Callable[[str], tuple[Any, Any]]]:
    """`text -> (model, output)` of the model alone: one text, no padding, no class of ours."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def forward(text: str) -> tuple[Any, Any]:
        encoded = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
        return model, model(**encoded, output_hidden_states=True)

    with torch.no_grad():
        yield forward


def softmax(logits: Any) -> np.ndarray:
    values = np.exp(np.asarray(logits, dtype=np.float64) - np.max(np.asarray(logits)))
    return values / values.sum()


def head_logits(model: Any, representation: np.ndarray) -> np.ndarray:
    """The model's own head on class representations, (n, d) -> (n, classes)."""
    import torch

    vectors = torch.as_tensor(representation)
    match model.config.model_type:
        case "bert":
            logits = model.classifier(model.bert.pooler(vectors[:, None]))
        case "distilbert":
            logits = model.classifier(torch.relu(model.pre_classifier(vectors)))
        case _:
            logits = model.classifier(vectors[:, None])
    return logits.numpy()


def copy(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(spec: str | Path, kind: type[HarnessError] = VictimError, **options: Any) -> str:
    """The message and hint with which loading is refused."""
    with pytest.raises(kind) as caught:
        Victim.load(str(spec), device="cpu", **options)
    return f"{caught.value.message} {caught.value.hint}"


def test_features_are_what_the_raw_model_computes(folder: Path, raw: Callable[[str], tuple[Any, Any]]) -> None:
    victim = Victim.load(str(folder), batch_size=3, device="cpu")
    outputs = victim.read(TEXTS, range(victim.num_layers + 1))
    assert list(outputs.features) == list(range(victim.num_layers + 1))
    for row, text in enumerate(TEXTS):
        _, output = raw(text)
        assert len(output.hidden_states) == victim.num_layers + 1
        for layer, hidden in enumerate(output.hidden_states):
            np.testing.assert_allclose(outputs.features[layer][row], hidden[0, 0], atol=1e-5)
        np.testing.assert_allclose(outputs.probabilities[row], softmax(output.logits[0]), atol=1e-5)


def test_last_layer_is_what_the_head_reads(folder: Path, raw: Callable[[str], tuple[Any, Any]]) -> None:
    outputs = Victim.load(str(folder), device="cpu").read(TEXTS, [-1])
    (last,) = outputs.features.values()
    made = head_logits(raw(TEXTS[0])[0], last)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(made[row], raw(text)[1].logits[0], atol=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.sampled_from(TEXTS) | st.text(max_size=40), min_size=1, max_size=9),
    batch_size=st.integers(1, 10),
    data=st.data(),
)
def test_order_and_batch_size_do_not_matter(
    tiny_victim: Victim, texts: list[str], batch_size: int, data: st.DataObject
) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    one_by_one = np.concatenate([tiny_victim.read([text]).probabilities for text in texts])
    shuffled = data.draw(st.permutations(range(len(texts))))
    before = tiny_victim.batch_size
    tiny_victim.batch_size = batch_size
    try:
        together = tiny_victim.read([texts[i] for i in shuffled]).probabilities
    finally:
        tiny_victim.batch_size = before
    np.testing.assert_allclose(together, one_by_one[list(shuffled)], atol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1.0, atol=1e-12)


def test_every_batch_is_padded_to_its_own_longest_text(
    tiny_victim_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = Victim.load(str(tiny_victim_folder("bert")), batch_size=3, device="cpu")
    texts = [" ".join(["film"] * words) for words in (1, 40, 2, 39, 3, 38, 10)]
    seen: list[tuple[tuple[int, ...], list[int]]] = []
    forward = victim.model.forward

    def spy(**batch: Any) -> Any:
        seen.append((tuple(batch["input_ids"].shape), batch["attention_mask"].sum(dim=1).tolist()))
        return forward(**batch)

    monkeypatch.setattr(victim.model, "forward", spy)
    victim.read(texts)
    assert sum(shape[0] for shape, _ in seen) == len(texts)
    assert all(shape[0] <= 3 and shape[1] == max(lengths) for shape, lengths in seen)
    # Sorted by length, the three long texts share a batch: 42 + 12 + 3 columns and nothing longer.
    assert sorted(shape for shape, _ in seen) == [(1, 3), (3, 12), (3, 42)]
    assert sorted(length for _, lengths in seen for length in lengths) == [3, 4, 5, 12, 40, 41, 42]
    assert victim.forwards == len(texts)


def test_texts_that_are_read_alike_are_run_once(tiny_victim_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = Victim.load(str(tiny_victim_folder("bert")), max_length=8, batch_size=2, device="cpu")
    long = "a good film and a plot"
    texts = [long, "film", f"{long} !", "FILM", "plot", f"{long} and so on", "film"]
    expected = [Victim.read(victim, [text], [0, 2]) for text in texts]
    rows: list[int] = []
    forward = victim.model.forward

    def spy(**batch: Any) -> Any:
        rows.append(len(batch["input_ids"]))
        return forward(**batch)

    monkeypatch.setattr(victim.model, "forward", spy)
    outputs = victim.read(texts, [0, 2])
    assert rows == [2, 1]  # the long one, "film", "plot"
    assert victim.forwards == 2 * len(texts)  # what was asked
    assert outputs.truncated == 2
    assert outputs.texts == tuple(texts)
    for row, single in enumerate(expected):
        np.testing.assert_allclose(outputs.logits[row], single.logits[0], atol=1e-6)
        for layer in (0, 2):
            np.testing.assert_allclose(outputs.features[layer][row], single.features[layer][0], atol=1e-5)


def test_truncated_texts_are_counted(tiny_victim_folder: Folder) -> None:
    victim = Victim.load(str(tiny_victim_folder("bert")), max_length=8, device="cpu")
    fits, cut = "a good film and a plot", "a good film and a plot !"  # 6 and 7 words, [CLS] and [SEP]
    assert victim.read([fits, cut, "film", cut]).truncated == 2
    assert victim.count_truncated([fits, cut, "film", cut]) == 2
    assert victim.count_truncated([]) == 0
    np.testing.assert_allclose(
        victim.read([cut]).probabilities, victim.read([fits]).probabilities, atol=1e-7
    )  # the end is what is cut


def test_no_texts(tiny_victim: Victim) -> None:
    outputs = tiny_victim.read([], [0, -1])
    assert outputs.probabilities.shape == (0, 2)
    assert {layer: values.shape for layer, values in outputs.features.items()} == {0: (0, 32), 3: (0, 32)}


def test_take_keeps_rows_together(tiny_victim: Victim) -> None:
    outputs = tiny_victim.read(TEXTS, [1])
    taken = outputs.take(np.array([5, 0]))
    np.testing.assert_array_equal(taken.probabilities, outputs.probabilities[[5, 0]])
    np.testing.assert_array_equal(taken.features[1], outputs.features[1][[5, 0]])


@pytest.mark.parametrize(
    ("layer", "number"), [(0, 0), (3, 3), (-1, 3), (-4, 0), (4, None), (-5, None), (10**9, None), (-(10**9), None)]
)
def test_layer_numbers(tiny_victim: Victim, layer: int, number: int | None) -> None:
    if number is not None:
        assert tiny_victim.layer(layer) == number
    else:
        with pytest.raises(ConfigurationError, match=f"no layer {layer}"):
            tiny_victim.layer(layer)


@pytest.mark.parametrize("model_type", ["t5", "funnel"])
def test_unsupported_architecture_is_refused_by_name(tmp_path: Path, model_type: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    sizes |= {"block_sizes": [1], "n_head": 2, "d_head": 4, "d_inner": 8} if model_type == "funnel" else {}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **sizes))
    model.save_pretrained(tmp_path)
    message = refused(tmp_path)
    assert repr(model_type) in message
    assert "palimpsest-lstm, palimpsest-wordcnn, phi, phi3, qwen2, qwen3, roberta" in message


def test_one_label_is_no_classifier(tiny_victim_folder: Folder) -> None:
    assert "1 label" in refused(tiny_victim_folder("bert", num_labels=1))


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickled_weights_are_never_opened(tiny_victim_folder: Folder, tmp_path: Path) -> None:
    import torch

    folder = copy(tiny_victim_folder("bert"), tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    canary = tmp_path / "executed"
    for name in ("pytorch_model.bin", "training_args.bin"):
        torch.save({"weights": _Canary(canary)}, folder / name)
        pickle.loads(pickle.dumps(_Canary(canary)))
        assert canary.exists()  # the trap works
        canary.unlink()
    message = refused(folder)
    assert "no weights in safetensors" in message
    assert "Pickled weights are never loaded" in message
    assert not canary.exists()


def test_code_of_a_model_folder_is_never_run(tiny_victim_folder: Folder, tmp_path: Path) -> None:
    folder = copy(tiny_victim_folder("bert"), tmp_path / "remote")
    canary = tmp_path / "executed"
    (folder / "mine.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    edit_config(
        folder,
        model_type="mine",
        auto_map={"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"},
    )
    refused(folder)
    edit_config(folder, model_type="bert")
    assert Victim.load(str(folder), device="cpu").num_labels == 2
    assert not canary.exists()


def test_encoder_without_a_head_is_refused(tiny_victim_folder: Folder, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tiny_victim_folder("bert")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_victim_folder("bert")).save_pretrained(tmp_path)
    message = refused(tmp_path)
    assert "no trained classification head" in message
    assert "classifier.weight" in message


def test_folders_that_hold_no_victim(tiny_victim_folder: Folder, tmp_path: Path) -> None:
    for spec in (tmp_path / "nowhere", "./nowhere", "a/b/c"):
        assert f"no victim folder {spec}" in refused(spec, MissingFileError)
    assert "config.json is missing" in refused(tmp_path)
    broken = {
        "config": ("config.json", b"{"),
        "weights": ("model.safetensors", b"\x00" * 100),
        "cut": ("model.safetensors", (tiny_victim_folder("bert") / "model.safetensors").read_bytes()[:-500]),
        "tokenizer": ("tokenizer.json", b"[]"),
    }
    for name, (file, content) in broken.items():
        folder = copy(tiny_victim_folder("bert"), tmp_path / name)
        (folder / file).write_bytes(content)
        assert str(folder) in refused(folder), name
    folder = copy(tiny_victim_folder("bert"), tmp_path / "sizes")
    edit_config(folder, id2label={str(i): str(i) for i in range(5)}, label2id={str(i): i for i in range(5)})
    assert str(folder) in refused(folder)


def test_a_hub_id_out_of_reach_is_one_sentence() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "neither a folder nor loadable from the Hugging Face Hub" in refused("nobody/no-such-model")


@pytest.mark.parametrize("max_length", [-1, 0, 2, 129, 10**6])
def test_max_length_out_of_range(tiny_victim_folder: Folder, max_length: int) -> None:
    message = refused(tiny_victim_folder("bert"), ConfigurationError, max_length=max_length)
    assert "3 to 128" in message


@pytest.mark.parametrize("model_type", TYPES)
def test_longest_texts_fit_the_position_table(tiny_victim_folder: Folder, model_type: str) -> None:
    victim = Victim.load(str(tiny_victim_folder(model_type)), device="cpu")
    assert victim.max_length == 128
    assert victim.read(["film " * 500]).truncated == 1
    # A tokenizer that knows no limit, as many saved ones: the position table decides.
    victim.tokenizer.model_max_length = 10**30
    again = Victim(victim.name, victim.model, victim.tokenizer, device="cpu")
    assert again.max_length == 128
    np.testing.assert_allclose(
        again.read(["film " * 500]).probabilities, victim.read(["film " * 500]).probabilities, atol=1e-6
    )


def test_bf16_is_close_or_refused(tiny_victim_folder: Folder) -> None:
    import torch

    folder = tiny_victim_folder("bert")
    if bf16_supported(torch.device("cpu")):
        full = Victim.load(str(folder), device="cpu")
        half = Victim.load(str(folder), dtype="bf16", device="cpu")
        wide, narrow = full.read(TEXTS, [-1]), half.read(TEXTS, [-1])
        assert narrow.features[3].dtype == np.float32
        assert half.model.dtype == torch.bfloat16
        np.testing.assert_allclose(narrow.probabilities, wide.probabilities, atol=0.03)
        assert half.hash == full.hash
    else:
        assert "no bf16 arithmetic" in refused(folder, ConfigurationError, dtype="bf16")
    assert "no dtype 'fp8'" in refused(folder, ConfigurationError, dtype="fp8")


def test_bf16_is_refused_where_hardware_lacks_it(tiny_victim_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.core.devices.bf16_supported", lambda device: False)
    message = refused(tiny_victim_folder("bert"), ConfigurationError, dtype="bf16")
    assert "cpu has no bf16 arithmetic" in message


def test_hash_is_of_what_decides_the_outputs(tiny_victim_folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = tiny_victim_folder("bert")
    victim = Victim.load(str(base), device="cpu")
    assert victim.name == base.name
    assert Victim.load(str(copy(base, tmp_path / "renamed")), max_length=9, device="cpu").hash == victim.hash
    victim.read(["film " * 200], [0])  # truncation and padding are the tokenizer's state, not the victim's
    assert Victim(victim.name, victim.model, victim.tokenizer, device="cpu").hash == victim.hash

    changed = copy(base, tmp_path / "weight")
    tensors = load_file(changed / "model.safetensors")
    tensors["classifier.bias"][0] += 1e-6
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    swapped = copy(base, tmp_path / "tokenizer")
    tokens = json.loads((swapped / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["film"], vocabulary["movie"] = vocabulary["movie"], vocabulary["film"]
    (swapped / "tokenizer.json").write_text(json.dumps(tokens))
    hashes = {Victim.load(str(folder), device="cpu").hash for folder in (base, changed, swapped)}
    assert len({*hashes, Victim.load(str(tiny_victim_folder("bert", seed=1)), device="cpu").hash}) == 4


def test_labels_must_be_the_victims(tiny_victim_folder: Folder) -> None:
    victim = Victim.load(str(tiny_victim_folder("bert", 3, 7)), device="cpu")
    victim.check_labels(np.array([0, 2, 1]), "d")
    victim.check_labels(np.array([], dtype=np.int64), "d")
    with pytest.raises(VictimError, match="has label 3"):
        victim.check_labels(np.array([0, 3]), "d")
    assert victim.label_names == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_slow_tokenizer_is_refused(tiny_victim: Victim, tiny_victim_folder: Folder) -> None:
    from transformers import BertTokenizer

    slow = BertTokenizer(str(tiny_victim_folder("bert") / "vocab.txt"))
    with pytest.raises(VictimError, match="slow tokenizer"):
        Victim("slow", tiny_victim.model, slow, device="cpu")


def test_labels_of_another_number_of_classes_are_refused(tiny_victim_folder: Any) -> None:
    four = Victim.load(str(tiny_victim_folder("bert", num_labels=4)))
    four.check_labels(np.array([0, 3, 1]), "news")
    for only in range(4):
        four.check_labels(np.full(3, only, dtype=np.int64), "a part of it")
    for labels, message in (
        (np.array([0, 1]), "labels 0 to 1"),
        (np.array([2, 1]), "labels 1 to 2"),
        (np.array([0, 4]), "label 4"),
    ):
        with pytest.raises(VictimError, match=message):
            four.check_labels(labels, "reviews")


def named(names: list[str] | None, labels: list[int]) -> TextDataset:
    """A dataset whose classes have names."""
    texts = [f"text {number}" for number in range(len(labels))]
    return TextDataset("news", "test", texts, np.array(labels), np.arange(len(labels)), names, {})


def test_classes_of_the_same_names_get_the_victims_numbers(tiny_victim_folder: Folder) -> None:
    victim = Victim.load(str(tiny_victim_folder("bert", 3)), device="cpu")
    victim.model.config.id2label = {0: "World", 1: "Sports", 2: "Business"}
    # As names in a file are numbered: by the alphabet.
    own = victim.with_own_labels(named(["business", "sports", "world"], [0, 1, 2, 0]))
    assert own.labels.tolist() == [2, 1, 0, 2]
    assert own.label_names == ["World", "Sports", "Business"]
    assert victim.with_own_labels(named(["World"], [0, 0])).labels.tolist() == [0, 0]
    assert victim.with_own_labels(named(["Business"], [0, 0])).labels.tolist() == [2, 2]
    for names in (None, ["a", "b", "c"], ["1", "2", "3"]):
        dataset = named(names, [0, 1, 2])
        assert victim.with_own_labels(dataset) is dataset
    counted = Victim.load(str(tiny_victim_folder("bert", 3)), device="cpu")
    counted.model.config.id2label = {0: "1", 1: "0", 2: "2"}  # such a name is a number of something else
    assert counted.with_own_labels(dataset) is dataset
    with pytest.raises(VictimError, match="'Science' is none of its World, Sports, Business"):
        victim.with_own_labels(named(["Science", "World"], [0, 1]))
