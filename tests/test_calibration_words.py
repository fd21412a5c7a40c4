"""Measures of a word in batches equal those that wantui takes of one video."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from benchmarks.calibration_measurements import Condition, Model, draw_initial_noise
from benchmarks.calibration_words import (
    choose_observed_steps,
    choose_switch_steps,
    compute_kept_range_of_shapes,
    find_word_positions,
    measure_word,
)
from diffusers import WanPipeline

from wantui.batches.ablation import build_conditional_recipe
from wantui.captures.contributions import CONTRIBUTIONS, OUTPUT_NAME
from wantui.config import load_config
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.denoising_state import DenoisingStep
from wantui.generation.replay import evaluate_velocity
from wantui.models.nano import NANO_WEIGHTS_FOLDER
from wantui.planning import Recipe, plan_batch

pytestmark = pytest.mark.torch

PROMPTS = ("a large red ring moving left", "a small blue square moving up")
WORDS = ("ring", "square")
SEED, STEP_COUNT = 2_000_000, 3
CONDITION = Condition("euler", STEP_COUNT, 1.0)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(NANO_WEIGHTS_FOLDER, "cpu")


def plan_recipe(template: str, *settings: str) -> Recipe:
    assignments = [
        "model_settings.sampler=euler",
        f"model_settings.steps={STEP_COUNT}",
        f"model_settings.seed={SEED}",
        "model_settings.cfg_scale=1",
        *settings,
    ]
    return plan_batch(load_config("nano", assignments), template).videos[0].recipe


def generate(pipeline: WanPipeline, recipe: Recipe) -> Iterator[DenoisingStep]:
    yield from denoise_latents(pipeline, recipe, prepare_inputs(pipeline, recipe))


@torch.no_grad()
def test_word_measures_of_a_batch_equal_those_of_each_video(model: Model, nano: WanPipeline) -> None:
    text = model.encode(list(PROMPTS))
    noise = draw_initial_noise(SEED, 1, "cpu").expand(2, -1, -1, -1, -1)
    paths = model.generate(text, noise, CONDITION)
    is_word = find_word_positions(model.pipeline.tokenizer, PROMPTS, WORDS)
    measured = measure_word(model, paths.states, paths.timesteps, text, is_word)
    for index, (prompt, word) in enumerate(zip(PROMPTS, WORDS, strict=True)):
        template = prompt.replace(word, f"({word})")
        recipe = plan_recipe(template, "contribution_settings.store_contributions=true")
        shares, changes = [], []
        states = [paths.states[0, index], *(step.latents.flatten() for step in generate(nano, recipe))]
        for step in generate(nano, recipe):
            maps = step.values_by_capture[CONTRIBUTIONS.name]
            shares.append(float(maps[word].mean() / maps[OUTPUT_NAME].mean()))
        for evaluation, state in enumerate(states[:-1]):
            velocities = []
            for ablated_word in (None, word):
                conditional = build_conditional_recipe(recipe, ablated_word)
                inputs = prepare_inputs(nano, conditional)
                latents = model.shape_latents(state)[0].numpy()
                velocities.append(evaluate_velocity(nano, conditional, inputs, latents, evaluation).double())
            changes.append(float((velocities[0] - velocities[1]).norm() / velocities[0].norm()))
        assert measured["contribution share"][index] == pytest.approx(np.mean(shares), rel=1e-3)
        assert measured["ablation share"][index] == pytest.approx(np.mean(changes), rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_continued_paths_equal_those_of_a_prompt_schedule(
    model: Model, nano: WanPipeline, guidance_scale: float
) -> None:
    generic_prompt = PROMPTS[0].replace("ring", "shape")
    condition = Condition("euler", STEP_COUNT, guidance_scale)
    noise = draw_initial_noise(SEED, 1, "cpu")
    paths = model.generate(model.encode([PROMPTS[0]]), noise, condition)
    found = model.continue_from(paths.states[1], 1, model.encode([generic_prompt]), condition)
    recipe = plan_recipe(
        PROMPTS[0],
        f"model_settings.cfg_scale={guidance_scale}",
        f"prompt_schedule_settings.schedule={{1: {generic_prompt}}}",
        "prompt_schedule_settings.interpolation=step",
    )
    *_, last = generate(nano, recipe)
    assert torch.allclose(found[0], last.latents.flatten(), atol=1e-4)
    assert not torch.allclose(found[0], paths.states[-1, 0], atol=1e-2)


def test_kept_range_reaches_to_the_highest_noise_level_at_which_a_shape_stays() -> None:
    sigmas = np.array([0.9, 0.5])  # in the order of the steps
    seen = np.array([[1, 0, 0], [1, 1, 0]])  # [switches, videos]
    kept = compute_kept_range_of_shapes(sigmas, seen, np.array([1, 1, 1]))
    # trapezoids between the levels 0, 0.5 and 0.9 of "stays": 1 1 1, 1 1 0 and 1 0 0
    assert kept == pytest.approx([0.9, 0.5 + 0.2, 0.25])


def test_word_positions_cover_all_tokens_of_a_word(model: Model) -> None:
    tokenizer = model.pipeline.tokenizer
    is_word = find_word_positions(tokenizer, PROMPTS, WORDS)
    for row, prompt, word in zip(is_word, PROMPTS, WORDS, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert tokenizer.decode([ids[position] for position in row.nonzero().flatten()]).strip() == word


def test_observed_and_switched_steps_cover_the_path() -> None:
    assert choose_observed_steps(50) == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]
    assert choose_observed_steps(3) == [0, 1, 2]
    assert choose_switch_steps(50) == [2, 5, 10, 15, 20, 30]
