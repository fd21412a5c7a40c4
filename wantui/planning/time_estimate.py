"""Time and memory estimates of videos, from videos already generated on this machine.

An estimate comes from videos with the same time per step, otherwise from the throughput that `wantui bench` measured,
otherwise from videos of the same model in another size, scaled by FLOPs; otherwise there is none. Its basis names the
source.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import ValidationError

from wantui.config.plans import migrate_plan_name
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel, find_model
from wantui.planning.disk_estimate import records_marked_words
from wantui.planning.flops import count_forward_flops
from wantui.planning.guidance_plan import compute_mean_passes, compute_typical_passes
from wantui.planning.map_names import list_map_texts
from wantui.planning.memory_plan import PLAN_SLUGS, RESIDENT_PLAN, MemoryPlan, find_plan
from wantui.planning.recipe import Recipe
from wantui.planning.step_skipping import count_computed_steps, estimate_computed_share
from wantui.planning.throughput import Throughput, count_decoded_pixels
from wantui.samplers import count_model_evaluations


@dataclass(frozen=True)
class TimedVideo:
    """A finished video with its measured times and memory."""

    recipe: Recipe
    device: str
    """cpu or cuda."""
    step_seconds: float
    """Median seconds of a step; for a cached video the mean of all steps but the first."""
    decode_seconds: float
    peak_memory_bytes: int | None
    plan_name: str
    gpu_count: int = 1
    """Number of GPUs that shared the passes of a guided step."""
    gpu_name: str = ""
    """Name of the GPU; empty on a CPU, and in videos of earlier versions."""


@dataclass(frozen=True)
class Estimate:
    """A predicted value or None, with its basis in words."""

    value: float | None
    basis: str
    basis_clauses: tuple[str, ...] = ()
    """The basis in a few words, one clause for each line; empty if it has one clause."""


def parse_timed_videos(finished_videos: Iterable[tuple[str, dict[str, Any]]]) -> list[TimedVideo]:
    """Return the timed videos among events of finished videos; skips events of older versions without times."""
    videos = []
    for recipe_json, event_data in finished_videos:
        seconds = event_data.get("seconds") or {}
        if "step" not in seconds or "decode" not in seconds or "device" not in event_data:
            continue
        try:
            videos.append(
                TimedVideo(
                    Recipe.model_validate_json(recipe_json),
                    event_data["device"],
                    seconds["step"],
                    seconds["decode"],
                    event_data.get("peak_memory"),
                    migrate_plan_name(event_data.get("memory_plan") or ""),
                    event_data.get("gpus") or 1,
                    event_data.get("gpu") or "",
                )
            )
        except ValidationError:
            continue
    return videos


def select_gpu_videos(past_videos: Sequence[TimedVideo], gpu_name: str) -> list[TimedVideo]:
    """Return the videos whose times can predict those of a GPU: all except videos of another kind of GPU.

    Args:
        gpu_name: name of the GPU; empty if it is unknown, or for a CPU.
    """
    return [video for video in past_videos if not gpu_name or video.gpu_name in ("", gpu_name)]


def estimate_video_seconds(
    recipe: Recipe,
    device_kind: str,
    past_videos: Sequence[TimedVideo],
    throughput: Throughput | None = None,
    plan: MemoryPlan | None = None,
    gpu_count: int = 1,
) -> Estimate:
    """Predict the seconds for one video on a kind of device (cpu or cuda), with the model already loaded.

    Args:
        throughput: measured throughput of the device, used if no video with the same time per step exists.
        plan: memory plan; only videos with the same kind of weight streaming count. None counts all videos.
        gpu_count: GPUs that share the passes of a guided step.
    """
    device_videos = [
        video for video in past_videos if video.device == device_kind and _estimate_timed_share(video.recipe) > 0
    ]
    if plan is not None:
        device_videos = [
            video
            for video in device_videos
            if _find_recorded_plan(video.plan_name).weight_streaming == plan.weight_streaming
        ]
    step_key = _make_step_key(recipe, gpu_count)
    similar_videos = [video for video in device_videos if _make_step_key(video.recipe, video.gpu_count) == step_key]
    similar_videos = [video for video in similar_videos if video.recipe.speed == recipe.speed] or similar_videos
    if not similar_videos:
        if throughput is not None and device_kind == "cuda":
            return _estimate_by_throughput(recipe, throughput, plan or RESIDENT_PLAN, gpu_count)
        return _estimate_by_scaling(recipe, device_videos, plan, gpu_count)
    step_seconds = (
        median(map(_compute_full_step_seconds, similar_videos))
        * (compute_mean_passes(recipe, gpu_count) / compute_typical_passes(recipe, gpu_count))
        * estimate_computed_share(recipe)
    )
    decode_seconds = _estimate_decode_seconds(recipe, plan, similar_videos)
    source_text = format_count(len(similar_videos), "similar video")
    time_texts = (_describe_step_time(step_seconds, recipe), f"{_round_to_two_digits(decode_seconds)} s to decode")
    return Estimate(
        step_seconds * count_model_evaluations(recipe.sampler, recipe.steps) + decode_seconds,
        f"{source_text} on this machine: {', '.join(time_texts)}",
        (source_text, *time_texts),
    )


def _compute_full_step_seconds(video: TimedVideo) -> float:
    """Return the seconds of a step that computes all blocks.

    Skipped steps are assumed to cost nothing, which is nearly true of large models.
    """
    return video.step_seconds / _estimate_timed_share(video.recipe)


def _estimate_timed_share(recipe: Recipe) -> float:
    """Return the share of computed steps among the steps averaged in `TimedVideo.step_seconds`."""
    evaluation_count = count_model_evaluations(recipe.sampler, recipe.steps)
    if recipe.speed != "cached" or not recipe.magnitudes or evaluation_count == 1:
        return estimate_computed_share(recipe)
    return (count_computed_steps(recipe) - 1) / (evaluation_count - 1)


def _describe_skipping(recipe: Recipe) -> str:
    if recipe.speed != "cached" or not recipe.magnitudes:
        return ""
    return f" ({count_computed_steps(recipe)} of {count_model_evaluations(recipe.sampler, recipe.steps)} are computed)"


def _find_recorded_plan(plan_name: str) -> MemoryPlan:
    """Return the recorded plan; the resident plan if none is known, as in videos of the first version."""
    return find_plan(plan_name) if plan_name in PLAN_SLUGS else RESIDENT_PLAN


def _round_to_two_digits(value: float) -> str:
    """Return a value with two significant digits, but without an exponent up to a million."""
    return f"{float(f'{value:.2g}'):g}"


def _describe_step_time(step_seconds: float, recipe: Recipe) -> str:
    return f"{_round_to_two_digits(step_seconds)} s per step{_describe_skipping(recipe)}"


def _estimate_by_throughput(recipe: Recipe, throughput: Throughput, plan: MemoryPlan, gpu_count: int) -> Estimate:
    try:
        model = find_model(recipe.model)
    except UserError:
        return Estimate(None, "the model is unknown")
    step_seconds = throughput.predict_step_seconds(model, recipe, plan, gpu_count)
    source_text = f"from `wantui bench` on {throughput.device}"
    if recipe.speed == "fp8" and throughput.speed != "fp8":
        source_text += f" with {throughput.speed} blocks, which are slower: run `wantui bench --speed fp8`"
    clauses = (_describe_step_time(step_seconds, recipe), source_text)
    return Estimate(throughput.predict_video_seconds(model, recipe, plan, gpu_count), ", ".join(clauses), clauses)


def _estimate_decode_seconds(recipe: Recipe, plan: MemoryPlan | None, timed_videos: Sequence[TimedVideo]) -> float:
    """Return the median decoding time of videos, scaled to the decoded pixels of a recipe."""
    scaled_seconds = []
    for video in timed_videos:
        recorded_plan = _find_recorded_plan(video.plan_name)
        pixel_ratio = count_decoded_pixels(recipe, plan or recorded_plan) / count_decoded_pixels(
            video.recipe, recorded_plan
        )
        scaled_seconds.append(video.decode_seconds * pixel_ratio)
    return median(scaled_seconds)


def _estimate_by_scaling(
    recipe: Recipe, past_videos: Sequence[TimedVideo], plan: MemoryPlan | None, gpu_count: int
) -> Estimate:
    """Estimate a recipe's duration from videos of the same model and a different amount of work.

    Take the videos whose FLOPs per step are closest to the recipe's, and scale their times to the recipe's FLOPs.
    """
    no_estimate = Estimate(
        None, "unknown until a video of this model has been generated here, or `wantui bench` has been run"
    )
    operation_key = _make_operation_key(recipe)
    videos_by_step_key: dict[tuple[Any, ...], list[TimedVideo]] = {}
    for video in past_videos:
        if _make_operation_key(video.recipe) == operation_key:
            videos_by_step_key.setdefault(_make_step_key(video.recipe, video.gpu_count), []).append(video)
    if not videos_by_step_key:
        return no_estimate
    try:
        model = find_model(recipe.model)
    except UserError:
        return no_estimate
    step_flops = compute_mean_passes(recipe, gpu_count) * count_forward_flops(
        model, recipe.width, recipe.height, recipe.frames
    )
    flops_ratio, nearest_videos = min(
        ((step_flops / _count_typical_step_flops(model, videos[0]), videos) for videos in videos_by_step_key.values()),
        key=lambda pair: abs(math.log(pair[0])),
    )
    nearest_recipe = nearest_videos[0].recipe
    step_seconds = (
        flops_ratio * median(map(_compute_full_step_seconds, nearest_videos)) * estimate_computed_share(recipe)
    )
    decode_seconds = _estimate_decode_seconds(recipe, plan, nearest_videos)
    size_text = f"{nearest_recipe.width}x{nearest_recipe.height}, {format_count(nearest_recipe.frames, 'frame')}"
    clauses = (
        _describe_step_time(step_seconds, recipe),
        f"scaled by FLOPs ({_round_to_two_digits(flops_ratio)} times as many) from "
        f"{format_count(len(nearest_videos), 'video')} of {size_text}",
    )
    seconds = step_seconds * count_model_evaluations(recipe.sampler, recipe.steps) + decode_seconds
    return Estimate(seconds, ", ".join(clauses), clauses)


def _count_typical_step_flops(model: WanModel, video: TimedVideo) -> float:
    """Count the FLOPs of one GPU in the step with the median duration."""
    recipe = video.recipe
    return compute_typical_passes(recipe, video.gpu_count) * count_forward_flops(
        model, recipe.width, recipe.height, recipe.frames
    )


def find_measured_peak_memory(recipe: Recipe, plan_name: str, past_videos: Sequence[TimedVideo]) -> Estimate:
    """Return the measured peak GPU bytes of the latest video with the same size, model, memory plan and extras.

    Extras are captures, with the number of marked words, and controls.
    """
    memory_key = _make_memory_key(recipe)
    similar_videos = [
        video
        for video in past_videos
        if video.peak_memory_bytes and video.plan_name == plan_name and _make_memory_key(video.recipe) == memory_key
    ]
    if not similar_videos:
        return Estimate(None, "no similar video on this machine yet")
    return Estimate(
        similar_videos[0].peak_memory_bytes,
        f"measured on the latest of {format_count(len(similar_videos), 'similar video')}",
    )


def _make_video_size_key(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.width, recipe.height, recipe.frames


def _make_operation_key(recipe: Recipe) -> tuple[Any, ...]:
    """Return the key of equal time per operation.

    A cached video with magnitudes counts as fused: the steps that it computes are known, and cost the same.
    """
    return *recipe.source.cost_key, "fused" if recipe.magnitudes else recipe.speed


def _make_step_key(recipe: Recipe, gpu_count: int = 1) -> tuple[Any, ...]:
    """Return the key of equal time per computed step."""
    return *_make_video_size_key(recipe), compute_typical_passes(recipe, gpu_count), *_make_operation_key(recipe)


def make_time_key(recipe: Recipe) -> tuple[Any, ...]:
    """Return the key of recipes with equal predicted times."""
    return (
        *_make_step_key(recipe),
        compute_mean_passes(recipe),
        recipe.speed,
        recipe.magnitudes,
        recipe.sampler,
        recipe.steps,
    )


def _make_memory_key(recipe: Recipe) -> tuple[Any, ...]:
    """Return a key that is equal for recipes with equal peak memory under one memory plan."""
    return (
        *_make_step_key(recipe),
        recipe.speed == "cached",
        bool(recipe.magnitudes),
        recipe.capture,
        recipe.controls,
        len(list_map_texts(recipe.prompts)) if records_marked_words(recipe) else 0,
    )
