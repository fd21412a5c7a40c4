"""Choose a memory plan for a recipe, check the recipe's weights, and load its pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.generation.errors import LoadError
from wantui.generation.load import load_pipeline, resolve_device
from wantui.generation.placement import find_device_name, query_free_gpu_bytes
from wantui.generation.preview import LatentToRgb, fit_latents_to_rgb
from wantui.generation.prompt_encoding import Embeddings, collect_prompts
from wantui.models.catalogue import find_model
from wantui.models.fetch import find_replaced_parts
from wantui.models.fingerprint import fingerprint_file, fingerprint_model
from wantui.models.parts import list_part_files
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


AFTER_FAILED_PLAN = "the previous plan did not fit"
"""Reason for a plan that replaces one that ran out of memory."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline that was loaded by a memory plan."""

    pipeline: "WanPipeline"
    plan: MemoryPlan
    embeddings: Embeddings | None
    """Embeddings of the prompts, if the plan encodes them first."""
    latent_to_rgb: LatentToRgb
    """Linear map from latents to colours, for previews."""


@dataclass(frozen=True)
class WeightFile:
    """Identity and state of a weight file when it was loaded."""

    path: Path
    file: tuple[int, int]
    """Device and inode."""
    state: tuple[int, int]
    """Size in bytes, and modification time in nanoseconds."""

    @classmethod
    def from_path(cls, path: Path) -> "WeightFile":
        status = path.stat()
        return cls(path, (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns))

    def is_overwritten(self) -> bool:
        """Return whether the file was changed in place; False if it was deleted or replaced by another file."""
        try:
            now = WeightFile.from_path(self.path)
        except OSError:
            return False
        return now.file == self.file and now.state != self.state


def find_local_weight_files(recipe: Recipe) -> tuple[WeightFile, ...]:
    """Return the local weight files of a recipe; files in the hub cache are left out, as they are never overwritten."""
    model, paths = find_model(recipe.model), []
    if model.is_local:
        paths = [Path(model.location) / path for path in list_part_files(Path(model.location))]
    if recipe.transformer_file is not None:
        paths.append(Path(recipe.transformer_file.path))
    return tuple(WeightFile.from_path(path) for path in paths)


def choose_plan_for(
    recipe: Recipe,
    device: str,
    first: MemoryPlan | None = None,
    requested_plan: str = "auto",
    allowed_plans: Sequence[MemoryPlan] = MEMORY_PLANS,
) -> ChosenPlan:
    """Choose the memory plan for a recipe: the requested plan, or the first that fits into free memory.

    Args:
        first: first plan to try, after another plan did not fit; None to try all.
        requested_plan: slug of the requested plan, or auto.
        allowed_plans: candidate plans, unless a plan is requested.
    """
    model, where = find_model(recipe.model), resolve_device(device)
    forced = None if requested_plan == "auto" else find_plan(requested_plan)
    if where.type != "cuda":
        if forced is not None and not forced.is_for_cpu:
            raise LoadError(f"memory_settings.plan: {forced.slug} is for GPUs, and {where} is not a GPU")
        if first is not None:
            return ChosenPlan(first, None, AFTER_FAILED_PLAN)
        best = next(plan for plan in allowed_plans if plan.is_for_cpu)
        return ChosenPlan(forced or best, None, "requested" if forced else "no GPU is used", is_forced=bool(forced))
    if first is not None:
        chosen = choose_memory_plan(
            model, recipe, query_free_gpu_bytes(where), allowed_plans=(first, *list_later_plans(first))
        )
        return replace(chosen, reason=f"{AFTER_FAILED_PLAN}, and {chosen.reason}")
    return choose_memory_plan(model, recipe, query_free_gpu_bytes(where), forced, allowed_plans)


def load_pipeline_for(
    recipe: Recipe, device: str, plan: MemoryPlan, recipes: Sequence[Recipe] = (), *, may_fetch: bool = True
) -> LoadedPipeline:
    """Load the pipeline for a recipe's video.

    Args:
        recipes: later recipes for this pipeline, whose prompts are encoded at the same time.
        may_fetch: whether to download missing weights of a hub model.

    Raises:
        LoadError: see `load_pipeline`.
    """
    model, where = find_model(recipe.model), resolve_device(device)
    embeddings = None
    if plan.encodes_first:
        replaced = find_replaced_parts(recipe.transformer_file)
        embeddings = Embeddings(model, recipe.revision, recipe.dtype, where, replaced=replaced, may_fetch=may_fetch)
        embeddings.encode(collect_prompts([recipe, *recipes]))
    pipeline = load_pipeline(
        model,
        recipe.revision,
        recipe.dtype,
        where,
        plan,
        speed=recipe.speed,
        weights=recipe.weights,
        transformer_file=None if recipe.transformer_file is None else Path(recipe.transformer_file.path),
        attention=load_attention_backend(find_device_name(where), recipe, plan),
        may_fetch=may_fetch,
    )
    return LoadedPipeline(pipeline, plan, embeddings, fit_latents_to_rgb(pipeline))


def check_weights(recipe: Recipe) -> None:
    """Check that local weights still have the fingerprints in the recipe.

    Raises:
        LoadError: the files of a local model, or the transformer file, have changed since planning.
    """
    model = find_model(recipe.model)
    if model.is_local and (digest := fingerprint_model(Path(model.location))) != recipe.revision:
        raise LoadError(
            f"the weights in {model.location} have changed since this batch was planned "
            f"(fingerprint {digest[:12]}, planned {str(recipe.revision)[:12]}). Plan a new batch"
        )
    if (file := recipe.transformer_file) is None:
        return
    try:
        digest = fingerprint_file(Path(file.path))
    except OSError as error:
        raise LoadError(f"model_settings.transformer_file: {file.path} cannot be read: {error.strerror}") from None
    if digest != file.fingerprint:
        raise LoadError(f"{file.path} has changed since this batch was planned. Plan a new batch")
