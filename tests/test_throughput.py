"""The throughput model: fitted to blocks with known times, stored on disk, and used before any video was generated."""

import errno
import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import Wantui, recipe_for
from diffusers import WanPipeline
from diffusers.models.attention_dispatch import dispatch_attention_fn
from fitted_throughput import ATTENTION, BLOCKS, CARD, PRODUCT, VALUE, block, fit_known_throughput
from tiny import latents_of

from wantui.batches import rerun
from wantui.cli import doctor
from wantui.config.speeds import SpeedName
from wantui.environment import build_torch_environment
from wantui.generation import attention_backends as attention_probe
from wantui.generation import bench, load
from wantui.generation.bench import build_random_transformer
from wantui.generation.fuse import fuse_blocks
from wantui.generation.load import load_pipeline
from wantui.generation.provenance import describe_provenance
from wantui.generation.timing import measure_round_and_launch_seconds
from wantui.models.catalogue import NANO, find_model
from wantui.planning import memory_plan as memory
from wantui.planning.flops import count_forward_flops
from wantui.planning.memory_plan import RESIDENT_PLAN, find_plan
from wantui.planning.throughput import (
    MeasuredBlock,
    _compute_cost_terms,
    count_decoded_pixels,
    count_decoded_side_pixels,
    fit_throughput,
)
from wantui.planning.time_estimate import estimate_video_seconds
from wantui.planning.weight_bytes import estimate_block_bytes
from wantui.queue import benchmark_store
from wantui.queue.benchmark_store import load_throughput, save_throughput
from wantui.queue.state_dir import find_state_directory
from wantui.worker import pipelines

pytestmark = pytest.mark.torch


def test_fit_recovers_the_parameters_behind_the_times() -> None:
    result = fit_known_throughput()
    assert result.attention_operation == pytest.approx(ATTENTION, rel=1e-6)
    assert result.product_operation == pytest.approx(PRODUCT, rel=1e-6)
    assert result.value == pytest.approx(VALUE, rel=1e-6)
    assert result.error < 1e-6


def test_launch_bound_block_does_not_affect_the_fit() -> None:
    launched = [
        MeasuredBlock(b.transformer_width, b.feed_forward_width, b.token_count, max(b.seconds, 0.002), 0.002)
        for b in BLOCKS
    ]
    assert sum(b.seconds == 0.002 for b in launched) == 1
    result = fit_throughput(launched, 1e-7, CARD, "reference", "2.11")
    assert result.attention_operation == pytest.approx(ATTENTION, rel=1e-6)
    assert result.predict_block_seconds(1536, 8960, 100) == 0.002
    assert result.error < 1e-6


def test_one_slow_launch_does_not_affect_the_fit() -> None:
    first, *others = (replace(b, launch_seconds=0.0005) for b in BLOCKS)
    slow = replace(first, seconds=0.0031, launch_seconds=0.003)
    assert slow.seconds > 1.2 * first.seconds
    result = fit_throughput([slow, *others], 1e-7, CARD, "reference", "2.11")
    assert result.attention_operation == pytest.approx(ATTENTION, rel=1e-6)
    assert result.product_operation == pytest.approx(PRODUCT, rel=1e-6)
    assert result.launch == 0.0005
    assert result.error < 0.05


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (0.25, 3), (0.9, 4)])
def test_timing_runs_for_minimum_rounds_and_seconds(
    seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def run() -> None:
        now[0] += 0.25 if now[0] else 100  # the first round does not count

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert measure_round_and_launch_seconds(run, torch.device("cpu"), min_seconds=seconds) == (0.25, 0.25)
    assert now[0] == 100 + 0.25 * rounds


def test_fitted_costs_are_never_negative() -> None:
    blocks = [
        MeasuredBlock(
            b.transformer_width,
            b.feed_forward_width,
            b.token_count,
            _compute_cost_terms(b.transformer_width, b.feed_forward_width, b.token_count)[0] * 1e-15,
        )
        for b in BLOCKS
    ]
    result = fit_throughput(blocks, 1e-7, CARD, "reference", "2.11")
    assert min(result.attention_operation, result.product_operation, result.value) >= 0


def test_block_operations_add_up_to_the_forward_flops() -> None:
    model = find_model("wan2.1-14b")
    attention, products, _ = _compute_cost_terms(model.transformer_width, model.feed_forward_width, 32_760)
    assert model.block_count * (attention + products) == pytest.approx(
        count_forward_flops(model, 832, 480, 81), rel=1e-3
    )


def test_time_of_an_unmeasured_size_is_predicted_from_its_parts() -> None:
    model = find_model("wan2.1-14b")
    recipe = recipe_for(NANO, steps=30).model_copy(
        update={"model": model.name, "width": 1280, "height": 720, "frames": 81, "dtype": "bfloat16"}
    )
    result = estimate_video_seconds(recipe, "cuda", [], fit_known_throughput())
    step = 2 * model.block_count * block(model.transformer_width, model.feed_forward_width, 75_600).seconds
    assert result.value == pytest.approx(30 * step + 1e-7 * 1280 * 720 * 81, rel=1e-6)
    assert "wantui bench" in result.basis
    assert estimate_video_seconds(recipe, "cpu", [], fit_known_throughput()).value is None


def test_decoding_is_predicted_by_the_decoder_that_the_speed_uses() -> None:
    model = find_model("wan2.1-1.3b")
    recipe = recipe_for(model, dtype="bfloat16")
    pixels = recipe.width * recipe.height * recipe.frames
    measured = fit_throughput(BLOCKS, 3e-7, CARD, "fused", "2.11", fused_decoded_value=2e-7)
    for speed, plan, pixel_seconds in (
        ("fused", "resident", 2e-7),
        ("fp8", "resident", 2e-7),
        ("reference", "resident", 3e-7),
        ("fused", "sequential", 3e-7),
    ):
        chosen = recipe.model_copy(update={"speed": speed})
        expected = pixel_seconds * count_decoded_pixels(chosen, find_plan(plan))
        assert measured.predict_decode_seconds(model, chosen, find_plan(plan)) == pytest.approx(expected)
    without_fused = replace(measured, fused_decoded_value=None)  # of a benchmark before the decoder was fused
    fused = recipe.model_copy(update={"speed": "fused"})
    assert without_fused.predict_decode_seconds(model, fused) == pytest.approx(3e-7 * pixels)


def test_throughputs_that_are_saved_at_once_are_all_kept(tmp_path: Path) -> None:
    cards = [f"{CARD} {number}" for number in range(12)]
    with ThreadPoolExecutor(len(cards)) as pool:
        list(
            pool.map(lambda card: save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, card, "fused", "2.11")), cards)
        )
    stored = json.loads((tmp_path / "throughput.json").read_text())
    assert sorted(entry["device"] for entry in stored) == sorted(cards)


@pytest.mark.parametrize("changes", [{"speed": "turbo"}, {"tensor_parallel": 2}, {"speed": None}])
def test_entries_of_a_later_version_are_kept_and_ignored(tmp_path: Path, changes: dict[str, object]) -> None:
    path = save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, CARD, "reference", "2.11"))
    later_entry = json.loads(path.read_text())[0] | changes
    path.write_text(json.dumps([later_entry, *json.loads(path.read_text())]))
    save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, "other card", "fused", "2.11"))
    stored = json.loads(path.read_text())
    assert stored[0] == later_entry
    assert [entry["device"] for entry in stored] == [CARD, CARD, "other card"]
    found = load_throughput(tmp_path, CARD, recipe_for(find_model("wan2.1-1.3b")))
    assert found is not None
    assert found.speed == "reference"


def test_unreadable_file_of_throughputs_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, CARD, "reference", "2.11"))
    stored = path.read_text()

    def fail(path: Path) -> object:
        raise OSError(errno.EMFILE, "too many open files", str(path))

    monkeypatch.setattr(benchmark_store, "read_json", fail)
    with pytest.raises(OSError, match="too many open files"):
        save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, "other card", "fused", "2.11"))
    assert path.read_text() == stored


def test_throughput_is_stored_per_device_and_speed(tmp_path: Path) -> None:
    recipe = recipe_for(find_model("wan2.1-1.3b"))
    assert load_throughput(tmp_path, CARD, recipe) is None
    save_throughput(tmp_path, fit_known_throughput())
    save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, CARD, "fused", "2.11"))
    save_throughput(tmp_path, fit_throughput(BLOCKS, 3e-7, CARD, "reference", "2.11"))
    reference = load_throughput(tmp_path, CARD, recipe)
    fused = load_throughput(tmp_path, CARD, recipe.model_copy(update={"speed": "fused"}))
    assert reference is not None
    assert fused is not None
    assert (reference.decoded_value, fused.decoded_value) == (3e-7, 2e-7)
    last = find_plan("sequential")
    assert (
        load_throughput(tmp_path, CARD, recipe.model_copy(update={"speed": "fused"}), last) == reference
    )  # its blocks are not fused
    assert load_throughput(tmp_path, CARD, recipe_for(NANO, speed="fused")) == reference  # nor are nano's
    (tmp_path / "throughput.json").write_text("[{]")
    assert load_throughput(tmp_path, CARD, recipe) is None


def test_throughput_of_earlier_versions_is_read_with_current_speed_names(tmp_path: Path) -> None:
    stored = [
        asdict(fit_known_throughput()) | {"speed": "plain"},
        asdict(fit_known_throughput()) | {"speed": "exact", "launch": 0.5},
    ]
    (tmp_path / "throughput.json").write_text(json.dumps(stored))
    recipe = recipe_for(find_model("wan2.1-1.3b"))
    for speed, launch in (("reference", fit_known_throughput().launch), ("fused", 0.5), ("cached", 0.5)):
        result = load_throughput(tmp_path, CARD, recipe.model_copy(update={"speed": speed}))
        assert result is not None
        assert result.launch == launch
    save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, CARD, "fused", "2.11"))
    assert [entry["speed"] for entry in json.loads((tmp_path / "throughput.json").read_text())] == [
        "reference",
        "fused",
    ]


def test_random_transformer_has_the_dtypes_of_a_loaded_one() -> None:
    transformer = build_random_transformer(1, 256, 1, torch.device("cpu"), torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in transformer.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] == dtypes["blocks.0.norm2.weight"] == torch.float32


@pytest.mark.parametrize("speed", ["reference", "fused"])
def test_bench_measures_blocks_of_each_width_and_size(speed: SpeedName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TIMED_TRANSFORMERS", ((1, 256, 1), (2, 512, 1)))
    monkeypatch.setattr(bench, "LATENT_GRIDS", ((1, 8, 8), (2, 8, 8)))
    monkeypatch.setattr(bench, "DECODED_FRAME_SIZE", (16, 16))  # of a VAE in its full width
    monkeypatch.setattr(bench, "MIN_MEASUREMENT_SECONDS", 0.05)
    lines: list[str] = []
    monkeypatch.setattr(attention_probe, "POSITION_COUNT", 64)
    result = bench.measure_throughput(torch.device("cpu"), speed, lines.append)
    assert len([line for line in lines if not line.startswith("attention by")]) == (5 if speed == "reference" else 6)
    assert result.attention_operation + result.product_operation + result.value > 0
    assert result.decoded_value > 0


def test_streamed_block_takes_at_least_its_transfer_time() -> None:
    model, plan = find_model("wan2.1-14b"), find_plan("stream")
    large = recipe_for(NANO).model_copy(update={"model": model.name, "width": 832, "height": 480, "frames": 81})
    large = large.model_copy(update={"dtype": "bfloat16"})
    small = large.model_copy(update={"width": 64, "height": 64, "frames": 1})
    result = fit_throughput(BLOCKS, 1e-7, CARD, "reference", "2.11", streaming_costs=(0.004, 2e-11))
    more = result.predict_step_seconds(model, large, plan) - result.predict_step_seconds(model, large, RESIDENT_PLAN)
    assert more == pytest.approx(2 * 40 * 0.004)
    coming = 0.004 + 2e-11 * estimate_block_bytes(model, small)
    assert result.predict_step_seconds(model, small, plan) == pytest.approx(2 * 40 * coming)


def test_int8_adds_the_time_to_scale_outputs() -> None:
    model = find_model("wan2.1-14b")
    recipe = recipe_for(model, width=832, height=480, frames=81)
    steps = [
        fit_known_throughput().predict_step_seconds(model, recipe.model_copy(update={"weights": weights}))
        for weights in ("full", "float8", "int8")
    ]
    assert steps[0] == steps[1]
    outputs = 32_760 * (7 * 5120 + 13824)
    assert steps[2] - steps[0] == pytest.approx(2 * 40 * 0.038 * VALUE * outputs)


def test_only_reference_blocks_of_5b_modulate_each_token() -> None:
    model = find_model("wan2.2-5b")
    recipe = recipe_for(NANO).model_copy(update={"model": model.name, "width": 1280, "height": 704, "frames": 49})
    reference, fused = (
        fit_known_throughput().predict_step_seconds(
            model, recipe.model_copy(update={"speed": speed, "dtype": "bfloat16"})
        )
        for speed in ("reference", "fused")
    )
    places = 13 * 22 * 40
    assert fused == pytest.approx(2 * 30 * block(model.transformer_width, model.feed_forward_width, places).seconds)
    assert reference - fused == pytest.approx(2 * 30 * 0.25 * VALUE * places * model.transformer_width)


def test_tiled_decoding_time_includes_overlaps() -> None:
    assert count_decoded_side_pixels(832, None) == count_decoded_side_pixels(832, 832) == 832
    assert count_decoded_side_pixels(832, 256) == 256 + 256 + 256 + 256 + 64  # they begin at 0, 192, 384, 576 and 768
    model, tiled = find_model("wan2.1-1.3b"), find_plan("tiled")
    recipe = recipe_for(NANO).model_copy(update={"width": 832, "height": 480, "frames": 81})
    ratio = fit_known_throughput().predict_decode_seconds(
        model, recipe, tiled
    ) / fit_known_throughput().predict_decode_seconds(model, recipe)
    assert ratio == pytest.approx(1.2 * 1088 * 608 / (832 * 480))
    small = recipe.model_copy(update={"width": 256, "height": 192})  # one tile is all of it
    assert fit_known_throughput().predict_decode_seconds(
        model, small, tiled
    ) == fit_known_throughput().predict_decode_seconds(model, small)


def test_streaming_overhead_is_measured_against_resident_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0.0  # a clock that only streaming advances, so that the load of this machine does not count

    def wait(*_: object) -> None:
        nonlocal waited
        waited += 0.03

    def stream(transformer: Any, _: torch.device) -> None:
        for block in transformer.blocks:
            block.register_forward_pre_hook(wait)

    def measure(run: Callable[[], object], _: torch.device) -> float:
        before = waited
        run()
        return waited - before

    monkeypatch.setattr(bench, "stream_blocks", stream)
    monkeypatch.setattr(bench, "measure_median_seconds", measure)
    monkeypatch.setattr(bench, "TIMED_TRANSFORMERS", ((1, 256, 1), (2, 512, 1)))
    monkeypatch.setattr(bench, "LATENT_GRIDS", ((1, 8, 8), (2, 8, 8)))
    block, byte = bench._measure_streaming(torch.device("cpu"), "fused")
    assert block == pytest.approx(0.03)
    assert byte == pytest.approx(0)


def test_bench_on_the_cpu_is_refused(wantui: Wantui) -> None:
    result = wantui("bench", "--device", "cpu")
    assert (result.code, "bench needs a CUDA GPU" in result.err) == (3, True)


def test_bench_on_a_full_gpu_is_an_error_message(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(bench, "check_kernel_requirements", lambda _: None)
    monkeypatch.setattr(bench, "_run_measurements", Mock(side_effect=torch.OutOfMemoryError("tried to allocate 2 GiB")))
    result = wantui("bench")
    assert result.code == 2
    assert "cannot measure cuda: not enough free memory" in result.err


def test_bench_reports_known_and_unknown_throughput(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [
        MeasuredBlock(
            b.transformer_width,
            b.feed_forward_width,
            b.token_count,
            _compute_cost_terms(b.transformer_width, b.feed_forward_width, b.token_count)[0] * 1e-15,
            0.001,
        )
        for b in BLOCKS
    ]
    monkeypatch.setattr(load, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(bench, "measure_throughput", lambda *_: fit_throughput(blocks, 1e-7, CARD, "fused", "2.11"))
    result = wantui("bench")
    assert result.code == 0
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert lines[:2] == ["a card, fused, torch 2.11:", "self-attention 1000.00 TFLOP/s"]
    assert "other matmuls ? TFLOP/s" in lines
    assert "kernel launches 1.00 ms per block at least" in lines
    assert (
        load_throughput(find_state_directory().directory, CARD, recipe_for(find_model("wan2.1-1.3b"), speed="fused"))
        is not None
    )


def test_cached_video_uses_the_throughput_of_fused_videos(tmp_path: Path) -> None:
    model = find_model("wan2.1-1.3b")
    recipe = recipe_for(model, width=832, height=480, frames=81)
    for speed in ("reference", "fused"):
        save_throughput(tmp_path, fit_throughput(BLOCKS, 2e-7, CARD, speed, "2.11"))
    result = load_throughput(tmp_path, CARD, recipe.model_copy(update={"speed": "cached"}))
    assert result is not None
    assert result.speed == "fused"
    cached = result.predict_step_seconds(model, recipe.model_copy(update={"speed": "cached"}))
    assert cached < result.predict_step_seconds(model, recipe)


# Attention kernels.


@pytest.mark.parametrize(("seconds", "best"), [(0.5, "_native_math"), (0.99, "native"), (2.0, "native")])
def test_attention_kernel_is_selected_only_if_clearly_faster_than_torch(
    monkeypatch: pytest.MonkeyPatch, seconds: float, best: str
) -> None:
    monkeypatch.setattr(attention_probe, "POSITION_COUNT", 64)
    monkeypatch.setattr(attention_probe, "KERNEL_NAMES", ("native", "_native_math", "_flash_3"))
    times = iter((1.0, seconds))
    monkeypatch.setattr(attention_probe, "measure_median_seconds", lambda run, device: next(times))
    lines: list[str] = []
    assert attention_probe.find_fastest_attention_kernel(torch.device("cpu"), lines.append) == best
    assert "attention by _flash_3: not available" in lines[2]


def test_attention_kernel_with_wrong_output_is_not_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_probe, "POSITION_COUNT", 64)
    monkeypatch.setattr(attention_probe, "KERNEL_NAMES", ("native", "_native_math"))
    monkeypatch.setattr(
        attention_probe,
        "dispatch_attention_fn",
        lambda *a, backend: dispatch_attention_fn(*a, backend=backend) * (1.1 if backend == "_native_math" else 1),
    )
    monkeypatch.setattr(attention_probe, "measure_median_seconds", lambda run, device: 1.0)
    lines: list[str] = []
    assert attention_probe.find_fastest_attention_kernel(torch.device("cpu"), lines.append) == "native"
    assert "not used (relative error 1.0e-01 against torch" in lines[1]


def test_attention_kernel_with_different_bits_in_each_run_is_not_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_probe, "POSITION_COUNT", 64)
    monkeypatch.setattr(attention_probe, "KERNEL_NAMES", ("native", "_native_math"))
    factors = iter((1.0, 1.0 + 2**-7))
    monkeypatch.setattr(
        attention_probe,
        "dispatch_attention_fn",
        lambda *a, backend: dispatch_attention_fn(*a) * (next(factors) if backend == "_native_math" else 1),
    )
    monkeypatch.setattr(attention_probe, "measure_median_seconds", lambda run, device: 1.0)
    lines: list[str] = []
    assert attention_probe.find_fastest_attention_kernel(torch.device("cpu"), lines.append) == "native"
    assert lines[1] == "attention by _native_math: not used (two runs with the same inputs differ)"


@pytest.mark.parametrize(("peak_ratio", "best"), [(1.12, "native"), (1.08, "_native_math")])
def test_attention_kernel_that_needs_more_memory_than_predicted_is_not_selected(
    monkeypatch: pytest.MonkeyPatch, peak_ratio: float, best: str
) -> None:
    monkeypatch.setattr(attention_probe, "POSITION_COUNT", 64)
    monkeypatch.setattr(attention_probe, "KERNEL_NAMES", ("native", "_native_math"))
    times, peaks = iter((1.0, 0.5)), iter((400, int(400 * peak_ratio)))
    monkeypatch.setattr(attention_probe, "measure_median_seconds", lambda run, device: next(times))
    monkeypatch.setattr(attention_probe, "_run_and_measure_memory", lambda run, device: (run(), next(peaks)))
    lines: list[str] = []
    assert attention_probe.find_fastest_attention_kernel(torch.device("cpu"), lines.append) == best
    assert ("not used (1.1 times the memory of torch's kernel)" in lines[1]) == (best == "native")


def test_attention_kernels_are_timed_with_the_memory_layout_of_fused_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    strides: dict[str, list[list[int]]] = {"fused": [], "probe": []}
    caller = "fused"

    def run(*tensors: torch.Tensor, **_: object) -> torch.Tensor:
        strides[caller].append([tensor.stride(1) // (tensor.shape[2] * tensor.shape[3]) for tensor in tensors[:3]])
        attention_output: torch.Tensor = dispatch_attention_fn(*tensors[:3])
        return attention_output

    monkeypatch.setattr(attention_probe, "dispatch_attention_fn", run)
    pipeline = load_pipeline(NANO, None, "float32", torch.device("cpu"))
    fuse_blocks(pipeline.transformer)
    latents_of(pipeline, recipe_for(NANO, steps=2))
    caller = "probe"
    monkeypatch.setattr(attention_probe, "POSITION_COUNT", 64)
    monkeypatch.setattr(attention_probe, "KERNEL_NAMES", ("native",))
    attention_probe.find_fastest_attention_kernel(torch.device("cpu"), lambda _: None)
    assert strides["probe"][0] == strides["fused"][0] == [3, 3, 3]


@pytest.fixture
def flash_attention_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that is found as FlashAttention-4 is: a namespace without a file, and metadata."""
    package = tmp_path / "packages/flash_attn/cute"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from torch.nn.functional import scaled_dot_product_attention\n"
        "def flash_attn_func(q, k, v):\n"
        "    out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))\n"
        "    return out.transpose(1, 2), None\n"
    )
    metadata = tmp_path / "packages/flash_attn_4-4.0.0b36.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: flash-attn-4\nVersion: 4.0.0b36\n")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield
    for name in ("flash_attn", "flash_attn.cute"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("flash_attention_4")
def test_flash_attention_4_is_selected_used_and_recorded_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_probe, "POSITION_COUNT", 64)
    times = iter((1.0, 0.5))
    monkeypatch.setattr(attention_probe, "KERNEL_NAMES", ("native", "flash_attn_4"))
    monkeypatch.setattr(attention_probe, "measure_median_seconds", lambda run, device: next(times))
    assert attention_probe.find_fastest_attention_kernel(torch.device("cpu"), lambda _: None) == "flash_attn_4"
    pipeline = load_pipeline(NANO, None, "float32", torch.device("cpu"))
    recipe = recipe_for(NANO, steps=2)
    wanted = latents_of(pipeline, recipe)
    fuse_blocks(pipeline.transformer, "flash_attn_4")
    provenance = describe_provenance(pipeline, recipe)
    assert (provenance["attention"], provenance["attention_version"]) == ("flash_attn_4", "4.0.0b36")
    assert torch.allclose(latents_of(pipeline, recipe), wanted, atol=1e-2)


def test_missing_flash_attention_4_is_named() -> None:
    with pytest.raises(RuntimeError, match="the package flash-attn-4 cannot be imported: No module named"):
        attention_probe.check_kernel_installed("flash_attn_4")


@pytest.mark.usefixtures("flash_attention_4")
def test_doctor_lists_attention_packages_without_importing_them() -> None:
    assert doctor._list_attention_packages() == ["flash-attn-4 4.0.0b36"]
    assert "flash_attn" not in sys.modules


def test_fused_blocks_use_and_record_the_selected_attention_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = load_pipeline(NANO, None, "float32", torch.device("cpu"))
    recipe = recipe_for(NANO, steps=2)
    assert describe_provenance(pipeline, recipe)["blocks"] == "reference"
    wanted = latents_of(pipeline, recipe)
    fuse_blocks(pipeline.transformer, "_native_math")
    provenance = describe_provenance(pipeline, recipe)
    assert (provenance["blocks"], provenance["attention"]) == ("fused", "_native_math")
    assert torch.allclose(latents_of(pipeline, recipe), wanted, atol=1e-2)


def test_provenance_names_variables_that_choose_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, recipe = load_pipeline(NANO, None, "float32", torch.device("cpu")), recipe_for(NANO, steps=2)
    monkeypatch.delenv("MKL_CBWR", raising=False)
    assert describe_provenance(pipeline, recipe)["environment"] == ""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "flash")
    variables = "DIFFUSERS_ATTN_BACKEND=flash NVIDIA_TF32_OVERRIDE=0"
    assert describe_provenance(pipeline, recipe)["environment"] == variables


def test_pipeline_is_loaded_with_the_attention_kernel_from_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    save_throughput(
        find_state_directory().directory,
        fit_throughput(BLOCKS, 2e-7, "cpu", "fused", "2.11", attention_kernel="_native_math"),
    )
    monkeypatch.setattr(memory, "MIN_FUSED_TRANSFORMER_WIDTH", NANO.transformer_width)
    asked: list[str] = []

    def recorded_load(*arguments: Any, attention_kernel: str, **options: Any) -> WanPipeline:
        asked.append(attention_kernel)
        return load_pipeline(*arguments, attention_kernel=attention_kernel, **options)

    monkeypatch.setattr(pipelines, "load_pipeline", recorded_load)
    for speed in ("fused", "reference"):
        pipelines.load_recipe_pipeline(recipe_for(NANO, steps=2, speed=speed), "cpu", RESIDENT_PLAN)
    pipelines.load_recipe_pipeline(recipe_for(NANO, speed="fused"), "cpu", RESIDENT_PLAN, attention_kernel="native")
    assert asked == ["_native_math", "native", "native"]


@pytest.mark.parametrize(
    ("provenance", "kernel"),
    [
        ({"device": CARD, "attention": "_native_cudnn"}, "_native_cudnn"),
        ({"device": CARD, "attention": "native"}, "native"),
        ({"device": "another card", "attention": "_native_cudnn"}, None),
        ({"device": CARD, "attention": "flash"}, None),
        ({"device": CARD, "attention": "of a later version"}, None),
        ({"device": CARD}, None),
        ({}, None),
    ],
)
def test_rerun_uses_the_attention_kernel_of_the_original_if_this_machine_has_it(
    provenance: dict[str, Any], kernel: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_installed(name: str) -> None:
        if name == "flash":
            raise RuntimeError("flash-attn is not installed")

    monkeypatch.setattr(rerun, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(rerun, "find_device_name", lambda _: CARD)
    monkeypatch.setattr(rerun, "check_kernel_installed", check_installed)
    assert rerun.find_original_kernel("auto", provenance) == kernel


def test_torch_numbers_gpus_like_the_driver_unless_the_user_decides() -> None:
    assert build_torch_environment({})["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert build_torch_environment({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_kernels_of_flash_attention_4_are_stored_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"
    assert build_torch_environment({})[folder] == f"{os.environ['XDG_CACHE_HOME']}/wantui/flash-attn-4"
    assert build_torch_environment({folder: "/chosen"})[folder] == "/chosen"
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", Mock(side_effect=KeyError))
    assert folder not in build_torch_environment({})
