"""Predicted cost of a batch in videos, time, memory and disk, each with its basis and whether it fits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.batches.cell_cost import (
    CellCost,
    estimate_cell_costs,
    list_free_gpu_bytes,
    uses_gpu,
)
from wantui.batches.power import describe_power, list_grouping_powers
from wantui.config.sweep import describe_cell_count
from wantui.controls.attention_bending import ATTENTION_BENDING
from wantui.errors import UserError
from wantui.formatting import format_bytes, format_count, format_duration, format_long_duration, shorten_text
from wantui.gpu.monitor import GpuSample
from wantui.models.catalogue import WanModel, find_model
from wantui.paths import expand_user_path
from wantui.planning import BatchPreview, Recipe, TimedVideo
from wantui.planning.disk_estimate import (
    DiskEstimate,
    estimate_batch_disk,
)
from wantui.planning.flops import count_step_flops
from wantui.planning.second_gpu import allows_second_gpu, estimate_second_gpu_bytes, explain_missing_memory
from wantui.planning.time_estimate import find_measured_peak_memory
from wantui.planning.weight_bytes import estimate_weight_bytes
from wantui.samplers import count_model_evaluations
from wantui.storage.disk_space import DiskNeed, estimate_batch_disk_need, query_free_disk_bytes

MAX_CORE_FLOPS_PER_SECOND = 1e11
"""Maximum FLOP/s of a CPU core in practice, with AVX-512 in float32."""
CPU_WARNING_SECONDS = 3600
"""Predicted seconds above which a CPU-only batch triggers a warning."""


@dataclass(frozen=True)
class CostLine:
    """One line of a batch's cost."""

    name: str
    text: str
    basis: str
    fits: bool = True
    short_basis: str | None = None
    """Basis in a few words, separated by semicolons; None if `basis` is short."""
    used_share: float | None = None
    """Predicted need divided by the free amount; None if unknown."""
    short_text: str | None = None
    """Text in a few words; None if `text` is short."""
    parts: Sequence[tuple[str, int]] = ()
    """Names of the parts, and their sizes in bytes."""


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
    settings = preview.config.settings
    costs = estimate_cell_costs(preview, past_videos, gpu_sample, state_directory)
    lines = [
        CostLine(
            "videos",
            describe_video_count(preview),
            f"{describe_batch_seeds(preview)}; {_describe_recipe(preview)}",
            short_basis=describe_batch_seeds(preview),
            short_text=_shorten_video_count(preview),
        ),
        _estimate_time_cost(preview, costs, uses_gpu(preview, gpu_sample)),
        _estimate_memory_cost(preview, past_videos, gpu_sample, costs),
    ]
    disk = estimate_batch_disk(preview)
    folder = _find_nearest_existing_folder(expand_user_path(settings.output_dir))
    disk_need, free_bytes = estimate_batch_disk_need(preview, disk.total_bytes), query_free_disk_bytes(folder)
    fits = disk_need.total_bytes <= free_bytes
    parts = [("clips", disk.video_bytes, disk.videos_basis)]
    parts += [(part.name, part.bytes, part.basis) for part in disk.capture_parts]
    fitting_text = "" if fits else f"{_describe_fitting_part(preview, free_bytes, disk, disk_need)} would fit"
    spare_text = format_bytes(disk_need.temporary_bytes + disk_need.reserve_bytes)
    disk_text = f"{format_bytes(disk.total_bytes)}; {format_bytes(free_bytes)} free"
    calculations = ", ".join(f"{name} {format_bytes(size)} ({part_basis})" for name, size, part_basis in parts)
    used_share = disk_need.total_bytes / max(1, free_bytes)
    lines.append(
        CostLine(
            "disk",
            disk_text,
            "; ".join(filter(None, (fitting_text, calculations, f"another {spare_text} as a reserve"))),
            fits,
            fitting_text,
            used_share,
            parts=[(name, size) for name, size, _ in sorted(parts, key=lambda part: -part[1])],
        )
    )
    power_text, short_text, clauses = describe_power(list_grouping_powers(preview))
    if power_text:
        lines.append(CostLine("power", power_text, "; ".join(clauses), short_basis=clauses[0], short_text=short_text))
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
    """Return a warning if a batch would take hours because it has no GPU; None otherwise."""
    try:
        min_seconds = estimate_min_cpu_seconds(find_model(recipe.model), recipe, video_count)
    except UserError:  # the model is missing now; the worker reports that
        return None
    if min_seconds < CPU_WARNING_SECONDS:
        return None
    cores_text = format_count(os.cpu_count() or 1, "core")
    return (
        f"without a GPU {recipe.model} takes {_format_min_cpu_time(min_seconds, video_count)} ({cores_text}); -c nano "
        f"selects a model for CPUs"
    )


def describe_video_count(preview: BatchPreview) -> str:
    """Return the number of videos and its factors, as in 24 = 2 variations x 4 values of cfg_scale x 3 seeds."""
    factors = [format_count(len(preview.variations), "variation"), format_count(len(preview.seeds), "seed")]
    if preview.sweep is not None:
        names, has_baseline = list(preview.sweep.name_by_path.values()), preview.config.settings.sweeps_baseline
        factors.insert(1, describe_cell_count(len(preview.cells), names, has_baseline=has_baseline))
    return f"{preview.video_count:,} = {' x '.join(factors)}"


def _shorten_video_count(preview: BatchPreview) -> str:
    """Return the number of videos and the numbers of variations, cells and seeds: 24 = 2 x 4 x 3 seeds."""
    counts = [len(preview.variations), *([] if preview.sweep is None else [len(preview.cells)])]
    factors = [*map(str, counts), format_count(len(preview.seeds), "seed")]
    return f"{preview.video_count:,} = {' x '.join(factors)}"


def describe_batch_seeds(preview: BatchPreview) -> str:
    """Return the seeds of a batch: seeds 42 to 44, or seeds 7, 11, 42."""
    if preview.config.settings.seeds is not None:
        return f"seeds {shorten_text(preview.config.settings.seeds.replace(',', ', ').replace('..', ' to '), 60)}"
    return f"seeds {preview.seeds[0]} to {preview.seeds[-1]}"


def _describe_recipe(preview: BatchPreview) -> str:
    recipe = preview.first_recipe
    text = f"{recipe.model}, {recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')}, "
    text += format_count(recipe.steps, "step")
    return text if preview.sweep is None else f"{text}; sweep of {', '.join(preview.sweep.name_by_path.values())}"


def _estimate_time_cost(preview: BatchPreview, costs: Sequence[CellCost], is_on_gpu: bool) -> CostLine:
    """Return the predicted time for all cells on one worker."""
    total_seconds, basis = 0.0, costs[0].video_seconds.basis
    for cost in costs:
        if cost.total_seconds is None:
            break
        total_seconds += cost.total_seconds
    else:
        seconds = [cost.video_seconds.value or 0.0 for cost in costs]
        shortest, longest = format_duration(min(seconds)), format_duration(max(seconds))
        short_basis = "; ".join(costs[0].video_seconds.basis_clauses) or None
        if shortest != longest:
            basis = f"{shortest} to {longest} for each video; the first value: {basis}"
            short_basis = f"{shortest} to {longest} for each video"
        if any(cost.cell.recipe.find_control_request(ATTENTION_BENDING.name) for cost in costs):
            basis += "; bends are not counted"
        text = f"{format_duration(total_seconds)} on one worker"
        return CostLine("time", text, basis, short_basis=short_basis)
    video_count = sum(cost.video_count for cost in costs)
    min_seconds = sum(estimate_min_cpu_seconds(preview.model, cost.cell.recipe, cost.video_count) for cost in costs)
    if not is_on_gpu and min_seconds >= CPU_WARNING_SECONDS:
        return CostLine("time", _format_min_cpu_time(min_seconds, video_count), basis)
    return CostLine("time", "?", next(cost.video_seconds.basis for cost in costs if cost.total_seconds is None))


def _estimate_memory_cost(
    preview: BatchPreview,
    past_videos: Sequence[TimedVideo],
    gpu_sample: GpuSample | None,
    costs: Sequence[CellCost],
) -> CostLine:
    """Return the predicted memory of the cell that needs the most."""
    largest = max(costs, key=lambda cost: (cost.chosen_plan and cost.chosen_plan.peak_bytes) or 0)
    recipe, model, chosen_plan = largest.cell.recipe, preview.model, largest.chosen_plan
    weight_bytes = estimate_weight_bytes(model, recipe)
    memory_text = "?" if weight_bytes is None else f"weights only: {format_bytes(weight_bytes)}"
    if gpu_sample is None:
        return CostLine("memory", memory_text, "free memory is unknown")
    if not uses_gpu(preview, gpu_sample):
        free_bytes = gpu_sample.memory_total - gpu_sample.memory_used
        fits = weight_bytes is None or weight_bytes <= gpu_sample.memory_total
        basis = "in main memory, because no GPU is used; the peak is higher"
        if not fits:
            basis = "the weights do not fit into main memory: choose a smaller model, or another machine"
        used_share = None if weight_bytes is None else weight_bytes / max(1, free_bytes)
        text = f"{memory_text}; {format_bytes(free_bytes)} free"
        short_basis = "without a GPU" if fits else None
        return CostLine("memory", text, basis, fits, short_basis, used_share)
    free_gpu_bytes = list_free_gpu_bytes(gpu_sample.gpus)
    if not free_gpu_bytes or chosen_plan is None:
        return CostLine("memory", memory_text, "free GPU memory is unknown")
    peak_bytes, basis = chosen_plan.peak_bytes, "calculated from the sizes"
    measured_peak = find_measured_peak_memory(recipe, chosen_plan.plan.slug, past_videos)
    if measured_peak.value is not None:
        peak_bytes, basis = int(measured_peak.value), measured_peak.basis
    memory_text = "?" if peak_bytes is None else format_bytes(peak_bytes)
    memory_text = f"{memory_text}; {format_bytes(free_gpu_bytes[0])} free on the GPU: {chosen_plan.plan.slug}"
    second_text, second_basis = _describe_second_gpu(preview, largest, gpu_sample)
    basis = f"{chosen_plan.reason}; {basis}{second_basis}"
    used_share = None if peak_bytes is None else peak_bytes / max(1, free_gpu_bytes[0])
    return CostLine("memory", memory_text + second_text, basis, chosen_plan.fits, used_share=used_share)


def _describe_second_gpu(preview: BatchPreview, cost: CellCost, gpu_sample: GpuSample) -> tuple[str, str]:
    """Return the texts to append to the memory cost and its basis if a batch asks for two GPUs per video."""
    if preview.config.settings.model_settings.gpus_per_video == 1 or cost.chosen_plan is None:
        return "", ""
    plan, free_bytes = cost.chosen_plan.plan, list_free_gpu_bytes(gpu_sample.gpus)
    if cost.gpu_count == 2:
        peak_bytes = estimate_second_gpu_bytes(plan, preview.model, cost.largest_recipe)
        return f"; {format_bytes(peak_bytes)} on the second GPU", ""
    if not allows_second_gpu(plan):
        return "", f"; on one GPU, because the plan {plan.slug} streams the weights: a second GPU would be idle"
    if len(free_bytes) < 2:
        return "", "; on one GPU, because there is no second one"
    return "", f"; on one GPU now: {explain_missing_memory(plan, preview.model, cost.largest_recipe, free_bytes[1])}"


def _describe_fitting_part(
    preview: BatchPreview, free_bytes: int, disk_estimate: DiskEstimate, disk_need: DiskNeed
) -> str:
    """Describe how much of the batch fits on the disk."""
    fitting_count = disk_need.count_fitting_videos(free_bytes, preview.video_count)
    fitting_text = format_count(fitting_count, "video") if fitting_count else "no video"
    latent_bytes = disk_estimate.sum_capture_bytes("latents")
    fits_without_latents = latent_bytes and disk_need.total_bytes - latent_bytes <= free_bytes
    return f"{fitting_text}, or no stored latents," if fits_without_latents else fitting_text


def _find_nearest_existing_folder(path: Path) -> Path:
    """Return the path itself, or its nearest parent folder that exists and can be entered."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if os.path.isdir(folder)), Path("/"))  # noqa: PTH112 - Path.is_dir raises for a folder that may not be entered
