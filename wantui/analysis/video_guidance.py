"""Whether videos were generated with guidance."""

from wantui.analysis.setting_values import to_number
from wantui.analysis.video import Video
from wantui.controls import CONTROLS
from wantui.controls.base import return_guidance_unchanged

GUIDANCE_PATH = "model_settings.cfg_scale"
"""Config path of the guidance scale."""
GUIDANCE_CONTROLS = tuple(kind.name for kind in CONTROLS if kind.change_guidance is not return_guidance_unchanged)
"""Names of the controls that change the guidance of evaluations."""


def is_unguided(video: Video) -> bool:
    """Return whether a video was generated at cfg_scale 1, without the pass for the negative prompt."""
    scale = to_number(video.setting_values.get(GUIDANCE_PATH))
    return scale is not None and scale <= 1 and all(video.settings.get(name) is None for name in GUIDANCE_CONTROLS)
