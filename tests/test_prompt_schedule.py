"""Prompt schedules: each model evaluation reads the prompt, or the mixture of two prompts, of its moment."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from attention_reference import attention_hook, exact_attention, marks, projections_of
from conftest import LoadOnce, Wantui, recipe_for
from diffusers import WanPipeline
from numpy.typing import NDArray
from stopped_videos import finish, stop_after, video_files
from tiny import FORMS, diffusers_output

from wantui.captures.attention import AttentionRequest
from wantui.controls.marked_prompt import MarkedPrompt
from wantui.controls.prompt_schedule import PromptScheduleRequest
from wantui.generation import checkpoint as checkpoints
from wantui.generation import fused_attention
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.denoising_state import Checkpoint
from wantui.generation.fuse import fuse_blocks
from wantui.generation.load import load_pipeline
from wantui.generation.make_video import GenerationResumed, generate_video
from wantui.generation.pass_cache import merge_padding
from wantui.generation.prompt_encoding import collect_prompts
from wantui.generation.prompt_sequence import lerp_embeddings, slerp_embeddings
from wantui.generation.token_spans import PromptTooLongError
from wantui.keyframes import KeyframeTimes
from wantui.models.catalogue import NANO, WanModel
from wantui.planning import CaptureRequests, Recipe
from wantui.storage.attention_maps import open_attention_maps
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
START, SECOND, THIRD = "a red star moving left", "a blue star moving right", "a green ring and a red star"
STEP_COUNT = 6


def schedule_of(
    moments: dict[float, str | MarkedPrompt], interpolation: str, unit: str = "step"
) -> dict[str, PromptScheduleRequest]:
    prompts = [MarkedPrompt(prompt=p) if isinstance(p, str) else p for p in moments.values()]
    times = KeyframeTimes.model_validate({"unit": unit, "moments": tuple(moments)})
    values: Any = {"times": times, "prompts": prompts, "interpolation": interpolation}
    return {"prompt_schedule": PromptScheduleRequest.model_validate(values)}


def scheduled(
    model: WanModel,
    interpolation: str = "step",
    moments: dict[float, str | MarkedPrompt] | None = None,
    unit: str = "step",
    **changes: object,
) -> Recipe:
    controls = schedule_of(moments or {2: SECOND, 5: THIRD}, interpolation, unit)
    return recipe_for(model, **{"prompt": START, "steps": STEP_COUNT, "controls": controls} | changes)


def marked_prompt(prompt: str, *words: tuple[str, float]) -> MarkedPrompt:
    return MarkedPrompt(prompt=prompt, marks=marks(prompt, *words))


def embeds_of(pipeline: WanPipeline, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        embeds, _ = pipeline.encode_prompt(prompt, None, False, max_sequence_length=512, device=CPU)
    assert isinstance(embeds, torch.Tensor)
    return embeds


def states_of(pipeline: WanPipeline, recipe: Recipe) -> list[torch.Tensor]:
    return [step.latents for step in denoise_latents(pipeline, recipe)]


def velocity_at(pipeline: WanPipeline, recipe: Recipe, evaluation_index: int, latents: torch.Tensor) -> torch.Tensor:
    """The velocity that an evaluation of a recipe gives at these latents."""
    inputs = prepare_inputs(pipeline, recipe)
    inputs.scheduler.set_begin_index(evaluation_index)
    return next(denoise_latents(pipeline, recipe, inputs, Checkpoint(evaluation_index, latents, {}, {}))).velocity


def stock_states(pipeline: WanPipeline, recipe: Recipe, embeds_by_step: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Latents of the stock pipeline, whose embedding of the prompt is replaced by hand after each step."""
    states: list[torch.Tensor] = []

    def replace_prompt(pipeline: WanPipeline, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        states.append(tensors["latents"])
        return {"prompt_embeds": embeds_by_step[min(step + 1, len(embeds_by_step) - 1)].to(pipeline.transformer.dtype)}

    diffusers_output(
        pipeline,
        recipe,
        "latent",
        callback_on_step_end=replace_prompt,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        max_sequence_length=512,
    )
    return states


def mix_by_hand(before: NDArray[np.float64], after: NDArray[np.float64], share: float, method: str) -> NDArray[Any]:
    """Interpolate [tokens, dim] one token at a time, with the arc cosine."""
    rows = []
    for a, b in zip(before, after, strict=True):
        row = (1 - share) * a + share * b
        lengths = [math.sqrt(float(x @ x)) for x in (a, b)]
        if method == "slerp" and all(lengths):
            angle = math.acos(min(1.0, float(a @ b) / (lengths[0] * lengths[1])))
            if angle > 1e-6:
                length = (1 - share) * lengths[0] + share * lengths[1]
                row = math.sin((1 - share) * angle) * a / lengths[0] + math.sin(share * angle) * b / lengths[1]
                row *= length / math.sin(angle)
        rows.append(row)
    return np.stack(rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_switched_prompt_equals_the_stock_pipeline_with_replaced_embeddings(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, dtype: str
) -> None:
    pipeline = load_once(tiny_models[form], dtype)
    recipe = scheduled(tiny_models[form], dtype=dtype, flow_shift=12.0 if form == "a14b" else 3.0)
    prompts = [START] * 2 + [SECOND] * 3 + [THIRD]
    expected = stock_states(pipeline, recipe, [embeds_of(pipeline, prompt) for prompt in prompts])
    for state, stock_state in zip(states_of(pipeline, recipe), expected, strict=True):
        assert torch.equal(state, stock_state)


@pytest.mark.parametrize("sampler", ["unipc", "dpm++2m", "euler"])
@pytest.mark.parametrize("method", ["lerp", "slerp"])
def test_interpolated_prompt_equals_a_loop_over_float64_embeddings(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], method: str, sampler: str
) -> None:
    recipe = scheduled(tiny_models["wan2.1"], method, {4: SECOND}, sampler=sampler)
    before, after = (embeds_of(tiny, prompt)[0].double().numpy() for prompt in (START, SECOND))
    mixtures = [mix_by_hand(before, after, min(step / 4, 1), method) for step in range(STEP_COUNT)]
    inputs = prepare_inputs(tiny, recipe)
    for step, mixture in enumerate(mixtures):
        embeds = inputs.prompts.find_embeds(step, torch.float32)[0].double().numpy()
        assert np.abs(embeds - mixture).max() <= 1e-6 * np.abs(mixture).max()
    expected = stock_states(tiny, recipe, [torch.from_numpy(mixture)[None].float() for mixture in mixtures])
    states = [step.latents for step in denoise_latents(tiny, recipe, inputs)]
    for state, stock_state in zip(states, expected, strict=True):
        assert float((state - stock_state).norm() / stock_state.norm()) < 1e-5
    plain = states_of(tiny, recipe_for(tiny_models["wan2.1"], prompt=START, steps=STEP_COUNT, sampler=sampler))
    assert torch.equal(states[0], plain[0])
    assert float((states[-1] - plain[-1]).norm() / plain[-1].norm()) > 1e-3


@pytest.mark.parametrize(("unit", "moment"), [("step", 2), ("fraction", 0.4), ("sigma", 0.83)])
def test_steps_percentages_and_noise_levels_select_the_same_moment(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], unit: str, moment: float
) -> None:
    recipe = scheduled(tiny_models["wan2.1"], moments={moment: SECOND}, unit=unit)
    sigmas = prepare_inputs(tiny, recipe).sigmas
    assert sigmas[1] > 0.86 > sigmas[2] > 0.83 > sigmas[3] or unit != "sigma"
    switch = 3 if unit == "sigma" else 2
    expected = [START] * switch + [SECOND] * (STEP_COUNT - switch)
    inputs = prepare_inputs(tiny, recipe)
    for step, prompt in enumerate(expected):
        assert torch.equal(inputs.prompts.find_embeds(step, torch.float32), embeds_of(tiny, prompt))


def test_heun_evaluates_both_ends_of_an_interval_at_their_own_moments(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = scheduled(tiny_models["wan2.1"], moments={2: SECOND}, sampler="heun", steps=4)
    prompts = prepare_inputs(tiny, recipe).prompts
    assert [prompts.find_moment(index).before for index in range(7)] == [0, 0, 0, 1, 1, 1, 1]


def test_schedule_with_the_same_prompt_does_not_change_the_recipe(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    plain = recipe_for(tiny_models["wan2.1"], prompt=START, steps=STEP_COUNT)
    for interpolation in ("step", "lerp", "slerp"):
        same = scheduled(tiny_models["wan2.1"], interpolation, {3: START})
        states = zip(states_of(tiny, plain), states_of(tiny, same), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in states)
        assert interpolation != "step" or torch.equal(states_of(tiny, plain)[-1], states_of(tiny, same)[-1])


# Interpolation of embeddings.


def random_pairs(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, count, 24, generator=generator, dtype=torch.float64)
    return first * torch.logspace(-3, 3, count)[:, None], second


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    first, second = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    return 2 * torch.atan2((first - second).norm(dim=-1), (first + second).norm(dim=-1))


def test_slerp_turns_at_a_constant_rate_and_changes_lengths_linearly() -> None:
    a, b = random_pairs()
    assert torch.allclose(slerp_embeddings(a, b, 0.0), a, rtol=1e-12)
    assert torch.allclose(slerp_embeddings(a, b, 1.0), b, rtol=1e-12)
    for share in (0.1, 0.5, 0.77):
        mixed = slerp_embeddings(a, b, share)
        expected_lengths = (1 - share) * a.norm(dim=-1) + share * b.norm(dim=-1)
        assert torch.allclose(mixed.norm(dim=-1), expected_lengths, rtol=1e-12)
        assert torch.allclose(angle_between(a, mixed), share * angle_between(a, b), rtol=1e-9)
        assert torch.allclose(angle_between(mixed, b), (1 - share) * angle_between(a, b), rtol=1e-9)


def test_parallel_and_opposite_tokens_are_interpolated_linearly() -> None:
    a, b = random_pairs(6)
    regular = slerp_embeddings(a, b, 0.3)
    b[0], b[1], b[2], a[3] = 5 * a[0], -2 * a[1], 0.0, 0.0
    b[4] = a[4] * (1 + 1e-9)
    mixed = slerp_embeddings(a, b, 0.3)
    assert bool(mixed.isfinite().all())
    assert torch.allclose(mixed[:5], lerp_embeddings(a, b, 0.3)[:5], rtol=1e-8)
    assert torch.equal(mixed[5], regular[5])


def test_nearly_parallel_directions_are_interpolated_accurately() -> None:
    a = torch.zeros(3, 2, dtype=torch.float64)
    a[:, 0] = 1
    angles = torch.tensor([3e-6, 1e-4, math.pi - 1e-5], dtype=torch.float64)
    b = torch.stack([angles.cos(), angles.sin()], 1)
    mixed = slerp_embeddings(a, b, 0.25)
    expected = torch.stack([(0.25 * angles).cos(), (0.25 * angles).sin()], 1)
    assert torch.allclose(mixed, expected, rtol=1e-9, atol=1e-15)


# Fused blocks.


@pytest.mark.parametrize(("method", "text_count"), [("step", 2), ("slerp", 4)])
def test_fused_blocks_recompute_keys_only_for_another_embedding(
    nano: WanPipeline, monkeypatch: pytest.MonkeyPatch, method: str, text_count: int
) -> None:
    merge_count = 0
    original = merge_padding

    def count_merges(*inputs: torch.Tensor) -> object:
        nonlocal merge_count
        merge_count += 1
        return original(*inputs)

    monkeypatch.setattr(fused_attention, "merge_padding", count_merges)
    size: dict[str, Any] = {"width": 128, "height": 128, "frames": 17}
    recipe = scheduled(NANO, method, {3: SECOND}, speed="fused", **size)
    reference, pipeline = nano, copy.deepcopy(nano)
    fuse_blocks(pipeline.transformer)
    for step in denoise_latents(pipeline, recipe):
        expected = velocity_at(reference, recipe, step.evaluation_index, step.latents_before)
        assert float((step.velocity - expected).norm() / expected.norm()) < 1e-3
    assert merge_count == (text_count + 1) * NANO.block_count  # and one negative prompt


# Captures.


def marked_schedule(model: WanModel, method: str, **changes: object) -> Recipe:
    second = marked_prompt(SECOND, ("blue", 1.0), ("star", 1.0))
    third = marked_prompt(THIRD, ("ring", 1.0), ("star", 1.0))
    values: dict[str, Any] = {
        "marks": marks(START, ("red", 1.0), ("star", 1.0)),
        "capture": CaptureRequests(attention=AttentionRequest()),
    }
    return scheduled(model, method, {2: second, 5: third}, **values | changes)


def test_word_has_a_map_only_while_its_prompt_is_read(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    recipe = marked_schedule(tiny_models["wan2.1"], "step")
    start = prepare_inputs(tiny, recipe)
    prompts = attention_hook(start).prompts_by_context["cond"]
    for step in denoise_latents(tiny, recipe, start):
        maps = step.values_by_capture["attention"].maps_by_context["cond"]
        prompt = prompts[0 if step.evaluation_index < 2 else 1 if step.evaluation_index < 5 else 2]
        assert set(maps) == {"red", "star", "blue", "ring", "prompt_mass", "end_mass", "pad_mass"}
        words = {word.map_name for word in prompt.words}
        for name in ("red", "star", "blue", "ring"):
            assert bool(maps[name].isnan().all()) == (name not in words)
            assert bool(maps[name].isnan().any()) == (name not in words)
        mass = maps["prompt_mass"] + maps["end_mass"] + maps["pad_mass"]
        assert torch.allclose(mass, torch.ones_like(mass), atol=1e-5)


@pytest.mark.parametrize("method", ["step", "slerp"])
def test_maps_equal_a_float64_softmax_over_the_current_text(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], method: str
) -> None:
    recipe = marked_schedule(tiny_models["wan2.1"], method, guidance_scale=1.0)
    start = prepare_inputs(tiny, recipe)
    prompts = attention_hook(start).prompts_by_context["cond"]
    shown: set[str] = set()
    with projections_of(tiny) as seen:
        for step in denoise_latents(tiny, recipe, start):
            exact = torch.stack([exact_attention(q, k) for q, k in seen]).mean((0, 1))
            seen.clear()
            moment = start.prompts.find_moment(step.evaluation_index)
            words = [{w.map_name: w.token_positions for w in prompts[i].words} for i in (moment.before, moment.after)]
            for name, values in step.values_by_capture["attention"].maps_by_context["cond"].items():
                if name not in ("red", "star", "blue", "ring"):
                    continue
                if words[0].get(name) is None or words[0].get(name) != words[1].get(name):
                    assert bool(values.isnan().all())
                    continue
                expected = exact[:, list(words[0][name])].sum(1)
                assert torch.allclose(values.flatten().double(), expected, rtol=1e-4)
                shown.add(f"{name} of a mixture" if moment.share else name)
    assert {"red", "star", "blue", "ring"} <= shown
    assert ("star of a mixture" in shown) == (method == "slerp")
    assert "red of a mixture" not in shown


def test_mixture_of_prompts_of_different_lengths_has_no_masses(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = marked_schedule(tiny_models["wan2.1"], "lerp")
    for step in denoise_latents(tiny, recipe):
        maps = step.values_by_capture["attention"].maps_by_context["cond"]
        has_masses = step.evaluation_index not in (3, 4)
        assert bool(maps["end_mass"].isnan().all()) == (not has_masses)


@pytest.mark.parametrize("method", ["step", "slerp"])
@pytest.mark.parametrize("weighting", ["attention", "multiply", "interpolation"])
def test_weights_apply_to_the_words_of_the_current_prompt(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], weighting: str, method: str
) -> None:
    second = marked_prompt(SECOND, ("blue", 3.0))
    changes: dict[str, Any] = {"marks": marks(START, ("red", 2.0)), "weighting": weighting}
    recipe = scheduled(tiny_models["wan2.1"], method, {3: second}, **changes)
    alone = [
        recipe_for(tiny_models["wan2.1"], prompt=p.prompt, marks=p.marks, weighting=weighting, steps=STEP_COUNT)
        for p in recipe.prompts
    ]
    for step in denoise_latents(tiny, recipe):
        index = step.evaluation_index
        if method == "slerp" and index in (1, 2):
            continue
        single = alone[0 if index < 3 else 1]
        assert torch.equal(velocity_at(tiny, single, index, step.latents_before), step.velocity)


def test_weights_between_prompts_are_interpolated_linearly(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    second = marked_prompt(SECOND, ("blue", 3.0), ("left" if "left" in SECOND else "right", 0.0))
    changes: dict[str, Any] = {"marks": marks(START, ("red", 2.0)), "weighting": "attention"}
    prompts = prepare_inputs(tiny, scheduled(tiny_models["wan2.1"], "lerp", {4: second}, **changes)).prompts
    first_weights, last_weights = (prompt.weights_by_position for prompt in prompts.prompts)
    assert prompts.find_weights(0) == first_weights
    assert prompts.find_weights(5) == last_weights
    expected = {
        position: 0.75 * first_weights.get(position, 1.0) + 0.25 * last_weights.get(position, 1.0)
        for position in {*first_weights, *last_weights}
    }
    assert prompts.find_weights(1) == pytest.approx(expected)


# Videos.


@pytest.mark.parametrize("method", ["step", "slerp"])
@pytest.mark.parametrize("stops", [(1,), (3,), (2, 5)], ids=str)
def test_stopped_scheduled_video_resumes_with_identical_latents_and_captures(
    tiny: WanPipeline,
    tiny_models: dict[str, WanModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    stops: tuple[int, ...],
) -> None:
    monkeypatch.setattr(checkpoints, "MAX_CHECKPOINT_TIME_FRACTION", float("inf"))
    capture = CaptureRequests(latents=True, attention=AttentionRequest(dtype="float16", per_token=True))
    changes: dict[str, Any] = {
        "marks": marks(START, ("red", 2.0), ("star", 1.0)),
        "weighting": "attention",
        "capture": capture,
    }
    recipe = marked_schedule(tiny_models["wan2.1"], method, **changes)
    whole, parts = video_files(tmp_path / "whole"), video_files(tmp_path / "parts")
    reference, _ = finish(generate_video(tiny, recipe, whole))
    for steps in stops:
        stop_after(generate_video(tiny, recipe, parts), steps)
    result, restarts = finish(generate_video(tiny, recipe, parts))
    assert restarts == [GenerationResumed(stops[-1])]
    assert result.latents_sha256 == reference.latents_sha256
    for kind in ("trajectory", "attention"):
        one, other = (zarr.open_group(files.capture_paths[kind], mode="r") for files in (whole, parts))
        for name, array in one.members(max_depth=None):
            assert isinstance(array, zarr.Group) or np.array_equal(array[:], other[name][:], equal_nan=True)
        assert dict(one.attrs) == dict(other.attrs)
        assert len(one.attrs["step_prompts"]) == STEP_COUNT
        assert one.attrs["step_prompts"][-1] == {"prompt": THIRD}
    maps = open_attention_maps(whole.capture_paths["attention"])
    assert list(maps.metadata_by_word) == ["red", "star", "blue", "ring"]
    assert np.isnan(maps.read_mean_map("ring")[:5]).all()
    assert not np.isnan(maps.read_mean_map("ring")[5]).any()


def test_prompts_of_a_schedule_are_encoded_once(tiny_models: dict[str, WanModel]) -> None:
    encoded: list[str] = []

    def embed(prompt: str) -> torch.Tensor:
        encoded.append(prompt)
        return torch.zeros(1, 512, 32)

    pipeline = load_pipeline(tiny_models["wan2.1"], None, "float32", CPU)
    recipe = scheduled(tiny_models["wan2.1"], moments={2: SECOND, 3: START, 5: SECOND})
    prepare_inputs(pipeline, recipe, embed)
    assert sorted(encoded) == sorted([START, "", SECOND])
    assert collect_prompts([recipe, recipe]) == [START, SECOND, ""]


def test_scheduled_prompt_beyond_the_token_limit_is_refused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    with pytest.raises(PromptTooLongError, match=r"prompt 'star star .* has 601 tokens"):
        prepare_inputs(tiny, scheduled(tiny_models["wan2.1"], moments={2: " ".join(["star"] * 600)}))


def test_scheduled_batch_runs_and_reruns_to_the_same_bits(wantui: Wantui, small: list[str]) -> None:
    schedule = "prompt_schedule_settings.schedule={1: 'a blue [circle|star]'}"
    overrides = [f"--set={each}" for each in ("use_timestamp=no", "batch_name=scheduled", schedule)]
    result = wantui("run", "-t", "a red [circle|star]", "--videos-per-variation", 1, *small, *overrides)
    assert result.code == 0, result.err
    folder = BatchFolder(Path("outputs/scheduled"))
    manifest = read_manifest(folder)
    assert [video.state for video in manifest.videos] == ["done"] * 2
    for index, shape in enumerate(("circle", "star")):
        assert manifest.videos[index].recipe.prompt_text == f"a red {shape} → a blue {shape}"
        clip = folder.make_clip_path(index, 1)
        assert wantui("rerun", clip, "--device", "cpu").out == f"bit-identical: latents and frames of {clip}\n"
