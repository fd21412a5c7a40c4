"""Whether videos were generated with guidance."""

from collections.abc import Sequence

from wantui.analysis.setting_values import make_value_key, to_number
from wantui.analysis.video import Video
from wantui.controls import CONTROLS
from wantui.controls.base import return_guidance_unchanged
from wantui.keyframes import KeyframeError
from wantui.planning.guidance_plan import plan_guidance

GUIDANCE_PATH = "model_settings.cfg_scale"
"""Config path of the guidance scale."""
GUIDANCE_CONTROLS = tuple(kind.name for kind in CONTROLS if kind.change_guidance is not return_guidance_unchanged)
"""Names of the controls that change the guidance of evaluations."""


def is_unguided(video: Video) -> bool:
    """Return whether a video was generated without the pass for the negative prompt.

    This pass does not run at cfg_scale 1, or with a guidance schedule of 1 at every step.
    """
    if all(video.settings.get(name) is None for name in GUIDANCE_CONTROLS):
        scale = to_number(video.setting_values.get(GUIDANCE_PATH))
        return scale is not None and scale <= 1
    if video.recipe is None:
        return False
    try:
        return all(evaluation.source == "conditional" for evaluation in plan_guidance(video.recipe))
    except KeyframeError:  # the recipe was edited by hand
        return False


def describe_pooled_guidance(videos: Sequence[Video]) -> str:
    """Return that values are averaged over several guidance scales; empty if all videos have the same guidance."""
    if len({make_value_key([video.settings.get(name) for name in GUIDANCE_CONTROLS]) for video in videos}) > 1:
        return "the values are averaged over several guidance settings"
    scales = {to_number(video.setting_values.get(GUIDANCE_PATH)) for video in videos} - {None}
    if len(scales) < 2:
        return ""
    texts = [f"{scale:g}" for scale in sorted(filter(None, scales))]
    return (
        f"the values are averaged over cfg_scale {', '.join(texts)}; choose one scale, as with `wantui analyze "
        f"--where cfg_scale={texts[-1]}`"
    )
