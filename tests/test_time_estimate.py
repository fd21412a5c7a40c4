"""Predicted times of a batch, from past videos with the same amount of work, or none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import recipe_for

from wantui.batches.batch_cost import estimate_batch_costs
from wantui.batches.batch_folders import check_batch_fits_on_disk
from wantui.batches.cell_cost import estimate_cell_costs
from wantui.captures.attention import AttentionRequest
from wantui.config import load_config
from wantui.errors import UserError
from wantui.gpu.monitor import GpuSample, GpuState
from wantui.models.catalogue import NANO
from wantui.planning import (
    CaptureRequests,
    PromptMark,
    estimate_video_seconds,
    parse_timed_videos,
    plan_batch,
    preview_batch,
)
from wantui.planning.flops import count_forward_flops
from wantui.planning.memory_plan import RESIDENT_PLAN, find_plan
from wantui.planning.step_skipping import count_computed_steps
from wantui.planning.time_estimate import find_measured_peak_memory, select_gpu_videos
from wantui.worker import job
from wantui.worker.job import estimate_typical_step_seconds

pytestmark = pytest.mark.torch

RECIPE = recipe_for(NANO, steps=20).model_copy(update={"model": "nano"})
DONE_EVENT = {
    "seconds": {"denoise": 3.0, "decode": 0.5, "step": 0.1},
    "device": "cpu",
    "memory_plan": "everything resident",
}


def timed_videos(*changes: dict[str, Any], recipe: Any = RECIPE) -> Any:
    return parse_timed_videos([(recipe.to_json(), {**DONE_EVENT, **change}) for change in changes])


def test_predicted_time_adds_steps_and_decoding_of_similar_videos() -> None:
    result = estimate_video_seconds(RECIPE, "cpu", timed_videos({}, {}, {}))
    assert result.value == pytest.approx(20 * 0.1 + 0.5)
    assert result.basis == "3 similar videos on this machine: 0.1 s per step, 0.5 s to decode"
    assert result.basis_clauses == ("3 similar videos", "0.1 s per step", "0.5 s to decode")


def test_long_times_of_similar_videos_have_no_exponent() -> None:
    slow = timed_videos({"seconds": {"denoise": 2468.0, "decode": 1234.0, "step": 123.4}})
    assert "120 s per step, 1200 s to decode" in estimate_video_seconds(RECIPE, "cpu", slow).basis


def test_decoding_time_is_converted_between_whole_and_tiled() -> None:
    large = RECIPE.model_copy(update={"width": 832, "height": 480})
    known, tiled = timed_videos({}, recipe=large), find_plan("tiled")
    result = estimate_video_seconds(large, "cpu", known, plan=tiled)
    assert result.value == pytest.approx(20 * 0.1 + 0.5 * 1.2 * 1088 * 608 / (832 * 480))
    back = estimate_video_seconds(
        large, "cpu", timed_videos({"memory_plan": tiled.slug}, recipe=large), plan=RESIDENT_PLAN
    )
    assert back.value == pytest.approx(20 * 0.1 + 0.5 / (1.2 * 1088 * 608 / (832 * 480)))


def test_predicted_time_scales_with_model_evaluations() -> None:
    more = RECIPE.model_copy(update={"steps": 40, "sampler": "heun"})
    assert estimate_video_seconds(more, "cpu", timed_videos({})).value == pytest.approx((2 * 40 - 1) * 0.1 + 0.5)


def test_calibrated_cached_video_time_counts_computed_steps() -> None:
    rising = tuple((1 - i / 10, -0.4 * i) for i in range(11))
    cached = RECIPE.model_copy(update={"speed": "cached", "magnitudes": rising})
    few, many = cached, cached.model_copy(update={"steps": 60})
    computed = [count_computed_steps(recipe) for recipe in (few, many)]
    assert computed[1] / 60 < computed[0] / 20 < 1
    # As a worker tells it of a video whose computed steps take a second, and whose others take no time.
    usual = estimate_typical_step_seconds([1.0, *[1.0] * (computed[0] - 1), *[0.0] * (20 - computed[0])], few)
    fast_ones = timed_videos({"seconds": {"step": usual, "decode": 0.5}}, recipe=few)
    result = estimate_video_seconds(many, "cpu", fast_ones)
    assert result.value == pytest.approx(computed[1] + 0.5)
    assert f"({computed[1]} of 60 are computed)" in result.basis
    exact_ones = timed_videos(
        {"seconds": {"step": 2.0, "decode": 0.5}}, recipe=RECIPE.model_copy(update={"speed": "fused"})
    )
    assert estimate_video_seconds(few, "cpu", exact_ones).value == pytest.approx(2 * computed[0] + 0.5)
    assert estimate_video_seconds(many, "cpu", [*exact_ones, *fast_ones]) == result
    # Of two steps the second one is left out, and tells nothing of those that are not.
    flat = cached.model_copy(update={"magnitudes": ((1.0, 0.0), (0.0, 0.0)), "steps": 2})
    assert count_computed_steps(flat) == 1
    assert estimate_video_seconds(flat, "cpu", timed_videos({}, recipe=flat)).value is None
    assert (
        estimate_video_seconds(few.model_copy(update={"magnitudes": ()}), "cpu", timed_videos({}, recipe=few)).value
        is None
    )


@pytest.mark.parametrize("change", [{"model": "wan2.1-14b"}, {"dtype": "bfloat16"}])
def test_videos_of_another_model_dtype_or_device_predict_nothing(change: dict[str, Any]) -> None:
    result = estimate_video_seconds(RECIPE.model_copy(update=change), "cpu", timed_videos({}))
    assert result.value is None
    assert "unknown" in result.basis
    assert estimate_video_seconds(RECIPE, "cuda", timed_videos({})).value is None


def test_predicted_time_of_another_size_is_scaled_by_flops() -> None:
    unguided = estimate_video_seconds(RECIPE.model_copy(update={"guidance_scale": 1.0}), "cpu", timed_videos({}))
    assert unguided.value == pytest.approx(20 * 0.05 + 0.5)
    larger = RECIPE.model_copy(update={"width": 128, "height": 128, "frames": 17})
    work = count_forward_flops(NANO, 128, 128, 17) / count_forward_flops(NANO, 32, 32, 9)
    result = estimate_video_seconds(larger, "cpu", timed_videos({}))
    assert result.value == pytest.approx(20 * 0.1 * work + 0.5 * (128 * 128 * 17) / (32 * 32 * 9))
    assert "scaled by FLOPs" in result.basis
    assert result.basis_clauses[1].endswith("from 1 video of 32x32, 9 frames")


def test_prediction_scales_from_the_size_nearest_in_flops() -> None:
    near, far = RECIPE.model_copy(update={"width": 128, "height": 112}), RECIPE
    known = timed_videos({}, recipe=far) + timed_videos({"seconds": {"step": 1.0, "decode": 0.5}}, recipe=near)
    result = estimate_video_seconds(RECIPE.model_copy(update={"width": 128, "height": 128}), "cpu", known)
    assert "of 128x112" in result.basis
    assert result.value is not None
    assert result.value > 20


def test_measured_peak_comes_from_the_latest_similar_video_with_the_same_plan() -> None:
    known = timed_videos({"peak_memory": 5_000}, {"peak_memory": 9_000})
    assert find_measured_peak_memory(RECIPE, "resident", known).value == 5_000
    assert find_measured_peak_memory(RECIPE, "stream", known).value is None


def test_measured_peak_comes_from_a_video_with_the_same_captures_and_controls() -> None:
    known = timed_videos({"peak_memory": 5_000})
    marks = (PromptMark(text="red", start=2, end=5),)
    mapped = RECIPE.model_copy(
        update={"capture": CaptureRequests(attention=AttentionRequest(per_block=True)), "marks": marks}
    )
    bends = {"bends": [{"name": "flip", "words": ["red"], "transform": {"mode": "flip", "flip_horizontal": True}}]}
    bent = recipe_for(NANO, steps=20, controls={"attention_bending": bends}).model_copy(update={"model": "nano"})
    for recipe in (mapped, bent):
        assert find_measured_peak_memory(recipe, "resident", known).value is None
    known = timed_videos({"peak_memory": 7_000}, recipe=mapped)
    assert find_measured_peak_memory(mapped, "resident", known).value == 7_000
    more_marks = mapped.model_copy(update={"marks": (*marks, PromptMark(text="a", start=0, end=1))})
    assert find_measured_peak_memory(more_marks, "resident", known).value is None


def test_video_records_without_required_fields_are_ignored() -> None:
    assert parse_timed_videos([(RECIPE.to_json(), {"seconds": {"denoise": 1.0}}), ("not a recipe", DONE_EVENT)]) == []


def sample(*gpus: GpuState) -> GpuSample:
    return GpuSample(0.0, gpus, "" if gpus else "none", "", 32_000_000_000, 2_000_000_000, 1.0)


def card(total: int, used: int) -> GpuState:
    return GpuState(0, "GPU-0", "H100", memory_total=total, memory_used=used)


def test_times_of_another_kind_of_gpu_do_not_predict_those_of_a_gpu() -> None:
    preview = preview_batch(load_config("nano"), "a circle")
    events = [
        {"device": "cuda", "gpu": gpu, "seconds": {"step": step_seconds, "decode": 0.0}}
        for gpu, step_seconds in (("A100", 3.0), ("A100", 3.0), ("H100", 1.0))
    ]
    past_videos = timed_videos(*events, recipe=preview.first_recipe)
    (cost,) = estimate_cell_costs(preview, past_videos, sample(card(24_000_000_000, 0)))
    assert cost.video_seconds.value == pytest.approx(preview.first_recipe.steps * 1.0)
    assert "1 similar video " in cost.video_seconds.basis
    assert len(select_gpu_videos(past_videos, "A100")) == 2
    assert len(select_gpu_videos(past_videos, "")) == 3  # unknown, such as a MIG instance
    unnamed = timed_videos({"device": "cuda"})  # of an earlier version
    assert select_gpu_videos(unnamed, "H100") == unnamed


@pytest.mark.parametrize(("device", "name"), [("cuda", "H100"), ("cpu", None)])
def test_finished_video_names_its_gpu(device: str, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "find_device_name", lambda _: "H100")
    pipeline: Any = SimpleNamespace(wantui_placement=SimpleNamespace(device=torch.device(device)))
    video = job.VideoInProgress(Mock(recipe=RECIPE), pipeline, None, 0.0)
    pending = video.make_pending_finalization(Mock(), Mock())
    assert (pending.device_type, pending.gpu_name) == (device, name)


def test_memory_cost_names_the_plan_that_fits_the_gpu() -> None:
    outline = preview_batch(load_config("wan_14b_optimized"), "a [red|blue] circle")
    memory = {c.name: c for c in estimate_batch_costs(outline, [], sample(card(24_000_000_000, 0)))}["memory"]
    assert memory.fits
    assert "stream" in memory.text
    assert "and 24.0 GB are free" in memory.basis
    assert not {c.name: c for c in estimate_batch_costs(outline, [], sample(card(3_000_000_000, 0)))}["memory"].fits
    assert {c.name: c for c in estimate_batch_costs(outline, [], sample(card(80_000_000_000, 0)))}["memory"].fits


@pytest.mark.parametrize("template", ["[a|(cat) (dog) (bird)] sits", "[(cat) (dog) (bird)|a (cat)] sits"])
def test_memory_is_predicted_from_the_variation_with_most_marks(template: str) -> None:
    stored = [
        f"attention_analysis_settings.{key}=true" for key in ("store_attention", "store_per_block", "store_per_head")
    ]
    config = load_config("wan_14b_optimized", [*stored, "memory_settings.plan=offload"])

    def memory(of: str) -> str:
        return {c.name: c for c in estimate_batch_costs(preview_batch(config, of), [], sample(card(10**11, 0)))}[
            "memory"
        ].text

    assert memory(template) == memory("(cat) (dog) (bird) sits") != memory("a (cat) sits")


def test_requested_plan_that_does_not_fit_is_reported() -> None:
    outline = preview_batch(load_config("default", ["memory_settings.plan=resident"]), "a circle")
    memory = estimate_batch_costs(outline, [], sample(card(80_000_000_000, 70_000_000_000)))[2]
    assert not memory.fits
    assert "requested; it needs" in memory.basis


def test_batch_too_large_for_the_disk_suggests_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    overrides = ["latent_analysis_settings.store_latents=true", "videos_per_variation=100"]
    disk = estimate_batch_costs(preview_batch(load_config("default", overrides), "a circle"), [], sample())[3]
    assert not disk.fits
    assert "would fit" in disk.basis
    assert "no stored latents" in disk.basis


def test_disk_without_room_for_the_reserve_gets_no_advice_that_cannot_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shutil

    batch = plan_batch(load_config("nano", ["latent_analysis_settings.store_latents=true"]), "a circle")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_100_000))
    disk = estimate_batch_costs(batch, [], sample())[3]
    assert disk.basis.startswith("no video would fit; ")
    with pytest.raises(UserError, match=r"Free disk space, or choose another output_dir$"):
        check_batch_fits_on_disk(tmp_path, batch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    batch = plan_batch(load_config("nano", ["videos_per_variation=9999"]), "a circle")
    with pytest.raises(UserError, match=r"choose another output_dir or fewer videos or a larger .*storage_interval$"):
        check_batch_fits_on_disk(tmp_path, batch)


def test_unknown_plan_accepts_timings_of_all_plans() -> None:
    streamed, parked = timed_videos({"memory_plan": "stream"}), timed_videos({"memory_plan": "offload"})
    assert estimate_video_seconds(RECIPE, "cpu", streamed).value is not None
    assert estimate_video_seconds(RECIPE, "cpu", streamed, plan=RESIDENT_PLAN).value is None
    assert estimate_video_seconds(RECIPE, "cpu", streamed, plan=find_plan("stream")).value is not None
    assert estimate_video_seconds(RECIPE, "cpu", parked, plan=RESIDENT_PLAN).value is not None  # which works as fast
