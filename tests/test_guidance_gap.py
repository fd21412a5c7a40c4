"""The capture of the guidance gap: its values against float64, its bits, resumed videos, and its metrics."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Wantui, generate_batch, recipe_for
from diffusers import WanPipeline
from tiny import tiny_pipeline

from wantui.analysis.guidance_gap import EARLY_WINDOW, LATE_WINDOW, WHOLE_WINDOW, GuidanceGap, load_guidance_gap
from wantui.analysis.loading import read_batch_videos
from wantui.captures.guidance_gap import COLUMNS
from wantui.generation.captures.guidance_gap import measure_pass_gap
from wantui.generation.load import load_pipeline
from wantui.generation.make_video import GenerationResult, StepFinished, generate_video
from wantui.models.catalogue import NANO, WanModel
from wantui.planning import CaptureRequests, Recipe
from wantui.planning.recipe import parse_recipe
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.video_files import VideoFiles, find_video_files, make_video_folders
from wantui.storage.zarr_group import open_capture, verify_capture

pytestmark = pytest.mark.torch


def files_in(folder: Path) -> VideoFiles:
    files = find_video_files(BatchFolder(folder), 0, 1)
    make_video_folders(files)
    return files


def generate(pipeline: WanPipeline, recipe: Recipe, folder: Path) -> tuple[list[StepFinished], str, np.ndarray]:
    """Generate a video; return its steps, the digest of its latents, and the stored values."""
    files = files_in(folder)
    events = list(generate_video(pipeline, recipe, files))
    finished = events[-1]
    assert isinstance(finished, GenerationResult)
    steps = [event for event in events if isinstance(event, StepFinished)]
    path = files.capture_paths["guidance_gap"]
    values = open_capture(path)["values"][:] if path.exists() else np.empty(0)
    return steps, finished.latents_sha256, values


def evaluate_in_float64(transformer: Any, latents: torch.Tensor, timestep: float, embeds: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        output = transformer(latents.double(), torch.tensor([timestep]), embeds.double(), return_dict=False)[0]
    return np.asarray(output.double().numpy())


@pytest.mark.parametrize("form", ["nano", "a14b"])
def test_values_equal_a_float64_model_at_every_step(
    form: str, nano: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    pipeline = nano if form == "nano" else tiny_pipeline(form)
    model = NANO if form == "nano" else tiny_models[form]
    sizes = {"width": 64, "height": 64, "frames": 5} if form == "nano" else {}
    recipe = recipe_for(model, steps=5, guidance_scale_2=3.0 if form == "a14b" else None, **sizes)
    steps, _, values = generate(pipeline, recipe, tmp_path)
    exact = load_pipeline(NANO, None, "float32", torch.device("cpu")) if form == "nano" else tiny_pipeline(form)
    for transformer in filter(None, (exact.transformer, exact.transformer_2)):
        transformer.double()
    embeds = [exact.encode_prompt(text, None, False, max_sequence_length=512)[0] for text in (recipe.prompt, "")]
    used_transformers = set()
    for row, event in zip(values, steps, strict=True):
        is_second = form == "a14b" and event.step.timestep < 875
        used_transformers.add(is_second)
        transformer = exact.transformer_2 if is_second else exact.transformer
        conditional, unconditional = (
            evaluate_in_float64(transformer, event.step.latents_before, event.step.timestep, text) for text in embeds
        )
        norms = [math.sqrt(float((v**2).mean())) for v in (conditional - unconditional, conditional, unconditional)]
        cosine = float((conditional * unconditional).mean()) / (norms[1] * norms[2])
        assert row.tolist() == pytest.approx([2.0, *norms, cosine], rel=1e-3)
    assert used_transformers == ({False, True} if form == "a14b" else {False})


@pytest.mark.parametrize("sampler", ["unipc", "heun"])
def test_capture_changes_no_bit_of_the_video(sampler: str, tiny: WanPipeline, tiny_models: Any, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], sampler=sampler)
    without = recipe.model_copy(update={"capture": CaptureRequests(guidance_gap=False)})
    _, digest, values = generate(tiny, recipe, tmp_path / "with")
    _, digest_without, no_values = generate(tiny, without, tmp_path / "without")
    assert digest == digest_without
    assert values.shape == (7 if sampler == "heun" else 4, len(COLUMNS))
    assert not no_values.size


def test_steps_without_a_second_pass_are_marked(tiny: WanPipeline, tiny_models: Any, tmp_path: Path) -> None:
    keyframes = {"times": {"unit": "step", "moments": [0, 2, 4]}, "scales": [1.0, 4.0, 1.0]}
    schedule = {"guidance_schedule": {"schedule": keyframes, "interpolation": "step"}}
    recipe = parse_recipe(recipe_for(tiny_models["wan2.1"], steps=6).model_dump(mode="json") | {"controls": schedule})
    _, _, values = generate(tiny, recipe, tmp_path / "gated")
    has_second_pass = values[:, 0] == 2
    assert has_second_pass.tolist() == [False, False, True, True, False, False]
    assert np.isfinite(values[has_second_pass]).all()
    assert np.isnan(values[~has_second_pass][:, [1, 3, 4]]).all()
    assert (values[:, 2] > 0).all()
    unguided = recipe_for(tiny_models["wan2.1"], guidance_scale=1.0)
    _, _, values = generate(tiny, unguided, tmp_path / "unguided")
    assert values[:, 0].tolist() == [1.0] * 4


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_resumed_video_has_the_values_of_an_uninterrupted_one(
    stopped_after: int, tiny: WanPipeline, tiny_models: Any, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], steps=5)
    _, digest, expected = generate(tiny, recipe, tmp_path / "whole")
    files = files_in(tmp_path / "resumed")
    events = generate_video(tiny, recipe, files)
    for _ in range(stopped_after):
        assert isinstance(next(events), StepFinished)
    events.close()
    *_, finished = generate_video(tiny, recipe, files)
    assert isinstance(finished, GenerationResult)
    assert finished.latents_sha256 == digest
    assert np.array_equal(open_capture(files.capture_paths["guidance_gap"])["values"][:], expected)
    assert verify_capture(files.capture_paths["guidance_gap"])


def test_zero_velocity_has_no_cosine() -> None:
    zero = torch.zeros(1, 2, 2)
    assert measure_pass_gap(zero, zero)[:4] == [2.0, 0.0, 0.0, 0.0]
    assert math.isnan(measure_pass_gap(zero, zero)[4])
    assert measure_pass_gap(torch.ones(4), -torch.ones(4)) == [2.0, 2.0, 1.0, 1.0, -1.0]


def test_default_of_the_capture_keeps_the_digest_of_a_recipe() -> None:
    recipe = recipe_for(NANO)
    assert "guidance_gap" not in json.loads(recipe.to_json())["capture"]
    off = recipe.model_copy(update={"capture": CaptureRequests(guidance_gap=False)})
    assert off.digest != recipe.digest
    assert parse_recipe(json.loads(off.to_json())) == off
    assert recipe.capture.find_request("guidance_gap") is not None
    assert CaptureRequests(geometry=False).find_request("guidance_gap") is None


def measure(differences: list[float], sigmas: list[float]) -> Callable[[tuple[float, float]], float]:
    return GuidanceGap(np.array([*sigmas, 0.0]), np.array(differences)).compute_mean


def test_means_over_windows_weight_steps_by_the_noise_levels_that_they_cross() -> None:
    mean = measure([1.0, 2.0, 4.0], [1.0, 0.8, 0.6])
    assert mean(WHOLE_WINDOW) == pytest.approx(0.2 * 1 + 0.2 * 2 + 0.6 * 4)
    assert mean(EARLY_WINDOW) == pytest.approx((0.2 * 1 + 0.05 * 2) / 0.25)
    assert mean(LATE_WINDOW) == 4.0
    heun = measure([1.0, 99.0, 2.0, 99.0, 4.0], [1.0, 0.8, 0.8, 0.6, 0.6])
    assert heun(WHOLE_WINDOW) == pytest.approx(mean(WHOLE_WINDOW))
    gated = measure([math.nan, 2.0, math.nan], [1.0, 0.8, 0.6])
    assert gated(WHOLE_WINDOW) == 2.0
    assert math.isnan(gated(LATE_WINDOW))


def test_analysis_of_a_batch_has_the_metrics_and_reports_damage(
    tiny_models: dict[str, WanModel], tmp_path: Path, wantui: Wantui
) -> None:
    settings = {
        "model_settings.model_id": tiny_models["wan2.1"].location,
        "model_settings.dtype": "float32",
        "model_settings.steps": 4,
        "video_settings.width": 32,
        "video_settings.height": 32,
        "video_settings.frames": 9,
        "model_settings.device": "cpu",
        "videos_per_variation": 2,
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    generate_batch(tmp_path, "-t", "a [red|blue] circle", *options)
    folder = tmp_path / "batch"
    entry = read_manifest(BatchFolder(folder)).videos[0]
    path = folder / entry.files["guidance_gap"]
    gap, video = load_guidance_gap(path), next(iter(read_batch_videos(folder)))
    expected = {
        "guidance_gap": gap.compute_mean(WHOLE_WINDOW),
        "guidance_gap_early": gap.compute_mean(EARLY_WINDOW),
        "guidance_gap_late": gap.compute_mean(LATE_WINDOW),
    }
    assert {name: video.compute_metric(name) for name in expected} == expected
    assert all(value > 0 for value in expected.values())
    compared = wantui("analyze", folder, "--compare", "--by", 1, "--primary", "guidance_gap", "--json")
    assert json.loads(compared.out)["primary"] == "guidance_gap"
    strided = wantui("analyze", folder, "--stride", 2, "--metrics", "guidance_gap", "--json")
    stored = json.loads(strided.out)[0]["metrics"]["guidance_gap"]["value"]
    assert stored == pytest.approx(expected["guidance_gap"])
    chunk = next(file for file in (path / "values").rglob("*") if file.is_file() and file.name != "zarr.json")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    damaged = wantui("library", "check", folder)
    assert damaged.code == 1
    assert "its CRC-32 does not match" in damaged.out
    video = next(iter(read_batch_videos(folder)))
    assert math.isnan(video.compute_metric("guidance_gap"))
    assert "its guidance gap cannot be read" in video.warnings[0]
