"""Clips of other programs, damaged clips, and clips with names that a video library could misinterpret."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import recipe_for

from wantui import atomic_files
from wantui.models.catalogue import NANO
from wantui.storage import mp4
from wantui.storage.mp4 import ClipError, ClipWriter, read_clip_tags, read_frames, write_mp4
from wantui.storage.recorded_files import verify_clip

RECIPE = recipe_for(NANO, frames=5)


def bars() -> list[np.ndarray]:
    return [np.full((32, 48, 3), 40 * index, np.uint8) for index in range(5)]


def write_clip(path: Path, **changes: Any) -> None:
    """Write a clip with a recipe in its tags, some of whose fields are others."""
    recipe = json.dumps(json.loads(RECIPE.to_json()) | changes)
    write_mp4(path, bars(), 8, 5, {"title": "a star", "wantui": recipe, "wantui_made_with": "{}"})


@pytest.mark.parametrize("name", ["http:x.mp4", "a:b.mp4", "concat:a|b.mp4", "pipe:0.mp4", "%03d.mp4", "圆 #?.mp4"])
def test_clip_names_are_never_interpreted_as_urls(name: str) -> None:  # C6
    write_clip(Path(name))
    assert [path.name for path in Path().iterdir()] == [name]
    assert len(list(read_frames(Path(name)))) == 5
    assert read_clip_tags(Path(name)) == (RECIPE, {})


def test_tags_in_other_encodings_do_not_prevent_reading_frames() -> None:  # R12, F18
    write_mp4(Path("a.mp4"), bars(), 8, 5, {"title": "MARK-cafe"})
    content = Path("a.mp4").read_bytes()
    assert b"MARK-cafe" in content
    Path("a.mp4").write_bytes(content.replace(b"MARK-cafe", b"MARK-caf\xe9"))
    assert len(list(read_frames(Path("a.mp4")))) == 5
    with pytest.raises(ClipError, match="contains no recipe"):
        read_clip_tags(Path("a.mp4"))


def test_damaged_recipe_bytes_are_refused() -> None:  # R12: no character may take the place of another
    write_clip(Path("a.mp4"))
    content = Path("a.mp4").read_bytes()
    Path("a.mp4").write_bytes(content.replace(b"moving left", b"moving l\xe9ft"))
    with pytest.raises(ClipError, match=r"the recipe in a\.mp4 is damaged"):
        read_clip_tags(Path("a.mp4"))


@pytest.mark.slow
def test_damaged_clips_raise_only_clip_errors() -> None:  # R12, F18
    write_clip(Path("a.mp4"))
    content, random = Path("a.mp4").read_bytes(), np.random.default_rng(0)
    refused: list[str] = []
    for attempt in range(150):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 1 + attempt % 20):
            damaged[place] = random.integers(0, 256)
        Path("b.mp4").write_bytes(bytes(damaged[: random.integers(1, len(damaged) + 1)] if attempt % 3 else damaged))
        for read in (read_clip_tags, lambda path: list(read_frames(path))):
            try:
                read(Path("b.mp4"))
            except ClipError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert all("b.mp4" in reason for reason in refused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2**70}, "seed: Input should be less than or equal"),
        ({"seed": -1}, "seed: Input should be greater"),
        ({"steps": 0}, "steps: Input should be greater"),
        ({"steps": 10**30}, "steps: "),
        ({"fps": -1}, "fps: "),
        ({"guidance_scale": float("nan")}, "guidance_scale: "),
        ({"flow_shift": 0}, "flow_shift: "),
        ({"format": 3}, "it has format 3; this version reads formats 1 and 2"),
        ({"format": "1"}, "it has format '1'; this version reads formats 1 and 2"),
        ({"colour": "red"}, "colour is not a field of this version"),
        ({"prompt": None}, "prompt: "),
    ],
)
def test_invalid_recipe_is_refused_naming_the_field(change: dict[str, Any], message: str) -> None:  # B7, F18
    write_clip(Path("a.mp4"), **change)
    with pytest.raises(ClipError) as raised:
        read_clip_tags(Path("a.mp4"))
    assert message in str(raised.value)


@pytest.mark.parametrize("made_with", ["[]", "3", "{", "[" * 1000, '"text"'])
def test_invalid_made_with_tags_are_refused(made_with: str) -> None:
    write_mp4(Path("a.mp4"), bars(), 8, 5, {"wantui": RECIPE.to_json(), "wantui_made_with": made_with})
    with pytest.raises(ClipError, match="damaged"):
        read_clip_tags(Path("a.mp4"))


def test_playlist_named_like_a_clip_is_refused() -> None:
    write_clip(Path("secret.mp4"))
    Path("list.mp4").write_text(f"ffconcat version 1.0\nfile '{Path('secret.mp4').absolute()}'\n")
    Path("hls.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{Path('secret.mp4').absolute()}\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "hls.mp4"):
        with pytest.raises(ClipError):
            list(read_frames(Path(name)))


def test_special_file_as_a_clip_does_not_block() -> None:  # R10
    os.mkfifo("fifo.mp4")
    Path("folder.mp4").mkdir()
    for name in ("fifo.mp4", "folder.mp4", "missing.mp4", "/dev/zero"):
        for read in (read_clip_tags, lambda path: list(read_frames(path))):
            with pytest.raises(ClipError, match=Path(name).name):
                read(Path(name))


def test_clip_without_video_is_refused() -> None:
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ClipError, match="no video"):
        list(read_frames(Path("sound.mp4")))


def test_planted_link_beside_a_clip_is_not_followed() -> None:  # R10
    Path("victim").write_text("before")
    Path("a.mp4.partial").symlink_to("victim")
    write_clip(Path("a.mp4"))
    assert Path("victim").read_text() == "before"
    assert len(list(read_frames(Path("a.mp4")))) == 5


def test_decoder_with_one_thread_starts_no_others(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", bars(), 8, len(bars()), {})
    before = len(list(Path("/proc/self/task").iterdir()))
    decoders = [read_frames(tmp_path / "clip.mp4", thread_count=1) for _ in range(20)]
    frames = [next(decoder) for decoder in decoders]
    assert len(list(Path("/proc/self/task").iterdir())) <= before
    assert all((frame == frames[0]).all() for frame in frames)
    assert (frames[0] == next(read_frames(tmp_path / "clip.mp4"))).all()
    for decoder in decoders:
        decoder.close()


def test_missing_clip_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"gone\.mp4 is missing\. Copy it again"):
        verify_clip(tmp_path / "gone.mp4", RECIPE, "0" * 64)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ClipError, match=r"folder\.mp4 is not a regular file\. Copy it again"):
        verify_clip(tmp_path / "folder.mp4", RECIPE, None)


def test_clip_without_a_recorded_digest_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.mp4")
    monkeypatch.setattr("wantui.storage.recorded_files.compute_file_sha256", None)  # must not be called
    verify_clip(tmp_path / "a.mp4", RECIPE, None)


def test_ctrl_c_at_the_first_frame_leaves_no_partial_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_empty_file, start_thread = atomic_files.create_empty_file, threading.Thread.start

    def create_late(path: Path) -> tuple[int, int]:
        time.sleep(0.2)  # without waiting for the thread, the partial file is removed before it is created
        return create_empty_file(path)

    def start_and_interrupt(thread: threading.Thread) -> None:
        start_thread(thread)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt), ClipWriter(tmp_path / "clip.mp4", 8, 2, {}) as writer:
        monkeypatch.setattr(mp4, "create_empty_file", create_late)
        monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
        writer.write_frame(np.zeros((16, 16, 3), np.uint8))
        raise KeyboardInterrupt
    for thread in threading.enumerate():
        if thread.name.startswith("writer"):
            thread.join()
    assert list(tmp_path.glob("clip*")) == []


def test_second_ctrl_c_leaves_no_partial_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with suppress(KeyboardInterrupt), ClipWriter(tmp_path / "clip.mp4", 8, 2, {}) as writer:
        writer.write_frame(np.zeros((16, 16, 3), np.uint8))
        writer.encoder_thread.wait_for_writes()
        assert (tmp_path / "clip.mp4.partial").exists()
        monkeypatch.setattr(writer.encoder_thread, "close", raise_interrupt)
    assert list(tmp_path.glob("clip*")) == []


def raise_interrupt() -> None:
    raise KeyboardInterrupt


WRITE_A_CLIP_WITH_A_SIZE_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from wantui.storage.mp4 import write_mp4

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_mp4(Path(sys.argv[1]), (np.full((32, 32, 3), i, np.uint8) for i in range(40)), 8, 40, {})
except OSError as error:
    print("cannot write:", error.strerror)
"""


@pytest.mark.processes
@pytest.mark.parametrize("size_limit", [0, 40])
def test_clip_that_cannot_be_written_ends_in_an_error(tmp_path: Path, size_limit: int) -> None:
    clip_path = tmp_path / "clip.mp4"
    arguments = [sys.executable, "-c", WRITE_A_CLIP_WITH_A_SIZE_LIMIT, str(clip_path), str(size_limit)]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout) == (0, "cannot write: File too large\n")
    assert list(tmp_path.glob("*clip*")) == []
