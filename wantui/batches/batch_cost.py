"""Predicted cost of a batch in videos, time, memory and disk, each with its basis and whether it fits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import format_bytes, format_count, format_duration, format_long_duration
from wantui.gpu.monitor import GpuSample, GpuState
from wantui.models.catalogue import WanModel, find_model
from wantui.paths import expand_user_path
from wantui.planning import BatchPreview, Recipe, TimedVideo, estimate_video_seconds
from wantui.planning.disk_estimate import (
    DiskEstimate,
    estimate_batch_disk,
    estimate_extra_gpu_bytes,
    group_recipes_by_size,
)
from wantui.planning.flops import count_step_flops
from wantui.planning.memory_plan import RESIDENT_PLAN, ChosenPlan, choose_memory_plan, estimate_weight_bytes, find_plan
from wantui.planning.time_estimate import find_measured_peak_memory
from wantui.queue.benchmark_store import load_throughput
from wantui.schedule import count_model_evaluations
from wantui.storage.disk_space import estimate_disk_need, query_free_disk_bytes

MAX_CORE_FLOPS_PER_SECOND = 1e11
"""Maximum FLOP/s of a CPU core in practice, with AVX-512 in float32."""
CPU_WARNING_SECONDS = 3600
"""Predicted seconds above which a CPU-only batch triggers a warning."""


@dataclass(frozen=True)
class CostLine:
    """One line of the cost of a batch."""

    name: str
    text: str
    basis: str
    fits: bool = True


def estimate_batch_costs(
    preview: BatchPreview,
    past_videos: Sequence[TimedVideo],
    gpu_sample: GpuSample | None,
    state_directory: Path | None = None,
) -> list[CostLine]:
    """Return the predicted cost of a batch, one line per resource.

    Args:
        state_directory: the state directory, which stores measured throughputs.
    """
    recipe, video_count = preview.first_recipe, preview.video_count
    settings = preview.config.settings
    seed_count = settings.videos_per_variation
    variations_text = format_count(len(preview.variations), "variation")
    last_seed = recipe.seed + seed_count - 1
    recipe_text = f"{recipe.model}, {recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')}, "
    recipe_text += format_count(recipe.steps, "step")
    lines = [
        CostLine(
            "videos",
            f"{video_count:,} = {variations_text} x {format_count(seed_count, 'seed')}",
            f"seeds {recipe.seed} to {last_seed}; {recipe_text}",
        )
    ]
    gpus = gpu_sample.gpus if gpu_sample is not None else ()
    is_on_gpu = bool(gpus) and settings.model_settings.device != "cpu"
    chosen_plan = _choose_batch_plan(preview, gpus) if is_on_gpu else None
    plan = RESIDENT_PLAN if chosen_plan is None else chosen_plan.plan
    throughput = (
        load_throughput(state_directory, gpus[0].name, recipe, plan)
        if state_directory is not None and is_on_gpu
        else None
    )
    video_seconds = estimate_video_seconds(recipe, "cuda" if is_on_gpu else "cpu", past_videos, throughput, plan)
    time_text, basis = "?", video_seconds.basis
    if video_seconds.value is not None:
        time_text = f"{format_duration(video_seconds.value * video_count)} on one worker"
    elif (
        not is_on_gpu
        and (min_seconds := estimate_min_cpu_seconds(preview.model, recipe, video_count)) >= CPU_WARNING_SECONDS
    ):
        time_text = _format_min_cpu_time(min_seconds, video_count)
    lines.append(CostLine("time", time_text, basis))
    lines.append(_estimate_memory_cost(preview, past_videos, gpu_sample, is_on_gpu, chosen_plan))
    disk = estimate_batch_disk(preview)
    folder = _find_nearest_existing_folder(expand_user_path(settings.output_dir))
    disk_need, free_bytes = estimate_disk_need(recipe, disk.total_bytes), query_free_disk_bytes(folder)
    fits = disk_need.total_bytes <= free_bytes
    basis = f"clips {format_bytes(disk.video_bytes)} ({disk.videos_basis})"
    for part in disk.capture_parts:
        basis += f", {part.name} {format_bytes(part.bytes)} ({part.basis})"
    basis += f"; {format_bytes(disk_need.temporary_bytes + disk_need.reserve_bytes)} more must be free"
    if not fits:
        basis = f"{_describe_fitting_part(preview, free_bytes, disk)} would fit; " + basis
    lines.append(CostLine("disk", f"{format_bytes(disk.total_bytes)} of {format_bytes(free_bytes)} free", basis, fits))
    return lines


def estimate_min_cpu_seconds(model: WanModel, recipe: Recipe, video_count: int) -> float:
    """Return a lower bound in seconds for videos on this machine's CPU: only the transformer, all cores at peak."""
    evaluation_count = count_model_evaluations(recipe.sampler, recipe.steps)
    return (
        video_count
        * evaluation_count
        * count_step_flops(model, recipe)
        / (MAX_CORE_FLOPS_PER_SECOND * (os.cpu_count() or 1))
    )


def _format_min_cpu_time(min_seconds: float, video_count: int) -> str:
    """Return the minimum time on this CPU for one video and for all videos of a batch.

    Args:
        min_seconds: lower bound for all videos.
    """
    time_text = f"at least {format_long_duration(min_seconds / video_count)} for each video on this CPU"
    return time_text if video_count == 1 else f"{time_text}, {format_long_duration(min_seconds)} for all"


def find_slow_cpu_warning(recipe: Recipe, video_count: int) -> str | None:
    """Return a warning if a batch would take hours without a GPU; None otherwise."""
    try:
        min_seconds = estimate_min_cpu_seconds(find_model(recipe.model), recipe, video_count)
    except UserError:  # the model is missing now; the worker reports that
        return None
    if min_seconds < CPU_WARNING_SECONDS:
        return None
    cores_text = format_count(os.cpu_count() or 1, "core")
    return (
        f"without a GPU {recipe.model} takes {_format_min_cpu_time(min_seconds, video_count)} ({cores_text}); "
        "-c nano is a model for CPUs"
    )


def _find_max_free_gpu_bytes(gpus: Sequence[GpuState]) -> int | None:
    """Return the free bytes of the GPU with the most free memory; None if unreadable."""
    readable_gpus = [gpu for gpu in gpus if gpu.memory_total is not None and gpu.memory_used is not None]
    return max(((gpu.memory_total or 0) - (gpu.memory_used or 0) for gpu in readable_gpus), default=None)


def _choose_batch_plan(preview: BatchPreview, gpus: Sequence[GpuState]) -> ChosenPlan | None:
    free_bytes = _find_max_free_gpu_bytes(gpus)
    if free_bytes is None:
        return None
    requested_name = preview.config.settings.memory_settings.plan
    # Use the variation that needs the most GPU memory: attention maps of its marks are stored on the GPU.
    recipes = [recipe for recipe, _ in group_recipes_by_size(preview)]
    recipe = max(recipes, key=lambda candidate: estimate_extra_gpu_bytes(candidate, preview.model))
    return choose_memory_plan(
        preview.model, recipe, free_bytes, None if requested_name == "auto" else find_plan(requested_name)
    )


def _estimate_memory_cost(
    preview: BatchPreview,
    past_videos: Sequence[TimedVideo],
    gpu_sample: GpuSample | None,
    is_on_gpu: bool,
    chosen_plan: ChosenPlan | None,
) -> CostLine:
    recipe, model = preview.first_recipe, preview.model
    weight_bytes = estimate_weight_bytes(model, recipe)
    memory_text = "?" if weight_bytes is None else format_bytes(weight_bytes)
    if gpu_sample is None:
        return CostLine("memory", memory_text, "the weights alone; free memory is unknown")
    if not is_on_gpu:
        free_bytes = gpu_sample.memory_total - gpu_sample.memory_used
        fits = weight_bytes is None or weight_bytes <= gpu_sample.memory_total
        basis = "no GPU is used: the weights are in main memory"
        if not fits:
            basis = f"the weights alone need {memory_text}: choose a smaller model, or another machine"
        return CostLine("memory", f"{memory_text} of {format_bytes(free_bytes)} free", basis, fits)
    free_gpu_bytes = _find_max_free_gpu_bytes(gpu_sample.gpus)
    if free_gpu_bytes is None or chosen_plan is None:
        return CostLine("memory", memory_text, "the weights alone; free GPU memory is unknown")
    peak_bytes, basis = chosen_plan.peak_bytes, "calculated from the sizes"
    measured_peak = find_measured_peak_memory(recipe, chosen_plan.plan.slug, past_videos)
    if measured_peak.value is not None:
        peak_bytes, basis = int(measured_peak.value), measured_peak.basis
    memory_text = "?" if peak_bytes is None else format_bytes(peak_bytes)
    memory_text = f"{memory_text} of {format_bytes(free_gpu_bytes)} free on the GPU: {chosen_plan.plan.slug}"
    return CostLine("memory", memory_text, f"{chosen_plan.reason}; {basis}", chosen_plan.fits)


def _describe_fitting_part(preview: BatchPreview, free_bytes: int, disk_estimate: DiskEstimate) -> str:
    """Describe how much of the batch fits on the disk."""
    disk_need = estimate_disk_need(preview.first_recipe, disk_estimate.total_bytes)
    fitting_count = max(
        0,
        (free_bytes - disk_need.temporary_bytes - disk_need.reserve_bytes)
        * preview.video_count
        // max(1, disk_need.stored_bytes),
    )
    fitting_text = format_count(fitting_count, "video")
    return f"{fitting_text}, or no stored latents," if disk_estimate.sum_capture_bytes("latents") else fitting_text


def _find_nearest_existing_folder(path: Path) -> Path:
    """Return the path itself or its nearest parent folder that exists and can be entered."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if os.path.isdir(folder)), Path("/"))  # noqa: PTH112 - Path.is_dir raises for a folder that may not be entered
