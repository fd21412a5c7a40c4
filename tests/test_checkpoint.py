"""A video that is ended after any step goes on in another process to the same bits, captures included."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import FORMS, recipe_for
from diffusers import WanPipeline

from wantui.generation import checkpoint as checkpoints
from wantui.generation.checkpoint import CheckpointTap, read_checkpoint
from wantui.generation.denoise import denoise, prepare
from wantui.generation.load import load_pipeline
from wantui.generation.make_video import MadeVideo, Resumed, StartedAgain, Stepped, make_video
from wantui.models.catalogue import WanModel
from wantui.planning import AttentionCapture, Capture, PromptMark, Recipe
from wantui.storage.files import VideoFiles, discard

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MOST_OF_THE_TIME", float("inf"))


@pytest.fixture(scope="module", params=[(form, dtype) for form in FORMS for dtype in ("float32", "bfloat16")])
def loaded(request: pytest.FixtureRequest, tiny_models: dict[str, WanModel]) -> tuple[WanPipeline, Recipe]:
    form, dtype = request.param
    model = tiny_models[form]
    return load_pipeline(model, None, dtype, CPU), recipe_for(model, dtype=dtype, steps=5)


@pytest.mark.parametrize("sampler", ["unipc", "unipc-3", "dpm++2m", "dpm++3m", "euler", "heun"])
def test_denoising_goes_on_after_any_step_to_the_same_bits(
    loaded: tuple[WanPipeline, Recipe], sampler: str, tmp_path: Path
) -> None:
    pipeline, recipe = loaded[0], loaded[1].model_copy(update={"sampler": sampler})
    tap = CheckpointTap(pipeline, recipe, tmp_path / "last", {})
    start = prepare(pipeline, recipe)
    tap.on_start(start, 0)
    whole = []
    for step in denoise(pipeline, recipe, start):
        tap.on_step(step)
        shutil.copy(tmp_path / "last", tmp_path / str(step.index + 1))
        whole.append(step.latents)
    for done in range(1, len(whole)):
        found = read_checkpoint(tmp_path / str(done), pipeline, recipe)
        assert found is not None
        assert found.steps_done == done
        rest = [step.latents for step in denoise(pipeline, recipe, resume_from=found)]
        assert len(rest) == len(whole) - done
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[done:], strict=True))


def video_files(root: Path) -> VideoFiles:
    return VideoFiles(root / "v.mp4", root / "v.jpg", root / "v.zarr", root / "a.zarr", root / "v.checkpoint")


def stop_after(events: Iterator[object], steps: int) -> None:
    """Close a video's generator after its `steps`-th step, as a worker that is told to stop does."""
    for event in events:
        if isinstance(event, Stepped) and event.step.index + 1 == steps:
            events.close()  # type: ignore[attr-defined]
            return


def made(events: Iterator[object]) -> tuple[MadeVideo, list[object]]:
    found = list(events)
    assert isinstance(found[-1], MadeVideo)
    return found[-1], [event for event in found if isinstance(event, Resumed | StartedAgain)]


MARK = PromptMark(text="star", start=6, end=10)
CAPTURES = {
    "float32": Capture(latents=True),
    "float16": Capture(latents=True, dtype="float16"),
    "every third, compressed, with what was predicted": Capture(
        latents=True, interval=3, compress=True, predicted_clean=True
    ),
    "attention, no latents": Capture(attention=AttentionCapture(interval=2)),
}


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
@pytest.mark.parametrize("stops", [(1,), (4,), (5,), (2, 3), (1, 2, 3, 4)], ids=str)
def test_a_stopped_video_ends_as_an_undisturbed_one_with_whole_captures(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, capture: Capture, stops: tuple[int, ...]
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], capture=capture, steps=5, marks=[MARK])
    undisturbed, stopped = video_files(tmp_path / "a"), video_files(tmp_path / "b")
    reference, _ = made(make_video(tiny, recipe, undisturbed))
    for steps in stops:
        stop_after(make_video(tiny, recipe, stopped), steps)
        assert not stopped.clip.exists()
        assert not stopped.latents.exists()
    result, said = made(make_video(tiny, recipe, stopped))
    assert said == [Resumed(stops[-1])]
    assert result.latents_sha256 == reference.latents_sha256
    assert stopped.clip.read_bytes() == undisturbed.clip.read_bytes()
    for kind in ("latents", "attention"):
        if not getattr(undisturbed, kind).exists():
            continue
        one, other = (zarr.open_group(getattr(files, kind), mode="r") for files in (undisturbed, stopped))
        assert set(one) == set(other)
        assert "exact" not in one
        for name in one:
            assert np.array_equal(one[name][:], other[name][:])  # type: ignore[index]
    discard(stopped)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        *(["a.zarr"] if capture.attention else []),
        "v.jpg",
        "v.mp4",
        "v.zarr",
    ]


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
def test_a_video_that_was_made_and_not_recorded_is_only_decoded_again(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, capture: Capture
) -> None:
    recipe, files = recipe_for(tiny_models["wan2.1"], capture=capture, steps=5), video_files(tmp_path)
    reference, _ = made(make_video(tiny, recipe, files))
    before = {path: path.stat().st_mtime_ns for path in files.latents.rglob("*")}
    again, said = made(make_video(tiny, recipe, files))
    assert said == [Resumed(5)]
    assert again.latents_sha256 == reference.latents_sha256
    assert {path: path.stat().st_mtime_ns for path in files.latents.rglob("*")} == before


def test_a_video_that_is_stopped_between_two_checkpoints_goes_on_from_its_last_step(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MOST_OF_THE_TIME", 1e-9)
    recipe, files = recipe_for(tiny_models["wan2.1"], steps=5), video_files(tmp_path)
    stop_after(make_video(tiny, recipe, files), 4)
    _, said = made(make_video(tiny, recipe, files))
    assert said == [Resumed(4)]


def test_a_checkpoint_of_other_software_or_another_recipe_is_refused_by_name(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    reference, _ = made(make_video(tiny, recipe, video_files(tmp_path / "a")))
    files = video_files(tmp_path / "b")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "1.0")
        stop_after(make_video(tiny, recipe, files), 2)
    result, said = made(make_video(tiny, recipe, files))
    assert said == [StartedAgain(f"torch was 1.0 and is {torch.__version__}")]
    assert result.latents_sha256 == reference.latents_sha256

    stop_after(make_video(tiny, recipe.model_copy(update={"seed": 8}), files), 2)
    result, said = made(make_video(tiny, recipe, files))
    assert len(said) == 1
    assert str(said[0]).startswith("StartedAgain(reason='recipe was ")
    assert result.latents_sha256 == reference.latents_sha256


def test_a_checkpoint_that_was_damaged_is_refused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    reference, _ = made(make_video(tiny, recipe, video_files(tmp_path / "a")))
    files = video_files(tmp_path / "b")
    assert files.checkpoint is not None
    for spoil in (lambda data: data[:-8] + bytes(8), lambda data: data[: len(data) // 2], lambda data: b""):
        stop_after(make_video(tiny, recipe, files), 2)
        files.checkpoint.write_bytes(spoil(files.checkpoint.read_bytes()))
        result, said = made(make_video(tiny, recipe, files))
        assert [type(event) for event in said] == [StartedAgain]
        assert result.latents_sha256 == reference.latents_sha256


def test_captures_that_are_not_whole_start_the_video_again(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], capture=Capture(latents=True))
    files = video_files(tmp_path)
    stop_after(make_video(tiny, recipe, files), 3)
    shutil.rmtree(tmp_path / "v.zarr.partial" / "latents" / "c" / "1")
    _, said = made(make_video(tiny, recipe, files))
    assert said == [StartedAgain("the state after step 1 is not the one that was stored")]
