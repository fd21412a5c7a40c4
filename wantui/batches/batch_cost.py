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
from wantui.planning import BatchPreview, Recipe, TimedVideo, estimate_seconds
from wantui.planning.disk_estimate import DiskEstimate, estimate_disk, estimate_extra_gpu_bytes, group_recipes_by_size
from wantui.planning.flops import count_step_flops
from wantui.planning.memory_plan import RESIDENT, ChosenPlan, choose_plan, estimate_weight_bytes, find_plan
from wantui.planning.time_estimate import find_measured_peak
from wantui.queue.benchmark_store import load_throughput
from wantui.schedule import count_model_evaluations
from wantui.storage.disk_space import estimate_disk_need, query_free_disk_bytes

MAX_CORE_FLOPS = 1e11
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


def estimate_costs(
    outline: BatchPreview, past: Sequence[TimedVideo], sample: GpuSample | None, state: Path | None = None
) -> list[CostLine]:
    """Return the predicted cost of a batch, one line per resource.

    Args:
        state: the state directory, which stores measured throughputs.
    """
    recipe, videos = outline.first_recipe, outline.videos
    settings = outline.config.settings
    seeds = settings.videos_per_variation
    many = format_count(len(outline.variations), "variation")
    last = recipe.seed + seeds - 1
    size = f"{recipe.model}, {recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')}, "
    size += format_count(recipe.steps, "step")
    lines = [
        CostLine("videos", f"{videos:,} = {many} x {format_count(seeds, 'seed')}", f"{recipe.seed} to {last}; {size}")
    ]
    gpus = sample.gpus if sample is not None else ()
    on_gpu = bool(gpus) and settings.model_settings.device != "cpu"
    chosen = _choose_plan(outline, gpus) if on_gpu else None
    plan = RESIDENT if chosen is None else chosen.plan
    throughput = load_throughput(state, gpus[0].name, recipe, plan) if state is not None and on_gpu else None
    seconds = estimate_seconds(recipe, "cuda" if on_gpu else "cpu", past, throughput, plan)
    shown, basis = "?", seconds.basis
    if seconds.value is not None:
        shown = f"{format_duration(seconds.value * videos)} on one worker"
    elif not on_gpu and (least := estimate_min_cpu_seconds(outline.model, recipe, videos)) >= CPU_WARNING_SECONDS:
        shown = f"at least {format_long_duration(least)} without a GPU"
    lines.append(CostLine("time", shown, basis))
    lines.append(_estimate_memory(outline, past, sample, on_gpu, chosen))
    disk = estimate_disk(outline)
    folder = _find_nearest_existing_folder(expand_user_path(settings.output_dir))
    need, free = estimate_disk_need(recipe, disk.total), query_free_disk_bytes(folder)
    fits = need.total <= free
    basis = f"clips {format_bytes(disk.video_bytes)} ({disk.videos_basis})"
    for part in disk.captures:
        basis += f", {part.name} {format_bytes(part.bytes)} ({part.basis})"
    basis += f"; {format_bytes(need.temporary_bytes + need.reserve_bytes)} more must be free"
    if not fits:
        basis = f"{_describe_what_fits(outline, free, disk)} would fit; " + basis
    lines.append(CostLine("disk", f"{format_bytes(disk.total)} of {format_bytes(free)} free", basis, fits))
    return lines


def estimate_min_cpu_seconds(model: WanModel, recipe: Recipe, videos: int) -> float:
    """Return a lower bound in seconds for videos on this machine's CPU: only the transformer, all cores at peak."""
    evaluations = count_model_evaluations(recipe.sampler, recipe.steps)
    return videos * evaluations * count_step_flops(model, recipe) / (MAX_CORE_FLOPS * (os.cpu_count() or 1))


def warn_if_slow_on_cpu(recipe: Recipe, videos: int) -> str | None:
    """Return a warning if a batch would take hours without a GPU; None otherwise."""
    try:
        least = estimate_min_cpu_seconds(find_model(recipe.model), recipe, videos)
    except UserError:  # the model is missing now; the worker reports that
        return None
    if least < CPU_WARNING_SECONDS:
        return None
    cores = format_count(os.cpu_count() or 1, "core")
    return (
        f"without a GPU {format_count(videos, 'video')} of {recipe.model} will take at least "
        f"{format_long_duration(least)} on this machine ({cores}); -c nano is a model for CPUs"
    )


def _max_free_gpu_bytes(gpus: Sequence[GpuState]) -> int | None:
    """Return the free bytes of the GPU with the most free memory; None if unreadable."""
    readable = [gpu for gpu in gpus if gpu.memory_total is not None and gpu.memory_used is not None]
    return max(((gpu.memory_total or 0) - (gpu.memory_used or 0) for gpu in readable), default=None)


def _choose_plan(outline: BatchPreview, gpus: Sequence[GpuState]) -> ChosenPlan | None:
    free = _max_free_gpu_bytes(gpus)
    if free is None:
        return None
    asked = outline.config.settings.memory_settings.plan
    # Use the variation that needs the most GPU memory: attention maps of its marks are stored on the GPU.
    recipes = [recipe for recipe, _ in group_recipes_by_size(outline)]
    recipe = max(recipes, key=lambda one: estimate_extra_gpu_bytes(one, outline.model))
    return choose_plan(outline.model, recipe, free, None if asked == "auto" else find_plan(asked))


def _estimate_memory(
    outline: BatchPreview, past: Sequence[TimedVideo], sample: GpuSample | None, on_gpu: bool, chosen: ChosenPlan | None
) -> CostLine:
    recipe, model = outline.first_recipe, outline.model
    weights = estimate_weight_bytes(model, recipe)
    text = "?" if weights is None else format_bytes(weights)
    if sample is None:
        return CostLine("memory", text, "the weights alone; free memory is unknown")
    if not on_gpu:
        free = sample.memory_total - sample.memory_used
        fits = weights is None or weights <= sample.memory_total
        basis = "no GPU is used: the weights are in main memory"
        if not fits:
            basis = f"the weights alone need {text}: choose a smaller model, or another machine"
        return CostLine("memory", f"{text} of {format_bytes(free)} free", basis, fits)
    on_device = _max_free_gpu_bytes(sample.gpus)
    if on_device is None or chosen is None:
        return CostLine("memory", text, "the weights alone; free GPU memory is unknown")
    peak, basis = chosen.peak_bytes, "calculated from the sizes"
    measured = find_measured_peak(recipe, chosen.plan.slug, past)
    if measured.value is not None:
        peak, basis = int(measured.value), measured.basis
    text = "?" if peak is None else format_bytes(peak)
    text = f"{text} of {format_bytes(on_device)} free on the GPU: {chosen.plan.slug}"
    return CostLine("memory", text, f"{chosen.reason}; {basis}", chosen.fits)


def _describe_what_fits(outline: BatchPreview, free: int, disk: DiskEstimate) -> str:
    """Describe how much of the batch fits on the disk."""
    need = estimate_disk_need(outline.first_recipe, disk.total)
    videos = max(0, (free - need.temporary_bytes - need.reserve_bytes) * outline.videos // max(1, need.stored_bytes))
    words = format_count(videos, "video")
    return f"{words}, or no stored latents," if disk.capture_bytes("latents") else words


def _find_nearest_existing_folder(path: Path) -> Path:
    """Return the path itself or its nearest parent folder that exists and can be entered."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if os.path.isdir(folder)), Path("/"))  # noqa: PTH112 - Path.is_dir raises for a folder that may not be entered
