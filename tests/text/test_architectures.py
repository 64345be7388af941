"""Every architecture on a small random model: a feature of the last layer is what the model's own head reads.

The oracle is the model alone, without a class of ours: one text, no padding, and a hook on its head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from harness.core.compat import prepare_torchvision

prepare_torchvision()

import torch  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast  # noqa: E402

from harness.core.errors import VictimError  # noqa: E402
from harness.text.architectures import ARCHITECTURES, WORD_ENCODERS, architecture_of, reads_first_token  # noqa: E402
from harness.text.batches import padded_batches  # noqa: E402
from harness.text.edits import mask_word, mask_words, token_words, unknown_word  # noqa: E402
from harness.text.gradients import shifted_embeddings, token_gradients  # noqa: E402
from harness.text.starting_points import load_starting_point  # noqa: E402
from harness.text.victims import Victim, token_limit  # noqa: E402

LONGEST = 24
BOS, PAD, EOS, UNK, MASK = range(5)  # as RoBERTa's; MPNet takes no other padding than 1
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
DECODERS = sorted(kind for kind, known in ARCHITECTURES.items() if known.finds_padding)
# A case is an architecture as it is, or something that may be otherwise in it.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in ARCHITECTURES if kind not in WORD_ENCODERS.values()},
    "bart-scaled": ("bart", {"scale_embedding": True, "encoder_layers": 1}),
    "falcon-alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "modernbert-mean": ("modernbert", {"classifier_pooling": "mean"}),
    "opt-projected": ("opt", {"word_embed_proj_dim": 16}),
    "xlnet-index": ("xlnet", {"summary_type": "cls_index"}),
}
# The first layer of each head, which is given the pooled vector; a decoder's scores all positions and then chooses.
HEADS = {
    "albert": "albert.pooler",
    "bart": "classification_head.dense",
    "bert": "bert.pooler.dense",
    "camembert": "classifier.dense",
    "deberta": "pooler.dense",
    "deberta-v2": "pooler.dense",
    "distilbert": "pre_classifier",
    "electra": "classifier.dense",
    "modernbert": "head.dense",
    "mpnet": "classifier.dense",
    "roberta": "classifier.dense",
    "xlm-roberta": "classifier.dense",
    "xlnet": "sequence_summary.summary",
    **dict.fromkeys(DECODERS, "score"),
}
TEXTS = [
    "a good film",
    "x",
    "",
    "the plot of this movie is dull, and the actress never looks at the audience",  # is cut
    "WARM & moving!",
    "it was a long",
    "a good film",
    " leading and trailing ",
    "naïve 映画",
]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": LONGEST,
    "initializer_range": 0.2,
    "init_std": 0.2,
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pooler_hidden_size": 32}
_POSITIONS_FROM_2 = {"max_position_embeddings": LONGEST + 2}
_GROUPED = {"num_key_value_heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bart": {
        "encoder_layers": 2,
        "decoder_layers": 3,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "decoder_start_token_id": EOS,
    },
    "camembert": _POSITIONS_FROM_2,
    "deberta": _RELATIVE,
    "deberta-v2": _RELATIVE | {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    "distilbert": {"hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": _GROUPED | {"head_dim": 8, "sliding_window": 6},
    "gemma3_text": _GROUPED | {"head_dim": 8, "sliding_window": 6},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "num_hidden_layers": 4},
    "gptj": {"rotary_dim": 4},
    "llama": _GROUPED,
    "mistral": _GROUPED | {"sliding_window": 6},
    "modernbert": {"local_attention": 6, "global_attn_every_n_layers": 2, "reference_compile": True},
    "mpnet": _POSITIONS_FROM_2,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED | {"head_dim": 8},
    "roberta": _POSITIONS_FROM_2,
    "smollm3": _GROUPED,
    "stablelm": _GROUPED,
    "starcoder2": _GROUPED,
    "xlm-roberta": _POSITIONS_FROM_2,
    "xlnet": {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64},
}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """One token a byte, with special tokens where the architecture's own tokenizer has them."""
    vocabulary = {
        token: number for number, token in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = "$A"
    if kind in ("llama", "gemma", "opt"):
        template = "<s> $A"
    elif kind in DECODERS:
        # As GPT-2's: one token begins, ends and stands for what is unknown.
        names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    else:
        template = "$A </s> <s>:2" if kind == "xlnet" else "<s> $A </s>"
        names |= {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    if kind in ("gemma", "opt"):
        names |= {"pad_token": "<pad>"}
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    # Those of no class of their own give token types, which some decoders would take for words.
    inputs = {"model_input_names": ["input_ids", "attention_mask"]} if kind in ("gpt2", "gpt_neo", "gptj") else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **inputs)


def made_model(kind: str, vocabulary: int, changes: dict[str, Any]) -> Any:
    sizes = {**SMALL, **SIZES.get(kind, {}), **changes, "vocab_size": vocabulary, "num_labels": 3}
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "sep_token_id": EOS, "cls_token_id": BOS}
    sizes = {**ids, "pad_token_id": None if kind in DECODERS and kind not in ("gemma", "opt") else PAD, **sizes}
    if kind in ("xlnet", "bloom"):
        del sizes["max_position_embeddings"]  # they have none
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes))


class Case(NamedTuple):
    kind: str
    victim: Victim
    folder: Path


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """`name of a case -> Case`, its model made, saved and loaded as a victim."""
    made: dict[str, Case] = {}

    def open_case(name: str) -> Case:
        if name not in made:
            kind, changes = CASES[name]
            folder = tmp_path_factory.mktemp("architectures") / name
            tokenizer = tokenizer_of(kind)
            made_model(kind, len(tokenizer), changes).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[name] = Case(kind, Victim.load(str(folder), batch_size=4, max_length=LONGEST, device="cpu"), folder)
        return made[name]

    return open_case


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest, opened: Callable[[str], Case]) -> Case:
    return opened(request.param)


class Alone(NamedTuple):
    """What a model says of one text by itself."""

    logits: np.ndarray
    states: list[np.ndarray]  # (tokens, d) each
    read: np.ndarray  # what its head was given


@functools.cache
def alone(case: Case, text: str) -> Alone:
    model, tokenizer = case.victim.model, tokenizer_of(case.kind)
    encoded = tokenizer(text, truncation=True, max_length=LONGEST)
    inputs = {"input_ids": torch.tensor([encoded["input_ids"] or [EOS]])}
    if case.kind == "xlnet":  # whose segments matter
        inputs["token_type_ids"] = torch.tensor([encoded["token_type_ids"]])
    given: list[Any] = []
    hook = model.get_submodule(HEADS[case.kind]).register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
    finally:
        hook.remove()
    states = output.decoder_hidden_states if case.kind == "bart" else output.hidden_states
    read = given[0][0]
    if case.kind in DECODERS:
        read = read[-1]  # the last token: there is no padding here
    return Alone(output.logits[0].numpy(), [state[0].numpy() for state in states], read.numpy())


def test_the_last_layer_is_what_the_head_reads(case: Case) -> None:
    outputs = case.victim.read(TEXTS, [-1])
    (features,) = outputs.features.values()
    assert outputs.logits is not None
    assert outputs.truncated == 1
    assert np.ptp(outputs.logits, axis=0).min() > 1e-2  # random, yet not the same for all texts
    for row, text in enumerate(TEXTS):
        expected = alone(case, text)
        np.testing.assert_allclose(features[row], expected.read, atol=2e-5, rtol=1e-4)
        np.testing.assert_allclose(outputs.logits[row], expected.logits, atol=2e-5, rtol=1e-4)


def test_the_models_own_head_makes_its_logits_of_our_features(case: Case) -> None:
    """The head is run as it is, and given what was read instead of what it reads."""
    texts = TEXTS[:4]
    outputs = case.victim.read(texts, [-1])
    (features,) = outputs.features.values()
    model = case.victim.model
    for row, text in enumerate(texts):
        vector = torch.as_tensor(features[row])

        def instead(_: Any, args: Any, vector: Any = vector) -> Any:
            return (vector.expand(args[0].shape),)

        hook = model.get_submodule(HEADS[case.kind]).register_forward_pre_hook(instead)
        try:
            with torch.no_grad():
                # Any text will do: nothing but the features decides.
                other = case.victim.encode([text[::-1]])["input_ids"]
                logits = model(input_ids=torch.tensor(other)).logits[0]
        finally:
            hook.remove()
        assert outputs.logits is not None
        np.testing.assert_allclose(logits.numpy(), outputs.logits[row], atol=2e-5, rtol=1e-4)


def test_layers_are_the_models_own(case: Case) -> None:
    """At the position that the head reads, or their mean; before a norm that only the last one gets."""
    victim = case.victim
    outputs = victim.read(TEXTS, range(victim.num_layers + 1))
    for layer in range(victim.num_layers):
        assert victim.width(layer) == outputs.features[layer].shape[1] == 32
    assert victim.width(-1) == outputs.features[victim.num_layers].shape[1]
    for row, text in enumerate(TEXTS):
        expected = alone(case, text)
        assert len(expected.states) == victim.num_layers + 1
        for layer, state in enumerate(expected.states[:-1]):
            if getattr(victim.model.config, "classifier_pooling", "") == "mean":
                at = state.mean(axis=0)
            else:
                at = state[0 if HEADS[case.kind] != "score" and case.kind not in ("bart", "xlnet") else -1]
            np.testing.assert_allclose(outputs.features[layer][row], at, atol=2e-5, rtol=1e-4)


def test_batches_do_not_matter(case: Case) -> None:
    victim = case.victim
    layers = range(victim.num_layers + 1)
    together = victim.read(TEXTS, layers)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    before = victim.batch_size
    try:
        for size in (1, 9):
            victim.batch_size = size
            other = victim.read([TEXTS[i] for i in order], layers)
            np.testing.assert_allclose(other.logits, together.logits[order], atol=2e-5, rtol=1e-4)
            for layer in layers:
                np.testing.assert_allclose(other.features[layer], together.features[layer][order], atol=2e-5, rtol=1e-4)
    finally:
        victim.batch_size = before


@pytest.mark.parametrize(
    "name", ["albert", "bart", "bart-scaled", "deberta", "gemma", "gpt2", "llama", "modernbert-mean", "opt", "xlnet"]
)
def test_gradients_are_slopes_whatever_the_batch(opened: Callable[[str], Case], name: str) -> None:
    """Central differences of the loss along each text's own gradient, with the text alone."""
    case = opened(name)
    victim = case.victim
    texts = ["a good film", "x", "it was a long"]
    found = token_gradients(victim, texts)
    assert [len(owners) for owners in token_words(victim, texts)] == [len(at.ids) for at in found]
    for text, at in zip(texts, found, strict=True):
        assert at.ids.tolist() == victim.encode([text])["input_ids"][0]
        assert at.gradient.shape == (len(at.ids), victim.model.get_input_embeddings().weight.shape[1])
        norm = float(np.linalg.norm(at.gradient.astype(np.float64)))
        label = int(victim.read([text]).predictions[0])
        step = 1e-4
        losses = []
        for sign in (-1, 1):
            moved = perturbed_logits(case, at.ids, sign * step * at.gradient / norm)
            losses.append(float(torch.logsumexp(moved, 0) - moved[label]))
        assert norm > 1e-3
        assert norm == pytest.approx((losses[1] - losses[0]) / (2 * step), rel=2e-3)


def perturbed_logits(case: Case, ids: np.ndarray, shift: np.ndarray) -> torch.Tensor:
    """The logits in float64 of a text each of whose tokens has a row of its own in the table of embeddings.

    So it does not matter where, how often and in which layout a model looks them up.
    """
    import copy

    model = copy.deepcopy(case.victim.model).double()
    table = model.get_input_embeddings().weight.detach()
    start = case.victim.model.config.decoder_start_token_id if case.kind == "bart" else None
    rows = torch.cat([table, table[torch.as_tensor(ids)] + torch.as_tensor(shift, dtype=torch.float64)])
    own = torch.arange(len(ids)) + len(table)
    given: dict[str, Any] = {"input_ids": own[None], "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if case.kind == "xlnet":
        given["token_type_ids"] = torch.tensor([[*[0] * (len(ids) - 1), 2]])
    names = case.victim.architecture.embeddings
    places = [model.get_submodule(name) for name in names] if names else [model.get_input_embeddings()]
    for place in places:
        place.weight = torch.nn.Parameter(rows)
        place.padding_idx = None
        place.num_embeddings = len(rows)
    if start is not None:
        # Its end is found by its number, and its start token is nobody's.
        given["decoder_input_ids"] = torch.cat([torch.tensor([start]), own[:-1]])[None]
        model.config.eos_token_id = int(own[-1])
    with torch.no_grad():
        return model(**given).logits[0]


@pytest.mark.parametrize("name", ["bart-scaled", "xlnet", "gpt2"])
def test_a_shift_moves_what_is_embedded(opened: Callable[[str], Case], name: str) -> None:
    case = opened(name)
    victim = case.victim
    texts = ["a good film", "x"]
    encoded = victim.encode(texts)
    ((rows, batch),) = padded_batches(victim.tokenizer, encoded, 2)
    width = victim.model.get_input_embeddings().weight.shape[1]
    draw = np.random.default_rng(1).normal(0, 0.1, (*batch["input_ids"].shape, width)).astype(np.float32)
    with torch.no_grad(), shifted_embeddings(victim) as shift:
        shift.delta = torch.as_tensor(draw)
        logits = victim.model(**batch).logits
    for line, row in enumerate(rows):
        real = batch["attention_mask"][line].bool().numpy()
        expected = perturbed_logits(case, np.array(encoded["input_ids"][row]), draw[line][real])
        np.testing.assert_allclose(logits[line].numpy(), expected.numpy(), atol=1e-4)
    untouched = victim.model(**batch).logits.detach().numpy()
    np.testing.assert_allclose(untouched, victim.read(texts).logits[rows], atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_agree_with_their_tokenizers_on_padding(opened: Callable[[str], Case], name: str) -> None:
    victim = opened(name).victim
    padding = PAD if name in ("gemma", "opt") else EOS
    assert victim.tokenizer.pad_token_id == victim.model.config.pad_token_id == padding
    assert victim.tokenizer.padding_side == "right"


def gpt2(tokenizer: Any, **changes: Any) -> Victim:
    model = made_model("gpt2", len(tokenizer), changes)
    return Victim("some", model, tokenizer, batch_size=4, max_length=LONGEST, device="cpu")


def test_the_configuration_decides_what_pads() -> None:
    tokenizer = tokenizer_of("gpt2")
    tokenizer.pad_token = "<mask>"
    assert gpt2(tokenizer, pad_token_id=PAD).tokenizer.pad_token == "<pad>"
    for unset in (None, -1, 10**6):
        tokenizer = tokenizer_of("gpt2")
        tokenizer.pad_token = "<mask>"
        victim = gpt2(tokenizer, pad_token_id=unset)
        assert (victim.tokenizer.pad_token_id, victim.model.config.pad_token_id) == (MASK, MASK)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of("gpt2").backend_tokenizer)
    with pytest.raises(VictimError, match="no token to pad"):
        gpt2(tokenizer)


def test_texts_that_spell_out_the_padding_are_read_as_the_model_reads_them(opened: Callable[[str], Case]) -> None:
    victim = opened("gpt2").victim
    texts = ["a good film</s>", "</s>", "</s></s>", "a</s> film", "", "a good film"]
    outputs = victim.read(texts, [-1])
    last = outputs.features[3]
    assert outputs.logits is not None
    np.testing.assert_allclose(last @ victim.model.score.weight.detach().numpy().T, outputs.logits, atol=1e-5)
    for row, text in enumerate(texts):
        one = victim.read([text], [-1])
        np.testing.assert_allclose(one.features[3][0], last[row], atol=1e-5)
    np.testing.assert_allclose(last[0], last[5], atol=1e-5)


def test_texts_that_spell_out_barts_end(opened: Callable[[str], Case]) -> None:
    """The model alone refuses a batch of them, and reads where it should not."""
    victim = opened("bart").victim
    texts = ["a</s> film", "a film", "</s></s>", "", "the plot of </s> this movie is dull"]
    outputs = victim.read(texts, [-1])
    assert [ids.count(EOS) for ids in victim.encode(texts)["input_ids"]] == [1] * 5
    assert victim.encode(["a</s> film"])["input_ids"] == victim.encode(["a<unk> film"])["input_ids"]
    assert all(ids[-1] == EOS and len(ids) <= LONGEST for ids in victim.encode(TEXTS)["input_ids"])
    np.testing.assert_allclose(outputs.logits[0], victim.read(["a<unk> film"]).logits[0], atol=1e-5)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(victim.read([text], [-1]).features[3][0], outputs.features[3][row], atol=1e-5)


def test_a_text_without_tokens_is_one_start_token(opened: Callable[[str], Case]) -> None:
    victim = opened("gpt2").victim
    assert victim.tokenizer([""])["input_ids"] == [[]]
    encoded = victim.encode(["", "x"], return_offsets_mapping=True)
    assert encoded["input_ids"][0] == [EOS]
    assert encoded["attention_mask"][0] == [1]
    assert encoded["offset_mapping"][0] == [(0, 0)]
    assert token_words(victim, ["", "x yz"]) == [[-1], [0, -1, 1, 1]]
    assert [at.gradient.shape for at in token_gradients(victim, ["", "x"])] == [(1, 32)] * 2
    assert opened("llama").victim.encode([""])["input_ids"] == [[BOS]]


def test_token_types_are_given_only_to_models_that_take_them(opened: Callable[[str], Case]) -> None:
    """The tokenizers here give them to all, as those of no class of their own do."""
    assert "token_type_ids" in tokenizer_of("llama")("x")
    for name in ("llama", "gpt_neox", "bart", "distilbert", "modernbert", "gpt2"):
        assert set(opened(name).victim.encode(["x"])) == {"input_ids", "attention_mask"}
    for name in ("bert", "deberta", "xlnet"):
        assert "token_type_ids" in opened(name).victim.encode(["x"])
    assert opened("xlnet").victim.encode(["x"])["token_type_ids"] == [[0, 0, 2]]


def test_what_hides_a_word(opened: Callable[[str], Case]) -> None:
    for name in ("bert", "bart", "xlnet", "modernbert"):
        victim = opened(name).victim
        assert (mask_word(victim), unknown_word(victim)) == ("<mask>", "<unk>")
    assert (mask_word(opened("llama").victim), unknown_word(opened("llama").victim)) == ("<unk>", "<unk>")
    victim = opened("gpt2").victim
    assert (mask_word(victim), unknown_word(victim)) == ("", "")
    # The word before would be what is classified from.
    masked = mask_words("a good film", [2], mask_word(victim))
    assert masked == "a good "
    assert EOS not in victim.encode([masked])["input_ids"][0]
    tokenizer = tokenizer_of("llama")
    tokenizer.pad_token = tokenizer.unk_token  # as many do
    assert mask_word(gpt2(tokenizer, pad_token_id=None)) == ""


def test_how_many_tokens_are_taken(opened: Callable[[str], Case], tmp_path: Path) -> None:
    for name in ("roberta", "camembert", "xlm-roberta", "mpnet", "bart", "opt", "gpt2", "deberta-v2", "llama"):
        victim = opened(name).victim
        assert token_limit(victim.model.config, victim.tokenizer) == LONGEST
    for name in ("xlnet", "bloom"):
        victim = opened(name).victim
        assert token_limit(victim.model.config, victim.tokenizer) == 512
        assert Victim.load(str(opened(name).folder), device="cpu").max_length == 512
    victim.tokenizer.model_max_length = 1000
    try:
        assert token_limit(victim.model.config, victim.tokenizer) == 1000
    finally:
        victim.tokenizer.model_max_length = 10**30


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bart", {"scale_embedding": True}),
        ("bart", {"activation_function": "relu"}),
        ("deberta", {"pos_att_type": ["c2p"]}),
        ("gpt2", {"layer_norm_epsilon": 0.1}),
        ("llama", {"rope_theta": 50.0}),
        ("modernbert", {"classifier_pooling": "mean"}),
        ("xlnet", {"clamp_len": 2}),
    ],
)
def test_what_decides_outputs_is_in_the_hash(opened: Callable[[str], Case], name: str, changes: dict[str, Any]) -> None:
    case = opened(name)
    tokenizer = tokenizer_of(case.kind)
    other = Victim("x", made_model(case.kind, len(tokenizer), changes), tokenizer, max_length=LONGEST, device="cpu")
    same = Victim("x", made_model(case.kind, len(tokenizer), {}), tokenizer_of(case.kind), device="cpu")
    assert not np.allclose(other.read(TEXTS).logits, case.victim.read(TEXTS).logits, atol=1e-4)
    assert other.hash != case.victim.hash == same.hash


def test_which_are_first_token_architectures(opened: Callable[[str], Case]) -> None:
    def first(name: str) -> bool:
        return reads_first_token(opened(name).victim.model.config)

    assert all(map(first, ("albert", "bert", "deberta", "deberta-v2", "modernbert", "mpnet", "xlm-roberta")))
    assert not any(map(first, ("bart", "gpt2", "llama", "modernbert-mean", "xlnet")))
    assert not reads_first_token(AutoConfig.for_model("t5"))
    assert not reads_first_token(AutoConfig.for_model("xlnet", summary_type="mean"))


def test_pooling_that_is_not_known_is_refused() -> None:
    with pytest.raises(VictimError, match="'t5' is not supported"):
        architecture_of(AutoConfig.for_model("t5"))
    for way in ("mean", "first", "attn"):
        with pytest.raises(VictimError, match=f"pools by '{way}'"):
            architecture_of(AutoConfig.for_model("xlnet", summary_type=way))


@pytest.mark.parametrize("name", ["gpt2", "xlnet", "bart"])
def test_training_starts_from_what_a_victim_is_read_with(opened: Callable[[str], Case], name: str) -> None:
    model, tokenizer = load_starting_point(str(opened(name).folder), ["neg", "neutral", "pos"], [])
    victim = opened(name).victim
    assert tokenizer.pad_token_id == model.config.pad_token_id == victim.tokenizer.pad_token_id
    assert tokenizer.padding_side == victim.tokenizer.padding_side == ("left" if name == "xlnet" else "right")
    assert Victim("again", model, tokenizer, max_length=LONGEST, device="cpu").hash == victim.hash
