"""Measure the magnitudes of a model, and store them for `speed: cached`."""

import json
from collections.abc import Callable
from pathlib import Path

from wantui.atomic_files import write_text_atomically
from wantui.controls.lora import LORA
from wantui.generation.calibrate import measure_magnitudes
from wantui.generation.denoise import prepare_inputs
from wantui.generation.errors import LoadError
from wantui.models.catalogue import find_model
from wantui.models.magnitudes import find_magnitudes_path
from wantui.planning import CaptureRequests, Recipe
from wantui.storage.layout import check_command_output
from wantui.worker.pipelines import choose_recipe_plan, load_recipe_pipeline

MIN_CALIBRATION_STEPS = 50
"""Minimum number of steps: with fewer steps, the lowest noise levels are not measured."""


def calibrate_model(
    recipe: Recipe, device: str, plan_name: str, show_step: Callable[[int, int], None], output_path: Path | None
) -> Path:
    """Measure the magnitudes by denoising one video without skipping blocks; return the file that stores them.

    Args:
        plan_name: slug of a memory plan, or auto.
        output_path: file to write; None for the default file, in which wantui looks for magnitudes.

    Raises:
        LoadError: the model cannot be loaded or calibrated, or the file cannot be written.
    """
    model = find_model(recipe.model)
    if model.boundary_ratio is not None:
        raise _make_calibration_not_needed_error(model.name)
    if (weights_id := recipe.source.weights_id) is None:
        raise LoadError(f"{model.name} is not on this machine. Download it: `wantui models fetch {model.name}`")
    if output_path is None:
        output_path = find_magnitudes_path(model, weights_id)
        try:
            output_path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoadError(f"{output_path} cannot be written: {error.strerror or error}") from None
    check_command_output(output_path)
    # Adapters are part of the weights; the calibration applies to all videos, so it excludes all other controls.
    adapters = {name: request for name, request in recipe.controls.items() if name == LORA.name}
    uncached_recipe = recipe.model_copy(
        update={
            "controls": adapters,
            "sampler": "unipc",
            "steps": max(MIN_CALIBRATION_STEPS, recipe.steps),
            "speed": "reference" if recipe.speed == "reference" else "fused",
            "magnitudes": (),
            "marks": (),
            "weighting": None,
            "capture": CaptureRequests(),
        }
    )
    loaded_pipeline = load_recipe_pipeline(
        uncached_recipe, device, choose_recipe_plan(uncached_recipe, device, requested_slug=plan_name).plan
    )
    if loaded_pipeline.pipeline.transformer_2 is not None:
        raise _make_calibration_not_needed_error(model.name)
    try:
        denoising_start = prepare_inputs(loaded_pipeline.pipeline, uncached_recipe, loaded_pipeline.embeddings)
        magnitudes = measure_magnitudes(loaded_pipeline.pipeline, uncached_recipe, denoising_start, show_step)
    except RuntimeError as error:  # out of memory, or NaN
        raise LoadError(f"{model.name} could not be calibrated: {error}") from error
    measured_with = uncached_recipe.model_dump(
        mode="json", include={"prompt", "steps", "sampler", "width", "height", "frames"}
    )
    try:
        write_text_atomically(
            output_path,
            json.dumps(
                {"model": model.name, "revision": weights_id, "measured_with": measured_with, "magnitudes": magnitudes}
            ),
        )
    except OSError as error:
        raise LoadError(f"{output_path} cannot be written: {error.strerror or error}") from None
    return output_path


def _make_calibration_not_needed_error(model_name: str) -> LoadError:
    return LoadError(
        f"{model_name} needs no calibration: it has two transformers, and `speed: cached` uses the first block of each"
    )
