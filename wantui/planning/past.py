"""What a batch will take in time and memory, judged by the videos that were made on this machine before.

A figure comes from a video of the same work, or is scaled by arithmetic from one of the same model in another size (and
says so), or is not given: there is no model of the hardware here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import ValidationError

from wantui.errors import UserError
from wantui.models.catalogue import WanModel, find_model
from wantui.planning.arithmetic import step_flops
from wantui.planning.estimate import model_evaluations
from wantui.planning.recipe import Recipe


@dataclass(frozen=True)
class PastVideo:
    """A video that was made, and what it took."""

    recipe: Recipe
    device: str
    """cpu or cuda."""
    step_seconds: float
    decode_seconds: float
    peak_memory: int | None
    memory_plan: str


@dataclass(frozen=True)
class Figure:
    """A predicted figure, or none, and what it rests on in words."""

    value: float | None
    basis: str


def past_videos(finished: Iterable[tuple[str, dict[str, Any]]]) -> list[PastVideo]:
    """From what the queue tells of finished videos; what an older version wrote without times is left out."""
    found = []
    for recipe, told in finished:
        seconds = told.get("seconds") or {}
        if "step" not in seconds or "decode" not in seconds or "device" not in told:
            continue
        try:
            found.append(
                PastVideo(
                    Recipe.model_validate_json(recipe),
                    told["device"],
                    seconds["step"],
                    seconds["decode"],
                    told.get("peak_memory"),
                    told.get("memory_plan") or "",
                )
            )
        except ValidationError:
            continue
    return found


def estimate_seconds(recipe: Recipe, device: str, past: Sequence[PastVideo]) -> Figure:
    """Seconds for one video of a recipe on a kind of device (cpu or cuda), its model being loaded."""
    alike = [video for video in past if video.device == device and _work(video.recipe) == _work(recipe)]
    if not alike:
        return _scaled(recipe, [video for video in past if video.device == device])
    step = median(video.step_seconds for video in alike)
    decode = median(video.decode_seconds for video in alike)
    basis = f"{len(alike)} made here: {step:.2g} s a step, {decode:.2g} s to decode"
    return Figure(step * model_evaluations(recipe.sampler, recipe.steps) + decode, basis)


def _scaled(recipe: Recipe, past: Sequence[PastVideo]) -> Figure:
    """By arithmetic, from the videos of the same model whose size is nearest in what it computes."""
    nothing = Figure(None, "not known before a first video of this model was made here")
    kin = [video for video in past if (video.recipe.model, video.recipe.dtype) == (recipe.model, recipe.dtype)]
    if not kin:
        return nothing
    try:
        model = find_model(recipe.model)
    except UserError:
        return nothing
    work = step_flops(model, recipe)
    ratios = {_work(video.recipe): work / step_flops(model, video.recipe) for video in kin}
    nearest = min(ratios, key=lambda one: abs(math.log(ratios[one])))
    near, ratio = [video for video in kin if _work(video.recipe) == nearest], ratios[nearest]
    old = near[0].recipe
    pixels = _pixels(recipe) / _pixels(old)
    step = ratio * median(video.step_seconds for video in near)
    decode = pixels * median(video.decode_seconds for video in near)
    size = f"{old.width}x{old.height}, {old.frames} frames"
    basis = (
        f"{step:.2g} s a step, scaled by arithmetic ({ratio:.2g} times the work) from {len(near)} of {size} made here"
    )
    return Figure(step * model_evaluations(recipe.sampler, recipe.steps) + decode, basis)


def _pixels(recipe: Recipe) -> int:
    return recipe.width * recipe.height * recipe.frames


def estimate_memory(recipe: Recipe, model: WanModel, past: Sequence[PastVideo]) -> Figure:
    """Bytes that a GPU must hold at most."""
    alike = [
        video
        for video in past
        if video.peak_memory and _size(video.recipe) == _size(recipe) and video.recipe.dtype == recipe.dtype
    ]
    if alike:
        latest = alike[0]
        assert latest.peak_memory is not None
        return Figure(latest.peak_memory, f"as the latest of {len(alike)} made here, {latest.memory_plan}")
    if model.weights is None:
        return Figure(None, "not known before a first video of this model and size was made here")
    return Figure(model.weights, "the weights alone, all of them on the GPU; what the size adds is not known yet")


def _size(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.model, recipe.width, recipe.height, recipe.frames


def _work(recipe: Recipe) -> tuple[Any, ...]:
    """What decides how long one step takes."""
    return *_size(recipe), recipe.guidance_scale > 1, recipe.dtype
