"""A replaced-token discriminator: how likely each token of a text stands in another's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.devices import choose_device, torch_dtype
from harness.core.errors import ConfigurationError
from harness.text.batches import padded_batches
from harness.text.pretrained import load_pretrained
from harness.text.victims import token_limit, weights_hash

_HINT = "Give a folder or a hub id of ELECTRA's discriminator (ElectraForPreTraining), in safetensors."


@dataclass(frozen=True)
class TokenReplacement:
    """How likely the tokens of one text are replaced ones.

    Attributes:
        probabilities: (t,) float64; of special tokens as well.
        offsets: t pairs: the first character of each token and the one after its last; equal for special tokens.
    """

    probabilities: NDArray[np.float64]
    offsets: list[tuple[int, int]]


class ReplacedTokenDiscriminator:
    """ELECTRA's discriminator with its tokenizer (Clark et al., ICLR 2020).

    It was trained to tell the tokens of a text that a small generator put in another's place. It runs under
    `torch.inference_mode`, on length-sorted batches that are padded to their own longest text.

    Args:
        name: How messages and rows call it, never a path.
        model: An `ElectraForPreTraining`.
        tokenizer: Its fast tokenizer.
        batch_size: Texts in one forward.
        dtype: "fp32", or "bf16" where the hardware has it.
        device: A torch device; by default CUDA where there is one.

    Raises:
        ConfigurationError: A slow tokenizer, no such device, or no bf16.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int = 32,
        dtype: str = "fp32",
        device: str | None = None,
    ) -> None:
        if not tokenizer.is_fast or tokenizer.pad_token_id is None:
            raise ConfigurationError(
                f"the discriminator {name!r} has no fast tokenizer with a padding token.",
                "Save a tokenizer.json beside the model.",
            )
        self.name = name
        self.device = choose_device(device)
        self.batch_size = batch_size
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        # Encoding and padding are apart here on purpose: lengths decide the batches.
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        self.max_length = token_limit(model.config, tokenizer)
        self.hash = weights_hash(model, tokenizer)
        self.model = model.to(device=self.device, dtype=torch_dtype(dtype, self.device)).eval()
        # Texts asked so far.
        self.forwards = 0

    @classmethod
    def load(cls, spec: str | Path, device: str | None = None, **options: Any) -> ReplacedTokenDiscriminator:
        """Load a discriminator from a folder, or from the Hugging Face Hub; from safetensors only.

        Args:
            spec: A folder that `save_pretrained` wrote, with the tokenizer; as a string also a hub id.
            device: A torch device; by default CUDA where there is one.
            **options: Passed to the constructor.

        Raises:
            MissingFileError: There is no such folder.
            ConfigurationError: It holds no discriminator, none in safetensors, one without a trained head, or no
                tokenizer.
        """
        loaded = load_pretrained(
            "discriminator", "replaced-token head of ELECTRA", "ElectraForPreTraining", spec, _HINT
        )
        return cls(*loaded, device=device, **options)

    def replaced(self, texts: Sequence[str]) -> list[TokenReplacement]:
        """How likely each token of n texts is a replaced one.

        Args:
            texts: n texts; longer ones are cut to `max_length`.
        """
        import torch

        if not texts:
            return []
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        found: list[NDArray[np.float64]] = [np.zeros(0)] * len(texts)
        with torch.inference_mode():
            for rows, padded in padded_batches(self.tokenizer, encoded, self.batch_size):
                told = torch.sigmoid(self.model(**padded.to(self.device)).logits.double()).cpu().numpy()
                for row, line in zip(rows, told, strict=True):
                    found[row] = line[: len(offsets[row])].copy()
        self.forwards += len(texts)
        return [
            TokenReplacement(told, [(int(a), int(b)) for a, b in places])
            for told, places in zip(found, offsets, strict=True)
        ]
