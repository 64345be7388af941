"""CPU torch beside the packaged torchvision, made to work.

The torchvision wheel on PyPI is built against CUDA. Beside a CPU-only torch its compiled extension does not
load, and because torchvision then registers fake kernels for operators nobody defined, `import torchvision`
fails with "operator torchvision::nms does not exist", and with it timm and most of transformers. Declaring the
two operator schemas first lets the import succeed; the operators themselves (box suppression) stay unusable,
which nothing here needs.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@lru_cache(maxsize=1)
def prepare_torchvision() -> Any:
    """Declare torchvision's operator schemas where its compiled extension cannot be loaded.

    Call it before the first import of torchvision, timm, transformers or textattack; calling it again is free.

    Returns:
        The `torch.library.Library` that holds the declarations (it must stay alive), or None where torchvision
        is absent or loads as it is.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    import torch

    extensions = sorted(Path(spec.origin).parent.glob("_C*.so")) + sorted(Path(spec.origin).parent.glob("_C*.pyd"))
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
        if extensions:
            return None
    except OSError:
        pass  # built for another torch: exactly the case this module is for
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def load_timm() -> Any:
    """Import and return `timm`.

    Raises:
        HarnessError: It is not installed.
    """
    prepare_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name not in ("timm", "torchvision"):
            raise
        raise HarnessError(
            f"the package {error.name} is not installed.", 'Run: pip install "palimpsest[ssl]"'
        ) from error
    return timm
