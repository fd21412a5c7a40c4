"""Two rules that select the steps to skip, on nano: python tests/benchmarks/cache_rules.py.

magnitudes                 the rule of `speed: cached` (MagCache, arXiv 2506.09045)
SeaCache                   arXiv 2602.18993 as diffusers has it: the relative change of the latents, filtered by the
                           noise level, is summed until a threshold; what the blocks of skipped steps add is
                           extrapolated
SeaCache, reuse            the same with what the last computed blocks added, as in the paper
SeaCache, same limits      the latter, with the first steps and the longest run of skips of `cached`
evenly spaced              a fixed schedule, for comparison

For each budget, a threshold of each rule is chosen so that it computes this number of steps on average. Frames are
compared with those of the full computation; the judge of nano says which clips show what the prompt names.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import click
import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.hooks import SeaCacheConfig
from diffusers.hooks.sea_cache import SeaCacheSharedState, _apply_sea_filter
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.approximate import Generated, generate_videos

from wantui.analysis.similarity import compute_ssim
from wantui.config import load_config
from wantui.generation import step_cache
from wantui.generation.denoise import denoise_latents
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import NANO
from wantui.models.nano.evaluate import score_clips
from wantui.models.nano.world import Scenes, sample_scenes, write_captions
from wantui.planning import Recipe, plan_batch, step_skipping
from wantui.planning.step_skipping import (
    MAX_CONSECUTIVE_SKIPS,
    MAX_MAGNITUDE_ERROR,
    NEVER_SKIPPED_SHARE,
    compute_magnitude_ratios,
)

PUBLISHED_SHAPE = (16, 21, 60, 104)
"""Latents of Wan 2.1 at 832x480x81."""


class Rule(NamedTuple):
    """How steps are selected, and what a skipped step uses."""

    name: str
    schedule: Literal["magnitudes", "even"] | None = None
    """Schedule that is known before the video; None: SeaCache."""
    is_extrapolated: bool = False
    max_consecutive_skips: int = 0
    """0: no limit. Of SeaCache only."""
    never_skipped_share: float = 0.0
    """Share of the steps, at the start; the first step is never skipped. Of SeaCache only."""

    def build_config(self, threshold: float, step_count: int) -> SeaCacheConfig:
        return SeaCacheConfig(
            threshold=threshold,
            residual_order=int(self.is_extrapolated),
            retention_steps=max(1, int(self.never_skipped_share * step_count + 0.5)),
            max_consecutive_cached=self.max_consecutive_skips,
        )


RULES = (
    Rule("magnitudes", "magnitudes"),
    Rule("SeaCache", is_extrapolated=True, max_consecutive_skips=2),
    Rule("SeaCache, reuse"),
    Rule(
        "SeaCache, same limits",
        max_consecutive_skips=MAX_CONSECUTIVE_SKIPS,
        never_skipped_share=NEVER_SKIPPED_SHARE,
    ),
    Rule("evenly spaced", "even"),
)


def choose_recipes(variation_count: int, seeds: range, step_count: int) -> tuple[list[Recipe], Scenes]:
    """Return cached recipes of held-out scenes with each seed, and the scene of each."""
    scenes = sample_scenes(variation_count, np.random.default_rng(3), two_object_fraction=0.0, is_evaluation=True)
    settings = [f"model_settings.steps={step_count}", "model_settings.speed=cached"]
    recipe = plan_batch(load_config("nano", settings), "a large red circle moving left").videos[0].recipe
    recipes = [
        recipe.model_copy(update={"prompt": caption.text, "seed": seed})
        for caption in write_captions(scenes)
        for seed in seeds
    ]
    return recipes, scenes[np.repeat(np.arange(variation_count), len(seeds))]


def measure_changes(pipeline: WanPipeline, recipes: list[Recipe]) -> list[list[float]]:
    """Return SeaCache's relative change of the filtered latents before each step but the first, for full videos."""
    power = SeaCacheConfig().power_exp
    changes = []
    for recipe in recipes:
        filtered = [
            _apply_sea_filter(step.latents_before[0].movedim(0, -1), step.sigma, power)
            for step in denoise_latents(pipeline, recipe.model_copy(update={"speed": "reference", "magnitudes": ()}))
        ]
        changes.append([compute_change(now, before) for before, now in pairwise(filtered)])
    return changes


def compute_change(filtered: Tensor, before: Tensor) -> float:
    return float((filtered - before).abs().mean() / before.abs().mean())


def simulate_rule(rule: Rule, changes: Sequence[float], threshold: float) -> list[bool]:
    """Return which steps SeaCache computes for changes that do not depend on what it skips."""
    step_count = len(changes) + 1
    config = rule.build_config(threshold, step_count)
    computed, total, skips = [True], 0.0, 0
    for index, change in enumerate(changes, start=1):
        total += change
        is_computed = (
            index < config.retention_steps
            or index >= step_count - config.cache_end_steps
            or total >= threshold
            or 0 < config.max_consecutive_cached <= skips
        )
        computed.append(is_computed)
        total, skips = (0.0, 0) if is_computed else (total, skips + 1)
    return computed


def choose_threshold(budget: float, count_steps: Callable[[float], float]) -> float:
    """Return the threshold in 0.001 to 3 with which the number of computed steps is nearest to a budget.

    Of equally near ones, it is that nearest to the threshold of `cached`.
    """
    thresholds: list[float] = [MAX_MAGNITUDE_ERROR, *np.geomspace(1e-3, 3, 400).tolist()]
    return min(
        thresholds, key=lambda value: (abs(count_steps(value) - budget), abs(math.log(value / MAX_MAGNITUDE_ERROR)))
    )


def list_magnitude_steps(recipe: Recipe, sigmas: Sequence[float], threshold: float) -> list[bool]:
    with patch.object(step_skipping, "MAX_MAGNITUDE_ERROR", threshold):
        return step_skipping.find_computed_steps(compute_magnitude_ratios(recipe.magnitudes, sigmas))


@contextmanager
def using_rule(rule: Rule, threshold: float, computed: Sequence[bool], decisions: list[bool]) -> Iterator[None]:
    """Denoise by a rule inside the block, and append whether each pass was computed.

    Args:
        computed: whether each step is computed, by a fixed schedule.
    """
    resolve = SeaCacheSharedState.resolve_gate

    def resolve_gate(shared: Any, state: Any, metadata: Any, *others: Any) -> bool:
        is_fixed = rule.schedule is not None
        decisions.append(computed[metadata.step_index] if is_fixed else resolve(shared, state, metadata, *others))
        return decisions[-1]

    with ExitStack() as stack:
        stack.enter_context(patch.object(SeaCacheSharedState, "resolve_gate", resolve_gate))
        if rule.schedule == "magnitudes":
            stack.enter_context(patch.object(step_cache, "MAX_MAGNITUDE_ERROR", threshold))
            decisions += computed
        else:
            config = rule.build_config(threshold, len(computed))
            stack.enter_context(patch.object(step_cache, "build_cache_config", lambda *_: config))
        yield


def compare(made: Generated, wanted: Generated, scenes: Scenes) -> tuple[str, list[float]]:
    """Return a description of clips beside those of the full computation, and the PSNR of each."""
    errors = [float(((one[1] - two[1]) ** 2).mean()) for one, two in zip(made, wanted, strict=True)]
    psnr = [10 * float(np.log10(1 / max(error, 1e-12))) for error in errors]
    ssim = [
        statistics.mean(
            compute_ssim(np.rint(255 * frame).astype(np.uint8), np.rint(255 * other).astype(np.uint8))
            for frame, other in zip(one[1], two[1], strict=True)
        )
        for one, two in zip(made, wanted, strict=True)
    ]
    clips = torch.stack([torch.from_numpy(frames).permute(3, 0, 1, 2).float() for _, frames, _ in made])
    scores = ", ".join(f"{name} {share:.0%}" for name, share in score_clips(clips, scenes).items())
    speedup = sum(video[2] for video in wanted) / sum(video[2] for video in made)
    return (
        f"{speedup:.2f} times as fast; PSNR median {statistics.median(psnr):.1f} dB, lowest {min(psnr):.1f}; "
        f"SSIM median {statistics.median(ssim):.4f}, lowest {min(ssim):.4f}; judge: {scores}"
    ), psnr


def measure_decision(device: torch.device, shape: tuple[int, ...]) -> float:
    """Return the seconds of filtering latents and comparing them with those before."""
    latents = torch.randn(*shape, device=device)
    power, seconds = SeaCacheConfig().power_exp, []
    before = _apply_sea_filter(latents.movedim(0, -1), 0.5, power)
    for _ in range(5):
        began = time.perf_counter()
        compute_change(_apply_sea_filter(latents.movedim(0, -1), 0.5, power), before)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@click.command()
@click.option("--steps", "step_count", default=50, show_default=True)
@click.option("--variations", default=8, show_default=True)
@click.option("--seeds", default=4, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
@click.option("--only", type=click.Choice([rule.name for rule in RULES[1:]]), multiple=True, help="Rule; repeatable.")
@click.option(
    "--budget", "budgets", type=int, multiple=True, default=(22, 30), show_default=True, help="Computed steps."
)
def main(
    step_count: int, variations: int, seeds: int, first_seed: int, only: tuple[str, ...], budgets: tuple[int, ...]
) -> None:
    """Print a line for each budget and rule."""
    pipeline = load_pipeline(NANO, None, "float32", torch.device("cpu"))
    recipes, scenes = choose_recipes(variations, range(first_seed, first_seed + seeds), step_count)
    lines = [
        f"nano, {step_count} steps, {variations} variations x {seeds} seeds from {first_seed}, "
        f"{torch.get_num_threads()} threads"
    ]
    full_recipes = [recipe.model_copy(update={"speed": "reference", "magnitudes": ()}) for recipe in recipes]
    generate_videos(pipeline, full_recipes[:1])
    wanted = generate_videos(pipeline, full_recipes)
    lines.append(f"full computation: {compare(wanted, wanted, scenes)[0].rpartition('; ')[2]}")
    changes = measure_changes(pipeline, recipes[::seeds])
    sigmas = [step.sigma for step in denoise_latents(pipeline, full_recipes[0])]
    for budget in budgets:
        psnr_by_rule: dict[str, list[float]] = {}
        for rule in [rule for rule in RULES if not only or rule.name in ("magnitudes", *only)]:
            if rule.schedule is not None:
                threshold = choose_threshold(budget, lambda value: sum(list_magnitude_steps(recipes[0], sigmas, value)))
            else:
                threshold = choose_threshold(
                    budget,
                    lambda value, rule=rule: statistics.mean(sum(simulate_rule(rule, each, value)) for each in changes),  # type: ignore[misc]
                )
            computed = list_magnitude_steps(recipes[0], sigmas, threshold)
            if rule.schedule == "even":
                computed = list(np.isin(np.arange(step_count), np.linspace(0, step_count - 1, budget).round()))
            decisions: list[bool] = []
            with using_rule(rule, threshold, computed, decisions):
                made = generate_videos(pipeline, recipes)
            text, psnr = compare(made, wanted, scenes)
            psnr_by_rule[rule.name] = psnr
            count = step_count * sum(decisions) / len(decisions)
            beside = [one - two for one, two in zip(psnr, psnr_by_rule["magnitudes"], strict=True)]
            lines.append(
                f"budget {budget}, {rule.name}, threshold {threshold:.3f}: {count:.1f} steps computed, {text}; "
                f"beside magnitudes {statistics.median(beside):+.1f} dB, better in {sum(b > 0 for b in beside)}"
            )
            click.echo(f"{lines[-1]}: {' '.join(f'{value:.1f}' for value in psnr)}", err=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds = measure_decision(device, PUBLISHED_SHAPE)
    lines.append(f"one decision of SeaCache for latents of 832x480x81 on {device}: {1e3 * seconds:.2f} ms, two a step")
    click.echo("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
