"""`wantui run`: generated, failed and resumed videos; output, exit codes and files on disk."""

import errno
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import zarr
from conftest import TEMPLATE, Wantui, batch, files, generate_queued_videos, only_queued

from wantui.engine import control
from wantui.generation import make_video
from wantui.generation.decode import decode_frames
from wantui.generation.errors import LoadError
from wantui.models.catalogue import WanModel
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory
from wantui.storage import manifest_file
from wantui.storage import manifest_store as record
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import try_lock_video
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import ClipError, ClipWriter, read_clip_tags, read_frames
from wantui.storage.video_files import find_video_files
from wantui.worker import pipeline_cache as warm
from wantui.worker import worker as engine_worker
from wantui.worker.pipelines import load_recipe_pipeline

pytestmark = pytest.mark.torch


def test_run_generates_every_video_and_prints_the_folder(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "-t", TEMPLATE, "--videos-per-variation", 2, "--batch-name", "my batch", *small)
    assert result.code == 0
    folder = batch(result)
    assert folder.root.parent == Path("outputs")
    assert folder.root.name.startswith("my_batch_2")
    made = [file.removeprefix(f"{folder.root}/") for file in files(folder.root) if ".zarr/" not in file]
    assert all(folder.make_trajectory_path(v, k).is_dir() for v in (0, 1) for k in (1, 2))
    assert made == [
        ".lock",
        ".making",
        "batch.json",
        "configs/generation_config.yaml",
        "configs/prompt_template.txt",
        "configs/prompt_variations.json",
        "logs/batch.log",
        *(f"videos/prompt_00{v}/video_00{k}.{end}" for v in (0, 1) for k in (1, 2) for end in ("jpg", "mp4")),
    ]
    manifest = read_manifest(folder)
    assert {video.state for video in manifest.videos} == {"done"}
    for video in manifest.videos:
        clip = folder.root / video.files["clip"]
        recipe, made_with = read_clip_tags(clip)
        assert recipe == video.recipe
        assert made_with["latents_sha256"] == video.latents_sha256
        assert len(list(read_frames(clip))) == 9
        parts = [
            part for path in video.files.values() for part in ((folder.root / path), *(folder.root / path).rglob("*"))
        ]
        assert video.bytes == sum(part.stat().st_size for part in parts if part.is_file())
    assert "4 of 4 videos done" in result.err


def test_repeated_run_generates_equal_latents(wantui: Wantui, small: list[str]) -> None:
    first, second = (
        read_manifest(batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small))) for _ in range(2)
    )
    assert [v.latents_sha256 for v in first.videos] == [v.latents_sha256 for v in second.videos]
    assert len({v.latents_sha256 for v in first.videos}) == 2


def test_store_latents_writes_every_state_without_changing_the_video(wantui: Wantui, small: list[str]) -> None:
    plain = read_manifest(batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)))
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, "--store-latents", *small))
    video = read_manifest(folder).videos[0]
    assert video.latents_sha256 == plain.videos[0].latents_sha256
    group: Any = zarr.open_group(folder.root / video.files["latents"], mode="r")
    assert group["latents"].shape == (4, 16, 3, 4, 4)
    noise = torch.randn((1, 16, 3, 4, 4), generator=torch.Generator().manual_seed(video.seed))
    assert np.array_equal(group["latents"][0], noise[0].numpy())
    flat = group["latents"][:].reshape(4, -1).astype(np.float64)
    assert np.allclose(group["gram"][:], flat @ flat.T, rtol=1e-12)


def test_resume_generates_only_missing_videos(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 2, *small))
    before = {video.id: video.latents_sha256 for video in read_manifest(folder).videos}
    kept = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*.mp4")}
    lost = folder.make_clip_path(1, 1)
    lost.unlink()
    del kept[lost]
    result = wantui("run", "--resume", folder.root)
    assert result.code == 0
    assert "1 video in " in result.err
    assert "started: blue seed 42" in result.err
    assert lost.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert {video.id: video.latents_sha256 for video in read_manifest(folder).videos} == before
    again = wantui("run", "--resume", folder.root)
    assert (again.code, "4 of 4 videos done" in again.err, "started" in again.err) == (0, True, False)


def test_resume_of_a_complete_batch_outside_the_queue_adds_no_batch(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = batch(wantui("run", "-t", "a circle", "--videos-per-variation", 1, *small))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another queue"))
    for options in ([], ["--detach"]):
        resumed = wantui("run", "--resume", folder.root, *options)
        assert (resumed.code, resumed.out) == (0, f"{folder.root}\n")
        assert f"1 video done, no video is missing in {folder.root}" in resumed.err
    resumed_json = json.loads(wantui("run", "--resume", folder.root, "--json").out)
    assert resumed_json == {"event": "end", "folder": str(folder.root), "done": 1}
    assert json.loads(wantui("queue", "ls", "--all", "--json").out)["batches"] == []


def test_resume_drops_videos_missing_from_a_shortened_manifest(wantui: Wantui, small: list[str]) -> None:
    with only_queued():
        folder = batch(wantui("run", "-t", TEMPLATE, *small, "--detach"))
    document = json.loads(folder.manifest_path.read_text())
    del document["videos"][1]  # the third and fourth have other numbers then
    folder.manifest_path.write_text(json.dumps(document))
    generate_queued_videos(find_state_directory())
    (row,) = Queue(find_state_directory().directory).list_batches()
    assert row.counts == {"done": 1, "failed": 3}
    (last,) = Queue(find_state_directory().directory).list_videos(row.id, limit=1, offset=3)
    assert last.error is not None
    assert last.error.endswith(f"To continue without it: wantui run --resume {folder.root.absolute()}")
    again = wantui("run", "--resume", folder.root)
    assert (again.code, "3 of 3 videos done" in again.err) == (0, True), again.err
    (row,) = Queue(find_state_directory().directory).list_batches()
    assert row.counts == {"done": 3}


def test_ctrl_c_before_queueing_says_how_to_queue_the_folder(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> int:
        raise KeyboardInterrupt  # by a user who does not wait for the lock of the queue

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "add_batch", locked)
        result = wantui("run", "-t", TEMPLATE, *small)
    (root,) = Path("outputs").iterdir()
    assert result.code == 130
    assert f"interrupted: {root} is not in the queue. Queue it: wantui run --resume {root}" in result.err
    assert wantui("run", "--resume", root).code == 0


def test_resume_accepts_equal_options_and_refuses_others(wantui: Wantui, small: list[str]) -> None:
    options = ["--videos-per-variation", 1, *small]
    folder = batch(wantui("run", "-t", TEMPLATE, *options))
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()}
    assert wantui("run", "-t", TEMPLATE, *options, "--resume", folder.root).code == 0
    other = wantui("run", "-t", "a [green|blue] (circle)", *options, "--resume", folder.root)
    assert (other.code, TEMPLATE in other.err, "its template is" in other.err) == (2, True, True)
    steps = wantui("run", "-t", TEMPLATE, *options, "--set", "model_settings.steps=4", "--resume", folder.root)
    assert (steps.code, "its model_settings.steps is 3, but these options give 4" in steps.err) == (2, True)
    more = wantui("run", "-t", TEMPLATE, *small, "--videos-per-variation", 2, "--resume", folder.root)
    assert (more.code, "it has 2 videos, but these options give 4" in more.err) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()} == before


def test_resume_refuses_settings_that_it_would_ignore(wantui: Wantui, small: list[str]) -> None:
    options = ["--videos-per-variation", 1, *small, "-o", "out", "--set", "primary_metric=turning"]
    folder = batch(wantui("run", "-t", "a star", *options))
    same_folder = ["-o", str(Path("out").absolute()), "--set", "memory_settings.plan=auto"]
    assert wantui("run", "--resume", folder.root, *same_folder, "--set", "primary_metric=turning").code == 0
    for name, text, stored in (
        ("memory_settings.plan", "offload", "auto"),
        ("primary_metric", "length", "turning"),
        ("output_dir", "elsewhere", "out"),
        ("output_permissions", "private", "umask"),
        ("batch_name", "mine", "not set"),
        ("use_timestamp", "no", "yes"),
        ("model_settings.cfg_scale", "3.0", str(read_manifest(folder).videos[0].recipe.guidance_scale)),
        ("prompt_settings.generic_words", "star: shape", "circle|square|triangle|star|cross|ring: shape"),
    ):
        result = wantui("run", "--resume", folder.root, "--set", f"{name}={text}")
        assert result.code == 2
        assert f"its {name} is {stored}, but these options give {text}. Omit" in result.err
    ruled = wantui("run", "--resume", folder.root, "--set", "guidance_settings.rule=cfg-zero-star")
    assert (ruled.code, "these options would change its guidance_settings" in ruled.err) == (2, True)
    unrecorded = wantui("run", "--resume", folder.root, "--set", "guidance_gap_settings.store_guidance_gap=no")
    assert (unrecorded.code, "these options would change its guidance_gap_settings" in unrecorded.err) == (2, True)
    seeded = wantui("run", "--resume", folder.root, "--seed", 7)
    assert (seeded.code, "its model_settings.seed is 42, but these options give 7. Omit" in seeded.err) == (2, True)
    manifest = json.loads(folder.manifest_path.read_text())
    manifest["config"]["model_settings"]["gpus_per_video"] = 2  # no device of this machine could run it
    folder.manifest_path.write_text(json.dumps(manifest))
    one_gpu = wantui("run", "--resume", folder.root, "--seed", 42)
    assert one_gpu.code == 2
    assert "its model_settings.gpus_per_video is 2, but these options give 1. Omit" in one_gpu.err


def test_resume_with_options_requires_the_stored_settings(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small))
    folder.config_path.unlink()
    assert wantui("run", "--resume", folder.root).code == 0
    seeded = wantui("run", "--resume", folder.root, "--seed", 42)
    assert seeded.code == 2
    assert f"its settings ({folder.config_path}) are missing. Omit the options to resume it" in seeded.err


def test_resume_accepts_the_config_of_a_batch_whose_folder_was_set_by_options(wantui: Wantui, small: list[str]) -> None:
    options = ["--videos-per-variation", 1, *small]
    folder = batch(wantui("run", "-t", TEMPLATE, *options, "-o", "elsewhere", "--batch-name", "mine"))
    folder.config_path.unlink()
    assert wantui("run", "--resume", folder.root, *options, "-c", "nano").code == 0
    other = wantui("run", "--resume", folder.root, *options, "-c", "nano", "--batch-name", "other")
    assert (other.code, "its batch_name is mine, but these options give other" in other.err) == (2, True)


def test_resume_refuses_weights_that_have_changed(
    wantui: Wantui, small: list[str], tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_models["wan2.1"].location, copy)
    options = [*small, "--set", f"model_settings.model_id={copy}", "--videos-per-variation", 1]
    folder = batch(wantui("run", "-t", "a star", *options))
    folder.make_clip_path(0, 1).unlink()
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    result = wantui("run", "--resume", folder.root)
    assert result.code == 2
    assert "have changed since this batch was planned" in result.err


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the encoder failed"),
        TypeError("the encoder failed"),
        ClipError("the encoder failed"),
        av.error.ExternalError(1, "the encoder failed", "libx264"),
    ],
    ids=repr,
)
def test_failed_video_does_not_stop_the_batch(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Failing(ClipWriter):
        def _encode_frame(self, frame: Any) -> None:
            if self.path.parent.name == "prompt_000":
                raise error
            super()._encode_frame(frame)

    with monkeypatch.context() as patch:
        patch.setattr(make_video, "ClipWriter", Failing)
        result = wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, "--store-latents", *small)
    folder = batch(result)
    assert result.code == 1
    assert "1 of 2 videos done, 1 failed" in result.err
    assert f"failed: red seed 42: {type(error).__name__}: " in result.err
    assert "the encoder failed" in result.err
    assert [video.state for video in read_manifest(folder).videos] == ["failed", "done"]
    assert not folder.make_clip_path(0, 1).exists()
    assert not folder.make_trajectory_path(0, 1).exists()
    assert not list(folder.root.rglob("*.partial"))
    assert wantui("run", "--resume", folder.root).code == 0


def test_nan_in_latents_fails_the_video_naming_the_step(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = load_recipe_pipeline

    def spoilt(*arguments: Any, **options: Any) -> Any:
        loaded = real(*arguments, **options)
        loaded.pipeline.transformer.register_forward_hook(lambda module, inputs, output: (output[0] * float("nan"),))
        return loaded

    monkeypatch.setattr(warm, "load_recipe_pipeline", spoilt)
    result = wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)
    assert result.code == 1
    assert "NaN or infinity after 1 of 3 steps" in result.err


HOLD = """
import sys, time
from pathlib import Path
from wantui.storage.locks import try_lock_video
assert try_lock_video(Path(sys.argv[1]), 0)
print("holds", flush=True)
time.sleep(1000)
"""


def test_video_locked_by_another_engine_is_waited_for_and_left_untouched(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small))
    record.ManifestStore(BatchFolder(folder.root)).edit_video_entry(0, lambda entry: setattr(entry, "state", "queued"))
    begun = find_video_files(folder, 0, 1).checkpoint_path
    assert begun is not None
    begun.write_text("of the other engine")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder.root.absolute()], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        record.ManifestStore(BatchFolder(folder.root)).end_videos([0], "cancelled")
        monkeypatch.setattr(engine_worker, "LOCK_POLL_SECONDS", 0.05)
        locked: list[bool] = []
        seen: list[str] = []

        def try_lock_and_end_other(folder: Path, index: int) -> bool:
            locked.append(try_lock_video(folder, index))
            if len(locked) == 3:
                seen.append(begun.read_text())
                other.kill()
                other.wait()
            return locked[-1]

        monkeypatch.setattr(engine_worker, "try_lock_video", try_lock_and_end_other)
        result = wantui("run", "--resume", folder.root)
    assert result.code == 0, result.err
    assert locked == [False, False, False, True]
    assert seen == ["of the other engine"]
    assert ": another engine, here or on another machine, is generating it" in result.err
    assert read_manifest(folder).videos[0].state == "done"


def test_interrupted_decoding_leaves_no_partial_files_and_is_repeated(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, interruptions = decode_frames, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal interruptions
        frames = real(*arguments)
        yield next(frames)
        if interruptions == 0:
            interruptions += 1
            assert not list(Path("outputs").rglob("*.mp4"))
            raise KeyboardInterrupt
        yield from frames

    monkeypatch.setattr(make_video, "decode_frames", interrupted)
    result = wantui("run", "--json", "-t", TEMPLATE, "--videos-per-variation", 1, "--store-latents", *small)
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [event["steps_done"] for event in events if event["event"] == "video_resumed"] == [3]
    assert events[-1]["done"] == 2
    assert [event["event"] for event in events].count("loading") == 2  # what was half moved is not used again
    assert not list(Path("outputs").rglob("*.partial"))
    assert not list(Path("outputs").rglob("*.checkpoint"))


def test_folder_of_another_batch_is_not_changed(wantui: Wantui, small: list[str]) -> None:
    options = ["--videos-per-variation", 1, "--set", "use_timestamp=false", *small]
    other = batch(wantui("run", "-t", "a ring", "--batch-name", "other", *options))
    with only_queued():
        queued = batch(wantui("run", "-t", "a star", "--batch-name", "queued", "--detach", *options))
    shutil.rmtree(queued.root)
    shutil.copytree(other.root, queued.root)
    before = queued.make_clip_path(0, 1).read_bytes()
    generate_queued_videos(find_state_directory())
    assert "no longer belongs to the queued batch" in wantui("queue", "show", "queued").out
    assert queued.make_clip_path(0, 1).read_bytes() == before


def test_json_lines_contain_every_event(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "--json", "-t", TEMPLATE, "--videos-per-variation", 1, *small)
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [events[0]["event"], events[-1]["event"], events[-1]["done"]] == ["added", "end", 2]
    first, second = (
        [event["event"] for event in events if event.get("video") == video and not event["event"].startswith("loading")]
        for video in (1, 2)
    )
    stages = [(event["video"], event.get("stage_number"), event["stage"]) for event in events if "stage" in event]
    assert stages == [
        (1, 1, "reading weights"),
        (1, 2, "placing weights"),
        (1, 3, "fitting previews"),
        (1, 4, "checking weights"),
        (1, None, "encoding prompts"),
        (2, None, "encoding prompts"),
    ]
    for kinds in (first, second):  # decoding is reported twice a second, so that a slow machine reports it more often
        assert [kind for kind, _ in itertools.groupby(kinds)] == ["started", "step", "decoded", "done"]
        assert kinds.count("step") == 3
    report = [(event["event"], event.get("video")) for event in events]
    assert report.index(("started", 2)) < report.index(("done", 1))  # its files are ended while the next one is made


def test_batch_log_covers_every_video_to_its_end(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a circle", "--videos-per-variation", 3, *small))
    lines = folder.log_path.read_text().splitlines()
    assert [sum(f"seed {seed} done in" in line for line in lines) for seed in (42, 43, 44)] == [1, 1, 1]


def test_run_without_a_template_is_an_error_message(wantui: Wantui) -> None:
    result = wantui("run")
    assert result.code == 2
    assert "--template is missing" in result.err


def test_missing_weights_offline_are_an_error_message(wantui: Wantui) -> None:
    result = wantui("run", "-c", "default", "-t", "a cat", "--videos-per-variation", 1)
    assert result.code == 2
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers are not all on this machine" in result.err
    assert "model_id: nano" in result.err
    assert files() == []


def full(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_at_a_manifest_write_is_an_error_message_and_keeps_the_clips(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(manifest_file, "write_manifest", full)
        patch.setattr(manifest_file, "append_journal_lines", full)
        result = wantui("run", "-t", "a star", "--videos-per-variation", 2, *small)
    assert result.code == 3  # the batch is on hold, and here is no engine that would wait for room
    assert "the batch is on hold: not enough disk space in " in result.err
    folder = BatchFolder(next(Path("outputs").iterdir()))
    assert folder.make_clip_path(0, 1).exists()
    assert wantui("queue", "resume").code == 0
    assert wantui("run", "--resume", folder.root).code == 0
    assert {video.state for video in read_manifest(folder).videos} == {"done"}


def test_full_disk_during_a_video_holds_its_batch_and_the_video_resumes(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ClipWriter, "_encode_frame", full)
        result = wantui("run", "-t", "a star", "--videos-per-variation", 1, "--store-latents", *small)
    assert "the batch is on hold: not enough disk space in " in result.err
    folder = BatchFolder(next(Path("outputs").iterdir()))
    assert not list(folder.root.rglob("*.mp4"))
    assert folder.make_checkpoint_path(0, 1).exists()
    wantui("queue", "resume")
    result = wantui("run", "--json", "--resume", folder.root)
    assert [json.loads(line) for line in result.out.splitlines()][-1]["done"] == 1
    assert not folder.make_checkpoint_path(0, 1).exists()
    assert not list(folder.root.rglob("*.partial"))


def test_decoding_is_reported_and_can_be_cancelled(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_worker, "DECODE_REPORT_INTERVAL_SECONDS", 0.0)
    report = wantui("run", "--json", "-t", "a star", "--videos-per-variation", 1, *small)
    events = [json.loads(line) for line in report.out.splitlines()]
    assert [(e["frames"], e["count"]) for e in events if e["event"] == "decoded"] == [(i, 9) for i in range(1, 10)]
    real = decode_frames

    def cancelled(*arguments: Any) -> Any:
        frames = real(*arguments)
        yield next(frames)
        queue = Queue(find_state_directory().directory)
        queue.cancel_videos(max(row.id for row in queue.list_batches()))
        yield from frames

    monkeypatch.setattr(make_video, "decode_frames", cancelled)
    result = wantui("run", "-t", "a ring", "--videos-per-variation", 1, "--batch-name", "given_up", *small)
    folder = batch(result)
    assert read_manifest(folder).videos[0].state == "cancelled"
    assert not [name for name in files(folder.root) if ".mp4" in name or ".zarr" in name or "checkpoint" in name]


def test_video_that_does_not_fit_uses_the_next_plan(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = decode_frames, 0

    def too_large(pipeline: Any, latents: Any) -> Any:
        nonlocal failures
        if not pipeline.vae.use_tiling:
            failures += 1
            raise torch.OutOfMemoryError("tried to allocate 40 GiB, 3 GiB are free")
        return real(pipeline, latents)

    plain = read_manifest(batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)))
    monkeypatch.setattr(make_video, "decode_frames", too_large)
    result = wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)
    assert (result.code, failures) == (0, 2)
    assert "out of memory: single seed 42; retrying with memory plan encode-first" in result.err
    assert "out of memory: single seed 42; retrying with memory plan tiled" in result.err
    video = read_manifest(batch(result)).videos[0]
    assert video.memory_plan == "tiled"
    assert video.latents_sha256 == plain.videos[0].latents_sha256


def test_video_that_fits_no_plan_fails_with_the_memory_error(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 40 GiB, 3 GiB are free")

    monkeypatch.setattr(make_video, "decode_frames", too_large)
    result = wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small)
    assert result.code == 1
    assert "out of memory with plan small-tiles: tried to allocate 40 GiB, 3 GiB are free" in result.err
    assert not list(batch(result).root.rglob("*.checkpoint"))


def test_config_changed_after_queueing_has_no_effect(wantui: Wantui, small: list[str]) -> None:
    Path("mine.yaml").write_text("model_settings: {steps: 2}\nvideos_per_variation: 1\n")

    options = [word for word in small if word != "model_settings.steps=3"]
    options = ["--set", "model_settings.seed=1", *options[:2], *options[3:]]
    with only_queued():
        folder = batch(wantui("run", "-c", "mine.yaml", "-t", "a star", "--detach", *options))
    Path("mine.yaml").write_text("model_settings: {steps: 9}\n")
    folder.config_path.write_text("model_settings: {steps: 9}\n")
    generate_queued_videos(find_state_directory())
    recipe, _ = read_clip_tags(folder.make_clip_path(0, 1))
    assert recipe.steps == 2


def test_model_loading_failure_is_recorded_in_the_manifest(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LoadError("its weights are cut")

    with only_queued():
        folder = batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 2, "--detach", *small))
    with monkeypatch.context() as patched:
        patched.setattr(warm, "load_recipe_pipeline", refuse)
        generate_queued_videos(find_state_directory())
    assert {(video.state, video.error) for video in read_manifest(folder).videos} == {("failed", "its weights are cut")}
    assert wantui("queue", "retry", 1).code == 0
    generate_queued_videos(find_state_directory())
    assert {(video.state, video.error) for video in read_manifest(folder).videos} == {("done", None)}


def test_moved_output_folder_is_named_and_continues_from_its_new_place(wantui: Wantui, small: list[str]) -> None:
    with only_queued():
        lost = batch(wantui("run", "-t", "a star", "--batch-name", "lost", "--detach", *small))
    moved = lost.root.rename(lost.root.with_name("moved"))
    result = wantui("run", "-t", "a ring", "--videos-per-variation", 1, *small)
    assert result.code == 0
    shown = wantui("queue", "show", 1)
    assert f"the output folder {lost.root.resolve()} was deleted or moved. If it was moved, resume it" in shown.out
    assert not lost.root.exists()
    assert wantui("run", "--resume", moved).code == 0
    assert {video.state for video in read_manifest(BatchFolder(moved)).videos} == {"done"}


def test_resume_uses_the_newly_given_device(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    folder.make_clip_path(0, 1).unlink()
    result = wantui("run", "--resume", folder.root, "--set", "model_settings.device=cuda:7")
    assert result.code == 3
    assert folder.manifest_path.exists()
    assert wantui("run", "--resume", folder.root, "--seed", 42).code == 0
    assert folder.make_clip_path(0, 1).exists()


def test_missing_gpu_exits_with_code_3(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "-t", "a star", *small, "--set", "model_settings.device=cuda:7")
    assert result.code == 3
    assert "cuda:7: this machine has no such device" in result.err
    assert files() == []


def test_full_disk_is_refused_before_anything_is_written(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    result = wantui("run", "-t", "a star", *small)
    assert result.code == 2
    assert "has 1.0 kB free" in result.err
    assert files() == []


def test_preview_run_and_worker_require_the_same_disk_space(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["-t", "a star", "--videos-per-variation", 1, *small]
    needed = json.loads(wantui("preview", "--json", *options).out)["disk"]["must_be_free"]
    usage = type(shutil.disk_usage("."))

    def free(number: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - number, number))

    free(needed - 1)
    refused = wantui("run", *options)
    assert refused.code == 2
    assert f"{needed / 1e6:.1f} MB needed: " in refused.err
    assert "20.0 MB to keep free" in refused.err
    free(needed)
    with only_queued():
        folder = batch(wantui("run", "--detach", *options))
    free(needed - 1)
    held = wantui("run", "--resume", folder.root)
    assert f"{needed / 1e6:.1f} MB needed: " in held.err
    free(needed)
    wantui("queue", "resume")
    assert wantui("run", "--resume", folder.root).code == 0


def test_ctrl_c_during_engine_start_leaves_the_batch_queued_and_names_watch(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(control, "ensure_engine", interrupt)
    result = wantui("run", "-t", "a star", *small)
    assert result.code == 130
    assert "wantui watch 1" in result.err
    assert "no engine is running (wantui engine start)" in result.err
