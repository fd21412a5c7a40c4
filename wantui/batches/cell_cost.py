"""Predicted time and GPU memory of each cell of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import format_bytes, format_count, format_duration
from wantui.gpu.monitor import GpuSample, GpuState
from wantui.gpu.nvml import Gpu
from wantui.planning import Batch, BatchPreview, Estimate, PlannedCell, Recipe, TimedVideo, estimate_video_seconds
from wantui.planning.batch import drop_cells
from wantui.planning.disk_estimate import estimate_extra_gpu_bytes, iterate_cell_recipes
from wantui.planning.guidance_plan import uses_unconditional_pass
from wantui.planning.memory_plan import RESIDENT_PLAN, ChosenPlan, MemoryPlan, choose_memory_plan, find_plan
from wantui.planning.second_gpu import allows_second_gpu, explain_missing_memory
from wantui.planning.sweep import merge_cell_texts
from wantui.planning.throughput import Throughput
from wantui.planning.time_estimate import make_time_key, select_gpu_videos
from wantui.queue.benchmark_store import load_throughput


@dataclass(frozen=True)
class CellCost:
    """Predicted cost of one cell."""

    cell: PlannedCell
    video_count: int
    video_seconds: Estimate
    """Seconds of one video."""
    chosen_plan: ChosenPlan | None
    """Memory plan of the cell's largest video; None without a GPU, or if its free memory is unknown."""
    largest_recipe: Recipe
    """Recipe of the video that needs the most GPU memory."""
    gpu_count: int = 1
    """GPUs that share the passes of a guided step."""

    @property
    def total_seconds(self) -> float | None:
        """Return the seconds of all videos of the cell on one worker, or None."""
        return None if self.video_seconds.value is None else self.video_seconds.value * self.video_count


def list_free_gpu_bytes(gpus: Sequence[GpuState]) -> list[int]:
    """Return the free bytes of the GPUs whose memory can be read, largest first."""
    return sorted((free_bytes for gpu in gpus if (free_bytes := _find_free_bytes(gpu)) is not None), reverse=True)


def _find_free_bytes(gpu: GpuState) -> int | None:
    """Return the free bytes of a GPU; None if they cannot be read."""
    return None if gpu.memory_total is None or gpu.memory_used is None else gpu.memory_total - gpu.memory_used


def uses_gpu(preview: BatchPreview, gpu_sample: GpuSample | None) -> bool:
    """Return whether a batch is rendered on a GPU of this machine."""
    has_gpu = gpu_sample is not None and bool(gpu_sample.gpus)
    return has_gpu and preview.config.settings.model_settings.device != "cpu"


def estimate_cell_costs(
    preview: BatchPreview,
    past_videos: Sequence[TimedVideo],
    gpu_sample: GpuSample | None,
    state_directory: Path | None = None,
) -> list[CellCost]:
    """Return the predicted cost of each cell that can be planned; equal videos are predicted once.

    Time and memory are those of the GPU with the most free memory.
    """
    is_on_gpu = uses_gpu(preview, gpu_sample)
    gpus = gpu_sample.gpus if gpu_sample is not None and is_on_gpu else ()
    gpu_name = max(gpus, key=lambda gpu: _find_free_bytes(gpu) or -1).name if gpus else ""
    timed_videos = select_gpu_videos(past_videos, gpu_name)
    plan_chooser = _PlanChooser(preview, next(iter(list_free_gpu_bytes(gpus)), None))
    estimate_by_key: dict[tuple[object, ...], Estimate] = {}
    throughput_by_key: dict[tuple[MemoryPlan, str], Throughput | None] = {}
    costs = []
    for cell in preview.possible_cells:
        recipe = cell.recipe
        largest_recipe = _find_largest_recipe(preview, cell)
        chosen_plan = plan_chooser.choose_plan(largest_recipe)
        plan = RESIDENT_PLAN if chosen_plan is None else chosen_plan.plan
        throughput_key = plan, recipe.speed
        if state_directory is not None and is_on_gpu and throughput_key not in throughput_by_key:
            throughput_by_key[throughput_key] = load_throughput(state_directory, gpu_name, recipe, plan)
        gpu_count = _count_gpus_per_video(preview, largest_recipe, plan, gpus)
        time_key = *make_time_key(recipe), plan, gpu_count
        if time_key not in estimate_by_key:
            estimate_by_key[time_key] = estimate_video_seconds(
                recipe,
                "cuda" if is_on_gpu else "cpu",
                timed_videos,
                throughput_by_key.get(throughput_key),
                plan,
                gpu_count,
            )
        video_count = len(preview.variations) * len(preview.seeds)
        costs.append(CellCost(cell, video_count, estimate_by_key[time_key], chosen_plan, largest_recipe, gpu_count))
    return costs


def _count_gpus_per_video(preview: BatchPreview, recipe: Recipe, plan: MemoryPlan, gpus: Sequence[GpuState]) -> int:
    """Return the number of GPUs that can compute one video of a batch now."""
    if preview.config.settings.model_settings.gpus_per_video == 1 or not allows_second_gpu(plan):
        return 1
    free_bytes = list_free_gpu_bytes(gpus)
    has_room = len(free_bytes) > 1 and explain_missing_memory(plan, preview.model, recipe, free_bytes[1]) is None
    return 2 if has_room else 1


def _find_largest_recipe(preview: BatchPreview, cell: PlannedCell) -> Recipe:
    """Return the recipe of the variation that needs the most GPU memory for its marks' attention maps."""
    recipes = {
        (size_key, max(len(prompt.prompt) for prompt in recipe.prompts)): recipe
        for size_key, recipe, _ in iterate_cell_recipes(cell)
    }
    return max(recipes.values(), key=lambda recipe: estimate_extra_gpu_bytes(recipe, preview.model))


class _PlanChooser:
    """Chooser of memory plans for the recipes of a batch; decides once for recipes that need equal memory."""

    def __init__(self, preview: BatchPreview, free_bytes: int | None) -> None:
        self.model, self.free_bytes = preview.model, free_bytes
        requested_name = preview.config.settings.memory_settings.plan
        self.requested_plan = None if requested_name == "auto" else find_plan(requested_name)
        self._plan_by_key: dict[tuple[int | str, ...], ChosenPlan] = {}

    def choose_plan(self, recipe: Recipe) -> ChosenPlan | None:
        if self.free_bytes is None:
            return None
        extra_bytes = estimate_extra_gpu_bytes(recipe, self.model)
        has_two_passes = uses_unconditional_pass(recipe)
        size_key = recipe.width, recipe.height, recipe.frames, recipe.speed, recipe.sampler, recipe.steps
        key = *size_key, has_two_passes, extra_bytes, recipe.capture.geometry
        if key not in self._plan_by_key:
            self._plan_by_key[key] = choose_memory_plan(self.model, recipe, self.free_bytes, self.requested_plan)
        return self._plan_by_key[key]


def find_oversized_cells(preview: BatchPreview, gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return the cells of a sweep that would not fit on any of these GPUs, even an idle one, with the reasons.

    Returns:
        The reason by label of the cell.
    """
    sizes = [gpu.total_bytes for gpu in gpus if gpu.total_bytes is not None]
    if preview.sweep is None or not sizes or preview.config.settings.model_settings.device == "cpu":
        return {}
    chooser = _PlanChooser(preview, max(sizes))
    reason = f"it needs more GPU memory than the {format_bytes(max(sizes))} of the largest GPU that can render it"
    reason_by_label = {}
    for cell in preview.possible_cells:
        chosen_plan = chooser.choose_plan(_find_largest_recipe(preview, cell))
        if chosen_plan is not None and not chosen_plan.fits:
            reason_by_label[cell.label] = reason
    return reason_by_label


def drop_oversized_cells(batch: Batch, gpus: Sequence[Gpu]) -> Batch:
    """Drop the cells of a batch that fit on no GPU, if its settings allow that; return the remaining batch.

    Raises:
        UserError: cells do not fit; names them.
    """
    reason_by_label = find_oversized_cells(batch, gpus)
    if not reason_by_label:
        return batch
    if batch.config.settings.sweeps_skip_impossible and len(reason_by_label) < len(batch.cells):
        return drop_cells(batch, reason_by_label)
    raise UserError("cannot generate this batch:\n  " + "\n  ".join(format_memory_refusals(batch, reason_by_label)))


def format_memory_refusals(preview: BatchPreview, reason_by_label: Mapping[str, str]) -> list[str]:
    """Return the errors about cells that need too much memory; no errors if such cells are left out instead."""
    if preview.config.settings.sweeps_skip_impossible and len(reason_by_label) < len(preview.cells):
        return []
    return merge_cell_texts({label: (reason,) for label, reason in reason_by_label.items()}, len(preview.cells))


def describe_cells(costs: Sequence[CellCost]) -> dict[str, str]:
    """Return a text for each cell of a sweep by its label: its videos, their predicted time, and its memory plan."""
    texts = {}
    for cost in costs:
        if cost.cell.cell is None:
            continue
        seconds_text = "unknown time" if cost.total_seconds is None else format_duration(cost.total_seconds)
        plan_text = ""
        if cost.chosen_plan is not None:
            plan_text = f", {cost.chosen_plan.plan.slug}{'' if cost.chosen_plan.fits else ' (does not fit now)'}"
        texts[cost.cell.label] = f"{format_count(cost.video_count, 'video')}, {seconds_text}{plan_text}"
    return texts
