"""A video that is stopped after any step resumes in another process with identical bits, captures included."""

import errno
import gc
import json
import math
import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from conftest import LoadOnce, recipe_for, replace_by_fifo, replace_by_link
from diffusers import WanPipeline
from safetensors import safe_open
from safetensors.torch import save
from stopped_videos import finish, stop_after, video_files
from tiny import FORMS

from wantui.captures.attention import AttentionRequest
from wantui.environment import ARITHMETIC_VARIABLES
from wantui.generation import checkpoint as checkpoints
from wantui.generation import provenance as versions
from wantui.generation.checkpoint import CheckpointListener, read_checkpoint
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.make_video import (
    FrameDecoded,
    GenerationRestarted,
    GenerationResult,
    GenerationResumed,
    generate_frames,
    generate_video,
)
from wantui.generation.samplers import SAMPLERS_BY_NAME
from wantui.models.catalogue import WanModel
from wantui.planning import CaptureRequests, PromptMark, Recipe
from wantui.samplers import SamplerName
from wantui.storage.video_files import VideoFiles, remove_temporary_files

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_CHECKPOINT_TIME_FRACTION", float("inf"))


@pytest.fixture(scope="module", params=[(form, dtype) for form in FORMS for dtype in ("float32", "bfloat16")])
def loaded(
    request: pytest.FixtureRequest, load_once: LoadOnce, tiny_models: dict[str, WanModel]
) -> tuple[WanPipeline, Recipe]:
    form, dtype = request.param
    return load_once(tiny_models[form], dtype), recipe_for(tiny_models[form], dtype=dtype, steps=5)


@pytest.mark.parametrize("sampler", SAMPLERS_BY_NAME)
def test_denoising_resumes_after_any_step_bit_identically(
    loaded: tuple[WanPipeline, Recipe], sampler: str, tmp_path: Path
) -> None:
    pipeline, recipe = loaded[0], loaded[1].model_copy(update={"sampler": sampler})
    tap = CheckpointListener(pipeline, recipe, tmp_path / "last", {}, time.perf_counter)
    start = prepare_inputs(pipeline, recipe)
    tap.on_start(start, 0)
    whole = []
    for step in denoise_latents(pipeline, recipe, start):
        tap.on_step(step)
        shutil.copy(tmp_path / "last", tmp_path / str(step.evaluation_index + 1))
        whole.append(step.latents)
    for done in range(1, len(whole)):
        result = read_checkpoint(tmp_path / str(done), pipeline, recipe)
        assert result is not None
        assert result.steps_done == done
        rest = [step.latents for step in denoise_latents(pipeline, recipe, resume_from=result)]
        assert len(rest) == len(whole) - done
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[done:], strict=True))


class Videos:
    """Videos that tests compare with, and stopped videos of which tests damage copies: each is generated once."""

    def __init__(self, pipeline: WanPipeline, root: Path) -> None:
        self.pipeline, self.root = pipeline, root
        self.finished: dict[str, tuple[GenerationResult, VideoFiles]] = {}
        self.stopped: dict[tuple[str, int], Path] = {}

    def find_finished(self, recipe: Recipe) -> tuple[GenerationResult, VideoFiles]:
        """Return the video that is generated without a stop, and its files."""
        key = recipe.model_dump_json()
        if key not in self.finished:
            files = video_files(self.root / f"finished-{len(self.finished)}")
            self.finished[key] = finish(generate_video(self.pipeline, recipe, files))[0], files
        return self.finished[key]

    def copy_stopped(self, recipe: Recipe, steps: int, root: Path) -> VideoFiles:
        """Copy the files of a video that was stopped after some steps, and that resumes there if nothing is changed."""
        key = recipe.model_dump_json(), steps
        if key not in self.stopped:
            folder = self.root / f"stopped-{len(self.stopped)}"
            stop_after(generate_video(self.pipeline, recipe, video_files(folder)), steps)
            copy = video_files(Path(shutil.copytree(folder, folder.with_suffix(".copy"))))
            assert finish(generate_video(self.pipeline, recipe, copy))[1] == [GenerationResumed(steps)]
            self.stopped[key] = folder
        return video_files(Path(shutil.copytree(self.stopped[key], root)))


@pytest.fixture(scope="module")
def videos(tiny: WanPipeline, tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return Videos(tiny, tmp_path_factory.mktemp("videos"))


MARK = PromptMark(text="star", start=6, end=10)
CAPTURES = {
    "float32": CaptureRequests(latents=True),
    "float16": CaptureRequests(latents=True, dtype="float16"),
    "every third, compressed, with what was predicted": CaptureRequests(
        latents=True, interval=3, compress=True, predicted_clean=True
    ),
    "attention, no latents": CaptureRequests(attention=AttentionRequest(interval=2)),
    "attention in all detail": CaptureRequests(
        attention=AttentionRequest(
            interval=3, dtype="float16", per_block=True, per_head=True, per_token=True, downsample=2, unconditional=True
        )
    ),
}


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
@pytest.mark.parametrize("stops", [(1,), (4,), (5,), (2, 3), (1, 2, 3, 4)], ids=str)
def test_stopped_video_resumes_with_identical_latents_and_captures(
    tiny: WanPipeline,
    tiny_models: dict[str, WanModel],
    tmp_path: Path,
    videos: Videos,
    capture: CaptureRequests,
    stops: tuple[int, ...],
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], capture=capture, steps=5, marks=[MARK])
    reference, undisturbed = videos.find_finished(recipe)
    stopped = video_files(tmp_path / "b")
    for steps in stops:
        stop_after(generate_video(tiny, recipe, stopped), steps)
        assert not stopped.clip_path.exists()
        assert not stopped.capture_paths["trajectory"].exists()
    result, restarts = finish(generate_video(tiny, recipe, stopped))
    assert restarts == [GenerationResumed(stops[-1])]
    assert result.latents_sha256 == reference.latents_sha256
    assert stopped.clip_path.read_bytes() == undisturbed.clip_path.read_bytes()
    for kind in ("trajectory", "attention"):
        if not undisturbed.capture_paths[kind].exists():
            continue
        one, other = (zarr.open_group(files.capture_paths[kind], mode="r") for files in (undisturbed, stopped))
        assert set(one) == set(other)
        assert "exact" not in one
        for name, array in one.members(max_depth=None):
            assert isinstance(array, zarr.Group) or np.array_equal(array[:], other[name][:], equal_nan=True)
        assert dict(one.attrs) == dict(other.attrs)  # with the checksums of all files, and what the self-check found
    remove_temporary_files(stopped)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        *(["a.zarr"] if capture.attention else []),
        "v.jpg",
        "v.mp4",
        "v.zarr",
    ]


def test_stopped_bent_video_resumes_with_identical_latents_and_maps(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, videos: Videos
) -> None:
    bend = {
        "name": "star",
        "words": ["star"],
        "transform": {"mode": "amplify", "amplify_factor": 4.0},
        "renormalise": True,
        "steps": {"unit": "step", "moments": [1, 3]},
    }
    recipe = recipe_for(
        tiny_models["wan2.1"],
        steps=5,
        marks=[MARK],
        capture=CaptureRequests(attention=AttentionRequest(interval=2)),
        controls={"attention_bending": {"bends": [bend]}},
    )
    reference, undisturbed = videos.find_finished(recipe)
    plain, _ = videos.find_finished(recipe.model_copy(update={"controls": {}}))
    assert plain.latents_sha256 != reference.latents_sha256
    stopped = video_files(tmp_path)
    for steps in (1, 2, 4):
        stop_after(generate_video(tiny, recipe, stopped), steps)
    result, restarts = finish(generate_video(tiny, recipe, stopped))
    assert restarts == [GenerationResumed(4)]
    assert result.latents_sha256 == reference.latents_sha256
    one, other = (zarr.open_group(files.capture_paths["attention"], mode="r") for files in (undisturbed, stopped))
    assert np.array_equal(one["star"][:], other["star"][:])


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
def test_generated_but_unrecorded_video_is_only_decoded_again(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, capture: CaptureRequests
) -> None:
    recipe, files = recipe_for(tiny_models["wan2.1"], capture=capture, steps=5), video_files(tmp_path)
    reference, _ = finish(generate_video(tiny, recipe, files))
    before = {path: path.stat().st_mtime_ns for path in files.capture_paths["trajectory"].rglob("*")}
    again, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationResumed(5)]
    assert again.latents_sha256 == reference.latents_sha256
    assert {path: path.stat().st_mtime_ns for path in files.capture_paths["trajectory"].rglob("*")} == before


def test_garbage_collection_of_a_failed_decoding_does_not_disturb_the_next(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe, files = recipe_for(tiny_models["wan2.1"]), video_files(tmp_path / "a")
    finish(generate_video(tiny, recipe, files))
    failing = generate_frames(tiny, recipe, video_files(tmp_path / "b"))
    kept: list[BaseException] = []  # with its traceback, as an error in a reference cycle is until it is collected
    try:
        failing.throw(next(OSError(28, "full") for event in failing if isinstance(event, FrameDecoded)))
    except OSError as error:
        kept.append(error)
    again = video_files(tmp_path / "c")
    for event in generate_video(tiny, recipe, again):
        if isinstance(event, FrameDecoded) and event.decoded_count == 5:  # of 9, which are three chunks
            kept.clear()
            gc.collect()
    assert again.clip_path.read_bytes() == files.clip_path.read_bytes()


def test_clearing_the_vae_cache_during_decoding_does_not_change_frames(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    latents = prepare_inputs(tiny, recipe_for(tiny_models["wan2.1"])).noise
    undisturbed = list(decode_frames(tiny, latents))
    frames = []
    for frame in decode_frames(tiny, latents):
        frames.append(frame)
        tiny.vae.clear_cache()
    assert len(frames) == len(undisturbed) == 9
    assert all((one == other).all() for one, other in zip(frames, undisturbed, strict=True))


def test_video_stopped_between_checkpoints_resumes_from_its_last_step(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MAX_CHECKPOINT_TIME_FRACTION", 1e-9)
    recipe, files = recipe_for(tiny_models["wan2.1"], steps=5), video_files(tmp_path)
    stop_after(generate_video(tiny, recipe, files), 4)
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationResumed(4)]


def test_checkpoint_of_another_torch_or_recipe_restarts_the_video(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    reference, _ = finish(generate_video(tiny, recipe, video_files(tmp_path / "a")))
    files = video_files(tmp_path / "b")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "1.0")
        stop_after(generate_video(tiny, recipe, files), 2)
    result, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationRestarted(f"torch was 1.0 and is {torch.__version__}")]
    assert result.latents_sha256 == reference.latents_sha256

    stop_after(generate_video(tiny, recipe.model_copy(update={"seed": 8}), files), 2)
    result, restarts = finish(generate_video(tiny, recipe, files))
    assert len(restarts) == 1
    assert str(restarts[0]).startswith("GenerationRestarted(reason='recipe was ")
    assert result.latents_sha256 == reference.latents_sha256


def test_damaged_checkpoint_restarts_the_video(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    reference, _ = finish(generate_video(tiny, recipe, video_files(tmp_path / "a")))
    files = video_files(tmp_path / "b")
    assert files.checkpoint_path is not None
    for spoil in (lambda data: data[:-8] + bytes(8), lambda data: data[: len(data) // 2], lambda data: b""):
        stop_after(generate_video(tiny, recipe, files), 2)
        files.checkpoint_path.write_bytes(spoil(files.checkpoint_path.read_bytes()))
        result, restarts = finish(generate_video(tiny, recipe, files))
        assert [type(event) for event in restarts] == [GenerationRestarted]
        assert result.latents_sha256 == reference.latents_sha256


def test_incomplete_captures_restart_the_video(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], capture=CaptureRequests(latents=True))
    files = video_files(tmp_path)
    stop_after(generate_video(tiny, recipe, files), 3)
    shutil.rmtree(tmp_path / "v.zarr.partial" / "latents" / "c" / "1")
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationRestarted("the state after 1 model evaluation differs from its checksum")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("opener", ["checkpoint.safe_open", "trajectory_writer.reopen_group_for_writing"])
def test_full_or_unreachable_disk_costs_a_resumed_video_no_steps(
    tiny: WanPipeline,
    tiny_models: dict[str, WanModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opener: str,
    number: int,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    recipe = recipe_for(tiny_models["wan2.1"], capture=CaptureRequests(latents=True))
    files = video_files(tmp_path)
    stop_after(generate_video(tiny, recipe, files), 3)
    package = "generation" if opener.startswith("checkpoint") else "storage"
    with monkeypatch.context() as patch:
        patch.setattr(f"wantui.{package}.{opener}", refuse)
        patch.setattr("wantui.storage.output_errors.probe_write_error", lambda _: os.strerror(number))
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            finish(generate_video(tiny, recipe, files))
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationResumed(3)]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_checkpoint_without_permissions_in_a_writable_folder_restarts_the_video(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    recipe, files = recipe_for(tiny_models["wan2.1"]), video_files(tmp_path)
    stop_after(generate_video(tiny, recipe, files), 3)
    monkeypatch.setattr("wantui.generation.checkpoint.safe_open", refuse)
    _, (restart,) = finish(generate_video(tiny, recipe, files))
    assert isinstance(restart, GenerationRestarted)
    assert os.strerror(number) in restart.reason


# R12


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object], signed: bool) -> None:
    """Edit header and tensors of a checkpoint; with or without a digest of what it holds then."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["wantui"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    if signed:
        header.pop("sha256", None)
        header["sha256"] = checkpoints._compute_checkpoint_digest(header, tensors)
    path.write_bytes(save(tensors, {"wantui": json.dumps(header)}))


Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
EDITS: dict[str, Edit] = {
    "steps_done one less": lambda h, t: h.update(steps_done=h["steps_done"] - 1),
    "steps_done one more": lambda h, t: h.update(steps_done=h["steps_done"] + 1),
    "steps_done 0": lambda h, t: h.update(steps_done=0),
    "steps_done is true": lambda h, t: h.update(steps_done=True),
    "steps_done beyond the end": lambda h, t: (h.update(steps_done=99), h["scheduler"].update(_step_index=99)),
    "no steps_done": lambda h, t: h.pop("steps_done"),
    "another step of the sampler": lambda h, t: h["scheduler"].update(_step_index=1),
    "another order": lambda h, t: h["scheduler"].update(lower_order_nums=1),
    "another order now": lambda h, t: h["scheduler"].update(this_order=1),
    "no last sample": lambda h, t: h["scheduler"].pop("last_sample"),
    "an attribute of every object": lambda h, t: h["scheduler"].update(step="x", __class__="y"),
    "other noise levels": lambda h, t: h["scheduler"].update(sigmas=[1.0, 0.0]),
    "no sampler": lambda h, t: h.pop("scheduler"),
    "a list for the sampler": lambda h, t: h.update(scheduler=[1]),
    "another tensor": lambda h, t: h["scheduler"].update(last_sample={"tensor": "nowhere", "on": "cpu"}),
    "no states": lambda h, t: h.update(captured={}),
    "fewer states": lambda h, t: h["captured"].update(trajectory=h["captured"]["trajectory"][:-1]),
    "words for states": lambda h, t: h["captured"].update(trajectory=["x"]),
    "negative seconds": lambda h, t: h.update(seconds=-1.0),
    "infinite seconds": lambda h, t: h.update(seconds=math.inf),
    "a word for seconds": lambda h, t: h.update(seconds="x"),
    "a list for seconds": lambda h, t: h.update(seconds=[1]),
    "no digest": lambda h, t: h.pop("sha256", None),
    "no latents": lambda h, t: t.pop("latents"),
    "latents of another kind": lambda h, t: t.update(latents=t["latents"].view(torch.int32)),
    "latents of another shape": lambda h, t: t.update(latents=t["latents"].flatten()),
    "another format": lambda h, t: h.update(format=2),
    "a later format": lambda h, t: h.update(format=4),
    "another torch": lambda h, t: h["made_by"].update(torch="1.0"),
    "made by nothing": lambda h, t: h.update(made_by=None),
}
NOT_SEEN_WHEN_SIGNED = {"another order", "another order now", "no last sample", "no digest"}
"""Whoever writes a digest anew can write another state; nobody does so by accident."""


@pytest.mark.parametrize("signed", [False, True], ids=["", "signed"])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_checkpoint_restarts_the_video(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, videos: Videos, edit: str, signed: bool
) -> None:
    if signed and edit in NOT_SEEN_WHEN_SIGNED:
        return
    recipe = recipe_for(tiny_models["wan2.1"], capture=CaptureRequests(latents=True))
    reference, _ = videos.find_finished(recipe)
    files = videos.copy_stopped(recipe, 2, tmp_path / "b")
    assert files.checkpoint_path is not None
    rewritten(files.checkpoint_path, EDITS[edit], signed)
    result, restarts = finish(generate_video(tiny, recipe, files))
    assert [type(event) for event in restarts] == [GenerationRestarted]
    assert result.latents_sha256 == reference.latents_sha256


def test_refused_checkpoint_of_heun_counts_model_evaluations(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, videos: Videos
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], sampler="heun")
    files = videos.copy_stopped(recipe, 2, tmp_path / "b")
    assert files.checkpoint_path is not None
    rewritten(files.checkpoint_path, EDITS["steps_done one less"], signed=True)
    expected = "it was saved after 1 of 7 model evaluations, but the state of its sampler after 2"
    with pytest.raises(checkpoints.CheckpointRefusedError, match=f"^{expected}$"):
        read_checkpoint(files.checkpoint_path, tiny, recipe)


def test_lack_of_descriptors_does_not_discard_a_checkpoint(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, videos: Videos
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    files = videos.copy_stopped(recipe, 2, tmp_path / "b")
    assert files.checkpoint_path is not None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read_checkpoint(files.checkpoint_path, tiny, recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("earlier_seconds", [1000.0, None])
def test_resumed_video_counts_the_seconds_of_earlier_processes(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, videos: Videos, earlier_seconds: float | None
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    files = videos.copy_stopped(recipe, 2, tmp_path / "b")
    assert files.checkpoint_path is not None
    stopped = read_checkpoint(files.checkpoint_path, tiny, recipe)
    assert stopped is not None
    assert stopped.seconds > 0

    def change_seconds(header: dict[str, Any], _: object) -> None:
        if earlier_seconds is None:  # as an earlier version wrote it
            del header["seconds"]
        else:
            header["seconds"] = earlier_seconds

    rewritten(files.checkpoint_path, change_seconds, signed=True)
    began = time.perf_counter()
    stop_after(generate_video(tiny, recipe, files), 3)
    resumed = read_checkpoint(files.checkpoint_path, tiny, recipe)
    assert resumed is not None
    result, _ = finish(generate_video(tiny, recipe, files))
    own_seconds = time.perf_counter() - began
    assert (earlier_seconds or 0.0) < resumed.seconds < result.denoise_seconds < (earlier_seconds or 0.0) + own_seconds


def test_checkpoint_with_a_former_block_name_resumes(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], capture=CaptureRequests(latents=True))
    reference, _ = finish(generate_video(tiny, recipe, video_files(tmp_path / "a")))
    files = video_files(tmp_path / "b")
    assert files.checkpoint_path is not None
    stop_after(generate_video(tiny, recipe, files), 2)
    rewritten(files.checkpoint_path, lambda h, t: h["made_by"].update(blocks="plain"), signed=True)
    result, events = finish(generate_video(tiny, recipe, files))
    assert [type(event) for event in events] == [GenerationResumed]
    assert result.latents_sha256 == reference.latents_sha256


@pytest.mark.parametrize(("value", "event"), [("", GenerationResumed), ("AUTO", GenerationRestarted)])
def test_checkpoint_of_a_version_without_environment_resumes_if_no_variable_is_set(
    tiny: WanPipeline,
    tiny_models: dict[str, WanModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    event: type,
) -> None:
    for name in ARITHMETIC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    files = video_files(tmp_path / "a")
    assert files.checkpoint_path is not None
    recipe = recipe_for(tiny_models["wan2.1"])
    stop_after(generate_video(tiny, recipe, files), 2)
    rewritten(files.checkpoint_path, lambda h, t: h["made_by"].pop("environment"), signed=True)
    monkeypatch.setenv("MKL_CBWR", value)
    _, events = finish(generate_video(tiny, recipe, files))
    assert [type(one) for one in events] == [event]


def replace_header(text: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.write_bytes(save({"latents": torch.zeros(1)}, {"wantui": text}))

    return write


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "a list": replace_header("[]"),
    "a number": replace_header("1"),
    "no JSON": replace_header("{"),
    "a deep one": replace_header("[" * 200_000),
    "an endless number": replace_header('{"format": ' + "9" * 5_000 + "}"),
    "no header": lambda path: path.write_bytes(save({"latents": torch.zeros(1)})),
    "no tensors": lambda path: path.write_bytes(b"\xff" * 64),
    "nothing": lambda path: path.write_bytes(b""),
    "a pipe": replace_by_fifo,
    "a link to nowhere": lambda path: replace_by_link(path, "nowhere"),
    "of the system": lambda path: replace_by_link(path, "/dev/zero"),
}


@pytest.mark.parametrize("spoil", CORRUPTIONS)
def test_any_invalid_checkpoint_restarts_the_video(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, videos: Videos, spoil: str
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"])
    files = videos.copy_stopped(recipe, 2, tmp_path / "b")
    assert files.checkpoint_path is not None
    CORRUPTIONS[spoil](files.checkpoint_path)
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert [type(event) for event in restarts] == [GenerationRestarted]


def test_restart_reason_names_the_checkpoint_format(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe, files = recipe_for(tiny_models["wan2.1"]), video_files(tmp_path)
    assert files.checkpoint_path is not None
    stop_after(generate_video(tiny, recipe, files), 2)
    rewritten(files.checkpoint_path, lambda h, t: h.update(format=2), signed=False)
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationRestarted("its format is 2, but this version reads format 3")]


def test_checkpoint_of_another_release_with_equal_arithmetic_resumes(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, files = recipe_for(tiny_models["wan2.1"]), video_files(tmp_path)
    stop_after(generate_video(tiny, recipe, files), 2)
    monkeypatch.setattr(versions, "__version__", "99.0.1")
    monkeypatch.setattr(platform, "python_version", lambda: "3.99")
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationResumed(2)]


@pytest.mark.parametrize(
    ("target", "name", "value", "reason"),
    [
        (checkpoints, "ARITHMETIC_VERSION", -1, "arithmetic was -1 and is 1"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "OLD", "cpu was OLD and is "),
        (torch, "get_num_threads", lambda: 99, "threads was 99 and is 1"),
    ],
)
def test_checkpoint_with_different_arithmetic_restarts_the_video(
    tiny: WanPipeline,
    tiny_models: dict[str, WanModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: object,
    name: str,
    value: object,
    reason: str,
) -> None:
    recipe, files = recipe_for(tiny_models["wan2.1"]), video_files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(target, name, value)
        stop_after(generate_video(tiny, recipe, files), 2)
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert [str(event).partition("'")[2].startswith(reason) for event in restarts] == [True]


@pytest.mark.parametrize("sampler", SAMPLERS_BY_NAME)
def test_checkpoint_contains_exactly_the_changing_sampler_state(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, sampler: SamplerName
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], sampler=sampler, steps=6)
    tap = CheckpointListener(tiny, recipe, tmp_path / "c", {}, time.perf_counter)
    start = prepare_inputs(tiny, recipe)
    tap.on_start(start, 0)
    seen: set[str] = set()
    for step in denoise_latents(tiny, recipe, start):
        tap.on_step(step)
        seen |= tap._collect_changed_state().keys()
    assert seen == SAMPLERS_BY_NAME[sampler].state_attributes
    start.scheduler.something = 1
    with pytest.raises(RuntimeError, match="a checkpoint cannot hold something of "):
        tap._collect_changed_state()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CAPTURED = CaptureRequests(
    latents=True, interval=2, dtype="float16", predicted_clean=True, attention=AttentionRequest(unconditional=True)
)
PARTS_OF_CAPTURES = [
    "v.zarr.partial/sigmas/c/0",
    "v.zarr.partial/timesteps/c/0",
    "v.zarr.partial/steps/c/0",
    "v.zarr.partial/latents/c/1/0/0/0/0",
    "v.zarr.partial/exact/c/1/0/0/0/0",
    "v.zarr.partial/predicted_clean/c/0/0/0/0/0",
    "v.zarr.partial/latents/zarr.json",
    "v.zarr.partial/zarr.json",
    "a.zarr.partial/sigmas/c/0",
    "a.zarr.partial/steps/c/0",
    "a.zarr.partial/blocks/c/0/0",
    "a.zarr.partial/star/c/1/0/0/0/0/0",
    "a.zarr.partial/star/zarr.json",
    "a.zarr.partial/uncond/pad_mass/c/0/0/0/0/0/0",
    "a.zarr.partial/uncond/blocks/zarr.json",
]


@pytest.mark.parametrize("part", PARTS_OF_CAPTURES)
def test_modified_partial_captures_restart_the_video(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, videos: Videos, part: str
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], capture=CAPTURED, steps=5, marks=[MARK])
    root = tmp_path / "b"
    files = videos.copy_stopped(recipe, 3, root)
    if "blocks/c" in part:  # most of it is of later steps, and is written again
        blocks = zarr.open_array(root / "a.zarr.partial" / "blocks", mode="r+")
        blocks[0, 0] = False
    else:
        flip(root / part)
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert [type(event) for event in restarts] == [GenerationRestarted]


@pytest.mark.parametrize("name", ["v.zarr", "a.zarr"])
def test_capture_attributes_are_rewritten_when_a_video_resumes(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, name: str
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], capture=CAPTURED, steps=5, marks=[MARK])
    files = video_files(tmp_path)
    stop_after(generate_video(tiny, recipe, files), 3)
    path = tmp_path / f"{name}.partial" / "zarr.json"
    path.write_text(path.read_text().replace("a red star", "a red ring").replace('"star"', '"ring"'))
    _, restarts = finish(generate_video(tiny, recipe, files))
    assert restarts == [GenerationResumed(3)]
    attributes = dict(zarr.open_group(tmp_path / name, mode="r").attrs)
    assert attributes["recipe"] == recipe.model_dump(mode="json")
    assert attributes.get("words", {"star": 0}).keys() == {"star"}
