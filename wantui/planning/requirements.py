"""Optional packages and tools that some settings need."""

import os
import shutil
from importlib.util import find_spec

from wantui.planning.model_source import WeightsForm

COMPILER_COMMANDS = ("cc", "gcc", "clang")


def explain_missing_compiler() -> str | None:
    """Return why wantui's GPU kernels cannot be built, or None."""
    if find_spec("triton") is None:
        return "triton is not installed (torch's CUDA builds include it)"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), *COMPILER_COMMANDS)):
        return "no C compiler is installed (triton needs gcc or clang)"
    return None


def explain_missing_package(weights: WeightsForm) -> str | None:
    """Return a message about a package that these weights need and this machine lacks, or None."""
    if weights == "int8" and find_spec("torchao") is None:
        return "model_settings.weights: int8 needs torchao: pip install torchao. float8 needs no extra package"
    if weights == "gguf" and find_spec("gguf") is None:
        return "model_settings.transformer_file needs gguf: pip install gguf"
    return None
