"""Speeds: fused equals diffusers bit for bit on a CPU, cached videos are distinguished, and fused blocks equal unfused
ones."""

import copy
import gc
import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import LoadOnce, Wantui, batch, recipe_for
from diffusers import WanPipeline, WanTransformer3DModel
from tiny import diffusers_output, latents_of
from torch import nn

from wantui.config import load_config
from wantui.generation import fused_attention, fused_block
from wantui.generation.calibrate import measure_magnitudes
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.fuse import fuse_blocks, is_fused
from wantui.generation.fused_linear import apply_linear, apply_linear_gelu
from wantui.generation.load import load_pipeline
from wantui.generation.pass_cache import PassCache, merge_padding
from wantui.json_files import UnreadableFileError
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.models.fingerprint import fingerprint_model
from wantui.models.magnitudes import (
    NANO_MAGNITUDES_PATH,
    PUBLISHED_MAGNITUDES_PATH,
    Magnitudes,
    find_magnitudes_path,
    load_magnitudes,
)
from wantui.planning import Recipe, plan_batch, preview_batch
from wantui.planning.memory_plan import MEMORY_PLANS, can_fuse_pipeline
from wantui.planning.step_skipping import compute_magnitude_ratios, count_computed_steps
from wantui.samplers import compute_noise_levels
from wantui.storage.manifest import read_manifest

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def recipe_of(speed: str, **changes: object) -> Recipe:
    settings = [f"model_settings.speed={speed}", "model_settings.steps=12"]
    recipe = plan_batch(load_config("nano", settings), "a large red circle moving left").videos[0].recipe
    return recipe.model_copy(update=changes)


def test_fused_speed_equals_the_diffusers_pipeline_bit_for_bit_on_a_cpu() -> None:
    recipe = recipe_of("fused", steps=4)
    pipeline = load_pipeline(NANO, None, "float32", CPU, speed=recipe.speed)
    assert torch.equal(latents_of(pipeline, recipe), diffusers_output(pipeline, recipe, "latent"))


def test_default_speed_is_fused() -> None:
    assert preview_batch(load_config("nano"), "a circle").first_recipe.speed == "fused"


def test_blocks_are_fused_unless_speed_plan_weights_or_width_prevent_it() -> None:
    model = find_model("wan2.1-1.3b")
    fused = [plan.slug for plan in MEMORY_PLANS if can_fuse_pipeline(model, plan, "fused", "full")]
    assert fused == [plan.slug for plan in MEMORY_PLANS if plan.transformer_placement != "sequential"]
    for plan in MEMORY_PLANS:
        assert not can_fuse_pipeline(model, plan, "reference", "full")
        assert not can_fuse_pipeline(model, plan, "fused", "float8")
        assert not can_fuse_pipeline(NANO, plan, "fused", "full")  # which is over before it is launched


@pytest.fixture(scope="module")
def exact_latents(nano: WanPipeline) -> torch.Tensor:
    """Latents of the video without a cache in 30 steps, with which cached ones are compared."""
    return latents_of(nano, recipe_of("fused", steps=30))


@pytest.mark.parametrize(("calibrated", "share", "most"), [(True, 0.6, 0.05), (False, 0.8, 0.2)])
def test_cached_video_approximates_the_fused_video_and_is_reproducible(
    exact_latents: torch.Tensor, calibrated: bool, share: float, most: float
) -> None:
    cached = recipe_of("cached", steps=30)
    cached = cached.model_copy(update={"magnitudes": cached.magnitudes if calibrated else ()})
    pipeline = load_pipeline(NANO, None, "float32", CPU, speed="cached")
    ran = 0

    def count(*_: object) -> None:
        nonlocal ran
        ran += 1

    pipeline.transformer.blocks[4].ffn.register_forward_hook(count)
    first = latents_of(pipeline, cached)
    assert ran < share * 2 * 30  # of two passes a step
    error = float((first - exact_latents).norm() / exact_latents.norm())
    assert 0 < error < most
    between = recipe_of("cached", prompt="a small blue star moving up", seed=7, steps=6, magnitudes=cached.magnitudes)
    latents_of(pipeline, between)
    assert torch.equal(latents_of(pipeline, cached), first)


@pytest.mark.parametrize("sampler", ["unipc", "dpm++2m", "euler", "heun", "lcm"])
@pytest.mark.parametrize("steps", [3, 12, 30])
def test_computed_steps_of_a_calibrated_video_are_predicted(nano: WanPipeline, sampler: str, steps: int) -> None:
    recipe = recipe_of("cached", steps=steps, sampler=sampler, frames=5, width=32, height=32)
    pipeline = copy.deepcopy(nano)
    levels = compute_noise_levels(sampler, steps, recipe.flow_shift)
    assert np.allclose(levels, prepare_inputs(pipeline, recipe).sigmas[:-1], atol=1e-5)
    ran: list[bool] = []
    for part, is_computed in ((pipeline.transformer.proj_out, False), (pipeline.transformer.blocks[-1].ffn, True)):
        part.register_forward_pre_hook(lambda *_, is_computed=is_computed: ran.append(is_computed))
    latents_of(pipeline, recipe)
    assert ran.count(False) == 2 * len(levels)  # with guidance
    assert ran.count(True) == 2 * count_computed_steps(recipe)
    assert steps < 12 or count_computed_steps(recipe) < len(levels)


@pytest.mark.parametrize("calibrated", [True, False])
def test_cache_memory_is_freed_after_each_video(nano: WanPipeline, calibrated: bool) -> None:
    pipeline, recipe = copy.deepcopy(nano), recipe_of("cached", frames=9, steps=6)
    recipe = recipe.model_copy(update={"magnitudes": recipe.magnitudes if calibrated else ()})
    gc.disable()  # Python looks for cycles when there are many objects, however much they hold
    try:
        held = []
        for seed in range(3):
            latents_of(pipeline, recipe.model_copy(update={"seed": seed}))
            held.append(sum(one.nbytes for one in gc.get_objects() if type(one) is torch.Tensor))
        assert held[2] - held[0] < 10_000
    finally:
        gc.enable()


def test_cache_of_the_first_transformer_is_freed_before_the_second_runs(
    load_once: LoadOnce, tiny_models: dict[str, WanModel]
) -> None:
    model = tiny_models["a14b"]
    pipeline = copy.deepcopy(load_once(model, "float32"))
    recipe = recipe_for(model, steps=6, speed="cached")
    held: list[tuple[int, int]] = []
    for _ in denoise_latents(pipeline, recipe):
        held.append((_held_by_cache(pipeline.transformer), _held_by_cache(pipeline.transformer_2)))
    assert held[0][0] > 0 == held[0][1]
    assert held[-1][0] == 0 < held[-1][1]


def _held_by_cache(transformer: Any) -> int:
    result = 0
    for module in transformer.modules():
        registry = getattr(module, "_diffusers_hook", None)
        for hook in registry.hooks.values() if registry else ():
            manager = getattr(hook, "state_manager", None)
            for state in manager._state_cache.values() if manager else ():
                result += sum(value.nbytes for value in vars(state).values() if isinstance(value, torch.Tensor))
    return result


def test_cached_speed_with_captures_is_refused_unless_forced() -> None:
    asked = ["model_settings.speed=cached", "latent_analysis_settings.store_latents=true"]
    outline = preview_batch(load_config("nano", asked), "a circle")
    assert any("cached skips blocks" in refusal for refusal in outline.refusals)
    forced = preview_batch(load_config("nano", [*asked, "model_settings.force_capture=true"]), "a circle")
    assert not forced.refusals
    assert forced.first_recipe.capture.geometry


@pytest.mark.parametrize("sampler", ["lcm", "dpm++2m-sde"])
def test_samplers_that_add_noise_with_captures_are_refused_unless_forced(sampler: str) -> None:
    asked = [f"model_settings.sampler={sampler}", "latent_analysis_settings.store_latents=true"]
    outline = preview_batch(load_config("nano", asked), "a circle")
    assert any(f"model_settings.sampler: {sampler} adds noise" in refusal for refusal in outline.refusals)
    forced = preview_batch(load_config("nano", [*asked, "model_settings.force_capture=true"]), "a circle")
    assert not forced.refusals
    assert forced.first_recipe.capture.geometry
    without = preview_batch(load_config("nano", asked[:1]), "a circle")
    assert not without.refusals
    assert not without.first_recipe.capture.geometry


def test_cached_video_records_its_speed_and_stores_no_trajectory(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "-t", "a star", "--videos-per-variation", 1, *small, "--set", "model_settings.speed=cached")
    assert result.code == 0, result.err
    folder = batch(result)
    video = read_manifest(folder).videos[0]
    assert video.recipe.speed == "cached"
    assert "latents" not in video.files
    assert not folder.make_trajectory_path(0, 1).exists()
    assert not list(Path(folder.root).rglob("*.checkpoint"))


# What is left out.


def test_magnitude_ratios_follow_from_magnitudes_for_any_schedule() -> None:
    magnitudes = tuple((level, math.log(0.2 + level)) for level in np.linspace(1, 0, 400))
    sigmas = (1.0, 0.9, 0.9, 0.4, 0.05)
    result = compute_magnitude_ratios(magnitudes, sigmas)
    assert result[0] == 1
    assert result[1:] == pytest.approx([(0.2 + b) / (0.2 + a) for a, b in pairwise(sigmas)], abs=1e-4)


def test_measured_magnitudes_are_ratios_of_block_residuals(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    pipeline, recipe = copy.deepcopy(tiny), recipe_for(tiny_models["wan2.1"], steps=3)
    inputs: list[torch.Tensor] = []
    added: list[torch.Tensor] = []
    blocks = pipeline.transformer.blocks
    blocks[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    blocks[-1].register_forward_hook(lambda *given: added.append(given[2] - inputs[-1]))
    progress: list[tuple[int, int]] = []
    result = measure_magnitudes(pipeline, recipe, prepare_inputs(pipeline, recipe), lambda *step: progress.append(step))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    norms = [each.norm(dim=2) for each in added]  # cond, uncond, cond, ...
    steps = [float((norms[i] / norms[i - 2]).mean() + (norms[i + 1] / norms[i - 1]).mean()) / 2 for i in (2, 4)]
    levels, values = zip(*result, strict=True)
    assert values[:3] == pytest.approx((0, math.log(steps[0]), math.log(steps[0]) + math.log(steps[1])), abs=1e-4)
    assert levels[0] == 1
    assert levels[-1] == 0


def test_bundled_magnitudes_match_the_bundled_nano() -> None:
    assert json.loads(NANO_MAGNITUDES_PATH.read_text())["revision"] == fingerprint_model(Path(NANO.location))
    assert recipe_of("cached").magnitudes
    assert not recipe_of("fused").magnitudes


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "wan2.1-14b"])
def test_published_magnitudes_give_the_published_ratios_at_the_published_schedule(name: str) -> None:
    published = json.loads(PUBLISHED_MAGNITUDES_PATH.read_text())
    expected = np.mean(published["ratios_by_model"][name], axis=0)
    magnitudes = load_magnitudes(find_model(name), None)
    result = compute_magnitude_ratios(magnitudes, compute_noise_levels("unipc", 50, 5.0))
    assert result == pytest.approx(expected)
    assert len(magnitudes) == 51
    assert magnitudes[-1][0] == 0


def test_own_calibration_precedes_published_magnitudes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    model = find_model("wan2.1-1.3b")
    published = load_magnitudes(model, "commit")
    path = find_magnitudes_path(model, "commit")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"revision": "commit", "magnitudes": [[1, 0], [0, -2]]}))
    assert load_magnitudes(model, "commit") == ((1.0, 0.0), (0.0, -2.0))
    assert load_magnitudes(model, "another commit") == published


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"revision": "commit"}',
        '{"revision": "commit", "magnitudes": [[1, 0], [0]]}',
        '{"revision": "commit", "magnitudes": [[1, 0], [0, "x"]]}',
        '{"revision": "commit", "magnitudes": [[1, 0], [0, NaN]]}',
    ],
)
def test_damaged_calibration_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    model = find_model("wan2.1-1.3b")
    path = find_magnitudes_path(model, "commit")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=re.escape(str(path))):
        load_magnitudes(model, "commit")


def test_models_without_published_magnitudes_have_none() -> None:
    assert load_magnitudes(find_model("wan2.2-5b"), None) == ()


def test_cached_videos_use_the_stored_calibration_of_their_model(
    wantui: Wantui, tiny_models: dict[str, WanModel], small: list[str]
) -> None:
    asked = [*small, "--set", "model_settings.speed=cached", "--set", "model_settings.sampler=heun", "-t", "a star"]
    before = wantui("preview", "--json", *asked)
    assert "cached uses the first block to decide" in before.out
    assert json.loads(before.out)["recipe"]["magnitudes"] == []
    result = wantui("models", "calibrate", *asked)
    assert result.code == 0, result.err
    kept = json.loads(Path(result.out.strip()).read_text())
    assert kept["measured_with"]["steps"] == 50
    after = json.loads(wantui("preview", "--json", *asked).out)
    assert after["recipe"]["magnitudes"] == kept["magnitudes"]
    assert after["warnings"] == []


def test_unwritable_calibration_file_is_reported(wantui: Wantui, tmp_path: Path, small: list[str]) -> None:
    (tmp_path / "file").write_text("")
    result = wantui("models", "calibrate", "-t", "a star", *small, "--output", tmp_path / "file" / "m.json")
    assert result.code == 2
    assert f"cannot write {tmp_path}/file/m.json: {tmp_path}/file is not a folder" in result.err
    folder = wantui("models", "calibrate", "-t", "a star", *small, "--output", tmp_path)
    assert f"cannot write {tmp_path}: it is a folder" in folder.err  # before 50 steps are made


def test_calibrating_a_model_with_two_transformers_is_refused(
    wantui: Wantui, tiny_models: dict[str, WanModel], small: list[str]
) -> None:
    two = ["--set", f"model_settings.model_id={tiny_models['a14b'].location}"]
    result = wantui("models", "calibrate", "-t", "a star", *small, *two)
    assert result.code == 2
    assert "has two transformers" in result.err


@pytest.mark.parametrize("magnitudes", [(), ((1.0, 0.0), (0.0, -1.0))])
def test_step_cache_works_with_fused_blocks(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], magnitudes: Magnitudes
) -> None:
    pipeline = copy.deepcopy(tiny)
    recipe = recipe_for(tiny_models["wan2.1"], steps=4, speed="cached", magnitudes=magnitudes)
    wanted = latents_of(pipeline, recipe)
    fuse_blocks(pipeline.transformer)
    assert torch.allclose(latents_of(pipeline, recipe), wanted, atol=1e-3)


# Fused products and norms.


@pytest.fixture
def unfused() -> WanTransformer3DModel:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 3, "ffn_dim": 64, "text_dim": 16}
    transformer = WanTransformer3DModel(**sizes).eval()
    for block in transformer.blocks:  # which begin as 1 and 0
        nn.init.normal_(block.norm2.weight)
        nn.init.normal_(block.norm2.bias)
    return transformer


@pytest.fixture
def fused(unfused: WanTransformer3DModel) -> WanTransformer3DModel:
    transformer = copy.deepcopy(unfused)
    fuse_blocks(transformer)
    return transformer


def test_fused_linear_functions_equal_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, generator=generator).double() for s in ((2, 5, 8), (7, 8), (7,)))
    expected = F.linear(hidden, weight, bias)
    assert torch.allclose(apply_linear(hidden, weight, bias), expected, rtol=1e-12)
    # A CPU's kernel has GELU's other form, which is within 5e-4 of the tanh form.
    assert torch.allclose(apply_linear_gelu(hidden, weight, bias), F.gelu(expected, approximate="tanh"), atol=5e-4)


def test_fused_transformer_matches_the_unfused_one_without_extra_parameters(
    unfused: WanTransformer3DModel, fused: WanTransformer3DModel
) -> None:
    inputs = (torch.randn(1, 16, 3, 8, 8), torch.tensor([500.0]), torch.randn(1, 512, 16))
    with torch.no_grad():
        wanted, result = (each(*inputs, return_dict=False)[0] for each in (unfused, fused))
    assert np.allclose(result, wanted, atol=2e-4)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (unfused, fused)]
    assert sizes[0] == sizes[1]
    assert not any(type(layer) is nn.Linear for layer in fused.blocks[0].attn1.modules())
    assert [is_fused(each) for each in (unfused, fused)] == [False, True]


def test_fused_norms_match_the_norms_of_the_block(fused: WanTransformer3DModel, unfused: WanTransformer3DModel) -> None:
    inputs = (torch.randn(1, 16, 3, 8, 8), torch.tensor([500.0]), text(7))
    with torch.no_grad():
        wanted, result = (each(*inputs, return_dict=False)[0] for each in (unfused, fused))
    assert torch.allclose(result, wanted, atol=2e-4)
    assert fused.blocks[0].forward.__func__ is fused_block.forward_fused_block


def test_blocks_without_cross_attention_norm_are_fused_except_for_their_norms() -> None:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 2, "ffn_dim": 64, "text_dim": 16}
    transformer = WanTransformer3DModel(**sizes, cross_attn_norm=False).eval()
    inputs = (torch.randn(1, 16, 3, 8, 8), torch.tensor([500.0]), text(7))
    with torch.no_grad():
        wanted = transformer(*inputs, return_dict=False)[0]
        fuse_blocks(transformer)
        assert torch.allclose(transformer(*inputs, return_dict=False)[0], wanted, atol=2e-4)
    assert transformer.blocks[0].forward.__func__ is not fused_block.forward_fused_block


def test_fused_blocks_embed_a_timestep_shared_by_all_tokens_once(
    load_once: LoadOnce, tiny_models: dict[str, WanModel]
) -> None:
    model = tiny_models["5b"]
    recipe = recipe_for(model, steps=3)
    pipeline = copy.deepcopy(load_once(model, "float32"))
    given: list[tuple[int, ...]] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, args, named: given.append(named["timestep"].shape), with_kwargs=True
    )
    wanted = latents_of(pipeline, recipe)
    fuse_blocks(pipeline.transformer)
    assert torch.allclose(latents_of(pipeline, recipe), wanted, atol=1e-3)
    places = model.compute_latent_shape(recipe.width, recipe.height, recipe.frames)
    assert set(given) == {(1, places[1] * places[2] * places[3] // 4), (1,)}


# What passes have in common.


def text(words: int) -> torch.Tensor:
    values = torch.zeros(1, 512, 16)
    values[:, :words] = torch.randn(1, words, 16, generator=torch.Generator().manual_seed(words))
    return values


@pytest.mark.parametrize("words", [7, 300, 512])
def test_passes_sharing_a_cache_equal_separate_passes(fused: WanTransformer3DModel, words: int) -> None:
    latents, texts = torch.randn(2, 1, 16, 3, 8, 8), {"cond": text(words), "uncond": text(1)}
    passes = PassCache()
    with torch.no_grad():
        for now in latents:
            passes.start_step(has_two_passes=True)
            for context, message in texts.items():
                inputs = now, torch.tensor([500.0]), message
                alone = fused(*inputs, return_dict=False)[0]
                with passes.run_pass(fused, context, message):
                    assert torch.equal(fused(*inputs, return_dict=False)[0], alone)


def test_merged_padding_stores_each_distinct_key_once() -> None:
    both = torch.randn(1, 512, 3, 16)
    both[:, 7:] = both[:, 7:8]
    kept = merge_padding(both[..., :8].contiguous(), both[..., 8:])
    assert kept is not None
    assert kept.padding_count == 512 - 7
    for part in (kept.keys, kept.values):
        assert part.shape == (8, 3, 8)
        assert part.untyped_storage().nbytes() == part.nbytes
    assert merge_padding(torch.randn(1, 512, 3, 8), torch.randn(1, 512, 3, 8)) is None


def test_pass_cache_is_empty_after_a_video(nano: WanPipeline) -> None:
    pipeline = copy.deepcopy(nano)
    fuse_blocks(pipeline.transformer)
    start = prepare_inputs(pipeline, recipe_of("fused", steps=2))
    list(denoise_latents(pipeline, recipe_of("fused", steps=2), start))
    assert not start.pass_cache._texts
    assert start.pass_cache._step.first_attention is None


def test_first_self_attention_runs_once_per_step_and_prompt_keys_once_per_video(
    nano: WanPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = dict.fromkeys(("apply_norm_and_rotary", "merge_padding"), 0)
    for name in counts:
        original = getattr(fused_attention, name)

        def count(*inputs: object, name: str = name, original: Callable[..., object] = original) -> object:
            counts[name] += 1
            return original(*inputs)

        monkeypatch.setattr(fused_attention, name, count)
    pipeline = copy.deepcopy(nano)
    fuse_blocks(pipeline.transformer)
    recipe = recipe_of("fused", steps=3)
    wanted = latents_of(nano, recipe)
    result = latents_of(pipeline, recipe)
    assert float((result - wanted).norm() / wanted.norm()) < 1e-3
    assert counts == {"apply_norm_and_rotary": 3 * (2 * NANO.block_count - 1), "merge_padding": 2 * NANO.block_count}
