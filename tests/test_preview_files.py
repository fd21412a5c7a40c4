"""Strips of predicted videos on disk: which earlier steps are stored, and how damaged files are read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wantui.storage.preview_files import (
    MAX_STORED_FRAME_SIDE,
    MAX_STORED_PREVIEWS,
    PreviewFolder,
    list_preview_steps,
    make_preview_folder_path,
    make_step_preview_path,
    write_preview,
)
from wantui.storage.video_files import VideoFiles, remove_temporary_files
from wantui.tui.monitor.data import MonitorFilesRequest, PreviewHistory, read_requested_files
from wantui.tui.pictures import fit_picture_cells, read_strip_frames


def make_frames(brightness: int = 0, height: int = 6, width: int = 8) -> np.ndarray:
    """Return three frames, each one grey value brighter than the frame before it."""
    frames = np.zeros((3, height, width, 3), np.uint8)
    return frames + np.arange(brightness, brightness + 3, dtype=np.uint8)[:, None, None, None]


def test_strip_is_read_as_the_written_frames(tmp_path: Path) -> None:
    path = tmp_path / "v.preview.png"
    write_preview(path, make_frames(7))
    assert np.array_equal(np.stack(read_strip_frames(path)), make_frames(7))
    assert [file.name for file in tmp_path.glob("v*")] == ["v.preview.png"]


def test_strip_of_an_earlier_version_is_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (80, 16), (255, 0, 0)).save(tmp_path / "strip.png")
    (frame,) = read_strip_frames(tmp_path / "strip.png")
    assert frame.shape == (16, 80, 3)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture"])
def test_damaged_strip_has_no_frames(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "strip.png").write_bytes(content)
    assert read_strip_frames(tmp_path / "strip.png") == []
    assert read_strip_frames(tmp_path / "missing.png") == []
    assert read_strip_frames(tmp_path) == []


@pytest.mark.slow
def test_stored_steps_are_bounded_and_spread_over_the_video(tmp_path: Path) -> None:
    folder = PreviewFolder(tmp_path / "v.previews")
    for step in range(1, 1001):
        folder.add_preview(step, make_frames())
        assert len(list_preview_steps(folder.folder)) <= MAX_STORED_PREVIEWS
    steps = list_preview_steps(folder.folder)
    assert steps == folder.step_numbers == list(range(1, 1001, 16))


def test_earlier_steps_are_stored_small(tmp_path: Path) -> None:
    folder = PreviewFolder(tmp_path / "v.previews")
    folder.add_preview(3, make_frames(height=100, width=200))
    frames = read_strip_frames(make_step_preview_path(folder.folder, 3))
    assert [frame.shape for frame in frames] == [(MAX_STORED_FRAME_SIDE // 2, MAX_STORED_FRAME_SIDE, 3)] * 3


def test_resumed_video_replaces_the_previews_of_repeated_steps(tmp_path: Path) -> None:
    path = tmp_path / "v.previews"
    first_process = PreviewFolder(path)
    for step in (1, 2, 3, 4):
        first_process.add_preview(step, make_frames())
    PreviewFolder(path).add_preview(3, make_frames(9))
    assert list_preview_steps(path) == [1, 2, 3]
    assert read_strip_frames(make_step_preview_path(path, 3))[0][0, 0, 0] == 9


def test_previews_are_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "v.previews").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        PreviewFolder(tmp_path / "v.previews").add_preview(1, make_frames())
    assert list_preview_steps(tmp_path / "v.previews") == []
    assert not list((tmp_path / "elsewhere").iterdir())


def test_previews_of_a_cancelled_video_are_removed(tmp_path: Path) -> None:
    files = VideoFiles(tmp_path / "v.mp4", tmp_path / "v.jpg")
    folder = PreviewFolder(make_preview_folder_path(files.preview_path))
    folder.add_preview(1, make_frames())
    assert folder.folder == tmp_path / "v.previews"
    remove_temporary_files(files)
    assert not list(tmp_path.glob("v*"))


def test_only_missing_steps_are_read_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    preview_path = tmp_path / "v.preview.png"
    folder = PreviewFolder(make_preview_folder_path(preview_path))
    for step in (1, 2, 3):
        folder.add_preview(step, make_frames(step))
    write_preview(preview_path, make_frames(3))
    (folder.folder / "step_00009.png").write_text("damaged")
    (folder.folder / "notes.txt").write_text("foreign")
    message = read_requested_files(
        MonitorFilesRequest(video_id=1, preview_path=preview_path, preview_step=3, known_steps=frozenset([1]))
    )
    assert sorted(message.frames_by_step) == [2, 3]


def test_history_follows_the_latest_step_until_another_is_picked() -> None:
    history = PreviewHistory()
    history.show_video(1)
    assert history.shown_step is None
    history.move(-1)
    history.add_frames({step: [] for step in (1, 2, 4)})
    assert history.shown_step == 4
    history.move(-1)
    assert history.shown_step == 2
    history.add_frames({5: []})
    assert history.shown_step == 2
    history.move(-100)
    assert history.shown_step == 1
    history.move(100)
    history.add_frames({6: []})
    assert history.shown_step == 6
    history.move(-1)
    history.drop_steps_after(4)
    assert history.step_numbers == [1, 2, 4]
    assert history.picked_step is None
    history.show_video(2)
    assert history.step_numbers == []


def test_history_is_bounded_and_keeps_the_latest_step() -> None:
    history = PreviewHistory()
    for step in range(1, 2001):
        history.add_frames({step: []})
        assert len(history.step_numbers) <= 2 * MAX_STORED_PREVIEWS
        assert history.shown_step == step


@pytest.mark.parametrize("shape", [(16, 16), (60, 104), (104, 60), (1, 50)])
@pytest.mark.parametrize("pane", [(38, 20), (200, 10), (3, 40)])
def test_fitted_picture_touches_the_pane_and_is_not_stretched(shape: tuple[int, int], pane: tuple[int, int]) -> None:
    fitted = fit_picture_cells(np.zeros((*shape, 3), np.uint8), *pane)
    rows, columns = fitted.shape[0] / 2, fitted.shape[1] / 2
    scale = min(pane[0] / shape[1], 2 * pane[1] / shape[0])
    assert abs(rows - scale * shape[0] / 2) <= 1
    assert abs(columns - scale * shape[1]) <= 1
    assert rows == pane[1] or columns == pane[0]
