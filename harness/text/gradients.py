"""Gradients of a victim's loss at its input embeddings, for white-box attacks and detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError
from harness.text.batches import padded_batches

if TYPE_CHECKING:
    from harness.text.victims import Victim


@dataclass(frozen=True)
class TokenGradients:
    """The gradient at one text's tokens.

    Attributes:
        ids: (t,) int64 token ids as the victim reads them, special tokens included.
        gradient: (t, d) float32, of the cross-entropy of the predicted label at each token's input embedding, as it
            stands in the table of word vectors.
    """

    ids: NDArray[np.int64]
    gradient: NDArray[np.float32]


def require_gradients(victim: Victim, detector: str) -> None:
    """Refuse a victim whose gradients at its tokens cannot be read.

    Args:
        victim: A classifier.
        detector: Who asks; named in the error.

    Raises:
        ConfigurationError: It has no input embeddings.
    """
    try:
        embeddings = victim.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embeddings = None
    if embeddings is None:
        raise ConfigurationError(
            f"the detector {detector!r} reads gradients at tokens, and the victim {victim.name!r} "
            f"({victim.model.config.model_type}) gives none.",
            "Use a detector that reads probabilities, features or perturbed texts.",
        )


class EmbeddingShift:
    """A perturbation of a batch's input embeddings, added wherever the victim embeds the texts' tokens.

    It is one of the rows looked up in the table of word vectors, before a model scales them. An encoder-decoder embeds
    every token but the last one twice, in the encoder and, one position later, in the decoder: both are moved, so that
    the gradient is the sum of both.
    """

    def __init__(self) -> None:
        self._delta: Any = None

    @property
    def delta(self) -> Any:
        """(batch, tokens, d) float32, a leaf of the graph; None before the forward, which then makes one of zeros."""
        return self._delta

    @delta.setter
    def delta(self, value: Any) -> None:
        self._delta = None if value is None else value.detach().requires_grad_()

    def encoder_hook(self, time_first: bool) -> Callable[[Any, Any, Any], Any]:
        """A forward hook for the module that embeds all tokens; `time_first` where it gives (tokens, batch, d)."""

        def move(module: Any, given: Any, embedded: Any) -> Any:
            import torch

            rows = embedded.transpose(0, 1) if time_first else embedded
            if self.delta is None:
                self.delta = torch.zeros_like(rows, dtype=torch.float32)
            delta = self.delta.transpose(0, 1) if time_first else self.delta
            return embedded.detach() + _scaled(module, delta).to(embedded.dtype)

        return move

    def decoder_hook(self, module: Any, given: Any, embedded: Any) -> Any:
        """A forward hook for the module that embeds the tokens shifted by one, after a start token that stays."""
        import torch

        shifted = torch.nn.functional.pad(self.delta[:, :-1], (0, 0, 1, 0))
        return embedded.detach() + _scaled(module, shifted).to(embedded.dtype)


def _scaled(module: Any, delta: Any) -> Any:
    """A perturbation of a table's rows as one of what an embedding module makes of them; BART's may be scaled."""
    scale = getattr(module, "embed_scale", None)
    return delta if scale is None else delta * scale


@contextmanager
def shifted_embeddings(victim: Victim) -> Iterator[EmbeddingShift]:
    """Within it, the victim's forwards read its input embeddings moved by `EmbeddingShift.delta`."""
    shift = EmbeddingShift()
    architecture, model = victim.architecture, victim.model
    if architecture.embeddings:
        encoder, decoder = (model.get_submodule(name) for name in architecture.embeddings)
        hooks = [
            encoder.register_forward_hook(shift.encoder_hook(False)),
            decoder.register_forward_hook(shift.decoder_hook),
        ]
    else:
        hooks = [model.get_input_embeddings().register_forward_hook(shift.encoder_hook(architecture.time_first))]
    try:
        yield shift
    finally:
        for hook in hooks:
            hook.remove()


def token_gradients(victim: Victim, texts: Sequence[str]) -> list[TokenGradients]:
    """The gradient of -log p(predicted label) at every input embedding, without dropout, text by text.

    Texts share batches; their losses are summed, so that no text's gradient depends on its neighbours.

    Args:
        victim: A classifier with input embeddings.
        texts: n texts; longer ones are cut to the victim's `max_length`.
    """
    import torch

    if not texts:
        return []
    encodings = victim.encode(texts)
    found: dict[int, TokenGradients] = {}
    # cuDNN's recurrent layers have no backward in evaluation mode.
    with shifted_embeddings(victim) as shift, torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for rows, padded in padded_batches(victim.tokenizer, encodings, victim.batch_size):
            shift.delta = None
            batch = padded.to(victim.device)
            logits = victim.model(**batch).logits.float()
            loss = torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum")
            (gradients,) = torch.autograd.grad(loss, shift.delta)
            real = batch["attention_mask"].bool()
            for row, gradient, mask in zip(rows, gradients, real, strict=True):
                ids = np.asarray(encodings["input_ids"][row], dtype=np.int64)
                found[int(row)] = TokenGradients(ids, gradient[mask].float().cpu().numpy())
    victim.forwards += len(texts)
    victim.backwards += len(texts)
    return [found[index] for index in range(len(texts))]
