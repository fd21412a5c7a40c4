"""Frames of clips, decoded on a thread: their pixels, order and memory, and damaged clips."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clip_batches import FPS

from wantui.storage.clip_reader import read_scaled_frames
from wantui.storage.mp4 import ClipError, Frame, read_frames, write_mp4
from wantui.tui.player.clip_buffer import MIN_BUFFERED_FRAMES, ClipBuffer

FRAME_COUNT = 300
"""Frames of the long clip: more than one group of pictures of the encoder."""


def draw_numbered_frame(number: int, side: int = 64) -> Frame:
    """Return a frame whose grey level and bright stripe tell its number."""
    frame = np.full((side, side, 3), 20 + number % 200, np.uint8)
    frame[:, number % side] = 255
    return frame


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    path = tmp_path / "long.mp4"
    write_mp4(path, (draw_numbered_frame(number) for number in range(FRAME_COUNT)), FPS, FRAME_COUNT, {})
    return path


@pytest.fixture
def buffers() -> Iterator[list[ClipBuffer]]:
    opened: list[ClipBuffer] = []
    yield opened
    for buffer in opened:
        buffer.close()


def wait_for_frame(buffer: ClipBuffer, index: int) -> Frame:
    deadline = time.monotonic() + 120
    while (frame := buffer.request_frame(index)) is None:
        assert not buffer.error, buffer.error
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return frame


def wait_until_settled(buffer: ClipBuffer) -> None:
    deadline = time.monotonic() + 120
    while not (buffer.is_count_known or buffer.error):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_frames_in_any_order_equal_those_of_the_clip(long_clip: Path, buffers: list[ClipBuffer]) -> None:
    reference = list(read_frames(long_clip))
    few_bytes = 20 * reference[0].nbytes
    buffer = ClipBuffer(long_clip, few_bytes, lambda: None)
    buffers.append(buffer)
    buffer.set_max_size((64, 64))
    order = [0, 1, 2, 40, 41, 290, 299, 0, 298, 297, 150, 149, 148, 30, 299, 1]
    for index in order:
        assert (wait_for_frame(buffer, index) == reference[index]).all(), index
        assert buffer.count_buffered_bytes() <= few_bytes
    assert buffer.frame_count == FRAME_COUNT


@pytest.mark.slow
def test_short_clip_stays_in_memory(long_clip: Path, buffers: list[ClipBuffer]) -> None:
    buffer = ClipBuffer(long_clip, 64 << 20, lambda: None)
    buffers.append(buffer)
    buffer.set_max_size((16, 16))
    wait_until_settled(buffer)
    assert all(buffer.request_frame(index) is not None for index in range(FRAME_COUNT))
    assert buffer.count_buffered_bytes() == FRAME_COUNT * 16 * 16 * 3


@pytest.mark.slow
def test_frames_are_scaled_down_but_not_enlarged(long_clip: Path, buffers: list[ClipBuffer]) -> None:
    buffer = ClipBuffer(long_clip, 64 << 20, lambda: None)
    buffers.append(buffer)
    buffer.set_max_size((32, 500))
    assert wait_for_frame(buffer, 0).shape == (32, 32, 3)
    buffer.set_max_size((500, 500))
    assert wait_for_frame(buffer, 0).shape == (64, 64, 3)


def test_scaled_frame_is_the_mean_of_its_area(tmp_path: Path) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:, 32:] = 200
    path = tmp_path / "clip.mp4"
    write_mp4(path, [frame], FPS, 1, {})
    [decoded] = read_scaled_frames(path, (1, 1), lambda index: True)
    assert decoded.pixels is not None
    assert abs(decoded.pixels.astype(int) - 100).max() <= 3


@pytest.mark.slow
def test_change_is_reported_when_the_first_frame_is_decoded(long_clip: Path, buffers: list[ClipBuffer]) -> None:
    changed = threading.Event()
    buffer = ClipBuffer(long_clip, 64 << 20, changed.set)
    buffers.append(buffer)
    buffer.request_frame(0)
    buffer.set_max_size((64, 64))
    assert changed.wait(20)
    assert buffer.request_frame(0) is not None


@pytest.mark.slow
def test_damaged_end_of_a_clip_is_cut_off(long_clip: Path, buffers: list[ClipBuffer]) -> None:
    data = bytearray(long_clip.read_bytes())
    middle = len(data) * 2 // 3
    data[middle:] = b"\0" * (len(data) - middle)
    long_clip.write_bytes(data)
    buffer = ClipBuffer(long_clip, 64 << 20, lambda: None)
    buffers.append(buffer)
    buffer.set_max_size((16, 16))
    wait_until_settled(buffer)
    assert 0 < buffer.frame_count <= FRAME_COUNT
    assert wait_for_frame(buffer, buffer.frame_count - 1) is not None


def test_clip_without_a_thread_is_an_error_until_a_retry(
    long_clip: Path, buffers: list[ClipBuffer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    buffer = ClipBuffer(long_clip, 64 << 20, lambda: None)
    buffer.set_max_size((16, 16))
    assert buffer.error == f"cannot play {long_clip}: can't start new thread"
    assert buffer.has_failed
    monkeypatch.undo()
    buffers.append(buffer)
    buffer.retry()
    assert wait_for_frame(buffer, 0) is not None
    wait_until_settled(buffer)
    assert (buffer.error, buffer.frame_count) == ("", FRAME_COUNT)


@pytest.mark.parametrize("content", [b"", b"not a clip", None], ids=["empty", "text", "missing"])
def test_unreadable_clip_is_an_error(content: bytes | None, tmp_path: Path, buffers: list[ClipBuffer]) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    buffer = ClipBuffer(path, 64 << 20, lambda: None)
    buffers.append(buffer)
    buffer.set_max_size((16, 16))
    wait_until_settled(buffer)
    assert "is not a readable clip" in buffer.error
    assert buffer.frame_count == 0
    assert buffer.request_frame(0) is None


@pytest.mark.slow
def test_clip_that_is_replaced_by_a_shorter_one_ends_earlier(long_clip: Path, buffers: list[ClipBuffer]) -> None:
    buffer = ClipBuffer(long_clip, MIN_BUFFERED_FRAMES * 64 * 64 * 3, lambda: None)
    buffers.append(buffer)
    buffer.set_max_size((64, 64))
    wait_for_frame(buffer, 299)
    write_mp4(long_clip, (draw_numbered_frame(number) for number in range(5)), FPS, 5, {})
    deadline = time.monotonic() + 120
    positions = itertools.cycle([250, 150, 50])  # going back opens the clip again
    while buffer.frame_count > 5:
        buffer.request_frame(next(positions))
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert (wait_for_frame(buffer, 3) == list(read_frames(long_clip))[3]).all()


@pytest.mark.slow
def test_closed_buffer_releases_its_frames(long_clip: Path) -> None:
    buffer = ClipBuffer(long_clip, 64 << 20, lambda: None)
    buffer.set_max_size((64, 64))
    wait_for_frame(buffer, 0)
    thread = buffer._thread
    assert thread is not None
    buffer.close()
    thread.join(20)
    assert not thread.is_alive()
    assert buffer.count_buffered_bytes() == 0


@pytest.mark.slow
def test_reader_refuses_a_start_that_the_clip_does_not_have(long_clip: Path) -> None:
    from wantui.storage.clip_reader import KeyFrame

    with pytest.raises(ClipError, match="changed while it was read"):
        next(read_scaled_frames(long_clip, (64, 64), lambda index: True, KeyFrame(10, -99999)))
