"""The registry of controls: everything that can change the denoising of a video. No torch here."""

from wantui.controls.base import ControlKind, ControlRequest
from wantui.controls.word_weights import WORD_WEIGHTS

CONTROLS: tuple[ControlKind, ...] = (WORD_WEIGHTS,)
"""Controls in the order in which they are applied."""

__all__ = ["CONTROLS", "ControlKind", "ControlRequest"]
