"""What this machine must have beside wantui for what is asked of it."""

import os
import shutil
from importlib.util import find_spec

from wantui.planning.model_source import Weights

COMPILERS = ("cc", "gcc", "clang")


def what_kernels_miss() -> str | None:
    """For wantui's own kernels to be built for a GPU, in words; None where all is there."""
    if find_spec("triton") is None:
        return "triton is not installed (torch's builds for CUDA bring it)"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), *COMPILERS)):
        return "there is no C compiler (triton needs gcc or clang)"
    return None


def what_weights_miss(weights: Weights) -> str | None:
    """For weights to be held as asked, in words; None where all is there."""
    if weights == "int8" and find_spec("torchao") is None:
        return "model_settings.weights: int8 needs torchao (pip install torchao); float8 needs nothing"
    if weights == "gguf" and find_spec("gguf") is None:
        return "model_settings.transformer_file needs gguf: pip install gguf"
    return None
