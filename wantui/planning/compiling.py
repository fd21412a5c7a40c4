"""What this machine must have for a transformer's blocks to be compiled for its GPU."""

import importlib.util
import os
import shutil

COMPILERS = ("cc", "gcc", "clang")


def what_compiling_misses() -> str | None:
    """In words; None where all is there."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (torch's builds for CUDA bring it)"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), *COMPILERS)):
        return "there is no C compiler (triton needs gcc or clang)"
    return None
