"""Finished videos with a stored trajectory: their states, and the time of passes through their model."""

from collections.abc import Iterable

from wantui.analysis.denoising_states import DenoisingStates
from wantui.errors import UserError
from wantui.planning.guidance_plan import compute_typical_passes
from wantui.storage.video_selection import SelectedVideo


def open_finished_states(video: SelectedVideo) -> DenoisingStates:
    """Open the stored states of a finished video; error messages do not name the video.

    Raises:
        UserError: the video is not finished, or has no trajectory.
        CaptureError: the trajectory is damaged.
    """
    if video.entry.state != "done":
        raise UserError(f"it is {video.entry.state}")
    path = video.find_file("latents")
    if path is None:
        raise UserError("no trajectory was stored. Set latent_analysis_settings.store_latents (--store-latents)")
    return DenoisingStates(path, video.entry.recipe, "it")


def predict_pass_seconds(passes: Iterable[tuple[SelectedVideo, int]]) -> float | None:
    """Return the predicted seconds of passes through the model, from the steps of the videos.

    Args:
        passes: each video, and its number of passes.

    Returns:
        None if a video was not timed.
    """
    total = 0.0
    for video, count in passes:
        step_seconds = video.entry.seconds.get("step")
        if step_seconds is None:
            return None
        total += count * step_seconds / compute_typical_passes(video.entry.recipe, video.entry.gpus or 1)
    return total
