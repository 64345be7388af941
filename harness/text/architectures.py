"""Where each architecture keeps its class representation.

A detector reads the vector that the classification head reads. BERT-type models classify from the first token;
others do not (XLNet keeps its class token last, BART pools at the decoder's end-of-sequence token, decoder-type
classifiers at the last token), so an architecture that is not listed here is refused rather than read wrongly.

The layers of an encoder-decoder are its decoder's: the head reads the decoder, and what the encoder says of a text
reaches the head only through it.

The word CNN and word LSTM have no class token at all. Their layers are two: 0, the mean of the word vectors, and 1,
the pooled vector that the head reads; they give both pooled already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import VictimError

if TYPE_CHECKING:
    import torch

# (hidden states of one layer, what the model was given, its configuration) -> one vector a text
Reader = Callable[["torch.Tensor", Mapping[str, "torch.Tensor"], Any], "torch.Tensor"]

WORD_CNN, LSTM = "palimpsest-wordcnn", "palimpsest-lstm"
# How `harness victim train --encoder` calls the architectures that are trained from scratch.
WORD_ENCODERS = {"wordcnn": WORD_CNN, "lstm": LSTM}
_TEXTATTACK_CHECKPOINT = re.compile(r"(?:textattack/)?(cnn|lstm)-(?:ag-news|imdb|mr|sst2|yelp)")
_TEXTATTACK_CLASSES = {"WordCNNForClassification": "wordcnn", "LSTMForClassification": "lstm"}


def first_token(hidden: torch.Tensor, inputs: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """The first position of right-padded input: `[CLS]` or `<s>`.

    Args:
        hidden: (batch, tokens, d) hidden states of one layer.
        inputs: Unused, since padding comes after.
        config: Unused.

    Returns:
        (batch, d) tensor.
    """
    return hidden[:, 0]


def last_token(hidden: torch.Tensor, inputs: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """The last position of left-padded input, where XLNet has its `<cls>`. Arguments as in `first_token`."""
    return hidden[:, -1]


def last_unpadded_token(hidden: torch.Tensor, inputs: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """The last token that is not the padding token, which is how decoder-type classifiers of transformers find it.

    Of a text that consists of the padding token alone it is the first.

    Args:
        hidden: (batch, tokens, d) hidden states of one layer.
        inputs: With `input_ids`, (batch, tokens).
        config: With `pad_token_id`.

    Returns:
        (batch, d) tensor.
    """
    return _last_where(hidden, inputs["input_ids"] != config.pad_token_id)


def last_eos_token(hidden: torch.Tensor, inputs: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """The last end-of-sequence token, where BART pools.

    Args:
        hidden: (batch, tokens, d) hidden states of one layer of the decoder, which reads as many tokens.
        inputs: With `input_ids`, (batch, tokens).
        config: With `eos_token_id`.

    Returns:
        (batch, d) tensor.
    """
    return _last_where(hidden, inputs["input_ids"] == config.eos_token_id)


def mean_token(hidden: torch.Tensor, inputs: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """The mean over all tokens that are not padding.

    Args:
        hidden: (batch, tokens, d) hidden states of one layer.
        inputs: With `attention_mask`, (batch, tokens), 1 for real tokens.
        config: Unused.

    Returns:
        (batch, d) tensor.
    """
    mask = inputs["attention_mask"].unsqueeze(-1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def pooled(hidden: torch.Tensor, inputs: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """What an architecture without a class token has pooled over the words itself, (batch, 1, d) -> (batch, d)."""
    return hidden[:, 0]


def _last_where(hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The vectors at each row's last wanted position, the first position of a row without one."""
    import torch

    numbers = torch.arange(wanted.shape[1], device=wanted.device)
    positions = (numbers * wanted).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), positions.to(hidden.device)]


@dataclass(frozen=True)
class Architecture:
    """What has to be known of an architecture to read what its classification head reads.

    Attributes:
        read: Gives one vector a text from the hidden states of one layer.
        settings: Names of settings that decide the outputs, beside those of BERT-type models, and that no tensor's
            shape shows; they are part of a victim's hash.
        states: Where the model's output has the hidden states of its layers.
        layers: The setting that says how many layers there are.
        last_width: The setting that says the dimension of the last layer.
        final_norm: A module that is still to be applied to the last layer's hidden states; "" for none.
        padding_side: Where the model's own head expects padding.
        finds_padding: Whether the head looks for the padding token to find the last token of a text.
        finds_eos: Whether the head looks for the end-of-sequence token, and so takes only texts with equally many.
        counts_from_padding: Whether positions are numbered from the padding token's number + 1, as in RoBERTa, so
            that the position table has fewer places than rows.
        embeddings: The modules that embed the text's tokens, the encoder's and then the decoder's; none where
            `get_input_embeddings` of the model is the only one.
        time_first: Whether the embeddings are (tokens, batch, d).
    """

    read: Reader
    settings: tuple[str, ...] = ()
    states: str = "hidden_states"
    layers: str = "num_hidden_layers"
    last_width: str = "hidden_size"
    final_norm: str = ""
    padding_side: str = "right"
    finds_padding: bool = False
    finds_eos: bool = False
    counts_from_padding: bool = False
    embeddings: tuple[str, ...] = ()
    time_first: bool = False

    def representation(self, model: Any, output: Any, inputs: Mapping[str, torch.Tensor], layer: int) -> torch.Tensor:
        """The class representation of a batch in one layer; of the last layer it is what the head reads.

        Args:
            model: The classifier.
            output: What it said, with hidden states.
            inputs: What it was given: `input_ids` and `attention_mask`, (batch, tokens).
            layer: From 0, the embedding layer.

        Returns:
            (batch, d) tensor.
        """
        hidden = getattr(output, self.states)[layer]
        if self.final_norm and layer == getattr(model.config, self.layers):
            hidden = model.get_submodule(self.final_norm)(hidden)
        return self.read(hidden, inputs, model.config)


_DEBERTA = Architecture(
    first_token,
    settings=(
        "conv_act",
        "max_relative_positions",
        "norm_rel_ebd",
        "pooler_hidden_act",
        "pos_att_type",
        "position_biased_input",
        "position_buckets",
        "relative_attention",
        "share_att_key",
        "talking_head",
    ),
)
_DECODER = Architecture(
    last_unpadded_token,
    settings=(
        "activation_function",
        "alibi",
        "apply_residual_connection_post_layernorm",
        "attention_types",
        "attn_logit_softcapping",
        "do_layer_norm_before",
        "head_dim",
        "hidden_activation",
        "layer_norm_epsilon",
        "layer_types",
        "max_position_embeddings",
        "multi_query",
        "new_decoder_architecture",
        "no_rope_layers",
        "norm_epsilon",
        "num_key_value_heads",
        "num_ln_in_parallel_attn",
        "original_max_position_embeddings",
        "parallel_attn",
        "partial_rotary_factor",
        "qk_layernorm",
        "query_pre_attn_scalar",
        "rms_norm_eps",
        "rope_local_base_freq",
        "rope_scaling",
        "rope_theta",
        "rotary_dim",
        "rotary_emb_base",
        "rotary_pct",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
        "sliding_window",
        "use_parallel_residual",
        "window_size",
    ),
    finds_padding=True,
)
# By `config.model_type`. Each is held against the model's own head in tests/text/test_architectures.py.
ARCHITECTURES: dict[str, Architecture] = {
    "albert": Architecture(first_token, settings=("inner_group_num", "num_hidden_groups", "num_hidden_layers")),
    "bart": Architecture(
        last_eos_token,
        settings=(
            "activation_function",
            "decoder_attention_heads",
            "decoder_start_token_id",
            "encoder_attention_heads",
            "eos_token_id",
            "scale_embedding",
        ),
        states="decoder_hidden_states",
        layers="decoder_layers",
        finds_eos=True,
        embeddings=("model.encoder.embed_tokens", "model.decoder.embed_tokens"),
    ),
    "bert": Architecture(first_token),
    "camembert": Architecture(first_token, counts_from_padding=True),
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "distilbert": Architecture(first_token),
    "electra": Architecture(first_token),
    "modernbert": Architecture(
        first_token,
        settings=(
            "classifier_activation",
            "classifier_pooling",
            "global_attn_every_n_layers",
            "global_rope_theta",
            "hidden_activation",
            "local_attention",
            "local_rope_theta",
            "norm_eps",
        ),
        final_norm="model.final_norm",
    ),
    "mpnet": Architecture(first_token, counts_from_padding=True),
    "opt": replace(_DECODER, last_width="word_embed_proj_dim"),
    "roberta": Architecture(first_token, counts_from_padding=True),
    "xlm-roberta": Architecture(first_token, counts_from_padding=True),
    "xlnet": Architecture(
        last_token,
        settings=("attn_type", "bi_data", "clamp_len", "ff_activation", "same_length", "summary_activation"),
        padding_side="left",
        time_first=True,
    ),
    WORD_CNN: Architecture(pooled),
    LSTM: Architecture(pooled),
    **dict.fromkeys(
        (
            "bloom",
            "falcon",
            "gemma",
            "gemma2",
            "gemma3_text",
            "gpt2",
            "gpt_neo",
            "gpt_neox",
            "gptj",
            "llama",
            "mistral",
            "phi",
            "phi3",
            "qwen2",
            "qwen3",
            "smollm3",
            "stablelm",
            "starcoder2",
        ),
        _DECODER,
    ),
}


def architecture_of(config: Any) -> Architecture:
    """What is known of the architecture of a Hugging Face configuration.

    Raises:
        VictimError: The architecture is not known here, or pools in a way that is not.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise VictimError(
            f"the architecture {kind!r} is not supported: where it keeps its class representation is not known here.",
            f"Supported: {', '.join(sorted(ARCHITECTURES))}.",
        )
    found = ARCHITECTURES[kind]
    if kind == "modernbert" and config.classifier_pooling == "mean":
        return replace(found, read=mean_token)
    # "cls_index" without an index is the last token too.
    if kind == "xlnet" and config.summary_type not in ("last", "cls_index"):
        raise VictimError(
            f"an XLNet that pools by {config.summary_type!r} is not supported.",
            'Use one whose summary_type is "last", as all published ones.',
        )
    return found


def has_class_token(model_type: str) -> bool:
    """Whether every layer has a class representation of its own; the word CNN and LSTM have only what they pooled."""
    return model_type not in WORD_ENCODERS.values()


def reads_first_token(config: Any) -> bool:
    """Whether an architecture is known to keep its class representation at the first token."""
    known = ARCHITECTURES.get(config.model_type)
    return known is not None and known.read is first_token and architecture_of(config).read is first_token


def layer_width(config: Any, layer: int) -> int:
    """The dimension of a layer's representation.

    Args:
        config: A Hugging Face configuration.
        layer: From 0.
    """
    # Only here: ELECTRA has an `embedding_size` too, and projects it before layer 0.
    if layer == 0 and not has_class_token(config.model_type):
        return int(config.embedding_size)
    architecture = architecture_of(config)
    last = layer == getattr(config, architecture.layers)
    return int(getattr(config, architecture.last_width if last else "hidden_size"))


def refuse_textattack_checkpoint(source: str) -> None:
    """Say of TextAttack's own word CNN and LSTM checkpoints why they are not loaded.

    Args:
        source: What was given as victim: a folder, or a name such as `cnn-imdb`.

    Raises:
        VictimError: It is one of them.
    """
    folder = Path(source)
    named = _TEXTATTACK_CHECKPOINT.fullmatch(source)
    encoder = {"cnn": "wordcnn", "lstm": "lstm"}[named[1]] if named and not folder.is_dir() else None
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        # A plain name: transformers writes a list.
        encoder = _TEXTATTACK_CLASSES.get(known, encoder) if isinstance(known, str) else encoder
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # no such folder or file: whoever loads it says what is wrong with it
    if encoder:
        raise VictimError(
            f"{source!r} is a checkpoint of TextAttack's, which is a pickle; pickles are never loaded.",
            f"Train the same architecture: harness victim train --encoder {encoder} --dataset DATASET --out DIR.",
        )
