"""A masked language model: logits at chosen positions of token sequences, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.devices import choose_device, torch_dtype
from harness.core.errors import ConfigurationError
from harness.text.batches import padded_batches
from harness.text.pretrained import load_pretrained
from harness.text.victims import token_limit, weights_hash

if TYPE_CHECKING:
    import torch

_HINT = "Get one: harness fetch minilm-masked-lm."
# The adapter that comes with this package.
_OWN = Path(__file__).parent / "resources" / "masked_lm" / "adapter"


def _distilbert_head(model: Any, hidden: torch.Tensor) -> Any:
    """DistilBERT keeps the parts of its head in the model itself."""
    return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


# From (n, d) hidden states to (n, vocabulary) logits. An architecture that is not here runs whole.
_HEADS: Mapping[str, Callable[[Any, torch.Tensor], Any]] = {
    "bert": lambda model, hidden: model.cls(hidden),
    "roberta": lambda model, hidden: model.lm_head(hidden),
    "distilbert": _distilbert_head,
}


class MaskedLanguageModel:
    """A masked language model with its tokenizer.

    It runs under `torch.inference_mode`, on length-sorted batches that are padded to their own longest sequence.
    Where the architecture allows, the head, which is as wide as the vocabulary, is computed at the wanted
    positions only.

    Args:
        name: How messages call it.
        model: A model of `AutoModelForMaskedLM`.
        tokenizer: Its fast tokenizer.
        batch_size: Sequences in one forward.
        dtype: "fp32", or "bf16" where the hardware has it.
        device: A torch device; by default CUDA where there is one.

    Raises:
        ConfigurationError: A slow tokenizer or one without a mask token, no such device, or no bf16.
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
        if not tokenizer.is_fast or tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
            raise ConfigurationError(
                f"the masked LM {name!r} has no fast tokenizer with a mask and a padding token.",
                "Save a tokenizer.json beside the model.",
            )
        self.name = name
        self.device = choose_device(device)
        self.batch_size = batch_size
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        # Sequences come encoded; here they are only padded.
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        self.max_length = token_limit(model.config, tokenizer)
        self.hash = weights_hash(model, tokenizer)
        self.model = model.to(device=self.device, dtype=torch_dtype(dtype, self.device)).eval()
        # Sequences asked so far.
        self.forwards = 0

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None, **options: Any) -> MaskedLanguageModel:
        """Load a masked LM from a folder, or from the Hugging Face Hub; from safetensors only.

        Args:
            folder: A folder that `save_pretrained` wrote, with the tokenizer; as a string also a hub id.
            device: A torch device; by default CUDA where there is one.
            **options: Passed to the constructor.

        Raises:
            MissingFileError: There is no such folder.
            ConfigurationError: It holds no masked LM, none in safetensors, one without a trained head, or no
                tokenizer.
        """
        loaded = load_pretrained("masked LM", "masked-LM head", "AutoModelForMaskedLM", folder, _HINT)
        return cls(*loaded, device=device, **options)

    @property
    def config(self) -> Any:
        """The model's configuration of transformers."""
        return self.model.config

    def logits(
        self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int] | None]
    ) -> list[torch.Tensor]:
        """The logits of n sequences at the positions that are wanted of each.

        Args:
            sequences: n sequences of token ids, special tokens included, unpadded.
            positions: For each the k positions wanted, from 0; None for all of them.

        Returns:
            n (k, vocabulary) float32 tensors on the model's device, in the order of `sequences`.

        Raises:
            ValueError: A sequence is empty or longer than `max_length`, or a position lies outside it.
        """
        import torch

        wanted = _wanted(sequences, positions, self.max_length)
        found: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
        encodings = {
            "input_ids": [list(ids) for ids in sequences],
            "attention_mask": [[1] * len(ids) for ids in sequences],
        }
        for rows, padded in padded_batches(self.tokenizer, encodings, self.batch_size):
            counts = [len(wanted[row]) for row in rows]
            lines = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts))
            columns = torch.tensor([column for row in rows for column in wanted[row]], dtype=torch.long)
            with torch.inference_mode():
                logits = self._at(padded.to(self.device), lines.to(self.device), columns.to(self.device))
                # Copies, so that no sequence keeps the batch alive.
                for row, part in zip(rows, torch.split(logits.float(), counts), strict=True):
                    found[row] = part.clone()
        self.forwards += len(sequences)
        return found

    def _at(self, batch: Any, lines: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(k, vocabulary) logits of a padded batch at k places."""
        head = _HEADS.get(self.config.model_type)
        if head is None:
            return self.model(**batch).logits[lines, columns]  # type: ignore[no-any-return]
        hidden = self.model.base_model(**batch)[0]
        return head(self.model, hidden[lines, columns])  # type: ignore[no-any-return]


def _wanted(
    sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int] | None], limit: int
) -> list[Sequence[int]]:
    """The positions wanted of each sequence, checked."""
    wanted: list[Sequence[int]] = []
    for number, (ids, places) in enumerate(zip(sequences, positions, strict=True)):
        if not 1 <= len(ids) <= limit:
            raise ValueError(f"sequence {number} has {len(ids)} tokens; the model takes 1 to {limit}")
        chosen: Sequence[int] = range(len(ids)) if places is None else places
        if any(not 0 <= place < len(ids) for place in chosen):
            raise ValueError(f"a position of sequence {number} lies outside its {len(ids)} tokens")
        wanted.append(chosen)
    return wanted


def make(target: Path, sources: Mapping[str, Path], *, dataset: str | None, limit: int | None, seed: int) -> None:
    """Make a masked LM of the encoder in `sources["minilm"]`: with this package's adapter, or trained on a dataset.

    Args:
        target: The folder to write; `MaskedLanguageModel.load` opens it.
        sources: "minilm": a folder with an encoder of the BERT architecture.
        dataset: A name or a path that `harness.text.datasets.load_dataset` takes; its train split is read. None for
            the adapter of this package, which makes the same weights everywhere.
        limit: Texts to use; None for all.
        seed: What draws texts, masks and new weights.

    Raises:
        ConfigurationError: The encoder is not of the BERT architecture, or texts are limited without a dataset.
        VictimError: This package's adapter does not fit the encoder.
        DataError: Too few texts to train on and to hold out.
    """
    from harness.text.masked_lm_training import adapted, save_masked_lm, train_masked_lm

    if dataset is None:
        if limit is not None or seed:
            raise ConfigurationError(
                "--limit and --seed are for a masked LM that is trained, and no dataset is named.",
                "Add --dataset NAME_OR_PATH.",
            )
        save_masked_lm(*adapted(sources["minilm"], _OWN), target)
        return
    train_masked_lm(target, sources["minilm"], dataset=dataset, limit=limit, seed=seed)
