"""Guidance in the denoising loop: schedules, rules and reused differences, compared with diffusers and with a plain
loop."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from conftest import LoadOnce, recipe_for
from diffusers import WanPipeline
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance as diffusers_apg
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance as diffusers_tcfg
from tiny import latents_of
from torch import Tensor

from wantui.captures.attention import AttentionRequest
from wantui.controls.guidance import DEFAULTS_BY_RULE
from wantui.generation import checkpoint as checkpoints
from wantui.generation.checkpoint import CheckpointListener, read_checkpoint
from wantui.generation.controls.guidance import ProjectedGuidance, TangentialGuidance, ZeroStarGuidance
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.guidance import DIFFERENCE_STATE, Predictions
from wantui.generation.make_video import GenerationResult, GenerationResumed, StepFinished, generate_video
from wantui.generation.samplers import build_scheduler
from wantui.models.catalogue import WanModel
from wantui.planning import CaptureRequests, Recipe
from wantui.planning.guidance_plan import compute_mean_passes
from wantui.storage.video_files import VideoFiles

pytestmark = pytest.mark.torch

SHAPE = (1, 16, 3, 4, 4)


def keyframes(unit: str, scales_by_moment: Mapping[int, float]) -> dict[str, Any]:
    return {"times": {"unit": unit, "moments": [*scales_by_moment]}, "scales": [*scales_by_moment.values()]}


def schedule_of(scales_by_step: Mapping[int, float], **fields: Any) -> dict[str, Any]:
    request = {"schedule": keyframes("step", scales_by_step), "interpolation": "linear"} | fields
    return {"guidance_schedule": request}


def rule_of(rule: str, **fields: Any) -> dict[str, Any]:
    return {"guidance": {"rule": rule, **DEFAULTS_BY_RULE[rule], **fields}}  # type: ignore[index]


def draw_tensors(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


# Rules


@pytest.mark.parametrize("scale", [7.5, 1.0, 0.0, -2.0])
def test_zero_star_rule_is_bit_identical_to_diffusers(scale: float) -> None:
    latents, conditional, unconditional = draw_tensors(3)
    alpha = cfg_zero_star_scale(conditional.flatten(1), unconditional.flatten(1)).view(1, 1, 1, 1, 1)
    expected = unconditional * alpha + scale * (conditional - unconditional * alpha)
    result = ZeroStarGuidance().combine(Predictions(latents, 0.7, conditional, unconditional), scale, {})
    assert torch.equal(result, expected)


def test_projection_scale_minimises_the_distance_to_the_conditional_prediction() -> None:
    latents, conditional, unconditional = draw_tensors(3)
    scaled = ZeroStarGuidance().combine(Predictions(latents, 0.7, conditional, unconditional), 0.0, {}).double()
    error = conditional.double() - scaled
    assert abs(float((error * unconditional.double()).sum())) < 1e-3 * float((scaled**2).sum())


@pytest.mark.parametrize(
    ("eta", "momentum", "max_rms"), [(0.0, -0.5, 0.06), (1.0, 0.0, 0.0), (0.3, 0.9, 0.0), (-1.0, -0.75, 2.0)]
)
def test_projected_rule_is_bit_identical_to_diffusers(eta: float, momentum: float, max_rms: float) -> None:
    rule, buffer = ProjectedGuidance(eta, momentum, max_rms), MomentumBuffer(momentum)
    state: dict[str, Tensor] = {}
    limit = max_rms * np.sqrt(np.prod(SHAPE))
    for seed in range(4):  # the buffer holds the earlier evaluations
        conditional, unconditional = draw_tensors(2, seed)
        update = rule.compute_update(conditional, unconditional, state)
        expected = diffusers_apg(
            conditional, unconditional, 6.5, buffer if momentum else None, eta, limit, use_original_formulation=True
        )
        assert torch.equal(conditional + 6.5 * update, expected)


def test_projected_rule_without_its_parameters_is_classifier_free_guidance() -> None:
    latents, conditional, unconditional = draw_tensors(3)
    predictions = Predictions(latents, 0.4, conditional, unconditional)
    result = ProjectedGuidance(eta=1.0, momentum=0.0, max_rms=0.0).combine(predictions, 7.5, {})
    assert torch.allclose(result, unconditional + 7.5 * (conditional - unconditional), atol=1e-4)


def test_projected_update_is_orthogonal_and_limited() -> None:
    conditional, unconditional = draw_tensors(2)
    update = ProjectedGuidance(eta=0.0, momentum=0.0, max_rms=0.05).compute_update(conditional, unconditional, {})
    cosine = torch.nn.functional.cosine_similarity(update.double().flatten(), conditional.double().flatten(), dim=0)
    assert abs(float(cosine)) < 1e-6
    assert float(update.square().mean().sqrt()) <= 0.05


@pytest.mark.parametrize("mixed", [0.0, 0.3, 0.9, -0.9])
def test_tangential_rule_equals_the_decomposition_of_diffusers(mixed: float) -> None:
    latents, conditional, other = draw_tensors(3)
    unconditional = mixed * conditional + 0.5 * other
    result = TangentialGuidance().combine(Predictions(latents, 0.7, conditional, unconditional), 4.0, {})
    assert torch.allclose(result, diffusers_tcfg(conditional, unconditional, 4.0), atol=2e-4)
    rows = np.stack([conditional.double().numpy().ravel(), unconditional.double().numpy().ravel()])
    first = np.linalg.svd(rows, full_matrices=False)[2][0]
    projected = (rows[1] @ first) * first
    expected = torch.from_numpy(projected + 4.0 * (rows[0] - projected)).reshape(SHAPE)
    assert torch.allclose(result.double(), expected, atol=1e-6)


@pytest.mark.parametrize("rule", [TangentialGuidance(), ZeroStarGuidance(), ProjectedGuidance(0.0, -0.5, 0.1)])
def test_rules_are_finite_for_predictions_of_zero(rule: Any) -> None:
    latents, conditional, zero = (*draw_tensors(2), torch.zeros(SHAPE))
    for first, second in ((conditional, zero), (zero, conditional), (zero, zero), (conditional, conditional)):
        assert torch.isfinite(rule.combine(Predictions(latents, 0.5, first, second), 5.0, {})).all()


@pytest.mark.parametrize("rule", [TangentialGuidance(), ZeroStarGuidance(), ProjectedGuidance(0.0, -0.5, 0.1)])
def test_scale_of_one_gives_the_conditional_prediction(rule: Any) -> None:
    latents, conditional, unconditional = draw_tensors(3)
    result = rule.combine(Predictions(latents, 0.5, conditional, unconditional), 1.0, {})
    assert torch.allclose(result, conditional, atol=1e-6)


# The denoising loop


class PlainLoop:
    """A denoising loop with guidance as the documentation describes it, without any of our modules."""

    def __init__(self, pipeline: WanPipeline, recipe: Recipe) -> None:
        self.pipeline, self.recipe, self.pass_count = pipeline, recipe, 0
        self.buffer = MomentumBuffer(-0.5)

    @torch.no_grad()
    def run(self, scales: list[float], rule: str, reuse_from: int | None, zero_count: int) -> Tensor:
        pipeline, recipe = self.pipeline, self.recipe
        scheduler = build_scheduler(recipe.sampler, recipe.flow_shift, recipe.seed)
        scheduler.set_timesteps(recipe.steps)
        texts = pipeline.encode_prompt(recipe.prompt, recipe.negative_prompt, True, max_sequence_length=512)
        generator = torch.Generator("cpu").manual_seed(recipe.seed)
        latents = pipeline.prepare_latents(
            1, 16, recipe.height, recipe.width, recipe.frames, torch.float32, torch.device("cpu"), generator
        )
        difference, difference_model = torch.zeros(()), None
        for index, timestep in enumerate(scheduler.timesteps):
            ratio = pipeline.config.boundary_ratio
            model = pipeline.transformer_2 if ratio and timestep < 1000 * ratio else pipeline.transformer
            conditional = self._evaluate(model, latents, timestep, texts[0])
            velocity, scale = conditional, scales[index]
            if index < zero_count:
                velocity = torch.zeros_like(conditional)
            elif scale != 1:
                if reuse_from is not None and index >= reuse_from and difference_model is model:
                    unconditional = conditional - difference
                else:
                    unconditional = self._evaluate(model, latents, timestep, texts[1])
                    difference, difference_model = conditional - unconditional, model
                sigma = float(scheduler.sigmas[index])
                velocity = self._combine(rule, latents, sigma, conditional, unconditional, scale)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        result: Tensor = latents
        return result

    def _evaluate(self, model: Any, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        self.pass_count += 1
        velocity: Tensor = model(latents, timestep.expand(1), text, return_dict=False)[0]
        return velocity

    def _combine(self, rule: str, x: Tensor, sigma: float, c: Tensor, u: Tensor, scale: float) -> Tensor:
        if rule == "cfg":
            return u + scale * (c - u)
        if rule == "tcfg":
            tangential: Tensor = diffusers_tcfg(c.double(), u.double(), scale)
            return tangential.float()
        if rule == "cfg-zero-star":
            scaled: Tensor = u * cfg_zero_star_scale(c.flatten(1), u.flatten(1)).view(1, 1, 1, 1, 1)
            return scaled + scale * (c - scaled)
        clean: Tensor = diffusers_apg(x - sigma * c, x - sigma * u, scale - 1, self.buffer, 0.0, 0.0, True)
        return (x - clean) / sigma


STEPS = 8
SCALES = {0: 7.5, 3: 1.0, 5: 1.0, 7: -2.0}


@pytest.mark.parametrize("sampler", ["unipc", "heun"])
@pytest.mark.parametrize("reuse_from", [None, 2, 6])
@pytest.mark.parametrize("rule", ["cfg", "cfg-zero-star", "apg", "tcfg"])
@pytest.mark.parametrize("form", ["wan2.1", "a14b"])
def test_schedule_rule_and_reuse_equal_a_plain_loop(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, rule: str, reuse_from: int | None, sampler: str
) -> None:
    model, pipeline = tiny_models[form], load_once(tiny_models[form], "float32")
    reuse = {} if reuse_from is None else {"reuse_from": {"unit": "step", "moments": [reuse_from]}}
    controls = schedule_of(SCALES) | rule_of(rule, **reuse)
    if rule == "cfg" and reuse_from is None:
        del controls["guidance"]
    recipe = recipe_for(model, sampler=sampler, steps=STEPS, controls=controls, negative_prompt="a blue ring")
    steps = [(index + 1) // 2 for index in range(2 * STEPS - 1)] if sampler == "heun" else list(range(STEPS))
    scales = [float(np.interp(step, [*SCALES], [*SCALES.values()])) for step in steps]
    first_reuse = None if reuse_from is None else steps.index(reuse_from)
    plain = PlainLoop(pipeline, recipe)
    expected = plain.run(scales, rule, first_reuse, zero_count=1 if rule == "cfg-zero-star" else 0)
    latents = latents_of(pipeline, recipe)
    if rule == "cfg" and reuse_from is None:
        assert torch.equal(latents, expected)
    assert torch.allclose(latents, expected, atol=2e-3, rtol=1e-4)
    assert compute_mean_passes(recipe) == plain.pass_count / len(steps)


def test_each_transformer_follows_its_own_schedule(load_once: LoadOnce, tiny_models: dict[str, WanModel]) -> None:
    model, pipeline = tiny_models["a14b"], load_once(tiny_models["a14b"], "float32")
    low = [False, False, True, True]
    for fields, expected in (
        ({"schedule_2": keyframes("step", {0: 2.0, 3: 5.0})}, [7.0, 6.0, 4.0, 5.0]),
        ({"guidance_scale_2": 3.0}, [7.0, 6.0, 3.0, 3.0]),
        ({}, [7.0, 6.0, 5.0, 4.0]),
        ({"schedule": None, "schedule_2": keyframes("step", {0: 2.0})}, [4.0, 4.0, 2.0, 2.0]),
    ):
        scale_2 = {"guidance_scale_2": fields.pop("guidance_scale_2")} if "guidance_scale_2" in fields else {}
        recipe = recipe_for(model, controls=schedule_of({0: 7.0, 3: 4.0}, **fields), **scale_2)
        inputs = prepare_inputs(pipeline, recipe)
        assert [timestep < 875 for timestep in inputs.timesteps] == low
        assert [evaluation.scale for evaluation in inputs.guidance.evaluations] == pytest.approx(expected)
        assert torch.equal(
            latents_of(pipeline, recipe),
            PlainLoop(pipeline, recipe).run(
                [evaluation.scale for evaluation in inputs.guidance.evaluations], "cfg", None, 0
            ),
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_constant_schedule_is_bit_identical_to_the_constant_scale(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], dtype: str
) -> None:
    model, pipeline = tiny_models["wan2.1"], load_once(tiny_models["wan2.1"], dtype)
    constant = recipe_for(model, dtype=dtype)
    scheduled = recipe_for(model, dtype=dtype, guidance_scale=9.0, controls=schedule_of({0: 4.0}))
    assert torch.equal(latents_of(pipeline, scheduled), latents_of(pipeline, constant))
    unguided = recipe_for(model, dtype=dtype, guidance_scale=1.0)
    scheduled = recipe_for(model, dtype=dtype, controls=schedule_of({0: 1.0}))
    assert torch.equal(latents_of(pipeline, scheduled), latents_of(pipeline, unguided))


@pytest.mark.parametrize("rule", ["cfg", "cfg-zero-star", "apg", "tcfg"])
def test_rules_in_bfloat16_are_near_their_float32_values(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], rule: str
) -> None:
    controls = schedule_of({0: 6.0, 3: 2.0}) | rule_of(rule, reuse_from={"unit": "fraction", "moments": [0.5]})
    latents = []
    for dtype in ("float32", "bfloat16"):
        recipe = recipe_for(tiny_models["wan2.1"], dtype=dtype, controls=controls)
        latents.append(latents_of(load_once(tiny_models["wan2.1"], dtype), recipe).float())
    assert float((latents[0] - latents[1]).norm() / latents[0].norm()) < 0.1


# Checkpoints and captures


EVERYTHING = schedule_of({0: 6.0, 3: 1.0, 5: 3.0}) | rule_of("apg", reuse_from={"unit": "step", "moments": [4]})


@pytest.fixture
def _after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_CHECKPOINT_TIME_FRACTION", float("inf"))


@pytest.mark.usefixtures("_after_every_step")
@pytest.mark.parametrize("form", ["wan2.1", "a14b"])
@pytest.mark.parametrize("sampler", ["unipc", "heun"])
def test_guided_denoising_resumes_after_any_step_bit_identically(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, sampler: str, tmp_path: Path
) -> None:
    pipeline = load_once(tiny_models[form], "float32")
    recipe = recipe_for(tiny_models[form], sampler=sampler, steps=6, controls=EVERYTHING)
    listener = CheckpointListener(pipeline, recipe, tmp_path / "last", {}, time.perf_counter)
    inputs = prepare_inputs(pipeline, recipe)
    listener.on_start(inputs, 0)
    whole, states = [], []
    for step in denoise_latents(pipeline, recipe, inputs):
        listener.on_step(step)
        shutil.copy(tmp_path / "last", tmp_path / str(step.evaluation_index + 1))
        whole.append(step.latents)
        states.append({*inputs.guidance.state})
    assert {DIFFERENCE_STATE, "momentum"} in states
    for done in range(1, len(whole)):
        checkpoint = read_checkpoint(tmp_path / str(done), pipeline, recipe)
        assert checkpoint is not None
        rest = [step.latents for step in denoise_latents(pipeline, recipe, resume_from=checkpoint)]
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[done:], strict=True))


def video_files(root: Path) -> VideoFiles:
    return VideoFiles(root / "v.mp4", root / "v.jpg", {"trajectory": root / "v.zarr"}, root / "v.checkpoint")


@pytest.mark.usefixtures("_after_every_step")
def test_stopped_video_resumes_to_the_same_bits_and_stores_its_guidance(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], steps=6, controls=EVERYTHING, capture=CaptureRequests(latents=True))
    whole = [*generate_video(tiny, recipe, video_files(tmp_path / "whole"))][-1]
    events = generate_video(tiny, recipe, video_files(tmp_path / "stopped"))
    for event in events:
        if isinstance(event, StepFinished) and event.step.evaluation_index == 4:
            events.close()
            break
    resumed = [*generate_video(tiny, recipe, video_files(tmp_path / "stopped"))]
    assert GenerationResumed(5) in resumed
    assert isinstance(whole, GenerationResult)
    assert isinstance(resumed[-1], GenerationResult)
    assert resumed[-1].latents_sha256 == whole.latents_sha256
    for name in ("whole", "stopped"):
        group = zarr.open_group(tmp_path / name / "v.zarr", mode="r")
        scales = [6 - 5 * step / 3 for step in range(4)] + [2.0, 3.0]
        assert group["guidance_scales"][:].tolist() == pytest.approx(scales)
        assert group["pass_counts"][:].tolist() == [2, 2, 2, 1, 1, 1]


def test_trajectory_without_a_guidance_control_has_no_additional_arrays(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    [*generate_video(tiny, recipe_for(tiny_models["wan2.1"]), video_files(tmp_path))]
    names = {*zarr.open_group(tmp_path / "v.zarr", mode="r").array_keys()}
    assert names == {"sigmas", "timesteps", "steps", "gram", "projection", "channel_power"}


def test_attention_to_the_prompt_is_stored_even_if_the_unconditional_pass_is_skipped(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    capture = CaptureRequests(attention=AttentionRequest(interval=1))
    marks = ({"text": "star", "start": 6, "end": 10},)
    recipe = recipe_for(tiny_models["wan2.1"], controls=EVERYTHING, steps=6, marks=marks, capture=capture)
    files = VideoFiles(tmp_path / "v.mp4", tmp_path / "v.jpg", {"attention": tmp_path / "a.zarr"}, None)
    [*generate_video(tiny, recipe, files)]
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["star"].shape[0] == 6
