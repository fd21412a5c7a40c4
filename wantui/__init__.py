"""wantui: a terminal application for Wan text-to-video generation and the study of its latent trajectories."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wantui.notebook import open_batch as open_batch

__all__ = ["__version__", "open_batch"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import `open_batch` when it is first used, so that commands do not load numpy."""
    if name == "open_batch":
        return importlib.import_module("wantui.notebook").open_batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
