"""Masked language models: logits where they are wanted, and one that is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError, MissingFileError, VictimError
from harness.core.files import hash_file, read_json
from harness.text import masked_lm
from harness.text.embedded import encoder_folder
from harness.text.masked_lm import MaskedLanguageModel, make
from harness.text.masked_lm_training import FACTS, MaskedTrainingSettings, adapted, train_masked_lm
from harness.text.masking import IGNORED, cut_sequences, mask_tokens

ModelFolder = Callable[[str], Path]
RESOURCES = Path(masked_lm.__file__).parent / "resources"


SEQUENCES = [
    "a good film",
    "the plot never works and the actors always seem dull",
    "",
    "not [MASK] funny",
    "weak " * 60,
]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra"])
def test_logits_are_those_of_the_whole_model(model_type: str, tiny_masked_lm_folder: ModelFolder) -> None:
    import torch

    lm = MaskedLanguageModel.load(tiny_masked_lm_folder(model_type), device="cpu", batch_size=2)
    sequences = [lm.tokenizer(text)["input_ids"] for text in SEQUENCES]
    positions: list[Any] = [(1,), None, (0, 1), (2, 1, 2), ()]
    found = lm.logits(sequences, positions)
    for ids, places, logits in zip(sequences, positions, found, strict=True):
        with torch.inference_mode():
            full = lm.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0]
        wanted = full if places is None else full[list(places)]
        assert logits.dtype == torch.float32
        assert logits.shape == wanted.shape
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
    assert lm.config.model_type == model_type
    assert lm.logits([], []) == []


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_the_vocabulary_is_computed_where_it_is_wanted_only(
    model_type: str, tiny_masked_lm_folder: ModelFolder
) -> None:
    lm = MaskedLanguageModel.load(tiny_masked_lm_folder(model_type), device="cpu")
    asked: list[tuple[int, ...]] = []
    lm.model.get_output_embeddings().register_forward_hook(lambda _, __, output: asked.append(tuple(output.shape)))
    sequences = [lm.tokenizer(text)["input_ids"] for text in SEQUENCES]
    lm.logits(sequences, [[0], [1, 2], [], [1], [3]])
    assert asked == [(5, lm.config.vocab_size)]


def test_no_answer_keeps_its_batch_alive(tiny_masked_lm_folder: ModelFolder) -> None:
    lm = MaskedLanguageModel.load(tiny_masked_lm_folder("bert"), device="cpu")
    first, _ = lm.logits([[2, 5, 3], [2, 6, 7, 3]], [[1], None])
    assert first.untyped_storage().nbytes() == first.numel() * 4


@pytest.mark.parametrize(
    ("sequences", "positions"),
    [([[]], [None]), ([[2, 3]], [[2]]), ([[2, 3]], [[-1]]), ([[5] * 129], [None]), ([[2, 3]], [])],
)
def test_what_cannot_be_asked_is_refused(sequences: Any, positions: Any, tiny_masked_lm_folder: ModelFolder) -> None:
    lm = MaskedLanguageModel.load(tiny_masked_lm_folder("bert"), device="cpu")
    with pytest.raises(ValueError, match=r"tokens|position|zip"):
        lm.logits(sequences, positions)


def test_the_hash_is_of_weights_and_tokenizer(tiny_masked_lm_folder: ModelFolder, tmp_path: Path) -> None:
    bert = MaskedLanguageModel.load(tiny_masked_lm_folder("bert"), device="cpu")
    assert bert.hash == MaskedLanguageModel.load(tiny_masked_lm_folder("bert"), device="cpu").hash
    assert bert.hash != MaskedLanguageModel.load(tiny_masked_lm_folder("distilbert"), device="cpu").hash


def test_what_is_no_masked_lm_is_refused(
    tmp_path: Path, tiny_masked_lm_folder: ModelFolder, tiny_victim_folder: Callable[..., Path]
) -> None:
    with pytest.raises(MissingFileError, match=r"config\.json is missing") as missing:
        MaskedLanguageModel.load(tmp_path)
    assert "harness fetch" in missing.value.hint
    # An encoder, or a classifier, would otherwise get a random head, and answer noise.
    with pytest.raises(ConfigurationError, match="no trained masked-LM head"):
        MaskedLanguageModel.load(tiny_victim_folder("bert"))
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_masked_lm_folder("bert"), pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="safetensors"):
        MaskedLanguageModel.load(pickled)
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_masked_lm_folder("bert"), damaged)
    data = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigurationError, match="no loadable masked LM"):
        MaskedLanguageModel.load(damaged)


def test_a_tokenizer_without_a_mask_token_is_refused(tiny_masked_lm_folder: ModelFolder) -> None:
    lm = MaskedLanguageModel.load(tiny_masked_lm_folder("bert"), device="cpu")
    lm.tokenizer.mask_token = None
    with pytest.raises(ConfigurationError, match="mask"):
        MaskedLanguageModel("tiny", lm.model, lm.tokenizer, device="cpu")


def test_masks_are_drawn_as_in_bert() -> None:
    generator = np.random.default_rng(0)
    ids = generator.integers(10, 1000, (400, 500))
    special = generator.random(ids.shape) < 0.2
    read, labels = mask_tokens(ids, special, 4, 1000, np.random.default_rng(1))
    asked = labels != IGNORED
    assert not (asked & special).any()
    assert (labels[asked] == ids[asked]).all()
    assert (read[~asked] == ids[~asked]).all()
    count = asked.sum()
    shares = {
        "asked": (count / (~special).sum(), 0.15),
        "masked": ((read[asked] == 4).mean(), 0.8),
        "left": ((read[asked] == ids[asked]).mean(), 0.1),
    }
    for name, (share, wanted) in shares.items():
        assert abs(share - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count), name
    replaced = read[asked & (read != 4) & (read != ids)]
    assert len(set(replaced.tolist())) > 900  # from the whole vocabulary
    assert min(replaced) < 10


class NumberTokenizer:
    """Tokens are numbers in a text."""

    cls_token_id, sep_token_id = -1, -2

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[int(token) for token in text.split()] for text in texts]}


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(4, 20), st.integers(20, 40))
@settings(deadline=None)
def test_sequences_hold_every_token_once_and_know_their_place(counts: list[int], length: int, positions: int) -> None:
    texts = [" ".join(str(1000 * n + i) for i in range(count)) for n, count in enumerate(counts)]
    found = cut_sequences(NumberTokenizer(), texts, length, positions)
    tokens = [token for ids in found.ids for token in ids[1:-1]]
    assert tokens == [1000 * n + i for n, count in enumerate(counts) for i in range(count)]
    for ids, start in zip(found.ids, found.starts, strict=True):
        assert ids[0] == -1
        assert ids[-1] == -2
        assert 3 <= len(ids) <= length
        assert start in (ids[1] % 1000, 0)
        assert start + len(ids) <= positions
        assert start or ids[1] % 1000 == 0 or ids[1] % 1000 + length > positions


TRAINING = MaskedTrainingSettings(
    steps=120, epochs=60, batch_size=16, length=24, learning_rate=5e-3, head_learning_rate=5e-3, heldout_share=0.1
)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that say one word over and over: what a masked LM can learn and a unigram cannot."""
    words = ["film", "plot", "cast", "story", "music", "scene"]
    lines = [{"text": f"{f'{words[n % 6]} ' * 14}{n}", "label": n % 2} for n in range(160)]
    folder = tmp_path_factory.mktemp("reviews")
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_trained_one_knows_more_than_word_counts(
    reviews: Path, tiny_victim_folder: Callable[..., Path], tmp_path: Path
) -> None:
    target, encoder = tmp_path / "made", tmp_path / "encoder"
    shutil.copytree(tiny_victim_folder("bert"), encoder)
    # As sentence encoders come: they cut and pad every text to one length.
    tokens = json.loads((encoder / "tokenizer.json").read_text())
    tokens["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    pad = {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]", "pad_to_multiple_of": None, "direction": "Right"}
    tokens["padding"] = {"strategy": {"Fixed": 8}, **pad}
    (encoder / "tokenizer.json").write_text(json.dumps(tokens))
    facts = train_masked_lm(target, encoder, dataset=str(reviews), limit=150, seed=3, settings=TRAINING, device="cpu")
    assert json.loads((target / "facts.json").read_text()) == facts
    assert (facts["rows"], facts["seed"], facts["steps"], facts["train_texts"]) == (150, 3, 120, 135)
    assert facts["sequences_seen"] > 1500
    assert facts["encoder"] == {"model.safetensors": hash_file(encoder / "model.safetensors")}
    measured = facts["heldout"]["short"]
    assert measured["tokens"] > 30
    assert measured["accuracy"] > measured["unigram_accuracy"] + 0.3
    assert measured["cross_entropy"] < measured["unigram_cross_entropy"] - 0.8

    lm = MaskedLanguageModel.load(target, device="cpu")
    assert lm.hash == facts["hash"]
    assert lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    tokens = lm.tokenizer("music music [MASK] music music music")["input_ids"]
    (logits,) = lm.logits([tokens], [[3]])
    assert lm.tokenizer.decode([int(logits.argmax())]) == "music"
    saved = json.loads((target / "tokenizer.json").read_text())
    assert (saved["truncation"], saved["padding"]) == (None, None)
    assert lm.max_length == 128

    # What was trained makes the model again, and is small.
    again, _ = adapted(encoder, target / "adapter")
    trained = lm.model.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in again.state_dict().items())


def test_that_of_this_package_is_what_was_measured(tmp_path: Path) -> None:
    facts = read_json(RESOURCES / "masked_lm" / FACTS)
    make(tmp_path / "made", {"minilm": encoder_folder()}, dataset=None, limit=None, seed=0)
    assert MaskedLanguageModel.load(tmp_path / "made", device="cpu").hash == facts["hash"]
    for measured in facts["heldout"].values():
        assert measured["cross_entropy"] < measured["unigram_cross_entropy"] - 2


def test_the_head_begins_with_the_word_counts(
    reviews: Path, tiny_victim_folder: Callable[..., Path], tmp_path: Path
) -> None:
    still = MaskedTrainingSettings(steps=1, learning_rate=0, head_learning_rate=0)
    train_masked_lm(
        tmp_path, tiny_victim_folder("bert"), dataset=str(reviews), limit=None, seed=0, settings=still, device="cpu"
    )
    lm = MaskedLanguageModel.load(tmp_path, device="cpu")
    shares = lm.model.cls.predictions.bias.detach().exp()
    assert float(shares.sum()) == pytest.approx(1, abs=1e-4)
    music, unheard = lm.tokenizer.convert_tokens_to_ids(["music", "brilliant"])
    # About 25 texts say "music" 14 times; what no text says has the one that is added.
    assert float(shares[music] / shares[unheard]) == pytest.approx(26 * 14, rel=0.2)


def test_the_same_seed_trains_the_same_model(
    reviews: Path, tiny_victim_folder: Callable[..., Path], tmp_path: Path
) -> None:
    short = MaskedTrainingSettings(steps=3, batch_size=8, length=16)
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        train_masked_lm(
            tmp_path / name,
            tiny_victim_folder("bert"),
            dataset=str(reviews),
            limit=40,
            seed=seed,
            settings=short,
            device="cpu",
        )
    for file in ("model.safetensors", "facts.json", "config.json", "tokenizer.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    one, other = (json.loads((tmp_path / name / "facts.json").read_text())["hash"] for name in ("one", "other"))
    assert one != other


def test_making_says_what_it_lacks(reviews: Path, tiny_victim_folder: Callable[..., Path], tmp_path: Path) -> None:
    target, bert = tmp_path / "made", tiny_victim_folder("bert")
    for options in ({"limit": 9, "seed": 0}, {"limit": None, "seed": 1}):
        with pytest.raises(ConfigurationError, match="no dataset is named") as caught:
            make(target, {"minilm": bert}, dataset=None, **options)
        assert "--dataset" in caught.value.hint
    # What comes with this package is an adapter of another encoder.
    with pytest.raises(VictimError, match=r"does not fit its encoder at bert\.encoder"):
        make(target, {"minilm": bert}, dataset=None, limit=None, seed=0)
    with pytest.raises(ConfigurationError, match="BERT architecture"):
        make(target, {"minilm": tiny_victim_folder("roberta")}, dataset=str(reviews), limit=9, seed=0)
    with pytest.raises(ConfigurationError, match="no loadable encoder"):
        make(target, {"minilm": tmp_path}, dataset=str(reviews), limit=9, seed=0)
    with pytest.raises(DataError, match="too few"):
        make(target, {"minilm": bert}, dataset=str(reviews), limit=1, seed=0)
    assert not target.exists()
