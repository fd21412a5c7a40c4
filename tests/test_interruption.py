"""A real `wantui run` that is stopped from outside: Ctrl-C, SIGTERM, kill -9, a full disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wantui.models.catalogue import WanModel
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import read_frames

WANTUI = (sys.executable, "-m", "wantui")


@pytest.fixture
def running(tiny_models: dict[str, WanModel]) -> subprocess.Popen[str]:
    """A batch of forty videos in the folder "batch", with its first video done."""
    settings = {
        "model_settings.model_id": tiny_models["wan2.1"].location,
        "model_settings.steps": 20,
        "video_settings.width": 32,
        "video_settings.height": 32,
        "model_settings.device": "cpu",
        "use_timestamp": False,
        "output_dir": ".",
        "batch_name": "batch",
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    process = subprocess.Popen(
        [*WANTUI, "run", "-t", "a star", "--videos-per-variation", "40", "--store-latents", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (Path("batch/batch.json").exists() and '"done"' in Path("batch/batch.json").read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def finished_videos() -> int:
    """The number of videos that the manifest calls done."""
    return read_manifest(BatchFolder(Path("batch"))).counts().get("done", 0)


def whole_clips() -> int:
    """The number of clips, all of which can be read to the end."""
    clips = list(Path("batch").glob("videos/*/*.mp4"))
    assert all(len(list(read_frames(clip))) == 17 for clip in clips)
    return len(clips)


def resume_two() -> None:
    """Go on with the batch until two more videos are done, then stop it."""
    before = finished_videos()
    process = subprocess.Popen(
        [*WANTUI, "run", "--resume", "batch"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while finished_videos() < before + 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert whole_clips() >= before + 2


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done_and_goes_on(
    running: subprocess.Popen[str], sent: signal.Signals
) -> None:
    running.send_signal(sent)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == ""
    assert "go on with\n  wantui run --resume batch" in err
    assert "Traceback" not in err
    folder = BatchFolder(Path("batch"))
    states = [video.state for video in read_manifest(folder).videos]
    assert 1 <= states.count("done") <= whole_clips()
    assert "running" not in states
    assert not list(folder.root.rglob("*.partial"))
    resume_two()


def test_after_kill_9_nothing_half_written_has_a_final_name_and_the_batch_goes_on(
    running: subprocess.Popen[str],
) -> None:
    running.kill()
    running.communicate(timeout=60)
    folder = BatchFolder(Path("batch"))
    manifest = read_manifest(folder)
    assert [video.state for video in manifest.videos].count("running") <= 1
    assert whole_clips() >= 1
    resume_two()
    assert not list(folder.root.rglob("*.partial"))


def test_a_full_disk_ends_the_run_with_a_sentence_and_without_half_a_video(tiny_models: dict[str, WanModel]) -> None:
    # The error that a write gives on a full disk, raised where the second clip is written.
    Path("full.py").write_text(
        "import errno, sys\n"
        "from wantui.generation import make_video\n"
        "real = make_video.write_mp4\n"
        "def full(path, *rest):\n"
        "    if path.name == 'video_002.mp4':\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    real(path, *rest)\n"
        "make_video.write_mp4 = full\n"
        "from wantui.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    model = f"model_settings.model_id={tiny_models['wan2.1'].location}"
    small = [
        "--set",
        model,
        "--set",
        "model_settings.steps=2",
        "--set",
        "video_settings.width=32",
        "--batch-name",
        "batch",
    ]
    ended = subprocess.run(
        [sys.executable, "full.py", "run", "-t", "a star", "--videos-per-variation", "3", *small],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert ended.returncode == 1
    assert "no room is left in outputs/batch_" in ended.stderr
    assert "wantui run --resume outputs/batch_" in ended.stderr
    assert "Traceback" not in ended.stderr
    root = next(Path("outputs").iterdir())
    assert [path.name for path in root.rglob("*.mp4")] == ["video_001.mp4"]
    assert not list(root.rglob("*.partial"))
    assert [video.state for video in read_manifest(BatchFolder(root)).videos] == ["done", "interrupted", "queued"]
