"""Sizes that a model's configuration claims: refused where no model has them, before memory is taken for them."""

from __future__ import annotations

from typing import Any

from harness.core.errors import VictimError

_MOST_LAYERS = 1_000
_LARGEST = 2**31
# Numbers in the largest table of tokens that any model has, a few times over.
_LARGEST_TABLE = 2**33


def check_claims(name: str, config: Any) -> None:
    """Refuse a configuration of transformers that claims what no model is.

    Args:
        name: The model, named in the error.
        config: Its configuration; somebody else may have written it.

    Raises:
        VictimError: A size is absurd; it is named.
    """
    sizes = {key: value for key, value in config.to_dict().items() if isinstance(value, int)}
    for key, value in sizes.items():
        counts_layers = "layer" in key and ("num" in key or key.startswith("n_") or key.endswith("_layers"))
        if abs(value) > (_MOST_LAYERS if counts_layers else _LARGEST):
            raise VictimError(f"the configuration of {name!r} claims {key} = {value}, which no model has.")
    width = max((sizes.get(key, 1) for key in ("hidden_size", "d_model", "dim", "n_embd")), default=1)
    for key in ("vocab_size", "max_position_embeddings"):
        if width * sizes.get(key, 1) > _LARGEST_TABLE:
            raise VictimError(f"the configuration of {name!r} claims {key} = {sizes[key]}, which no model has.")
