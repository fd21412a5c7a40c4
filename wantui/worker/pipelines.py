"""Choose a memory plan for a recipe, check the recipe's weights, and load its pipeline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.file_state import FileState
from wantui.generation.adapters import check_adapter_fingerprints
from wantui.generation.errors import LoadError
from wantui.generation.guidance_split import remove_guidance_split
from wantui.generation.load import PLACING_STAGE, READING_STAGE, load_pipeline, resolve_device
from wantui.generation.placement import find_device_name, query_free_gpu_bytes
from wantui.generation.preview import LatentToRgbMap, fit_latents_to_rgb
from wantui.generation.prompt_encoding import CachedPromptEncoder, collect_prompts
from wantui.models.catalogue import find_model
from wantui.models.fetch import find_replaced_parts
from wantui.models.fingerprint import fingerprint_file, fingerprint_model, list_fingerprinted_files
from wantui.planning import Recipe
from wantui.planning.memory_plan import (
    MEMORY_PLANS,
    ChosenPlan,
    MemoryPlan,
    choose_memory_plan,
    find_plan,
    list_later_plans,
)
from wantui.queue.benchmark_store import load_attention_backend

if TYPE_CHECKING:
    from diffusers import WanPipeline
    from torch import nn


ENCODING_STAGE, FITTING_STAGE, CHECKING_STAGE = "encoding prompts", "fitting previews", "checking weights"
"""Preparation stages that are not stages of `load_pipeline`."""
FAILED_PLAN_REASON = "the previous plan did not fit"
"""Reason for a plan that replaces one that ran out of memory."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline that was loaded by a memory plan."""

    pipeline: "WanPipeline"
    plan: MemoryPlan
    embeddings: CachedPromptEncoder | None
    """Embeddings of the prompts, if the plan encodes them first."""
    latent_to_rgb: LatentToRgbMap
    """Linear map from latents to colours, for previews."""

    def detach_shared_parts(self) -> "SharedParts":
        """Return the parts that do not depend on adapters; afterwards the pipeline is unusable."""
        pipeline = self.pipeline
        remove_guidance_split(pipeline)
        parts = {"text_encoder": pipeline.text_encoder, "vae": pipeline.vae}
        if self.plan.transformer_placement != "resident":  # a new placement expects its parts in CPU memory
            parts["vae"].to("cpu")
        pipeline.transformer = pipeline.transformer_2 = pipeline.wantui_placement = None
        return SharedParts(parts, self.plan, self.embeddings, self.latent_to_rgb)


@dataclass(frozen=True)
class SharedParts:
    """Parts that pipelines with the same base weights share, whatever adapters are merged into them."""

    parts: "dict[str, nn.Module | None]"
    """Text encoder (None if the plan frees it) and VAE."""
    plan: MemoryPlan
    embeddings: CachedPromptEncoder | None
    latent_to_rgb: LatentToRgbMap


@dataclass(frozen=True)
class WeightFile:
    """Identity and state of a weight file when it was loaded."""

    path: Path
    state: FileState
    fingerprint: str

    @classmethod
    def from_path(cls, path: Path) -> "WeightFile":
        return cls(path, FileState.from_path(path), fingerprint_file(path))

    def is_overwritten(self) -> bool:
        """Return whether the file was changed in place; False if it was deleted or replaced by another file.

        Changing its mode or its number of links changes only the change time, not the content.
        """
        try:
            current = FileState.from_path(self.path)
            if (current.device, current.inode) != (self.state.device, self.state.inode) or current == self.state:
                return False
            has_equal_times = current._replace(changed_ns=self.state.changed_ns) == self.state
            return not has_equal_times or fingerprint_file(self.path) != self.fingerprint
        except OSError:
            return False


def find_local_weight_files(recipe: Recipe) -> tuple[WeightFile, ...]:
    """Return the local weight files of a recipe; files in the hub cache are left out, as they are never overwritten."""
    model, paths = find_model(recipe.model), []
    if model.is_local:
        paths = [Path(model.location) / path for path in list_fingerprinted_files(Path(model.location))]
    if recipe.transformer_file is not None:
        paths.append(Path(recipe.transformer_file.path))
    return tuple(WeightFile.from_path(path) for path in paths)


def choose_recipe_plan(
    recipe: Recipe,
    device_name: str,
    first_plan: MemoryPlan | None = None,
    requested_slug: str = "auto",
    allowed_plans: Sequence[MemoryPlan] = MEMORY_PLANS,
) -> ChosenPlan:
    """Choose the memory plan for a recipe: the requested plan, or the first plan that fits into free memory.

    Args:
        first_plan: first plan to try, after another plan did not fit; None to try all.
        requested_slug: slug of the requested plan, or auto.
        allowed_plans: candidate plans, unless a plan is requested.
    """
    model, device = find_model(recipe.model), resolve_device(device_name)
    forced_plan = None if requested_slug == "auto" else find_plan(requested_slug)
    if device.type != "cuda":
        if forced_plan is not None and not forced_plan.is_for_cpu:
            raise LoadError(f"memory_settings.plan: {forced_plan.slug} is for GPUs, and {device} is not a GPU")
        if first_plan is not None:
            return ChosenPlan(first_plan, None, FAILED_PLAN_REASON)
        default_plan = next(plan for plan in allowed_plans if plan.is_for_cpu)
        return ChosenPlan(
            forced_plan or default_plan,
            None,
            "requested" if forced_plan else "no GPU is used",
            is_forced=bool(forced_plan),
        )
    if first_plan is not None:
        chosen_plan = choose_memory_plan(
            model, recipe, query_free_gpu_bytes(device), allowed_plans=(first_plan, *list_later_plans(first_plan))
        )
        return replace(chosen_plan, reason=f"{FAILED_PLAN_REASON}, and {chosen_plan.reason}")
    return choose_memory_plan(model, recipe, query_free_gpu_bytes(device), forced_plan, allowed_plans)


def list_loading_stages(plan: MemoryPlan) -> list[str]:
    """Return the stages of loading a pipeline by a memory plan, in order."""
    later_stages = [READING_STAGE, PLACING_STAGE, FITTING_STAGE, CHECKING_STAGE]
    return [ENCODING_STAGE, *later_stages] if plan.encodes_first else later_stages


def load_recipe_pipeline(
    recipe: Recipe,
    device_name: str,
    plan: MemoryPlan,
    later_recipes: Sequence[Recipe] = (),
    *,
    shared: SharedParts | None = None,
    attention_kernel: str | None = None,
    may_fetch: bool = True,
    begin_stage: Callable[[str], None] = lambda stage: None,
) -> LoadedPipeline:
    """Load the pipeline for a recipe's video.

    Args:
        later_recipes: later recipes for this pipeline, whose prompts are encoded at the same time.
        shared: parts of a pipeline with the same base weights and plan, to be used again.
        attention_kernel: self-attention kernel of fused blocks; None for the kernel that `wantui bench` chose.
        may_fetch: whether to download missing weights of a hub model.
        begin_stage: called with each stage of `list_loading_stages` before it begins, except the last one.

    Raises:
        LoadError: see `load_pipeline`.
    """
    model, device = find_model(recipe.model), resolve_device(device_name)
    embeddings = None if shared is None else shared.embeddings
    if plan.encodes_first and embeddings is None:
        begin_stage(ENCODING_STAGE)
        replaced_parts = find_replaced_parts(recipe.transformer_file)
        embeddings = CachedPromptEncoder(
            model, recipe.revision, recipe.dtype, device, replaced_parts=replaced_parts, may_fetch=may_fetch
        )
    if embeddings is not None:
        embeddings.encode_prompts(collect_prompts([recipe, *later_recipes]))
    pipeline = load_pipeline(
        model,
        recipe.revision,
        recipe.dtype,
        device,
        plan,
        speed=recipe.speed,
        weights=recipe.weights,
        transformer_file=None if recipe.transformer_file is None else Path(recipe.transformer_file.path),
        lora=recipe.source.lora,
        shared_parts={} if shared is None else shared.parts,
        attention_kernel=attention_kernel or load_attention_backend(find_device_name(device), recipe, plan),
        may_fetch=may_fetch,
        begin_stage=begin_stage,
    )
    if shared is not None:
        return LoadedPipeline(pipeline, plan, embeddings, shared.latent_to_rgb)
    begin_stage(FITTING_STAGE)
    return LoadedPipeline(pipeline, plan, embeddings, fit_latents_to_rgb(pipeline))


def check_weight_fingerprints(recipe: Recipe) -> None:
    """Check that local weights and adapters still have the fingerprints in the recipe.

    Raises:
        LoadError: the files of a local model, the transformer file or an adapter have changed since planning.
    """
    if (lora := recipe.source.lora) is not None:
        check_adapter_fingerprints(lora)
    model = find_model(recipe.model)
    if model.is_local and (fingerprint_digest := fingerprint_model(Path(model.location))) != recipe.revision:
        raise LoadError(
            f"the weights in {model.location} have changed since this batch was planned "
            f"(fingerprint {fingerprint_digest[:12]}, planned {str(recipe.revision)[:12]}). Plan a new batch"
        )
    if (transformer_file := recipe.transformer_file) is None:
        return
    try:
        fingerprint_digest = fingerprint_file(Path(transformer_file.path))
    except OSError as error:
        raise LoadError(
            f"model_settings.transformer_file: {transformer_file.path} cannot be read: {error.strerror or error}"
        ) from None
    if fingerprint_digest != transformer_file.fingerprint:
        raise LoadError(f"{transformer_file.path} has changed since this batch was planned. Plan a new batch")
