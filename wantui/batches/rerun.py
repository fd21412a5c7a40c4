"""Re-render the video of a clip from the recipe in it, and report whether it is the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wantui.generation.denoise import Step
from wantui.generation.load import resolve_device
from wantui.generation.make_video import Decoded, FinishedVideo, StepFinished, make_video
from wantui.generation.provenance import describe_clip_provenance
from wantui.models.catalogue import find_model
from wantui.models.fetch import ensure_model_folder, find_replaced_parts
from wantui.models.fingerprint import fingerprint, fingerprint_file
from wantui.planning import Captures, Recipe
from wantui.planning.memory_plan import PLANS, MemoryPlan
from wantui.storage.mp4 import read_frames
from wantui.storage.video_files import VideoFiles
from wantui.worker.pipelines import choose_plan_for, load_pipeline_for


@dataclass(frozen=True)
class RerunResult:
    """Comparison of a re-rendered clip with the original."""

    latents_equal: bool | None
    """True if the latents are equal; None if the clip does not record its latents' digest."""
    frames_equal: bool
    largest_pixel_difference: int
    """Largest difference of a channel, out of 255, over all frames."""
    changed: dict[str, tuple[Any, Any]]
    """Provenance then and now, where the two differ."""
    is_known: bool = True
    """True if the clip records its software and device; without them, `changed` is incomplete."""

    @property
    def is_identical(self) -> bool:
        return self.frames_equal and self.latents_equal is not False


@dataclass(frozen=True)
class ModelLoadStarted:
    """The model is being loaded, which can take minutes."""

    model: str
    device: str


def rerender_clip(
    clip: Path, recipe: Recipe, original_provenance: dict[str, Any], target: Path, device: str, may_fetch: bool
) -> Iterator[ModelLoadStarted | Step | Decoded | RerunResult]:
    """Render a recipe's video as `target`; yield the progress, and finally the comparison with `clip`.

    Args:
        may_fetch: download missing weights. The caller must ask the user, because a clip can name any model of the hub.

    Raises:
        UserError: the model is unknown, or its weights are missing and may not be downloaded.
    """
    named = find_model(recipe.model)
    if not named.is_local:
        replaced = find_replaced_parts(recipe.transformer_file)
        ensure_model_folder(named, recipe.revision, replaced, replaced=replaced, may_fetch=may_fetch)
    yield ModelLoadStarted(recipe.model, str(resolve_device(device)))
    loaded = load_pipeline_for(recipe, device, _choose_plan(recipe, device, original_provenance), may_fetch=may_fetch)
    pipeline = loaded.pipeline
    now = describe_clip_provenance(pipeline, recipe)
    files = VideoFiles(target, target.with_suffix(".jpg"))
    latents_sha256 = None
    # Captures do not change a video, and are not needed for the comparison.
    plain = recipe.model_copy(update={"capture": Captures()})
    for event in make_video(pipeline, plain, files, embeddings=loaded.embeddings):
        if isinstance(event, FinishedVideo):
            latents_sha256 = event.latents_sha256
        elif isinstance(event, StepFinished):
            yield event.step
        elif isinstance(event, Decoded):
            yield event
    changed = {
        key: (original_provenance.get(key), value)
        for key, value in now.items()
        if original_provenance and original_provenance.get(key) != value
    }
    model = find_model(recipe.model)
    if model.is_local and (weights := fingerprint(Path(model.location))) != recipe.revision:
        changed["weights"] = (recipe.revision, weights)
    file = recipe.transformer_file
    if file is not None and (weights := fingerprint_file(Path(file.path))) != file.fingerprint:
        changed["transformer_file"] = (file.fingerprint, weights)
    known = original_provenance.get("latents_sha256")
    equal, difference = compare_clips(clip, target)
    latents_equal = None if known is None else known == latents_sha256
    yield RerunResult(latents_equal, equal, difference, changed, is_known=bool(original_provenance))


def _choose_plan(recipe: Recipe, device: str, original_provenance: dict[str, Any]) -> MemoryPlan:
    """Return a plan with the tile size of the original clip if it fits; otherwise the comparison reports the change."""
    if "tile" in original_provenance:
        alike = [plan for plan in PLANS if plan.choose_tile(recipe.width, recipe.height) == original_provenance["tile"]]
        if alike and (chosen := choose_plan_for(recipe, device, allowed_plans=alike)).fits:
            return chosen.plan
    return choose_plan_for(recipe, device).plan


def compare_clips(first: Path, second: Path) -> tuple[bool, int]:
    """Return whether all frames are equal, and the largest channel difference (255 if the sizes differ)."""
    frames = [list(read_frames(path)) for path in (first, second)]
    if len(frames[0]) != len(frames[1]) or frames[0][0].shape != frames[1][0].shape:
        return False, 255
    largest = max(int(np.abs(a.astype(np.int16) - b).max()) for a, b in zip(*frames, strict=True))
    return largest == 0, largest
