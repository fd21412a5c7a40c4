"""The denoising loop and the decoding, compared bit for bit with the stock pipeline."""

import itertools
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import LoadOnce, recipe_for
from decoded_frames import decode_float_frames
from diffusers import DPMSolverMultistepScheduler, FlowMatchLCMScheduler, WanPipeline
from safetensors.torch import load_file, save_file
from tiny import FORMS, diffusers_latents_and_frames, diffusers_output, latents_of

from wantui.generation.decode import decode_frames
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.denoising_state import DenoisingInputs, DenoisingStep
from wantui.generation.errors import LoadError, NotFiniteError
from wantui.generation.load import load_pipeline
from wantui.generation.samplers import build_scheduler, derive_seed
from wantui.generation.token_spans import PromptTooLongError
from wantui.models.catalogue import WanModel, read_model_directory
from wantui.planning import Recipe
from wantui.samplers import SCHEDULES, SamplerName

pytestmark = pytest.mark.torch

SAMPLERS = get_args(SamplerName)
DEFAULT_SAMPLER = "unipc"


@pytest.fixture(
    scope="module", params=[(form, dtype) for form in FORMS for dtype in ("float32", "bfloat16")], ids="-".join
)
def model_and_pipeline(
    request: pytest.FixtureRequest, load_once: LoadOnce, tiny_models: dict[str, WanModel]
) -> tuple[WanModel, WanPipeline, str]:
    form, dtype = request.param
    return tiny_models[form], load_once(tiny_models[form], dtype), dtype


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "guidance",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0},
        {"guidance_scale": 4.0, "negative_prompt": "a blue ring staying still"},
    ],
    ids=["unguided", "guided", "negative"],
)
def test_latents_and_frames_equal_the_diffusers_pipeline_bit_for_bit(
    model_and_pipeline: tuple[WanModel, WanPipeline, str], sampler: str, guidance: dict[str, Any]
) -> None:
    model, pipeline, dtype = model_and_pipeline
    recipe = recipe_for(model, sampler=sampler, dtype=dtype, **guidance)
    latents = latents_of(pipeline, recipe)
    if sampler != DEFAULT_SAMPLER:  # frames depend on the latents only
        assert torch.equal(latents, diffusers_output(pipeline, recipe, "latent"))
        return
    expected_latents, expected_frames = diffusers_latents_and_frames(pipeline, recipe)
    assert torch.equal(latents, expected_latents)
    assert np.array_equal(decode_float_frames(pipeline, latents), expected_frames)
    assert np.array_equal(np.stack(list(decode_frames(pipeline, latents))), np.rint(expected_frames * 255))


def test_second_transformer_has_its_own_guidance_scale(tiny_models: dict[str, WanModel]) -> None:
    pipeline = load_pipeline(tiny_models["a14b"], None, "float32", torch.device("cpu"))
    recipe = recipe_for(tiny_models["a14b"], guidance_scale_2=2.0, flow_shift=12.0, steps=8)
    latents = latents_of(pipeline, recipe)
    assert torch.equal(latents, diffusers_output(pipeline, recipe, "latent"))
    assert not torch.equal(latents, latents_of(pipeline, recipe.model_copy(update={"guidance_scale_2": None})))


def test_prompts_seed_and_shift_change_the_latents(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    before = latents_of(tiny, recipe)
    assert torch.equal(before, latents_of(tiny, recipe))
    for change in ({"prompt": "a blue ring"}, {"negative_prompt": "dark"}, {"seed": 8}, {"flow_shift": 5.0}):
        assert not torch.equal(before, latents_of(tiny, recipe.model_copy(update=change)))


def test_prompt_beyond_the_default_encoder_length_is_not_truncated(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], prompt="a red star and " * 40, steps=2)
    assert torch.equal(latents_of(tiny, recipe), diffusers_output(tiny, recipe, "latent"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_consecutive_steps_share_noise_levels_and_latents(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], sampler: str
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], sampler=sampler, steps=5)
    start = prepare_inputs(tiny, recipe)
    steps = list(denoise_latents(tiny, recipe, start))
    assert [step.evaluation_index for step in steps] == list(range(steps[0].evaluation_count))
    assert len(steps) == (9 if sampler == "heun" else 5)
    assert torch.equal(steps[0].latents_before, start.noise)
    for before, after in itertools.pairwise(steps):
        assert before.sigma_next == after.sigma
        assert torch.equal(before.latents, after.latents_before)
    assert steps[-1].sigma_next == 0.0
    assert steps[0].sigma == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_declares_whether_it_rounds_states(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], sampler: SamplerName
) -> None:
    pipeline = load_once(tiny_models["wan2.1"], "bfloat16")
    recipe = recipe_for(tiny_models["wan2.1"], sampler=sampler, dtype="bfloat16", steps=3)
    state = next(denoise_latents(pipeline, recipe, prepare_inputs(pipeline, recipe))).latents
    assert torch.equal(state, state.bfloat16().to(state.dtype)) == SCHEDULES[sampler].rounds_states


class Gaussian(torch.nn.Module):
    """The exact velocity field of data N(mean, std^2): the ideal transformer, with no error of its own."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def velocity(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        variance = (1 - sigma) ** 2 * self.std**2 + sigma**2
        return -self.mean + (sigma - (1 - sigma) * self.std**2) / variance * (x - (1 - sigma) * self.mean)


@pytest.mark.parametrize(
    ("sampler", "tolerance"),
    [("unipc", 0.01), ("unipc-3", 0.01), ("dpm++2m", 0.02), ("dpm++3m", 0.02), ("euler", 0.15), ("heun", 1e-3)],
)
def test_samplers_solve_the_gaussian_flow(sampler: SamplerName, tolerance: float) -> None:
    # With velocity known in closed form, noise e becomes mean + std e at sigma 0.
    field = Gaussian(mean=0.7, std=0.5)
    scheduler = build_scheduler(sampler, 3.0, seed=1)
    scheduler.set_timesteps(50)
    noise = torch.linspace(-2, 2, 41, dtype=torch.float64).view(1, 41, 1, 1, 1)
    x = noise.clone()
    for index, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(field.velocity(x, float(scheduler.sigmas[index])), timestep, x, return_dict=False)[0]
    assert (x - (0.7 + 0.5 * noise)).abs().max() < tolerance


class GaussianConsistency(Gaussian):
    """The ideal step-distilled transformer: it predicts the end point of the exact flow, not the mean of the data."""

    def velocity(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        spread = math.hypot((1 - sigma) * self.std, sigma)
        return (x - self.mean - self.std * (x - (1 - sigma) * self.mean) / spread) / sigma


@pytest.mark.parametrize(
    ("sampler", "field", "step_count"),
    [
        ("lcm", GaussianConsistency(mean=0.7, std=0.5), 1),
        ("lcm", GaussianConsistency(mean=0.7, std=0.5), 4),
        ("dpm++2m-sde", Gaussian(mean=0.7, std=0.5), 200),
    ],
)
def test_samplers_that_add_noise_sample_the_data(sampler: SamplerName, field: Gaussian, step_count: int) -> None:
    noise = torch.randn(100_000, generator=torch.Generator().manual_seed(3)).double().view(1, -1, 1, 1, 1)
    scheduler = build_scheduler(sampler, 3.0, seed=1)
    scheduler.set_timesteps(step_count)
    x = noise.clone()
    for index, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(field.velocity(x, float(scheduler.sigmas[index])), timestep, x, return_dict=False)[0]
    assert float(x.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)
    correlation = float(torch.corrcoef(torch.stack([x.flatten(), noise.flatten()]))[0, 1])
    assert correlation < 0.95 or step_count == 1  # the final values are not those of the flow from the initial noise


def make_sampler_generator(recipe: Recipe) -> torch.Generator:
    """Return a generator of the noise that the sampler of a video adds."""
    return torch.Generator().manual_seed(derive_seed(f"wantui sampler noise {recipe.seed}"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lcm_equals_the_diffusers_scheduler_with_a_generator(tiny_models: dict[str, WanModel], dtype: str) -> None:
    pipeline = load_pipeline(tiny_models["wan2.1"], None, dtype, torch.device("cpu"))
    recipe = recipe_for(tiny_models["wan2.1"], sampler="lcm", steps=4, flow_shift=5.0, dtype=dtype)
    latents = latents_of(pipeline, recipe)
    stock = FlowMatchLCMScheduler(shift=5.0)
    stock.set_timesteps = partial(stock.set_timesteps, sigmas=[1.0, 0.75, 0.5, 0.25])
    stock.step = partial(stock.step, generator=make_sampler_generator(recipe))
    assert torch.equal(latents, diffusers_output(pipeline, recipe, "latent", scheduler=stock))


def test_dpm_sde_equals_the_diffusers_scheduler_with_a_generator(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], sampler="dpm++2m-sde", steps=6, flow_shift=5.0)
    latents = latents_of(tiny, recipe)
    stock = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, algorithm_type="sde-dpmsolver++"
    )
    stock.step = partial(stock.step, generator=make_sampler_generator(recipe))
    assert torch.equal(latents, diffusers_output(tiny, recipe, "latent", scheduler=stock))


def test_four_lcm_steps_have_the_timesteps_of_step_distilled_models() -> None:
    scheduler = build_scheduler("lcm", 5.0, seed=1)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == pytest.approx([1000, 937.5, 2500 / 3, 625])
    assert scheduler.sigmas.tolist() == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0])


def test_added_noise_depends_on_the_seed_and_differs_from_the_initial_noise() -> None:
    def draw_added_noise(seed: int) -> torch.Tensor:
        scheduler = build_scheduler("lcm", 5.0, seed)
        scheduler.set_timesteps(4)
        clean = torch.zeros(1, 16, 2, 4, 4)
        noisy: torch.Tensor = scheduler.step(clean, scheduler.timesteps[0], clean, return_dict=False)[0]
        return noisy / float(scheduler.sigmas[1])

    initial_noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(7))
    assert torch.equal(draw_added_noise(7), draw_added_noise(7))
    for other_noise in (initial_noise, draw_added_noise(8)):
        correlation = torch.corrcoef(torch.stack([draw_added_noise(7).flatten(), other_noise.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.2  # 4.5 standard deviations of independent noise


def test_predicted_clean_latents_are_exact_for_an_exact_velocity(tiny: WanPipeline) -> None:
    field, data, noise = Gaussian(0.0, 0.0), torch.zeros(1, 1, 1, 2, 2), torch.randn(1, 1, 1, 2, 2)
    sigma = 0.6
    noisy = (1 - sigma) * data + sigma * noise
    step = DenoisingStep(0, 1, sigma, 0.0, 600.0, noisy, field.velocity(noisy, sigma), data, 0.0)
    assert torch.allclose(step.predicted_clean, data, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_step_with_nan_or_infinity_is_an_error_naming_the_step(
    tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    pipeline = load_pipeline(tiny_models["wan2.1"], None, "float32", torch.device("cpu"))
    calls = 0

    def spoil(module: Any, inputs: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        nonlocal calls
        calls += 1
        return (output[0] * bad,) if calls == 3 else output

    pipeline.transformer.register_forward_hook(spoil)
    recipe = recipe_for(tiny_models["wan2.1"], guidance_scale=1.0, steps=5)
    steps = denoise_latents(pipeline, recipe)
    assert [next(steps).evaluation_index, next(steps).evaluation_index] == [0, 1]
    with pytest.raises(NotFiniteError, match=r"after 3 of 5 steps \(timestep"):
        next(steps)


def test_frame_by_frame_decoding_can_be_stopped_and_restarted(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    latents = latents_of(tiny, recipe_for(tiny_models["wan2.1"], steps=2))
    whole = list(decode_frames(tiny, latents))
    interrupted = decode_frames(tiny, latents)
    next(interrupted)
    interrupted.close()
    assert all(np.array_equal(a, b) for a, b in zip(whole, decode_frames(tiny, latents), strict=True))
    assert len(whole) == 9


def test_seed_gives_the_same_noise_for_every_prompt(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    def start(**changes: object) -> DenoisingInputs:
        return prepare_inputs(tiny, recipe_for(tiny_models["wan2.1"], **changes))

    assert torch.equal(start(prompt="a red circle").noise, start(prompt="a white ring").noise)
    assert not torch.equal(start(seed=1).noise, start(seed=2).noise)


def test_prompt_beyond_the_token_limit_is_refused(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    def start(**changes: object) -> DenoisingInputs:
        return prepare_inputs(tiny, recipe_for(tiny_models["wan2.1"], **changes))

    one = len(tiny.tokenizer("red ")["input_ids"]) - 1
    fits = "red " * ((512 - 1) // one)
    assert len(tiny.tokenizer(fits)["input_ids"]) <= 512
    start(prompt=fits)
    with pytest.raises(
        PromptTooLongError,
        match=r"the prompt has \d+ tokens, but the model reads 512 and would ignore the rest. Shorten it",
    ):
        start(prompt=fits + "red red red")
    with pytest.raises(PromptTooLongError, match="the negative prompt has"):
        start(negative_prompt=fits + "red red red")
    start(negative_prompt=fits + "red red red", guidance_scale=1.0)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("shared.weight", "encoder.embed_tokens.weight and 1 more"),  # which is the same one
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    ],
)
def test_missing_text_encoder_tensors_are_not_randomly_initialised(
    tiny_models: dict[str, WanModel], tmp_path: Path, missing: str, message: str
) -> None:
    source = Path(tiny_models["wan2.1"].location)
    shutil.copytree(source, tmp_path / "model")
    file = tmp_path / "model" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors[missing]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(LoadError, match=rf"its text encoder has no {message} in its files.*copy them again"):
        load_pipeline(read_model_directory(tmp_path / "model"), None, "float32", torch.device("cpu"))
