"""Measure the magnitudes of a model, and store them for `speed: cached`."""

import json
from collections.abc import Callable
from pathlib import Path

from wantui.atomic_files import write_text
from wantui.generation.calibrate import measure_magnitudes
from wantui.generation.denoise import prepare
from wantui.generation.errors import LoadError
from wantui.models.catalogue import find_model
from wantui.models.magnitudes import find_magnitudes_path
from wantui.paths import check_new_file
from wantui.planning import Captures, Recipe
from wantui.worker.pipelines import choose_plan_for, load_pipeline_for

MIN_STEPS = 50
"""Minimum number of steps: with fewer steps, the lowest noise levels are not measured."""


def calibrate_model(
    recipe: Recipe, device: str, plan: str, show: Callable[[int, int], None], path: Path | None
) -> Path:
    """Measure the magnitudes by denoising one video without skipping blocks; return the file that stores them.

    Args:
        plan: slug of a memory plan, or auto.
        path: file to write; None for the default file, in which wantui looks for magnitudes.

    Raises:
        LoadError: the model cannot be loaded or calibrated, or the file cannot be written.
    """
    model = find_model(recipe.model)
    if model.boundary_ratio is not None:
        raise _unneeded_calibration_error(model.name)
    if (weights := recipe.source.weights_id) is None:
        raise LoadError(f"{model.name} is not on this machine. Download it: `wantui models fetch {model.name}`")
    path = path or find_magnitudes_path(model, weights)
    check_new_file(path, makes_folders=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"{path} cannot be written: {error.strerror}") from None
    uncached = recipe.model_copy(
        update={
            "sampler": "unipc",
            "steps": max(MIN_STEPS, recipe.steps),
            "speed": "fused" if recipe.speed == "cached" else recipe.speed,
            "magnitudes": (),
            "marks": (),
            "weighting": None,
            "capture": Captures(),
        }
    )
    loaded = load_pipeline_for(uncached, device, choose_plan_for(uncached, device, requested_plan=plan).plan)
    if loaded.pipeline.transformer_2 is not None:
        raise _unneeded_calibration_error(model.name)
    try:
        start = prepare(loaded.pipeline, uncached, loaded.embeddings)
        magnitudes = measure_magnitudes(loaded.pipeline, uncached, start, show)
    except RuntimeError as error:  # out of memory, or NaN
        raise LoadError(f"{model.name} could not be calibrated: {error}") from error
    measured_with = uncached.model_dump(
        mode="json", include={"prompt", "steps", "sampler", "width", "height", "frames"}
    )
    try:
        write_text(
            path,
            json.dumps(
                {"model": model.name, "revision": weights, "measured_with": measured_with, "magnitudes": magnitudes}
            ),
        )
    except OSError as error:
        raise LoadError(f"{path} cannot be written: {error.strerror}") from None
    return path


def _unneeded_calibration_error(name: str) -> LoadError:
    return LoadError(
        f"{name} needs no calibration: it has two transformers, and `speed: cached` uses the first block of each"
    )
