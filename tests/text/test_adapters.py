"""Adapters: merged as `peft` merges them, but to the same bits everywhere; and what is no sound adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.core.compat import prepare_torchvision
from harness.core.errors import HarnessError
from harness.core.files import read_json
from harness.text.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, merge, save_adapter, with_adapter
from harness.text.starting_points import pretrained_classifier
from harness.text.victims import VICTIMS, Victim

Folder = Callable[..., Path]
TEXTS = ["good film", "a dull and tedious plot", "the", "warm funny moving brilliant"]


def random_adapter(model: Any) -> Any:
    """A model of `peft` in which everything that is trained is random."""
    inside = f"{model.base_model_prefix}."
    tuned = with_adapter(model, 4, [name for name, _ in model.named_parameters() if not name.startswith(inside)])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return tuned


@pytest.fixture
def adapter(encoder: Path, tmp_path: Path) -> Path:
    """An adapter of random factors; the head has three classes."""
    model, *_ = pretrained_classifier(str(encoder), ["a", "b", "c"])
    random_adapter(model)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(model, folder, str(encoder))
    model.config.save_pretrained(folder)
    return folder


def change(folder: Path, **values: Any) -> None:
    """Change the configuration of an adapter."""
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_the_head_is_trained_whole_whatever_it_is_called(kind: str, tiny_victim_folder: Folder, tmp_path: Path) -> None:
    # The folder has a head: it is none of what is new, and yet it is trained.
    folder = tiny_victim_folder(kind, num_labels=3)
    model, _, new = pretrained_classifier(str(folder), ["a", "b", "c"])
    assert new == []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = random_adapter(model)
    save_adapter(model, tmp_path, str(folder))
    model.config.save_pretrained(tmp_path)
    ours = Victim.load(str(tmp_path), device="cpu").model
    theirs = tuned.merge_and_unload().state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-3)  # half precision
        if not name.startswith(f"{ours.base_model_prefix}."):
            assert not torch.equal(tensor, before[name]), name


def test_layers_of_another_kind_take_no_adapter() -> None:
    prepare_torchvision()
    from transformers import GPT2Config, GPT2ForSequenceClassification
    from transformers.pytorch_utils import Conv1D

    model = GPT2ForSequenceClassification(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=10))
    with pytest.raises(HarnessError, match="layers of GPT-2's kind"):
        with_adapter(model, 4, ["score.weight"])
    square = torch.nn.ModuleDict({"layer": Conv1D(6, 6)})
    factors = {"layer.lora_A.weight": torch.ones(2, 6), "layer.lora_B.weight": torch.ones(6, 2)}
    with pytest.raises(HarnessError, match="does not fit its encoder at layer"):
        merge(square, factors, 1.0, "x")


def test_it_is_merged_as_peft_merges_it(adapter: Path, encoder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    ours, tokenizer = load_adapter(adapter)
    plain = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
    theirs = PeftModel.from_pretrained(plain, adapter).merge_and_unload()
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = ours.eval()(**batch).logits
        torch.testing.assert_close(found, theirs.eval()(**batch).logits, rtol=1e-4, atol=1e-5)
    untuned, *_ = pretrained_classifier(str(encoder), ["a", "b", "c"])
    changed = [
        name for name, tensor in untuned.state_dict().items() if not torch.equal(tensor, ours.state_dict()[name])
    ]
    assert sum("lin" in name for name in changed) >= 6  # attention and feed-forward of the encoder
    assert {"classifier.weight", "classifier.bias", "pre_classifier.weight", "pre_classifier.bias"} <= set(changed)


def test_every_weight_is_the_exact_sum_rounded_once() -> None:
    generator = np.random.default_rng(1)
    layer = torch.nn.Sequential(torch.nn.Linear(7, 5))
    a = torch.from_numpy(generator.normal(size=(3, 7)).astype(np.float16))
    b = torch.from_numpy(generator.normal(size=(5, 3)).astype(np.float16))
    before = layer[0].weight.detach().clone()
    merge(layer, {"0.lora_A.weight": a, "0.lora_B.weight": b}, 2.0, "x")
    for i in range(5):
        for j in range(7):
            products = sum(Fraction(float(b[i, k])) * Fraction(float(a[k, j])) for k in range(3))
            exact = Fraction(float(before[i, j])) + 2 * products
            assert float(layer[0].weight.detach()[i, j]) == float(np.float32(float(exact)))


def test_a_victim_of_it_has_the_same_hash_whatever_the_threads(adapter: Path) -> None:
    threads = torch.get_num_threads()
    hashes = set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(count)  # no weight may be a new one
            victim = Victim.load(str(adapter), device="cpu")
            hashes.add(victim.hash)
    finally:
        torch.set_num_threads(threads)
    assert len(hashes) == 1
    assert victim.name == "adapter"
    assert victim.label_names == ["a", "b", "c"]
    np.testing.assert_allclose(victim.read(TEXTS).probabilities.sum(axis=1), 1)


def test_an_adapter_of_peft_itself_needs_no_configuration_of_a_model(adapter: Path) -> None:
    (adapter / "config.json").unlink()
    assert Victim.load(str(adapter), device="cpu").label_names == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"peft_type": "IA3"}, "is no LoRA but 'IA3'"),
        ({"use_dora": True}, "not known here: use_dora"),
        ({"rank_pattern": {"q_lin": 2}, "use_rslora": True}, "not known here: rank_pattern, use_rslora"),
        ({"r": 0}, "does not say r, lora_alpha"),
        ({"lora_alpha": "many"}, "does not say r, lora_alpha"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
        ({"base_model_name_or_path": "./no-such-folder"}, "there is no encoder folder ./no-such-folder"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(adapter: Path, values: dict[str, Any], told: str) -> None:
    change(adapter, **values)
    with pytest.raises(HarnessError, match=told):
        Victim.load(str(adapter))


MISFIT = "does not fit its encoder at distilbert"
FACTOR = "base_model.model.distilbert.transformer.layer.0.ffn.lin1.lora_A.weight"


def without(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Tensors without those whose name holds a part."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without(FACTOR), MISFIT),
        (lambda tensors: {**tensors, FACTOR: torch.zeros(4, 3)}, MISFIT),
        (lambda tensors: {**tensors, FACTOR: torch.zeros(5, tensors[FACTOR].shape[1])}, MISFIT),
        (lambda tensors: {**tensors, FACTOR: torch.zeros(4)}, MISFIT),
        (lambda tensors: {name.replace(".layer.", ".block."): tensor for name, tensor in tensors.items()}, MISFIT),
        (
            lambda tensors: {**tensors, FACTOR: torch.full_like(tensors[FACTOR], torch.nan)},
            "weights that are no numbers",
        ),
        (without("classifier"), "has no trained classification head"),
        (
            without(".classifier"),
            r"lacks tensors that its encoder has not either: classifier\.bias, classifier\.weight",
        ),
        (without("pre_classifier"), r"lacks tensors that its encoder has not either: pre_classifier\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(adapter: Path, damage: Any, told: str) -> None:
    save_file(damage(load_file(adapter / ADAPTER_WEIGHTS)), adapter / ADAPTER_WEIGHTS)
    with pytest.raises(HarnessError, match=told):
        Victim.load(str(adapter))


def test_a_broken_file_is_refused(adapter: Path) -> None:
    path = adapter / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HarnessError, match="is not a sound safetensors file"):
        Victim.load(str(adapter))
    path.unlink()
    with pytest.raises(HarnessError, match="there is no file"):
        Victim.load(str(adapter))


OURS = sorted(entry.name for entry in VICTIMS if entry.name.startswith("minilm-lora-"))


@pytest.mark.parametrize("name", OURS)
def test_the_victims_of_this_package_are_what_was_measured(name: str) -> None:
    facts = read_json(VICTIMS.get(name)() / "victim.json")
    assert facts["dataset"] == name.removeprefix("minilm-lora-")
    assert Victim.load(name, device="cpu").hash == facts["victim_hash"]
