"""Weight files that are replaced or overwritten while a batch runs: no video silently uses other weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui, batch

from wantui.models.catalogue import WanModel
from wantui.storage.manifest import read_manifest
from wantui.worker import pipeline_cache
from wantui.worker.job import VideoInProgress
from wantui.worker.pipelines import load_recipe_pipeline

pytestmark = pytest.mark.torch

TRANSFORMER = Path("M/transformer/diffusion_pytorch_model.safetensors")


@pytest.fixture
def own_model(tiny_models: dict[str, WanModel], small: list[str]) -> list[str]:
    """Options for short videos of a model whose files a test may change."""
    shutil.copytree(tiny_models["wan2.1"].location, "M")
    return [*small, "--set", f"model_settings.model_id={Path('M').absolute()}", "--videos-per-variation", "2"]


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Call `action` once a worker has made a given number of steps."""
    made, original = [0], VideoInProgress.make_step_event

    def counted(self: VideoInProgress, *arguments: Any) -> Any:
        made[0] += 1
        if made[0] == number:
            action()
        return original(self, *arguments)

    monkeypatch.setattr(VideoInProgress, "make_step_event", counted)


def flip_last_byte(path: Path) -> None:
    """Change a byte of a file in place, as copying another file over it does to all bytes."""
    with path.open("r+b") as file:
        file.seek(-1, 2)
        (last,) = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))


@pytest.mark.parametrize("step", [2, 4], ids=["of the first video", "of the second video"])
def test_weights_overwritten_during_generation_yield_no_video(
    wantui: Wantui, own_model: list[str], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    at_step(monkeypatch, step, lambda: flip_last_byte(TRANSFORMER))
    result = wantui("run", "-t", "a star", *own_model)
    assert result.code == 2
    assert f"{TRANSFORMER.absolute()} was overwritten while its weights were in use" in result.err
    (folder,) = Path("outputs").iterdir() if Path("outputs").exists() and any(Path("outputs").iterdir()) else (None,)
    videos = [] if folder is None else list(folder.rglob("*.mp4"))
    assert len(videos) == (step > 3)  # the first of the two was made before
    assert not list(Path().rglob("*.checkpoint"))


def test_replaced_weight_file_does_not_change_a_running_batch(
    wantui: Wantui, own_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = batch(wantui("run", "-t", "a star", *own_model))

    def replace() -> None:
        other = shutil.copy(TRANSFORMER, "other")
        flip_last_byte(Path(other))
        Path(other).replace(TRANSFORMER)

    at_step(monkeypatch, 2, replace)
    made = batch(wantui("run", "-t", "a star", *own_model, "--batch-name", "again"))
    digests = [[video.latents_sha256 for video in read_manifest(folder).videos] for folder in (undisturbed, made)]
    assert digests[0] == digests[1]
    assert None not in digests[0]


def test_weights_changed_while_loading_are_refused(
    wantui: Wantui, own_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    def load(*arguments: Any, **options: Any) -> Any:
        flip_last_byte(TRANSFORMER)
        return load_recipe_pipeline(*arguments, **options)

    monkeypatch.setattr(pipeline_cache, "load_recipe_pipeline", load)
    result = wantui("run", "-t", "a star", *own_model)
    assert result.code == 2
    assert "have changed since this batch was planned" in result.err
    assert not list(Path().rglob("*.mp4"))
