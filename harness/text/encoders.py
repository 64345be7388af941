"""A text encoder read at every layer: what layer-wise evaluation needs of it, and nothing more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.compat import prepare_torchvision
from harness.core.devices import choose_device, torch_dtype
from harness.core.errors import ConfigurationError, DataError, MissingFileError, VictimError
from harness.core.flops import flops_at_exits
from harness.core.loading import looks_like_path, unloadable
from harness.text.architectures import reads_first_token
from harness.text.batches import padded_batches
from harness.text.claims import check_claims
from harness.text.victims import token_limit, weights_hash

Features = dict[tuple[int, str], NDArray[np.float32]]
# Operations depend on a text's length; they are counted on one of this many tokens.
FLOPS_TOKENS = 128


class TextEncoder:
    """A Hugging Face encoder of texts, without a task head.

    The representation of layer l is `hidden_states[l]` as the model gives it: "cls" at the first token, where the
    architecture is known to keep its class representation there, and "avg" over all tokens that are not padding. Of an
    encoder-decoder the encoder is read. Texts run under `torch.inference_mode` on length-sorted batches.

    Args:
        name: A hub id or a folder's name, never a path.
        model: A model of `AutoModel`.
        tokenizer: Its fast tokenizer.
        max_length: Tokens a text may have; by default what the model takes, at most 512.
        batch_size: Texts in one forward.
        dtype: "fp32", or "bf16" where the hardware has it.
        device: A torch device; by default CUDA where there is one.

    Raises:
        ConfigurationError: A slow tokenizer, no room for the length asked for, or no bf16.
    """

    unit = "text"

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        batch_size: int = 32,
        dtype: str = "fp32",
        device: str | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise ConfigurationError(
                f"the encoder {name!r} has only a slow tokenizer.", "Save a tokenizer.json beside the model."
            )
        limit = min(512, token_limit(model.config, tokenizer))
        if max_length is not None and not 3 <= max_length <= limit:
            raise ConfigurationError(f"--max-length {max_length} is outside what {name!r} takes (3 to {limit} tokens).")
        self.name = name
        self.arch = str(model.config.model_type)
        self.device = choose_device(device)
        self.max_length = max_length or limit
        self.batch_size = batch_size
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.hash = weights_hash(model, tokenizer)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self.model = model.to(device=self.device, dtype=torch_dtype(dtype, self.device)).eval()
        self.num_layers = int(model.config.num_hidden_layers)
        self.poolings: tuple[str, ...] = ("cls", "avg") if reads_first_token(model.config) else ("avg",)
        self.facts: Mapping[str, Any] = dict.fromkeys(("objective", "self_distill", "train_dataset", "seed"))
        self.settings: Mapping[str, Any] = {"max_length": self.max_length, "dtype": dtype}
        self.forward_seconds = 0.0

    @classmethod
    def load(cls, spec: str, **options: Any) -> TextEncoder:
        """Load an encoder from a folder or the Hugging Face Hub, from safetensors only.

        Args:
            spec: A folder (a victim's too: its head is left out), a hub id, or `embedded` (the encoder that the
                embedded victim is made from).
            **options: Passed to the constructor.

        Raises:
            MissingFileError: The folder is not there.
            ConfigurationError: It holds no encoder of texts, none in safetensors, or no tokenizer.
        """
        if spec == "embedded":
            from harness.text.embedded import encoder_folder

            return cls._from_pretrained(str(encoder_folder()), spec, **options)
        path = Path(spec).expanduser()
        if spec.strip() and path.is_dir():
            if not (path / "config.json").is_file():
                raise ConfigurationError(f"the folder {path} holds no encoder of texts: config.json is missing.")
            return cls._from_pretrained(str(path), path.resolve().name, **options)
        if not spec.strip() or looks_like_path(spec) or path.is_file():
            raise MissingFileError(f"there is no encoder folder {spec!r}.", "Give a folder or a hub id.")
        return cls._from_pretrained(spec, spec, **options)

    @classmethod
    def _from_pretrained(cls, source: str, name: str, **options: Any) -> TextEncoder:
        prepare_torchvision()
        import transformers
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        verbosity = transformers.logging.get_verbosity()
        # The head of a task, and a pooler that was never trained, are left out on purpose.
        transformers.logging.set_verbosity_error()
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            check_claims(name, config)
            if getattr(config, "vocab_size", None) is None or hasattr(config, "vision_config"):
                raise ConfigurationError(
                    f"the encoder {name!r} ({config.model_type}) reads no texts.", "Give images as --data."
                )
            model, loading = AutoModel.from_pretrained(
                source, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, use_fast=True)
            token_limit(config, tokenizer)  # both say it in numbers
        except (ConfigurationError, VictimError):
            raise
        except Exception as error:  # transformers, safetensors and tokenizers raise errors of their own
            raise ConfigurationError(
                *unloadable("encoder", "encoder of texts", source, error, "Check the spelling and the network.")
            ) from error
        finally:
            transformers.logging.set_verbosity(verbosity)
        lacking = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
        if lacking:
            raise DataError(
                f"the weights of {name!r} lack {len(lacking)} of the encoder's tensors ({', '.join(lacking[:3])})."
            )
        return cls(name, model, tokenizer, **options)

    def read(self, items: Sequence[Any], layers: Sequence[int]) -> Features:
        """Run the encoder once over n texts.

        Args:
            items: n texts; longer ones than `max_length` tokens are cut.
            layers: Layer numbers, from 1.

        Returns:
            (layer, pooling) -> (n, d) float32, in the order of `items`.

        Raises:
            DataError: The encoder says something that is not finite.
        """
        import torch

        width = int(self.model.config.hidden_size)
        found = {(n, p): np.zeros((len(items), width), np.float32) for n in layers for p in self.poolings}
        if not items:
            return found
        encodings = self.tokenizer(list(items), truncation=True, max_length=self.max_length)
        for rows, padded in padded_batches(self.tokenizer, encodings, self.batch_size):
            batch = padded.to(self.device)
            started = time.perf_counter()
            with torch.inference_mode():
                states = self.model(**batch, output_hidden_states=True).hidden_states
                mask = batch["attention_mask"].unsqueeze(-1)
                for n in layers:
                    hidden = states[n].float()
                    if "cls" in self.poolings:
                        found[n, "cls"][rows] = hidden[:, 0].cpu().numpy()
                    # Where, not a product: what stands at padding may be anything, even NaN.
                    total = hidden.masked_fill(mask == 0, 0.0).sum(dim=1)
                    found[n, "avg"][rows] = (total / mask.sum(dim=1)).cpu().numpy()
            self.forward_seconds += time.perf_counter() - started
        for (layer, _), values in found.items():
            if not np.isfinite(values).all():
                raise DataError(
                    f"layer {layer} of the encoder {self.name!r} says something that is not a finite number.",
                    "Its weights are damaged, or its training diverged.",
                )
        return found

    def read_pairs(self, items: Sequence[Any], layers: Sequence[int], seed: int) -> tuple[Features, Features] | None:
        """None: texts have no augmentation here that leaves their class as it is."""
        return None

    def flops(self, layer: int) -> int | None:
        """Operations of a text of `FLOPS_TOKENS` tokens up to `layer`; None where they cannot be counted."""
        return self._flops[layer - 1]

    @cached_property
    def _flops(self) -> list[int | None]:
        import torch

        blocks: list[Any] = []
        for _, module in self.model.named_modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == self.num_layers:
                blocks = list(module)
                break
        length = min(FLOPS_TOKENS, self.max_length)
        ids = torch.full((1, length), self.tokenizer.unk_token_id or 0, device=self.device)
        found = flops_at_exits(lambda: self.model(input_ids=ids, attention_mask=torch.ones_like(ids)), blocks)
        return found if len(found) == self.num_layers else [None] * self.num_layers
