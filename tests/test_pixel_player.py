"""Playback in pixels on a made-up terminal: what is sent to it, and its keys."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from clip_batches import FRAME_COUNT, write_clip_batch

from wantui.tui.player.clip_buffer import ClipBuffer
from wantui.tui.player.clips import PlayerClip, list_batch_clips
from wantui.tui.player.pixel_player import DELETE_KITTY_PICTURES, LEAVE_SCREEN, PixelPlayer, PixelTerminal, TerminalSize
from wantui.tui.player.pixel_terminal import KeyReader, read_terminal_size
from wantui.tui.terminal.graphics import Protocol

PICTURE = {"kitty": rb"\x1b_Ga=T", "sixel": rb"\x1bPq"}


class MadeUpTerminal:
    """A terminal whose keys are pressed as soon as the picture of the last action is complete."""

    def __init__(self, protocol: Protocol, actions: Sequence[str | Callable[[], None]]) -> None:
        self.written: list[bytes] = []
        self.actions = list(actions)
        self.size = TerminalSize(80, 24, (8, 16))
        self.player: PixelPlayer | None = None
        self.terminal = PixelTerminal(protocol, self.written.append, self.wait_for_actions, lambda: self.size)
        self.deadline = time.monotonic() + 60

    def wait_for_actions(self, seconds: float) -> Sequence[str]:
        assert self.player is not None
        assert time.monotonic() < self.deadline, "nothing is shown"
        if self.player._must_redraw:
            time.sleep(0.002)
            return []
        action = self.actions.pop(0)
        if callable(action):
            action()
            return []
        return [action]

    def play(self, clips: Sequence[PlayerClip], batch_clips: Sequence[PlayerClip] = ()) -> bytes:
        """Play clips, and return all that was written."""
        self.player = PixelPlayer(clips, batch_clips, self.terminal)
        self.player.playback.is_playing = False
        self.player.play()
        return b"".join(self.written)

    def list_positions(self) -> list[str]:
        """Return the shown frame numbers, in the order in which they were shown."""
        positions = re.findall(rb"[\xe2\x80\x96\xe2\x96\xb6] +(\d+/\d+)", b"".join(self.written))
        return [position.decode() for position in positions]


@pytest.fixture
def clips() -> list[PlayerClip]:
    folder = Path("clips").absolute()
    return list_batch_clips(folder, write_clip_batch(folder))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["kitty", "sixel"])
def test_keys_select_frames_and_the_terminal_is_left_clean(protocol: Protocol, clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal(protocol, ["step(1)", "last", "step(-10)", "close"])
    written = it.play(clips[:1])
    assert it.list_positions() == ["1/9", "2/9", "9/9", "1/9"]
    assert len(re.findall(PICTURE[protocol], written)) == 4
    assert written.startswith(b"\x1b[?1049h\x1b[?25l")
    end = (DELETE_KITTY_PICTURES if protocol == "kitty" else b"") + LEAVE_SCREEN
    assert written.endswith(end)


def test_paused_player_sends_nothing(clips: list[PlayerClip]) -> None:
    counts: list[int] = []
    it = MadeUpTerminal("kitty", [])
    it.actions = [lambda: counts.append(len(it.written))] * 20 + ["close"]
    it.play(clips[:1])
    assert len(set(counts)) == 1


def test_count_that_decoding_finds_is_shown_with_the_first_frame(
    clips: list[PlayerClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    def request_frame_and_count(buffer: ClipBuffer, index: int) -> object:
        while (frame := request_frame(buffer, index)) is None:
            time.sleep(0.002)
        buffer.frame_count = FRAME_COUNT
        return frame

    request_frame = ClipBuffer.request_frame
    monkeypatch.setattr(ClipBuffer, "request_frame", request_frame_and_count)
    it = MadeUpTerminal("kitty", ["close"])
    it.play(clips[:1])
    assert it.list_positions() == ["1/9"]


def test_paused_player_shows_a_corrected_count(clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal("kitty", [])

    def correct_count() -> None:
        assert it.player is not None
        it.player.played.buffers[0].frame_count = FRAME_COUNT - 1

    it.actions = [lambda: None, correct_count, lambda: None, "close"]
    it.play(clips[:1])
    assert it.list_positions() == ["1/9", "1/8"]


def test_playing_player_sends_each_due_frame_once(clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal("kitty", [])
    player = PixelPlayer(clips[:1], (), it.terminal)
    deadline = time.monotonic() + 60
    while player._must_redraw or not player.played.buffers[0].is_count_known:
        player.show_next_frames(0.0)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    it.written.clear()
    for _ in range(FRAME_COUNT - 1):
        player.show_next_frames(1 / 8)
    assert len(it.written) == FRAME_COUNT - 1
    player.played.close()


@pytest.mark.slow
def test_compared_clips_have_separate_pictures_and_labels(clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal("kitty", ["last", "close"])
    written = it.play(clips[:2])
    assert set(re.findall(rb"f=100,i=(\d)", written)) == {b"1", b"2"}
    assert b"seed 42" in written
    assert b"seed 43" in written
    assert b"2 videos" in written
    placements = re.findall(rb"\x1b\[(\d+);(\d+)H\x1b_Ga=T[^;]*c=(\d+),r=(\d+)", written)
    for row, column, columns, rows in (map(int, placement) for placement in placements):
        assert 2 <= row <= 24 - rows, "a label is above, and the status line is below"
        assert column + columns <= 81
        assert abs(columns * 8 / (rows * 16) - 1) < 0.06


@pytest.mark.slow
def test_next_video_of_the_batch_is_played_until_the_last(clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal("sixel", ["next(1)", "next(1)", "next(-1)", *["next(1)"] * 20, "close"])
    it.play(clips[:1], clips)
    assert it.player is not None
    assert it.player.clips == [clips[-1]]


def test_change_of_size_draws_again_at_the_new_size(clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal("kitty", [])

    def resize() -> None:
        it.size = TerminalSize(40, 12, (8, 16))

    it.actions = [resize, "pause", "close"]
    written = it.play(clips[:1])
    row_counts = [int(rows) for rows in re.findall(rb"r=(\d+),", written)]
    assert row_counts[0] == 23
    assert row_counts[-1] <= 11


def test_full_screen_hides_the_status_line(clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal("kitty", ["bare", "close"])
    written = it.play(clips[:1])
    assert re.findall(rb"r=(\d+),", written) == [b"23", b"24"]
    assert written.count(b"press q to close") == 1


@pytest.mark.slow
def test_unreadable_clip_shows_the_reason(clips: list[PlayerClip]) -> None:
    clips[0].path.write_bytes(b"damaged")
    written = MadeUpTerminal("kitty", ["step(1)", "close"]).play(clips[:1])
    text = re.sub(rb"\x1b\[\d+;\d+H| ", b"", written)  # the length of the path decides where lines are wrapped
    assert b"isnotareadableclip" in text


def test_failing_terminal_is_restored(clips: list[PlayerClip]) -> None:
    it = MadeUpTerminal("kitty", [])
    with pytest.raises(IndexError):
        it.play(clips[:1])  # no action is left
    assert it.written[-1].endswith(LEAVE_SCREEN)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


@pytest.mark.parametrize(
    ("data", "actions"),
    [
        (b" ", ["pause"]),
        (b"\x1b[D\x1b[C", ["step(-1)", "step(1)"]),
        (b"\x1b[1;2D", ["step(-10)"]),
        (b"[]gG", ["step(-10)", "step(10)", "first", "last"]),
        (b"+-of", ["speed(1)", "speed(-1)", "loop", "bare"]),
        (b"\x1b", ["close"]),
        (b"\x03", ["close"]),
        (b"q", ["close"]),
        (b"z\xff\x1b[<0;1;1M", []),
    ],
)
def test_bytes_of_keys_become_actions(data: bytes, actions: list[str], pipe: tuple[int, int]) -> None:
    os.write(pipe[1], data)
    assert list(KeyReader(pipe[0], {}).wait_for_actions(0)) == actions


def test_keys_of_the_user_and_the_end_of_input(pipe: tuple[int, int]) -> None:
    reader = KeyReader(pipe[0], {"player.pause": "x"})
    os.write(pipe[1], b"x ")
    assert list(reader.wait_for_actions(0)) == ["pause"]
    os.close(pipe[1])
    assert list(reader.wait_for_actions(0)) == ["close"]


def test_terminal_without_a_size_is_assumed_to_be_usual(pipe: tuple[int, int]) -> None:
    assert read_terminal_size(pipe[0]) == TerminalSize(80, 24, (8, 16))
