"""Re-render a clip from the recipe that it contains, and report whether the result is the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wantui.batches.generating_model import ensure_recipe_weights
from wantui.batches.replay_events import ModelLoadStarted
from wantui.generation.adapters import check_adapter_fingerprints
from wantui.generation.attention_backends import KERNEL_NAMES, check_kernel_installed
from wantui.generation.denoising_state import DenoisingStep
from wantui.generation.load import resolve_device
from wantui.generation.make_video import FrameDecoded, GenerationResult, StepFinished, generate_video
from wantui.generation.placement import find_device_name
from wantui.generation.provenance import ENVIRONMENT_FIELD, describe_clip_provenance, was_rendered_on_gpu
from wantui.models.catalogue import find_model
from wantui.models.fingerprint import fingerprint_file, fingerprint_model
from wantui.planning import CaptureRequests, Recipe
from wantui.planning.memory_plan import MEMORY_PLANS, MemoryPlan, can_fuse_pipeline
from wantui.storage.mp4 import measure_largest_difference
from wantui.storage.video_files import VideoFiles
from wantui.worker.pipelines import choose_recipe_plan, load_recipe_pipeline


@dataclass(frozen=True)
class RerunResult:
    """Comparison of a re-rendered clip with the original."""

    latents_equal: bool | None
    """True if the latents are equal; None if the clip does not record its latents' digest."""
    largest_pixel_difference: int
    """Largest difference of a channel, out of 255, over all frames."""
    changed: dict[str, tuple[Any, Any]]
    """Provenance then and now, where the two differ."""
    is_known: bool = True
    """True if the clip records its software and device; without them, `changed` is incomplete."""

    @property
    def frames_equal(self) -> bool:
        return self.largest_pixel_difference == 0

    @property
    def is_identical(self) -> bool:
        return self.frames_equal and self.latents_equal is not False


def rerender_clip(
    clip_path: Path,
    recipe: Recipe,
    original_provenance: dict[str, Any],
    target_path: Path,
    device: str,
    may_fetch: bool,
) -> Iterator[ModelLoadStarted | DenoisingStep | FrameDecoded | RerunResult]:
    """Render a recipe's video as `target_path`; yield the progress, and finally the comparison with `clip_path`.

    Args:
        may_fetch: download missing weights. The caller must ask the user, because a clip can name any model of the hub.

    Raises:
        UserError: the model is unknown, its weights are missing and may not be downloaded, or the file of an adapter is
            missing or has changed.
    """
    if (lora := recipe.source.lora) is not None:
        check_adapter_fingerprints(lora)
    ensure_recipe_weights(recipe, may_fetch)
    yield ModelLoadStarted(recipe.model, str(resolve_device(device)))
    loaded_pipeline = load_recipe_pipeline(
        recipe,
        device,
        choose_rerun_plan(recipe, device, original_provenance),
        attention_kernel=find_original_kernel(device, original_provenance),
        may_fetch=may_fetch,
    )
    pipeline = loaded_pipeline.pipeline
    new_provenance = describe_clip_provenance(pipeline, recipe)
    video_files = VideoFiles(target_path, target_path.with_suffix(".jpg"))
    latents_sha256 = None
    # Captures do not change a video, and are not needed for the comparison.
    uncaptured_recipe = recipe.model_copy(update={"capture": CaptureRequests()})
    for event in generate_video(pipeline, uncaptured_recipe, video_files, embed_prompt=loaded_pipeline.embeddings):
        if isinstance(event, GenerationResult):
            latents_sha256 = event.latents_sha256
        elif isinstance(event, StepFinished):
            yield event.step
        elif isinstance(event, FrameDecoded):
            yield event
    # Clips of earlier versions do not record their environment: whether it changed is unknown.
    known_provenance = {ENVIRONMENT_FIELD: new_provenance[ENVIRONMENT_FIELD], **original_provenance}
    changed_provenance = {
        key: (known_provenance.get(key), value)
        for key, value in new_provenance.items()
        if original_provenance and known_provenance.get(key) != value
    }
    model = find_model(recipe.model)
    if model.is_local and (new_fingerprint := fingerprint_model(Path(model.location))) != recipe.revision:
        changed_provenance["weights"] = (recipe.revision, new_fingerprint)
    transformer_file = recipe.transformer_file
    if (
        transformer_file is not None
        and (new_fingerprint := fingerprint_file(Path(transformer_file.path))) != transformer_file.fingerprint
    ):
        changed_provenance["transformer_file"] = (transformer_file.fingerprint, new_fingerprint)
    stored_sha256 = original_provenance.get("latents_sha256")
    latents_equal = None if stored_sha256 is None else stored_sha256 == latents_sha256
    largest_difference = measure_largest_difference(clip_path, target_path)
    yield RerunResult(latents_equal, largest_difference, changed_provenance, is_known=bool(original_provenance))


def choose_rerun_plan(recipe: Recipe, device: str, original_provenance: dict[str, Any]) -> MemoryPlan:
    """Return a memory plan that fits and with which the clip and its latents can have the bits of the original clip.

    Such a plan decodes the same tiles, and fuses blocks if the original's blocks were fused; blocking plans come last,
    because they are slow. If none fits, the tiles alone decide, and then the free memory alone: the comparison reports
    the change.
    """
    model, fuses_blocks = find_model(recipe.model), original_provenance.get("blocks") in ("fused", "fp8")
    # Blocks are fused on GPUs only: for another device, no plan gives the original's bits.
    blocks_matter = (
        resolve_device(device).type == "cuda"
        and was_rendered_on_gpu(original_provenance)
        and "blocks" in original_provenance
    )

    def rank_plan(plan: MemoryPlan) -> tuple[bool, bool, bool]:
        tile_side = plan.choose_tile_side(recipe.width, recipe.height)
        if "tile" not in original_provenance or tile_side != original_provenance["tile"]:
            return True, False, False
        can_fuse = can_fuse_pipeline(model, plan, recipe.speed, recipe.weights)
        return False, blocks_matter and can_fuse != fuses_blocks, plan.weight_streaming == "blocking"

    return choose_recipe_plan(recipe, device, allowed_plans=sorted(MEMORY_PLANS, key=rank_plan)).plan


def find_original_kernel(device: str, original_provenance: dict[str, Any]) -> str | None:
    """Return the attention kernel of the original clip, if its fused blocks were computed on a GPU of this kind.

    Return None if this machine lacks the kernel, or another kind of GPU computes the video: the kernel that `wantui
    bench` chose is then used, and the comparison reports the change.
    """
    kernel_name = original_provenance.get("attention")
    if kernel_name not in KERNEL_NAMES or original_provenance.get("device") != find_device_name(resolve_device(device)):
        return None
    try:
        check_kernel_installed(kernel_name)
    except RuntimeError:
        return None
    return str(kernel_name)
