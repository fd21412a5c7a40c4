"""Speed fp8: products in FP8 against float64, blocks against unrounded ones, and what is refused by name."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Wantui
from diffusers import WanTransformer3DModel
from tiny import latents_of
from torch import Tensor, nn

from wantui.analysis.loading import _collect_settings
from wantui.batches import enqueue
from wantui.batches.batch_folders import create_batch_folder
from wantui.config import load_config
from wantui.errors import UserError
from wantui.generation import load
from wantui.generation.bench import build_random_transformer
from wantui.generation.errors import LoadError
from wantui.generation.fp8 import (
    MIN_PRODUCT_ROWS,
    Fp8FeedForward,
    Fp8Linear,
    QuantizedRows,
    compute_test_product,
    quantize_layer_norm,
    quantize_rows,
)
from wantui.generation.fuse import fuse_blocks, has_fp8_blocks, is_fused, quantize_blocks
from wantui.generation.fused_norm import add_gated, apply_layer_norm
from wantui.generation.load import check_fp8_device, load_pipeline
from wantui.generation.pass_cache import PassCache
from wantui.generation.provenance import describe_provenance
from wantui.gpu.nvml import Gpu, GpuReport
from wantui.models.catalogue import NANO, find_model
from wantui.planning import Recipe, plan_batch, preview_batch
from wantui.planning.fp8 import count_fp8_blocks
from wantui.planning.fp8_checks import list_fp8_conflicts
from wantui.planning.memory_plan import (
    MEMORY_PLANS,
    can_fuse_pipeline,
    choose_memory_plan,
    estimate_peak_bytes,
    estimate_required_bytes,
    find_next_plan,
    find_plan,
)
from wantui.planning.throughput import Throughput
from wantui.planning.time_estimate import estimate_video_seconds
from wantui.planning.weight_bytes import estimate_block_bytes, estimate_mean_block_bytes, estimate_transformer_bytes
from wantui.queue.benchmark_store import load_throughput, save_throughput
from wantui.queue.state_dir import StateDirectory, find_state_directory
from wantui.storage.manifest import read_manifest

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def can_multiply_rows() -> bool:
    """Whether torch multiplies e4m3 values with a scale for each row on the CPU; torch 2.11 takes one scale only."""
    values, scales = torch.ones(16, 16).to(torch.float8_e4m3fn), torch.ones(16, 1)
    try:
        torch._scaled_mm(values, values.t(), scale_a=scales, scale_b=scales.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


needs_products = pytest.mark.skipif(not can_multiply_rows(), reason="this torch has no row-wise FP8 product on the CPU")
RELATIVE_BOUND, ABSOLUTE_BOUND = 2.0**-4, 2.0**-10
"""Largest errors of rounding to e4m3: of half a unit of 3 bits of mantissa, and below 2^-6 of half of 2^-9."""
SETTINGS = ["model_settings.model_id=wan2.1-1.3b", "model_settings.speed=fp8"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def dequantize(rows: QuantizedRows) -> Tensor:
    """Return the represented values in float64."""
    return rows.values.double() * rows.scales.double().view(*rows.values.shape[:-1], 1)


def check_rounding(rows: QuantizedRows, wanted: Tensor) -> None:
    """Check the closed form of the rounding error: relative, or absolute for values below 2^-6 of the scaled row."""
    scales = rows.scales.double().view(*wanted.shape[:-1], 1)
    bound = torch.maximum(RELATIVE_BOUND * wanted.double().abs(), ABSOLUTE_BOUND * scales)
    assert bool(((dequantize(rows) - wanted.double()).abs() <= bound * (1 + 1e-5)).all())


# Rounding.


@pytest.mark.parametrize("magnitude", [1e-30, 1e-4, 1.0, 3e4])
def test_rounding_error_is_within_the_closed_form(magnitude: float) -> None:
    values = random(2, 50, 96) * magnitude
    values[0, 3] *= torch.logspace(-6, 6, 96)  # one row with a wide range
    rows = quantize_rows(values)
    assert rows.values.dtype == torch.float8_e4m3fn
    check_rounding(rows, values)
    largest = values.flatten(0, 1).abs().amax(1, keepdim=True)
    assert torch.allclose(rows.scales, largest.float() / 448)
    assert torch.equal(rows.values.flatten(0, 1).float().abs().amax(1), torch.full((100,), 448.0))


def test_row_of_zeros_stays_zero_with_a_finite_scale() -> None:
    values = random(3, 32)
    values[1] = 0
    rows = quantize_rows(values)
    assert not rows.values[1].float().any()
    assert bool(rows.scales.isfinite().all())
    assert bool((rows.scales > 0).all())


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_infinity_and_nan_become_nan_in_their_row_only(value: float) -> None:
    values = random(3, 32)
    values[1, 7] = value
    rows = quantize_rows(values)
    assert bool(rows.values[1, 7].float().isnan())
    assert bool(rows.values[[0, 2]].float().isfinite().all())


def test_gelu_is_applied_before_rounding() -> None:
    values = random(4, 64)
    check_rounding(quantize_rows(values, applies_gelu=True), F.gelu(values.float(), approximate="tanh"))


def test_norm_is_rounded_and_its_sum_equals_that_of_fused_blocks() -> None:
    hidden, added = random(1, 20, 48), random(1, 20, 48, seed=1)
    gate, weight, bias = (random(48, seed=seed).float() for seed in (2, 3, 4))
    hidden_sum, rows = quantize_layer_norm(hidden, added.clone(), gate, weight, bias, 1e-6)
    assert torch.equal(hidden_sum, add_gated(hidden, added.clone(), gate))
    check_rounding(rows, apply_layer_norm(hidden_sum, weight, bias, 1e-6))
    same, rows = quantize_layer_norm(hidden, None, None, weight, bias, 1e-6)
    assert torch.equal(same, hidden)
    check_rounding(rows, apply_layer_norm(hidden, weight, bias, 1e-6))


# Products.


def linear_of(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, dtype=torch.bfloat16)
    layer.weight.data, layer.bias.data = random(outputs, inputs, seed=5), random(outputs, seed=6)
    layer.weight.data[3] *= 100  # rows of different sizes
    return layer


@needs_products
def test_product_equals_float64_of_the_rounded_operands() -> None:
    layer, hidden = linear_of(96, 48), random(1, 33, 96)
    fp8 = Fp8Linear(layer, CPU)
    weight = fp8.weight.double() * fp8.weight_scales.double()[:, None]
    wanted = F.linear(dequantize(quantize_rows(hidden)), weight, layer.bias.double())
    product = fp8(hidden)
    assert product.dtype == torch.bfloat16
    # Rounding to bfloat16, beside sums in float32 of values that may cancel.
    magnitudes = F.linear(dequantize(quantize_rows(hidden)).abs(), weight.abs())
    assert bool(((product.double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-5 * magnitudes).all())
    assert torch.equal(fp8(quantize_rows(hidden)), product)


@needs_products
def test_products_of_few_rows_are_padded_because_cublas_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, hidden = linear_of(512, 64), random(40, 512)
    fp8, row_counts = Fp8Linear(layer, CPU), []
    multiply: Callable[..., torch.Tensor] = torch._scaled_mm

    def multiply_many_rows(values: torch.Tensor, *arguments: object, **settings: object) -> torch.Tensor:
        row_counts.append(len(values))
        return multiply(values, *arguments, **settings)

    monkeypatch.setattr(torch, "_scaled_mm", multiply_many_rows)
    product = fp8(hidden)
    assert row_counts == [MIN_PRODUCT_ROWS]
    assert product.shape == (40, 64)
    repeated = fp8(hidden.repeat(10, 1))
    assert row_counts == [MIN_PRODUCT_ROWS, 400]
    torch.testing.assert_close(repeated, product.repeat(10, 1))


@needs_products
def test_product_error_is_within_the_bound_of_both_roundings() -> None:
    layer, hidden = linear_of(256, 32), random(7, 256)
    exact = F.linear(hidden.double(), layer.weight.double(), layer.bias.double())
    magnitudes = F.linear(hidden.double().abs(), layer.weight.double().abs())
    error = (Fp8Linear(layer, CPU)(hidden).double() - exact).abs().detach()
    assert bool((error <= (2 * RELATIVE_BOUND + RELATIVE_BOUND**2 + 2**-7) * magnitudes).all())
    assert 5e-3 < float(error.norm() / exact.detach().norm()) < 6e-2  # about 2^-5 times the root of 2


@needs_products
@torch.no_grad()
def test_feed_forward_equals_float64_of_its_rounded_values() -> None:
    inner, outer, hidden = linear_of(64, 96), linear_of(96, 64), random(1, 20, 64) / 8
    feed_forward = Fp8FeedForward(inner, outer, CPU)
    middle = dequantize(quantize_rows(feed_forward.inner(hidden), applies_gelu=True))
    weight = feed_forward.outer.weight.double() * feed_forward.outer.weight_scales.double()[:, None]
    wanted = F.linear(middle, weight, outer.bias.double())
    result = feed_forward(hidden)
    assert float((result.double() - wanted).norm() / wanted.norm()) < 3e-3


# Blocks.


@pytest.fixture(scope="module")
def fused() -> WanTransformer3DModel:
    """A fused transformer in bfloat16 of 5 blocks."""
    torch.manual_seed(0)
    transformer = build_random_transformer(1, 256, 5, CPU, torch.bfloat16)
    for block in transformer.blocks:
        nn.init.normal_(block.norm2.weight)
        nn.init.normal_(block.norm2.bias)
    fuse_blocks(transformer)
    return transformer


@pytest.fixture(scope="module")
def quantized(fused: WanTransformer3DModel) -> WanTransformer3DModel:
    transformer = copy.deepcopy(fused)
    assert all(block.forward.__self__ is block for block in transformer.blocks)
    quantize_blocks(transformer, CPU)
    return transformer


INPUTS = random(1, 16, 3, 8, 8), torch.tensor([500.0]), random(1, 512, 4096, seed=1)


def run(transformer: WanTransformer3DModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = transformer(*INPUTS, return_dict=False)[0]
    return result.float()


def test_first_and_last_block_and_text_keys_are_not_in_fp8(quantized: WanTransformer3DModel) -> None:
    types = [{p.dtype for p in block.parameters()} for block in quantized.blocks]
    assert [torch.float8_e4m3fn in dtypes for dtypes in types] == [False, True, True, True, False]
    assert count_fp8_blocks(5) == 3
    assert quantized.blocks[2].attn2.to_kv.weight.dtype == torch.bfloat16
    assert quantized.proj_out.weight.dtype == quantized.patch_embedding.weight.dtype == torch.bfloat16
    assert quantized.dtype == torch.bfloat16
    assert has_fp8_blocks(quantized)
    assert is_fused(quantized)


@needs_products
def test_error_of_a_pass_is_small_and_not_zero(fused: WanTransformer3DModel, quantized: WanTransformer3DModel) -> None:
    wanted = run(fused)
    error = float((run(quantized) - wanted).norm() / wanted.norm())
    assert 1e-4 < error < 5e-2
    assert not has_fp8_blocks(fused)


@needs_products
def test_block_error_equals_that_of_its_rounded_products(
    fused: WanTransformer3DModel, quantized: WanTransformer3DModel
) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(1, 48, 128, generator=generator).bfloat16()
    text, temb = torch.randn(1, 512, 128, generator=generator).bfloat16(), torch.randn(1, 6, 128, generator=generator)
    rotary = quantized.rope(INPUTS[0])
    with torch.no_grad():
        wanted, result = (each.blocks[2](hidden, text, temb, rotary).float() for each in (fused, quantized))
    changed = (wanted - hidden.float()).norm()
    assert 1e-3 < float((result - wanted).norm() / changed) < 6e-2


@needs_products
def test_passes_sharing_a_cache_equal_separate_passes(quantized: WanTransformer3DModel) -> None:
    passes, wanted = PassCache(), run(quantized)
    passes.start_step(has_two_passes=True)
    for context in ("cond", "uncond"):
        with passes.run_pass(quantized, context, INPUTS[2]):
            assert torch.equal(run(quantized), wanted)


@needs_products
def test_infinite_weight_gives_nan_instead_of_a_video(fused: WanTransformer3DModel) -> None:
    transformer = copy.deepcopy(fused)
    transformer.blocks[1].ffn.net[2].weight.data[5, 5] = math.inf
    quantize_blocks(transformer, CPU)
    assert not bool(run(transformer).isfinite().all())


def nano_in_fp8(recipe: Recipe) -> tuple[Tensor, Tensor]:
    pipeline = load_pipeline(NANO, None, "bfloat16", CPU)
    fuse_blocks(pipeline.transformer)
    wanted = latents_of(pipeline, recipe)
    quantize_blocks(pipeline.transformer, CPU)
    assert describe_provenance(pipeline, recipe)["blocks"] == "fp8"
    return wanted, latents_of(pipeline, recipe)


@pytest.mark.slow
@needs_products
def test_whole_video_of_nano_stays_near_the_fused_video() -> None:
    settings = ["model_settings.steps=3", "model_settings.dtype=bfloat16", "video_settings.frames=5"]
    recipe = plan_batch(load_config("nano", settings), "a large red circle moving left").videos[0].recipe
    wanted, result = nano_in_fp8(recipe)
    assert 1e-3 < float((result - wanted).norm() / wanted.norm()) < 0.2  # narrow layers, 3 steps, and guidance


# What is offered, predicted and refused.


def preview(*settings: str) -> tuple[str, ...]:
    return preview_batch(load_config("default", [*SETTINGS, *settings]), "a circle").refusals


def recipe_in_fp8(name: str = "wan2.1-14b", **changes: object) -> Recipe:
    recipe = plan_batch(load_config("nano", []), "a circle").videos[0].recipe
    sizes = {"width": 832, "height": 480, "frames": 81, "guidance_scale": 5.0}
    return recipe.model_copy(update={"model": name, "dtype": "bfloat16", "speed": "fp8", **sizes, **changes})


def test_a_published_model_is_accepted_and_its_recipe_records_fp8() -> None:
    assert not preview()
    recipe = preview_batch(load_config("default", SETTINGS), "a circle").first_recipe
    assert recipe.speed == "fp8"
    assert recipe.computation_note == "fp8"
    assert Recipe.model_validate_json(recipe.to_json()) == recipe
    assert recipe.digest != recipe.model_copy(update={"speed": "fused"}).digest


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (
            "model_settings.weights=float8",
            "cannot be combined with model_settings.weights: float8: set weights to full",
        ),
        (
            "model_settings.dtype=float32",
            "model_settings.dtype is float32: set dtype to bfloat16, or model_settings.speed to fused",
        ),
        (
            "memory_settings.plan=sequential",
            "but memory_settings.plan: sequential loads them in parts: set plan to auto",
        ),
    ],
)
def test_settings_that_fp8_cannot_be_combined_with_are_refused(setting: str, reason: str) -> None:
    (refusal,) = preview(setting)
    assert refusal.startswith("model_settings.speed: fp8 ")
    assert reason in refusal


def test_contributions_in_fp8_are_refused() -> None:
    settings = [*SETTINGS, "contribution_settings.store_contributions=true"]
    (refusal,) = preview_batch(load_config("default", settings), "a (circle)").refusals
    assert "contribution_settings.store_contributions" in refusal


def test_nano_in_fp8_is_refused_because_its_blocks_are_narrow() -> None:
    (refusal,) = preview_batch(load_config("nano", ["model_settings.speed=fp8"]), "a circle").refusals
    assert "at least 512, but the blocks of nano are 192 wide: set model_settings.speed to fused" in refusal


@pytest.mark.parametrize(("block_count", "is_refused"), [(1, True), (2, True), (3, False)])
def test_models_without_a_block_between_the_first_and_the_last_are_refused(block_count: int, is_refused: bool) -> None:
    model = replace(find_model("wan2.1-1.3b"), block_count=block_count)
    conflicts = list_fp8_conflicts(model, "bfloat16", "full", None)
    assert len(conflicts) == is_refused
    assert all("leaves the first and the last block in bfloat16, and wan2.1-1.3b has" in text for text in conflicts)


@pytest.mark.parametrize("missing_index", [0, 1])
def test_finished_videos_in_fp8_do_not_block_other_videos(wantui: Wantui, missing_index: int) -> None:
    """A batch on the CPU of a finished and a missing video, of which the first is in FP8."""
    settings = ["videos_per_variation=2", "model_settings.device=cpu"]
    folder, _ = create_batch_folder(plan_batch(load_config("nano", settings), "a circle"))
    stored = json.loads(folder.manifest_path.read_text())
    stored["videos"][0]["recipe"]["speed"] = "fp8"
    stored["videos"][1 - missing_index] |= {"state": "done", "files": {}}
    folder.manifest_path.write_text(json.dumps(stored))
    if missing_index == 0:
        result = wantui("run", "--resume", folder.root, "--detach")
        assert result.code == 3
        assert "cannot use model_settings.speed: fp8 on the CPU" in result.err
        with pytest.raises(UserError, match="fp8 on the CPU"):
            enqueue.enqueue_missing_videos(find_state_directory(), folder, read_manifest(folder))
        return
    added = enqueue.enqueue_missing_videos(find_state_directory(), folder, read_manifest(folder))
    assert added is not None
    assert added.video_count == 1
    stored["videos"][1] |= {"state": "done", "files": {}}
    folder.manifest_path.write_text(json.dumps(stored))
    result = wantui("run", "--resume", folder.root, "--detach")
    assert result.code == 0, result.err


def test_other_speeds_are_not_checked_for_fp8() -> None:
    settings = ["model_settings.model_id=wan2.1-1.3b", "model_settings.dtype=float32"]
    assert preview_batch(load_config("default", settings), "a circle").refusals == ()


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_batch_in_fp8_is_refused_without_a_gpu(wantui: Wantui, device: str) -> None:
    settings = [
        argument for setting in (*SETTINGS, f"model_settings.device={device}") for argument in ("--set", setting)
    ]
    result = wantui("run", "-t", "a circle", *settings)
    assert result.code == 3
    assert "cannot use model_settings.speed: fp8 on " in result.err
    assert "compute capability 8.9 or later" in result.err
    shown = wantui("preview", "-t", "a circle", *settings)
    assert "cannot use model_settings.speed: fp8 on " in shown.out + shown.err


@pytest.mark.parametrize(("device", "refused"), [("auto", True), ("cuda", True), ("cuda:0", True), ("cuda:1", False)])
def test_gpus_without_fp8_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, refused: bool
) -> None:
    gpus = Gpu(0, "GPU-a", "A100", 80, 0, compute_capability=(8, 0)), Gpu(1, "GPU-b", "H100", 80, 0, (), (9, 0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GpuReport(gpus, "580", None))

    def check(speed: str) -> None:
        enqueue.check_fp8_available(StateDirectory(tmp_path), device, [recipe_in_fp8(speed=speed)])

    check("fused")
    if not refused:
        check("fp8")
        return
    with pytest.raises(UserError, match=r"fp8 on GPU 0 \(A100\), which has 8\.0: it needs .* 8\.9 or later"):
        check("fp8")


def test_a_cpu_and_older_gpus_are_refused_when_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match=r"fp8 on the CPU: it needs a GPU with compute capability 8\.9"):
        load_pipeline(NANO, None, "bfloat16", CPU, speed="fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "RTX 3090")
    with pytest.raises(LoadError, match=r"RTX 3090, which has 8\.6"):
        check_fp8_device(torch.device("cuda"))


@needs_products
def test_device_check_computes_ones_plus_the_bias() -> None:
    assert torch.equal(compute_test_product(CPU), torch.full((512, 512), 1024.0, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [
        (RuntimeError("rowwise scaling is not supported on this device.\nException raised from _scaled_mm"), True),
        (ValueError("rowwise scaling is not supported on this device."), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (None, False),
    ],
)
def test_a_gpu_on_which_torch_refuses_products_of_rows_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, is_refused: bool
) -> None:
    def multiply(values: Tensor, *_: object, **__: object) -> Tensor:
        if error is not None:
            raise error
        return values.bfloat16()

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "RTX 4090")
    monkeypatch.setattr(load, "compute_test_product", lambda _: compute_test_product(CPU))
    monkeypatch.setattr(torch, "_scaled_mm", multiply)
    if error is None:
        check_fp8_device(torch.device("cuda"))
        return
    with pytest.raises(LoadError if is_refused else type(error)) as caught:
        check_fp8_device(torch.device("cuda"))
    if is_refused:
        assert str(caught.value) == (
            f"cannot use model_settings.speed: fp8 on RTX 4090: torch {torch.__version__} refuses a product in FP8 "
            "with a scale for each row (rowwise scaling is not supported on this device). Choose speed fused, or "
            "install another version of torch"
        )
        assert caught.value.__suppress_context__


def test_predicted_weights_equal_those_of_a_quantized_transformer(quantized: WanTransformer3DModel) -> None:
    def count_bytes(module: nn.Module) -> int:
        return sum(parameter.nbytes for parameter in module.parameters())

    sizes_of_model = {"head_count": 1, "transformer_width": 128, "feed_forward_width": 256, "block_count": 5}
    model = replace(find_model("wan2.1-1.3b"), **sizes_of_model)  # type: ignore[arg-type]
    recipe = recipe_in_fp8()
    assert estimate_transformer_bytes(model, recipe) == count_bytes(quantized)
    sizes = [count_bytes(block) for block in quantized.blocks]
    assert estimate_block_bytes(model, recipe) == sizes[0] == sizes[-1]
    assert estimate_mean_block_bytes(model, recipe) == pytest.approx(sum(sizes) / 5)


def test_every_plan_needs_less_memory_in_fp8_and_sequential_is_never_chosen() -> None:
    model, recipe = find_model("wan2.1-14b"), recipe_in_fp8()
    for plan in MEMORY_PLANS:
        if plan.can_fuse and can_fuse_pipeline(model, plan, "fp8", "full"):
            full, half = (estimate_peak_bytes(plan, model, recipe_in_fp8(speed=speed)) for speed in ("fused", "fp8"))
            assert half is not None
            assert full is not None
            if plan.transformer_placement == "streamed":  # the text encoder needs more than a streamed transformer
                assert half == full
            else:
                assert 0.2 < 1 - half / full < 0.4
    for size in (2, 6, 10, 20, 40, 80):
        assert choose_memory_plan(model, recipe, int(size * 1e9)).plan.can_fuse
    free = estimate_required_bytes(find_plan("encode-first"), model, recipe)
    assert free is not None
    assert choose_memory_plan(model, recipe, free).plan.slug == "encode-first"
    assert choose_memory_plan(model, recipe_in_fp8(speed="fused"), free).plan.slug == "stream"
    assert find_next_plan(find_plan("stream-tiled"), True, model, recipe) is None
    after_fused = find_next_plan(find_plan("stream-tiled"), True, model, recipe_in_fp8(speed="fused"))
    assert after_fused is not None
    assert after_fused.slug == "sequential"


def throughput_of(speed: str) -> Throughput:
    return Throughput("H200", speed, 1e-15, 1e-15, 1e-12, 1e-8, 0.0, 0.0, "2.11", 0.0)  # type: ignore[arg-type]


def test_a_benchmark_of_fp8_is_used_for_fp8_only(tmp_path: Path) -> None:
    directory, recipe = tmp_path, recipe_in_fp8()
    for speed in ("reference", "fused"):
        save_throughput(directory, throughput_of(speed))
    fallback = load_throughput(directory, "H200", recipe)
    assert fallback is not None
    assert fallback.speed == "fused"
    assert "run `wantui bench --speed fp8`" in estimate_video_seconds(recipe, "cuda", [], fallback).basis
    save_throughput(directory, throughput_of("fp8"))
    for speed in ("reference", "fused", "fp8"):
        found = load_throughput(directory, "H200", recipe_in_fp8(speed=speed))
        assert found is not None
        assert found.speed == speed
    assert "wantui bench --speed" not in estimate_video_seconds(recipe, "cuda", [], throughput_of("fp8")).basis


def test_videos_in_fp8_are_not_compared_with_others() -> None:
    settings = [_collect_settings(recipe_in_fp8(speed=speed)) for speed in ("reference", "fused", "fp8")]
    assert settings[0] == settings[1]
    assert {name for name in settings[1] if settings[1][name] != settings[2][name]} == {"fp8"}
