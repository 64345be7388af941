"""Monte-Carlo dropout: a victim read several times with its dropout on, and the same each time it is asked again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from harness.text.victims import Victim

# Where modules of PyTorch and transformers keep the rate of a dropout that is no module of its own.
_RATES = ("dropout", "dropout_prob", "attention_dropout", "attn_dropout", "activation_dropout")


def dropout_places(model: Any) -> list[tuple[Any, str]]:
    """Every module of a model that drops values in training, with the name of its attribute that is the rate.

    Args:
        model: A PyTorch model; what it drops at a rate of 0 it does not drop.
    """
    import torch

    found = []
    for module in model.modules():
        names = ("p",) if isinstance(module, torch.nn.modules.dropout._DropoutNd) else _RATES
        rates = [(name, getattr(module, name, None)) for name in names]
        found += [(module, name) for name, rate in rates if isinstance(rate, float) and rate > 0]
    return found


@contextmanager
def dropout_on(victim: Victim, rate: float) -> Iterator[None]:
    """Switch a victim's dropout on, at another rate than it was trained with; off again afterwards.

    Args:
        victim: What it does not drop in training stays whole.
        rate: The share of values dropped at each of `dropout_places`.
    """
    import torch

    modules = list(victim.model.modules())
    before = [module.training for module in modules]
    places = [(module, name, getattr(module, name)) for module, name in dropout_places(victim.model)]
    try:
        for module in modules:
            # Normalisation over the batch would make texts depend on each other.
            module.training = not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for module, name, _ in places:
            setattr(module, name, rate)
        yield
    finally:
        for module, name, trained in places:
            setattr(module, name, trained)
        for module, was in zip(modules, before, strict=True):
            module.training = was


def dropout_probabilities(
    victim: Victim, texts: Sequence[str], passes: int, rate: float, seed: int
) -> NDArray[np.float64]:
    """Class probabilities of a few texts, `passes` times with dropout on (Gal and Ghahramani, ICML 2016).

    What is dropped depends on the batch's shape, so all texts are one batch whatever the victim's `batch_size`: hand in
    texts that belong together and nothing else.

    Args:
        victim: Asked `passes` times for each text.
        texts: n > 0 texts.
        passes: How often.
        rate: Share of values that are dropped.
        seed: Of what is dropped, from 0 to 2^63 - 1; PyTorch's own generators are left as they were.

    Returns:
        (passes, n, classes) float64.
    """
    import torch

    encodings = victim.encode(texts)
    batch = victim.tokenizer.pad(encodings, return_tensors="pt").to(victim.device)
    devices = [victim.device] if victim.device.type == "cuda" else []
    said = []
    with torch.inference_mode(), dropout_on(victim, rate), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for _ in range(passes):
            said.append(torch.softmax(victim.model(**batch).logits.double(), dim=-1).cpu().numpy())
    victim.forwards += passes * len(texts)
    return np.stack(said)
