"""Live data of a video that is being rendered: metrics of its path, and previews."""

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import recipe_for
from decoded_frames import decode_float_frames
from diffusers import WanPipeline
from PIL import Image

from wantui.analysis.trajectory import build_trajectory
from wantui.atomic_files import make_partial_path
from wantui.generation.captures.trajectory import Recorder
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.make_video import GenerationResult, StepFinished, generate_video
from wantui.generation.preview import PreviewListener, fit_latents_to_rgb
from wantui.models.catalogue import NANO, WanModel
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.video_files import VideoFiles, remove_temporary_files

pytestmark = pytest.mark.torch
LOG = logging.getLogger("wantui.test")


def files_in(folder: Path) -> VideoFiles:
    return VideoFiles(folder / "v.mp4", folder / "v.jpg", {"trajectory": folder / "v.zarr"})


def test_live_metrics_equal_those_of_the_full_trajectory(
    tmp_path: Path, tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], steps=6)
    start = prepare_inputs(tiny, recipe)
    tap = Recorder(tmp_path / "v.zarr", recipe, BackgroundWriter(), (), is_resumable=False)
    tap.on_start(start, 0)
    states, figures_by_step = [start.noise.double().flatten()], []
    for step in denoise_latents(tiny, recipe, start):
        tap.on_step(step)
        figures_by_step.append(tap.live_metrics)
        states.append(step.latents.double().flatten())
    stacked = torch.stack(states).numpy()
    whole = build_trajectory(stacked @ stacked.T, np.array(start.sigmas), stacked.shape[1])
    assert [figures["norm"] for figures in figures_by_step] == pytest.approx(whole.norm[1:])
    assert [figures["velocity"] for figures in figures_by_step] == pytest.approx(whole.velocity)
    assert [figures["turning"] for figures in figures_by_step[1:]] == pytest.approx(whole.turning, abs=1e-6)
    assert "turning" not in figures_by_step[0]
    assert figures_by_step[-1]["straightness"] == pytest.approx(whole.straightness)


def test_preview_does_not_change_a_video(tmp_path: Path, tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    alone = list(generate_video(tiny, recipe, files_in(tmp_path / "a")))[-1]
    listeners = (PreviewListener(fit_latents_to_rgb(tiny), tmp_path / "p.png", LOG),)
    heard = list(generate_video(tiny, recipe, files_in(tmp_path / "b"), listeners))[-1]
    assert isinstance(alone, GenerationResult)
    assert isinstance(heard, GenerationResult)
    assert heard.latents_sha256 == alone.latents_sha256
    assert (tmp_path / "a" / "v.mp4").read_bytes() == (tmp_path / "b" / "v.mp4").read_bytes()


def test_preview_of_the_last_step_resembles_the_video(tmp_path: Path, nano: WanPipeline) -> None:
    changes = {"width": 128, "height": 128, "frames": 17, "steps": 8, "dtype": "float32"}
    recipe = recipe_for(NANO, prompt="a large red circle moving left over a grey background", **changes)
    fit = fit_latents_to_rgb(nano)
    assert fit.r2 > 0.95
    path = tmp_path / "strip.png"
    tap = PreviewListener(fit, path, LOG)
    latents = None
    for step in denoise_latents(nano, recipe):
        tap.on_step(step)
        latents = step.latents
    assert latents is not None
    with Image.open(path) as image:
        strip = np.asarray(image).astype(float)
    assert strip.shape == (16, 5 * 16, 3)
    decoded = decode_float_frames(nano, latents)
    # A latent frame stands for four frames, the first one for itself.
    frames = np.stack([decoded[0], *(decoded[i : i + 4].mean(0) for i in (1, 5, 9, 13))])
    small = frames.reshape(5, 16, 8, 16, 8, 3).mean((2, 4)) * 255
    predicted = strip.reshape(16, 5, 16, 3).transpose(1, 0, 2, 3)
    assert np.corrcoef(small.ravel(), predicted.ravel())[0, 1] > 0.95


def test_preview_is_removed_with_its_video(tmp_path: Path, tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    files = files_in(tmp_path)
    events = making(tiny, files, recipe_steps=recipe)
    next(events)
    assert files.preview_path.exists()
    for _ in events:
        pass
    assert not files.preview_path.exists()
    again = making(tiny, files, recipe_steps=recipe)
    next(again)
    remove_temporary_files(files)
    assert not files.preview_path.exists()


def making(pipeline: WanPipeline, files: VideoFiles, recipe_steps: object) -> Iterator[StepFinished]:
    tap = PreviewListener(fit_latents_to_rgb(pipeline), files.preview_path, LOG)
    for event in generate_video(pipeline, recipe_steps, files, (tap,)):  # type: ignore[arg-type]
        if isinstance(event, StepFinished):
            yield event


@pytest.mark.parametrize("obstacle", ["a file above it", "a folder in its place"])
def test_unwritable_preview_is_reported_once_and_generation_continues(
    tmp_path: Path,
    tiny: WanPipeline,
    tiny_models: dict[str, WanModel],
    caplog: pytest.LogCaptureFixture,
    obstacle: str,
) -> None:
    path = tmp_path / "above" / "p.png"
    if obstacle == "a file above it":
        path.parent.write_text("in the way")
    else:
        path.mkdir(parents=True)
    tap = PreviewListener(fit_latents_to_rgb(tiny), path, LOG)
    for step in denoise_latents(tiny, recipe_for(tiny_models["wan2.1"])):
        tap.on_step(step)
        tap.written_at = float("-inf")
        assert not tap.wrote_preview
    tap.on_end()
    assert [
        record.message for record in caplog.records if "Generation continues without previews" in record.message
    ] == [caplog.records[0].message]
    assert str(path) in caplog.records[0].message
    assert not make_partial_path(path).exists()


def test_preview_of_another_user_does_not_fail_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_in(tmp_path)
    files.preview_path.write_bytes(b"of another user")
    make_partial_path(files.clip_path).write_bytes(b"begun")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == files.preview_path:  # a sticky folder lets only owners remove files
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_temporary_files(files)
    assert files.preview_path.exists()
    assert not make_partial_path(files.clip_path).exists()
