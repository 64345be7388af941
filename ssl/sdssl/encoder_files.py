"""What a training run leaves of its encoder, by file name."""

from __future__ import annotations

ENCODER_WEIGHTS = "encoder.safetensors"  # a plain timm state dict
ENCODER_FACTS = "encoder.json"  # how to make the model, what it takes, how it was trained
LAYER_NORMS = "layer_norms.safetensors"  # only where layers have norms of their own
