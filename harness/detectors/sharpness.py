"""Sharpness: how far the loss of the predicted label rises around a text's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from harness.core.errors import ConfigurationError
from harness.detectors.base import DetectorInfo, Floats, Labels, QueryDetector, texts_of
from harness.detectors.states import Layout
from harness.text.batches import padded_batches
from harness.text.gradients import require_gradients, shifted_embeddings
from harness.text.victims import Victim, VictimOutputs


class Sharpness(QueryDetector):
    """The rise of the predicted label's loss at the worst point found near a text's input embeddings.

    From Zheng, Dou, Zhou et al., *Detecting Adversarial Samples through Sharpness of Loss Landscape*, Findings of ACL
    2023: adversarial texts lie in narrow minima. With E the (tokens, d) input embeddings of x, y the label predicted of
    x and L the cross-entropy,

        score(x) = max over visited D of L(E + D, y) - L(E, y)

    D starts at 0 and takes `steps` steps of length 2 * radius / steps along the gradient divided by its Frobenius norm
    over the whole text, each time projected back to ||D|| <= radius; padding is not moved. The default radius is the
    paper's code's. That code starts at a random D instead, so that scores depend on a running generator; it adapts step
    lengths by a first-order condition that its own default of 4 warm-up steps leaves without effect; and it ends up
    scoring by the loss at the last D alone, which is `rise=False` here but for the last instead of the worst point.

    Args:
        radius: Frobenius norm that a perturbation may have.
        steps: Steps of gradient ascent.
        rise: Whether the loss at the text itself is subtracted.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="sharpness",
        title="Sharpness",
        paper="Zheng et al., Findings of ACL 2023",
        year=2023,
        reads="gradients",
        forwards_per_text=6,
        cost="6, and 4 backwards",
    )
    layout: ClassVar[Layout | None] = {}

    def __init__(self, radius: float = 0.2, steps: int = 4, rise: bool = True) -> None:
        super().__init__()
        if not 0 < radius < np.inf or steps < 1:
            raise ConfigurationError("sharpness needs a radius above 0, and 1 step or more.")
        self.radius = radius
        self.steps = steps
        self.rise = rise

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask.

        Raises:
            ConfigurationError: It gives no gradients.
        """
        require_gradients(victim, self.info.name)
        return super().attach(victim)

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from 0 up."""
        losses = ascended_losses(self.victim, texts_of(outputs), outputs.predictions, self.radius, self.steps)
        scores: Floats = losses.max(axis=1) - (losses[:, 0] if self.rise else 0.0)
        return scores

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {"radius": self.radius, "steps": self.steps, "rise": self.rise}


def ascended_losses(victim: Victim, texts: Sequence[str], labels: Labels, radius: float, steps: int) -> Floats:
    """The loss along a projected gradient ascent at the input embeddings, without dropout.

    Texts share batches; their losses are summed and their norms taken apart, so that no text's ascent depends on
    another's.

    Args:
        victim: Asked forward `steps` + 1 times a text and backward `steps` times.
        texts: n texts; longer ones are cut to the victim's `max_length`.
        labels: (n,) classes whose cross-entropy is the loss.
        radius: Frobenius norm that a perturbation may have.
        steps: Steps of length 2 * radius / steps.

    Returns:
        (n, steps + 1) float64, the loss at the text itself and after each step.
    """
    import torch

    losses = np.zeros((len(texts), steps + 1))
    if not texts:
        return losses
    encodings = victim.encode(texts)
    # cuDNN's recurrent layers have no backward in evaluation mode.
    with shifted_embeddings(victim) as shift, torch.backends.cudnn.flags(enabled=False):
        for rows, padded in padded_batches(victim.tokenizer, encodings, victim.batch_size):
            shift.delta = None
            batch = padded.to(victim.device)
            target = torch.as_tensor(labels[rows], device=victim.device)
            for step in range(steps + 1):
                with torch.set_grad_enabled(step < steps):
                    # In float64, for a sure victim's loss is far below 1.
                    logits = victim.model(**batch).logits.double()
                    loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")
                losses[rows, step] = loss.detach().cpu().numpy()
                if step < steps:
                    (gradient,) = torch.autograd.grad(loss.sum(), shift.delta)
                    gradient = gradient * batch["attention_mask"].unsqueeze(-1)
                    shift.delta = _ascend(shift.delta.detach(), gradient, radius, 2 * radius / steps)
    victim.forwards += (steps + 1) * len(texts)
    victim.backwards += steps * len(texts)
    return losses


def _ascend(delta: Any, gradient: Any, radius: float, length: float) -> Any:
    """One step of `length` along each text's normalised gradient, then back into the ball; all (batch, tokens, d)."""
    import torch

    # Squares of a sure victim's gradients underflow in float32.
    norms = torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True, dtype=torch.float64)
    direction = torch.where(norms > 0, gradient / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    moved = delta + length * direction
    norms = torch.linalg.vector_norm(moved, dim=(1, 2), keepdim=True)
    return (moved * (radius / norms.clamp_min(radius))).float()
