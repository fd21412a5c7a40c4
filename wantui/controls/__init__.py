"""The registry of controls: everything that can change the denoising of a video. Imports no torch."""

from wantui.controls.base import ControlKind, ControlRequest
from wantui.controls.word_weights import WORD_WEIGHTS

CONTROLS: tuple[ControlKind, ...] = (WORD_WEIGHTS,)
"""Controls in the order of application."""

__all__ = ["CONTROLS", "ControlKind", "ControlRequest"]
