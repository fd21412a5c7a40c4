"""The registry of controls: everything that can change the denoising of a video. Imports no torch."""

from wantui.controls.attention_bending import ATTENTION_BENDING
from wantui.controls.base import ControlKind, ControlRequest, MarkPosition
from wantui.controls.guidance import GUIDANCE
from wantui.controls.guidance_schedule import GUIDANCE_SCHEDULE
from wantui.controls.lora import LORA
from wantui.controls.prompt_schedule import PROMPT_SCHEDULE
from wantui.controls.word_weights import WORD_WEIGHTS

CONTROLS: tuple[ControlKind, ...] = (
    LORA,
    PROMPT_SCHEDULE,
    WORD_WEIGHTS,
    GUIDANCE_SCHEDULE,
    GUIDANCE,
    ATTENTION_BENDING,
)
"""Controls in the order of application."""

__all__ = ["CONTROLS", "ControlKind", "ControlRequest", "MarkPosition"]
