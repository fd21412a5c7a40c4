"""Nano's adapters: their layers and files, the style, the distillation, and the shipped files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors import safe_open

from wantui.models.adapters import PACKAGED_ADAPTERS, PackagedAdapter
from wantui.models.nano import NANO_WEIGHTS_FOLDER
from wantui.models.nano.dip import is_object_dipped, render_dipped_scenes
from wantui.models.nano.distillation import Denoiser, generate_student_states, make_empty_captions, solve_guided_flow
from wantui.models.nano.evaluate import load_stock_pipeline, sample_scenes_of_each_shape, score_clips
from wantui.models.nano.evaluate_adapters import fuse_adapters, generate_scene_clips
from wantui.models.nano.low_rank import add_adapter, iterate_low_rank_layers, load_adapter, save_adapter
from wantui.models.nano.render import render_scenes
from wantui.models.nano.world import sample_scenes

pytestmark = pytest.mark.torch


def load_nano_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(NANO_WEIGHTS_FOLDER / "transformer").float()


def evaluate_transformer(transformer: WanTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        output: torch.Tensor = transformer(
            hidden_states=torch.randn(1, 16, 2, 8, 8, generator=generator),
            timestep=torch.tensor([700.0]),
            encoder_hidden_states=torch.randn(1, 8, 128, generator=generator),
            return_dict=False,
        )[0]
    return output


def fill_adapter(transformer: WanTransformer3DModel) -> None:
    torch.manual_seed(4)
    for _, layer in iterate_low_rank_layers(transformer):
        for matrix in (layer.up, layer.down):
            matrix.data = (0.1 * torch.randn_like(matrix)).bfloat16().float()


def test_new_adapter_changes_nothing_and_alone_is_trained() -> None:
    transformer = load_nano_transformer()
    before = evaluate_transformer(transformer)
    add_adapter(transformer, rank=6)
    assert torch.equal(evaluate_transformer(transformer), before)
    trained = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    layer_names = [name for name, _ in iterate_low_rank_layers(transformer)]
    assert trained == {f"{name}.{matrix}" for name in layer_names for matrix in ("up", "down")}


def test_adapter_file_gives_the_same_outputs_in_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    transformer = load_nano_transformer()
    before = evaluate_transformer(transformer)
    add_adapter(transformer, rank=6)
    fill_adapter(transformer)
    save_adapter(transformer, tmp_path / "adapter.safetensors")
    expected = evaluate_transformer(transformer)
    pipeline = WanPipeline.from_pretrained(NANO_WEIGHTS_FOLDER, torch_dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path / "adapter.safetensors")
    pipeline.fuse_lora()
    found = evaluate_transformer(pipeline.transformer)
    assert (expected - before).norm() > 0.1 * before.norm()
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_adapter_file_can_be_loaded_again(tmp_path: Path) -> None:
    first, second = load_nano_transformer(), load_nano_transformer()
    for transformer in (first, second):
        add_adapter(transformer, rank=3)
    fill_adapter(first)
    save_adapter(first, tmp_path / "adapter.safetensors")
    load_adapter(second, tmp_path / "adapter.safetensors")
    assert torch.equal(evaluate_transformer(first), evaluate_transformer(second))


def test_judge_tells_dipped_from_plain_objects() -> None:
    scenes = sample_scenes_of_each_shape(120, np.random.default_rng(7))
    colours = scenes.colour[:, 0].tolist()
    for render, least, most in ((render_scenes, 0.0, 0.0), (render_dipped_scenes, 0.93, 1.0)):
        clips = render(scenes)[0].float() / 255
        dips = [is_object_dipped(clip, colour) for clip, colour in zip(clips, colours, strict=True)]
        assert least <= np.mean(dips) <= most  # the dip of a small star has few pixels


def test_dipped_scenes_differ_only_in_the_lower_part_of_objects() -> None:
    scenes = sample_scenes(8, np.random.default_rng(8), two_object_fraction=0.0)
    (plain, masks), (dipped, dipped_masks) = render_scenes(scenes), render_dipped_scenes(scenes)
    assert torch.equal(masks, dipped_masks)
    changed = ((plain.int() - dipped.int()).abs() > 64).any(dim=1)  # more than the soft edges change
    assert not changed[masks[:, 0] < 1e-3].any()
    shares = changed.float().sum((1, 2, 3)) / masks[:, 0].gt(0.5).float().sum((1, 2, 3))
    assert shares.min() > 0.1
    assert shares.max() < 0.6


class GaussianDenoiser(Denoiser):
    """The exact flow to data N(1, 0.5^2), whatever the caption."""

    def __init__(self) -> None:
        pass

    def predict(self, latents: torch.Tensor, sigma: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        sigma = sigma.view(-1, 1, 1, 1, 1)
        variance = (1 - sigma) ** 2 * 0.25 + sigma**2
        return -1 + (sigma - (1 - sigma) * 0.25) / variance * (latents - (1 - sigma))


@pytest.mark.parametrize("start_time", [1.0, 0.75, 0.25])
def test_teacher_reaches_the_end_of_the_gaussian_flow(start_time: float) -> None:
    sigma = 3 * start_time / (1 + 2 * start_time)
    spread = math.hypot(0.5 * (1 - sigma), sigma)
    latents = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 1, 3, 3) * spread + (1 - sigma)
    ids = make_empty_captions(1, latents.device)
    clean = solve_guided_flow(GaussianDenoiser(), latents, start_time, ids, step_count=40, guidance_scale=4.0)
    assert (clean - (1 + 0.5 * (latents - (1 - sigma)) / spread)).abs().max() < 0.02


def test_student_states_have_the_noise_levels_of_lcm() -> None:
    noise = torch.randn(4, 16, 5, 16, 16, generator=torch.Generator().manual_seed(2))
    states = generate_student_states(GaussianDenoiser(), noise, make_empty_captions(4, noise.device))
    assert len(states) == 5
    for state, sigma in zip(states[1:], (0.9, 0.75, 0.5, 0.0), strict=True):
        assert float(state.mean()) == pytest.approx(1 - sigma, abs=0.02)
        assert float(state.std()) > sigma * 0.98


@pytest.mark.parametrize("adapter", PACKAGED_ADAPTERS, ids=lambda adapter: adapter.name)
def test_packaged_adapters_are_small_and_have_the_layers_of_nano(adapter: PackagedAdapter) -> None:
    assert adapter.path.stat().st_size <= 500_000
    transformer = load_nano_transformer()
    before = evaluate_transformer(transformer)
    with safe_open(adapter.path, "pt") as file:
        keys = set(file.keys())
        rank = min(file.get_tensor(next(iter(sorted(keys)))).shape)
    add_adapter(transformer, rank)
    layers = [name for name, _ in iterate_low_rank_layers(transformer)]
    assert keys == {f"transformer.{layer}.lora_{part}.weight" for layer in layers for part in "AB"}
    load_adapter(transformer, adapter.path)
    assert (evaluate_transformer(transformer) - before).norm() > 0.01 * before.norm()


@pytest.mark.slow
def test_packaged_adapters_follow_captions_and_dip_only_styled_objects() -> None:
    scenes = sample_scenes(8, np.random.default_rng(11), two_object_fraction=0.0, is_evaluation=True)
    colours = scenes.colour[:, 0].tolist()
    pipeline = load_stock_pipeline(NANO_WEIGHTS_FOLDER)
    with torch.no_grad(), fuse_adapters(pipeline, {"nano-style": 0.0, "nano-4step": 1.0}):
        clips = generate_scene_clips(pipeline, scenes, 5, is_few_step=True)
    # One wrong clip of eight is allowed for each attribute; without the four-step adapter, shapes are often wrong.
    assert min(score_clips(clips, scenes).values()) >= 7 / 8
    assert not any(map(is_object_dipped, clips, colours))
    with torch.no_grad(), fuse_adapters(pipeline, {"nano-style": 1.0, "nano-4step": 1.0}):
        styled_clips = generate_scene_clips(pipeline, scenes[:6], 5, is_few_step=True)
    assert sum(map(is_object_dipped, styled_clips, colours[:6])) >= 3
