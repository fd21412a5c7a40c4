"""Packages and tools that a request needs on this machine besides wantui."""

import os
import shutil
from importlib.util import find_spec

from wantui.planning.model_source import Weights

COMPILERS = ("cc", "gcc", "clang")


def explain_missing_compiler() -> str | None:
    """Return what is missing to build wantui's own kernels for a GPU, in words; None if nothing is."""
    if find_spec("triton") is None:
        return "triton is not installed (torch's builds for CUDA bring it)"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), *COMPILERS)):
        return "there is no C compiler (triton needs gcc or clang)"
    return None


def explain_missing_package(weights: Weights) -> str | None:
    """Return what is missing to store weights as requested, in words; None if nothing is."""
    if weights == "int8" and find_spec("torchao") is None:
        return "model_settings.weights: int8 needs torchao (pip install torchao); float8 needs nothing"
    if weights == "gguf" and find_spec("gguf") is None:
        return "model_settings.transformer_file needs gguf: pip install gguf"
    return None
