"""Folders in a batch folder that were replaced with symbolic links: nothing is written through them."""

from pathlib import Path

import pytest
from conftest import TEMPLATE, Wantui, batch, files, generate_queued_videos, only_queued

from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else, with files of the names that a batch writes."""
    for name in ("video_001.mp4", "video_001.jpg", "video_001.mp4.partial", "vid_001.zarr/a", "vid_001.zarr.partial/a"):
        file = tmp_path / "outside" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    return tmp_path / "outside"


def untouched(outside: Path) -> bool:
    return len(files(outside)) == 5 and all(Path(file).read_text() == "mine" for file in files(outside))


@pytest.fixture
def queued(wantui: Wantui, small: list[str]) -> BatchFolder:
    with only_queued():
        options = ["--detach", "--videos-per-variation", 1, "--store-latents"]
        return batch(wantui("run", "-t", TEMPLATE, *options, *small))


@pytest.mark.parametrize("link", ["videos", "latents", "videos/prompt_000", "latents/prompt_001"])
def test_video_in_a_linked_folder_fails_naming_the_link(
    queued: BatchFolder, outside: Path, wantui: Wantui, link: str
) -> None:  # R10
    (queued.root / link).parent.mkdir(exist_ok=True)
    (queued.root / link).symlink_to(outside)
    generate_queued_videos(find_state_directory())
    assert untouched(outside)
    videos = read_manifest(queued).videos
    for video in videos:
        hit = link in ("videos", "latents") or link.endswith(str(video.variation))
        assert video.state == ("failed" if hit else "done")
        assert not hit or f"/{link}: it is a symbolic link" in str(video.error)
        assert not hit or "output_dir" in str(video.error), "it says how to mend it"
    result = wantui("library", "check", queued.root)
    assert result.code == 1
    assert f"/{link}: it is a symbolic link" in result.out


def test_cancelling_removes_no_files_behind_a_link(queued: BatchFolder, outside: Path, wantui: Wantui) -> None:
    (queued.root / "videos").mkdir(exist_ok=True)
    (queued.root / "videos/prompt_000").symlink_to(outside)
    (queued.root / "latents").symlink_to(outside.parent)
    (outside.parent / "prompt_000").symlink_to(outside)
    assert wantui("queue", "cancel", "1").code == 0
    assert untouched(outside)


def test_output_folder_that_is_a_link_is_accepted(tmp_path: Path, wantui: Wantui, small: list[str]) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "scratch")
    output = ["--set", f"output_dir={tmp_path / 'link'}"]
    made = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small, *output))
    assert read_manifest(made).videos[0].state == "done"
    assert wantui("library", "check", made.root).code == 0


def test_no_log_is_written_into_a_linked_log_folder(queued: BatchFolder, outside: Path) -> None:  # R10
    (queued.root / "logs").symlink_to(outside)
    generate_queued_videos(find_state_directory())
    assert untouched(outside)
    assert {video.state for video in read_manifest(queued).videos} == {"done"}


def test_overlays_and_exports_into_linked_folders_are_refused(outside: Path, wantui: Wantui, small: list[str]) -> None:
    options = ["--videos-per-variation", 1, "--store-latents", "--store-attention"]
    made = batch(wantui("run", "-t", "a (circle)", *options, *small))
    (made.root / "analysis").symlink_to(outside)
    result = wantui("analyze", made.root, "--overlay", "circle")
    assert result.code == 2
    assert "analysis: it is a symbolic link" in result.err
    (made.root / "exports").mkdir()
    (made.root / "exports/npy_latents").symlink_to(outside)
    result = wantui("export", made.root, "--format", "npy")
    assert result.code == 2
    assert "npy_latents: it is a symbolic link" in result.err
    assert untouched(outside)
