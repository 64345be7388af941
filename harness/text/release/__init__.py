"""Sets of adversarial texts that others can load: from attack runs to a folder that may be published, and back."""

from harness.text.release.staging import release_attacks, stage_attacks

__all__ = ["release_attacks", "stage_attacks"]
