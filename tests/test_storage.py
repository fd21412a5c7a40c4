"""Written files: complete or absent, and readable by other programs."""

import errno
import hashlib
import json
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import zarr
from conftest import recipe_for

from wantui.atomic_files import atomic_folder, atomic_write, write_text_atomically
from wantui.config import load_config
from wantui.json_files import is_refused_by_system
from wantui.models.catalogue import NANO
from wantui.planning import CaptureRequests, plan_batch
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.contact_sheet import ContactSheet
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest, write_batch_files, write_manifest
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.mp4 import MAX_PENDING_FRAMES, ClipError, ClipWriter, read_clip_tags, read_frames, write_mp4
from wantui.storage.output_errors import describe_path_conflict
from wantui.storage.state_reader import StoredStates
from wantui.storage.trajectory_writer import TrajectoryWriter
from wantui.storage.zarr_group import CaptureError


def moving_bar(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    frames = []
    for index in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, 4 * index : 4 * index + 8] = (200, 60, 30)
        frames.append(frame)
    return frames


def everything_here() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_failed_atomic_write_preserves_the_existing_file() -> None:
    write_text_atomically(Path("a.txt"), "before")

    def write_half() -> None:
        with atomic_write(Path("a.txt")) as partial:
            partial.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert everything_here() == ["a.txt"]
    assert Path("a.txt").read_text() == "before"


def test_writer_that_was_overtaken_does_not_disturb_the_other_writer(tmp_path: Path) -> None:
    path = tmp_path / "out" / "sheet.png"
    first, second = atomic_write(path), atomic_write(path)
    first.__enter__().write_text("first")
    partial = second.__enter__()
    partial.write_text("the sec")
    with pytest.raises(OSError, match=r"sheet\.png\.partial was replaced by another file"):
        first.__exit__(None, None, None)
    assert not path.exists()
    partial.write_text("the second")
    second.__exit__(None, None, None)
    assert path.read_text() == "the second"
    assert list(path.parent.iterdir()) == [path]


def test_writer_whose_partial_file_was_removed_says_so(tmp_path: Path) -> None:
    path = tmp_path / "out" / "sheet.png"
    with pytest.raises(FileNotFoundError, match="removed it while it was written"), atomic_write(path) as partial:
        partial.unlink()
    assert list(path.parent.iterdir()) == []


def test_writer_whose_folder_was_removed_says_so(tmp_path: Path) -> None:
    path = tmp_path / "out" / "sheet.png"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path) as partial:
        shutil.rmtree(partial.parent)
    assert describe_path_conflict(tmp_path, caught.value) == (
        f"cannot write {path}.partial: No such file or directory. A file or a folder was removed while the video was "
        "generated. Generate the video again: wantui queue retry"
    )


def test_partial_file_stays_open_so_that_no_other_file_gets_its_inode(tmp_path: Path) -> None:
    def list_open_files() -> list[Path]:
        paths = []
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                paths.append(link.readlink())
        return paths

    with atomic_write(tmp_path / "a") as partial:
        assert partial in list_open_files()
    assert not [path for path in list_open_files() if path.is_relative_to(tmp_path)]


def test_file_is_replaced_on_a_file_system_without_permissions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_mode(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    path = Path("note.txt")
    write_text_atomically(path, "before")
    monkeypatch.setattr("os.chmod", refuse_mode)
    monkeypatch.setattr(Path, "chmod", refuse_mode)
    write_text_atomically(path, "after")
    assert path.read_text() == "after"


@pytest.mark.parametrize("mode", [0o600, 0o440, 0o666])
def test_replaced_file_keeps_its_permissions(mode: int) -> None:
    path = Path("private.yaml")
    path.write_text("before")
    path.chmod(mode)
    with atomic_write(path) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == mode | 0o600  # already while the content is written
        partial.write_text("after")
    assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (mode, "after")


def test_folder_appears_under_its_name_only_once_complete() -> None:
    Path("kept").mkdir()
    write_text_atomically(Path("kept/old"), "before")

    def write(fails: bool) -> None:
        with atomic_folder(Path("kept")) as partial:
            (partial / "below").mkdir()
            (partial / "below" / "new").write_text("after")
            assert everything_here() == ["kept.partial/below/new", "kept/old"]
            if fails:
                raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write(fails=True)
    assert everything_here() == ["kept/old"]
    Path("kept.partial").symlink_to("kept")  # removed, and not followed
    write(fails=False)
    assert everything_here() == ["kept/below/new"]


def test_clip_contains_its_frames_frame_rate_and_recipe() -> None:
    recipe = recipe_for(NANO, prompt='a "red" star; 圆 = \\ #', frames=9)
    tags = {"title": recipe.prompt, "wantui": recipe.to_json(), "wantui_made_with": json.dumps({"torch": "1"})}
    write_mp4(Path("clip.mp4"), iter(moving_bar(9)), 12, 9, tags)
    frames = list(read_frames(Path("clip.mp4")))
    assert len(frames) == 9
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(frames, moving_bar(9), strict=True)) < 6
    assert read_clip_tags(Path("clip.mp4")) == (recipe, {"torch": "1"})
    with av.open("clip.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.pix_fmt) == ("h264", 12, "yuv420p")
        assert container.metadata["title"] == recipe.prompt
    # +faststart: the index comes before the pictures, so that a clip plays while it is copied.
    raw = Path("clip.mp4").read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat")


def test_frames_are_encoded_in_the_background_with_a_bounded_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, encode = threading.Event(), ClipWriter._encode_frame

    def slowly(self: ClipWriter, frame: np.ndarray) -> None:
        gate.wait()
        encode(self, frame)

    monkeypatch.setattr(ClipWriter, "_encode_frame", slowly)
    with ClipWriter(Path("clip.mp4"), 8, 20, {}) as clip:

        def give() -> None:
            for frame in moving_bar(20, width=96):
                clip.write_frame(frame)

        giver = threading.Thread(target=give)
        giver.start()
        while clip.submitted_count <= MAX_PENDING_FRAMES:
            time.sleep(0.002)
        giver.join(0.2)
        assert giver.is_alive()
        assert clip.submitted_count == MAX_PENDING_FRAMES + 1  # the last of them waits to be taken
        gate.set()
        giver.join()
        clip.finish_clip()
    assert len(list(read_frames(Path("clip.mp4")))) == 20
    assert everything_here() == ["clip.mp4"]


def test_encoder_failure_is_raised_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ClipWriter, frame: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(ClipWriter, "_encode_frame", full)
    with pytest.raises(OSError, match="full"):
        write_mp4(Path("clip.mp4"), iter(moving_bar(9)), 8, 9, {})
    assert everything_here() == []


@pytest.mark.parametrize("given", [0, 8, 10])
def test_clip_with_a_wrong_number_of_frames_is_not_published(given: int) -> None:
    with pytest.raises(RuntimeError, match=f"{given} frames encoded"):
        write_mp4(Path("clip.mp4"), iter(moving_bar(given)), 8, 9, {})
    assert everything_here() == []


def test_clip_writer_that_was_overtaken_leaves_the_file_of_the_other_writer() -> None:
    first, second = (ClipWriter(Path("a.mp4"), 8, 4, {}) for _ in range(2))
    frames = moving_bar(4)
    with second:
        with first:
            for writer in (first, second):
                for frame in frames:
                    writer.write_frame(frame)
                writer.encoder_thread.wait_for_writes()
        second.finish_clip()
    assert everything_here() == ["a.mp4"]
    assert len(list(read_frames(Path("a.mp4")))) == 4


def test_failing_frame_source_leaves_no_file() -> None:
    def failing() -> Iterator[np.ndarray]:
        yield from moving_bar(3)
        raise RuntimeError("the decoder failed")

    with pytest.raises(RuntimeError, match="the decoder failed"):
        write_mp4(Path("clip.mp4"), failing(), 8, 9, {})
    assert everything_here() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot? be read|not a readable clip"), (b"no clip at all" * 100, "not a readable clip")],
)
def test_file_that_is_not_a_clip_is_refused(content: bytes, message: str) -> None:
    Path("clip.mp4").write_bytes(content)
    with pytest.raises(ClipError, match=message):
        read_clip_tags(Path("clip.mp4"))


def test_clip_with_a_damaged_size_is_not_reported_as_a_lack_of_memory() -> None:
    path = Path("clip.mp4")
    write_mp4(path, iter(moving_bar(5)), 8, 5, {"title": "holiday"})
    content = bytearray(path.read_bytes())
    content[content.index(b"stsd") + 12] = 0xFF  # size of the first sample description
    path.write_bytes(content)
    with pytest.raises(ClipError, match="is not a readable clip: Cannot allocate memory") as caught:
        list(read_frames(path))
    assert not is_refused_by_system(caught.value)


def test_clip_with_missing_or_damaged_recipe_is_refused() -> None:
    write_mp4(Path("foreign.mp4"), iter(moving_bar(5)), 8, 5, {"title": "holiday"})
    with pytest.raises(ClipError, match="contains no recipe"):
        read_clip_tags(Path("foreign.mp4"))
    write_mp4(Path("broken.mp4"), iter(moving_bar(5)), 8, 5, {"wantui": '{"format": 1}'})
    with pytest.raises(ClipError, match="damaged, or was written by a different version"):
        read_clip_tags(Path("broken.mp4"))


def test_contact_sheet_shows_five_frames_from_first_to_last() -> None:
    from PIL import Image

    sheet = ContactSheet(17)
    frames = [np.full((32, 48, 3), 15 * index, np.uint8) for index in range(17)]
    assert list(map(id, sheet.collect_frames(frames))) == list(map(id, frames))
    sheet.write_sheet(Path("sheet.jpg"))
    picture = np.asarray(Image.open("sheet.jpg").convert("L"))
    assert picture.shape == (32, 5 * 48)
    centres = picture[16, 24::48].astype(int)
    assert np.abs(centres - [0, 60, 120, 180, 240]).max() <= 2


def states(count: int, shape: tuple[int, ...] = (4, 3, 2, 2)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]


def latent_writer(capture: CaptureRequests, steps: int = 5, checksums: Sequence[int] = ()) -> TrajectoryWriter:
    sigmas, recipe = np.linspace(1, 0, steps + 1), recipe_for(NANO, capture=capture, steps=steps)
    levels, timesteps = sigmas.tolist(), (1000 * sigmas[:-1]).tolist()
    return TrajectoryWriter(Path("vid.zarr"), (4, 3, 2, 2), levels, timesteps, recipe, checksums=checksums)


def gram_of(written: list[np.ndarray]) -> dict[str, np.ndarray]:
    flat = np.stack([state.ravel() for state in written]).astype(np.float64)
    return {"gram": flat @ flat.T}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("interval", [1, 2])
def test_stored_latents_equal_the_states_bit_for_bit(interval: int, compress: bool) -> None:
    writer = latent_writer(CaptureRequests(latents=True, interval=interval, compress=compress))
    written = states(6)
    for step, state in enumerate(written):
        writer.write_state(step, state)
    assert not Path("vid.zarr").exists()
    writer.finish_group(gram_of(written), {"projection": "identity"})
    group = zarr.open_group("vid.zarr", mode="r")
    chosen = [0, 1, 2, 3, 4, 5] if interval == 1 else [0, 2, 4, 5]
    assert group["latents"].dtype == np.float32
    assert np.array_equal(group["latents"][:], np.stack([written[step] for step in chosen]))
    assert group["steps"][:].tolist() == chosen
    assert np.array_equal(group["sigmas"][:], np.linspace(1, 0, 6))
    assert np.array_equal(group["gram"][:], gram_of(written)["gram"])
    assert "exact" not in group
    assert group["timesteps"].shape == (5,)
    assert group.attrs["recipe"]["prompt"] == "a red star moving left"
    assert not Path("vid.zarr.partial").exists()


@pytest.mark.slow
def test_turning_added_by_float16_is_recorded() -> None:
    start, end = states(2, (16, 5, 16, 16))
    sigmas = np.linspace(1, 0, 21).tolist()
    straight = [(sigma * start + (1 - sigma) * end).astype(np.float32) for sigma in sigmas]
    recipe = recipe_for(NANO, capture=CaptureRequests(latents=True, dtype="float16"), steps=20)
    writer = TrajectoryWriter(Path("vid.zarr"), (16, 5, 16, 16), sigmas, sigmas[:-1], recipe)
    for step, state in enumerate(straight):
        writer.write_state(step, state)
    writer.finish_group(gram_of(straight), {})
    group = zarr.open_group("vid.zarr", mode="r")
    stored = group["latents"][:].reshape(21, -1).astype(np.float64)
    steps = np.diff(stored, axis=0)
    unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    turning = np.arccos((unit[1:] * unit[:-1]).sum(1)).sum()
    assert 0.1 < group.attrs["float16_turning_added"] == pytest.approx(turning, abs=1e-3)


def test_background_writer_bounds_its_queue_and_raises_failures() -> None:
    background, written = BackgroundWriter(max_pending_writes=2), []
    gate = threading.Event()
    background.submit_write(gate.wait)  # type: ignore[arg-type]
    background.submit_write(lambda: written.append(1))
    third = threading.Thread(target=background.submit_write, args=(lambda: written.append(2),))
    third.start()
    third.join(0.05)
    assert third.is_alive()  # it waits for the first to be written
    gate.set()
    third.join()
    background.wait_for_writes()
    assert written == [1, 2]

    def full() -> None:
        raise OSError(errno.ENOSPC, "full")

    background.submit_write(full)
    with pytest.raises(OSError, match="full"):
        background.wait_for_writes()
    background.close()


def test_incomplete_latents_are_not_published() -> None:
    writer = latent_writer(CaptureRequests(latents=True))
    for step, state in enumerate(states(4)):
        writer.write_state(step, state)
    with pytest.raises(RuntimeError, match="4 of 6 states"):
        writer.finish_group({}, {})
    assert writer.partial_folder.exists()
    assert not writer.path.exists()


@pytest.mark.parametrize("missing", ["sigmas/c/0", "latents/c/1/0/0/0/0"])
def test_latents_with_a_removed_chunk_are_not_published(missing: str) -> None:
    writer, written = latent_writer(CaptureRequests(latents=True)), states(6)
    for step, state in enumerate(written):
        writer.write_state(step, state)
    (writer.partial_folder / missing).unlink()
    array = missing.partition("/")[0]
    with pytest.raises(
        CaptureError, match=f"cannot complete vid.zarr: 1 of the . chunks of .*{array} is missing. Generate"
    ):
        writer.finish_group(gram_of(written), {})
    assert not writer.path.exists()


def test_half_written_chunk_of_a_killed_process_is_not_published() -> None:
    written = states(6)
    writer = latent_writer(CaptureRequests(latents=True))
    for step, state in enumerate(written[:3]):
        writer.write_state(step, state)
    half = writer.partial_folder / "latents/c/3/0/0/0/0.149c278cdbb642e2bc852e37cf1ce251.partial"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half")
    writer = latent_writer(CaptureRequests(latents=True), checksums=writer.checksums)
    for step, state in enumerate(written[3:], start=3):
        writer.write_state(step, state)
    writer.finish_group(gram_of(written), {})
    assert list(writer.path.rglob("*.partial")) == []
    assert zarr.open_group(writer.path, mode="r")["latents"].shape[0] == 6


def test_float16_overflow_is_refused() -> None:
    writer = latent_writer(CaptureRequests(latents=True, dtype="float16"))
    writer.write_state(0, np.zeros((4, 3, 2, 2), np.float32))
    with pytest.raises(ValueError, match="latents after 1 model evaluation are too large for float16"):
        writer.write_state(1, np.full((4, 3, 2, 2), 1e6, np.float32))


def test_manifest_round_trips() -> None:
    batch = plan_batch(load_config("nano", ["videos_per_variation=2"]), "a [red|blue] (circle)")
    folder = BatchFolder(Path("batch"))
    manifest = write_batch_files(folder, batch)
    manifest.videos[1].state = "failed"
    manifest.videos[1].error = "RuntimeError: x"
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest
    assert everything_here() == [
        "batch/batch.json",
        "batch/configs/generation_config.yaml",
        "batch/configs/prompt_template.txt",
        "batch/configs/prompt_variations.json",
    ]
    stored = json.loads(Path("batch/batch.json").read_text())
    assert [v["prompt"] for v in stored["variations"]] == ["a red circle", "a blue circle"]
    assert [v["seed"] for v in stored["videos"]] == [42, 43, 42, 43]
    assert load_config("batch/configs/generation_config.yaml").settings == batch.config.settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no batch.json"),
        ("", "cannot be read"),
        ("[1]", "content is not a JSON object"),
        ('{"format": 99}', "written by another wantui with format 99; wantui .* reads 1, 2, 3"),
        ('{"format": 1, "name": "x"}', "is damaged"),
    ],
)
def test_folder_that_is_not_a_batch_is_refused(content: str | None, message: str) -> None:
    if content is not None:
        Path("batch.json").write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(BatchFolder(Path()))


@pytest.mark.slow
def test_equal_frames_give_identical_files() -> None:
    # Small, pale and in the company of other memory: where x264 was once seen to differ from run to run.
    rng = np.random.default_rng(0)
    frames = list(rng.normal(128, 12, (9, 32, 32, 3)).astype(np.uint8))
    digests, memory = set(), []
    for _ in range(60):
        memory.append(rng.random(int(rng.integers(1, 5000))))
        write_mp4(Path("again.mp4"), frames, 8, 9, {"title": "x"})
        digests.add(hashlib.sha256(Path("again.mp4").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("dtype", "compressed", "from_files"),
    [("float32", False, True), ("float32", True, False), ("float16", False, False)],
)
def test_uncompressed_float32_states_are_read_directly_from_files(
    tmp_path: Path, dtype: str, compressed: bool, from_files: bool
) -> None:
    wanted = np.random.default_rng(0).standard_normal((5, 2, 3, 4, 4)).astype(dtype)
    compressors = "auto" if compressed else None
    group = zarr.open_group(tmp_path / "v.zarr", mode="w")
    array = group.create_array(
        "latents", shape=wanted.shape, chunks=(1, *wanted.shape[1:]), dtype=dtype, compressors=compressors
    )
    array[:4] = wanted[:4]  # the last one is as if it had never been written
    wanted[4] = 0
    states = StoredStates(zarr.open_group(tmp_path / "v.zarr", mode="r")["latents"])
    assert (states.plain_file_folder is not None) == from_files
    result = np.full((5, states.dimension), np.nan, dtype=np.float32)
    states.read_states(range(1, 5), list(result[1:]))
    assert np.array_equal(result[1:], wanted[1:].reshape(4, -1).astype(np.float32))
    assert np.isnan(result[0]).all()


def test_truncated_state_file_is_an_error(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "v.zarr", mode="w")
    array = group.create_array("latents", shape=(2, 1, 1, 4, 4), chunks=(1, 1, 1, 4, 4), dtype="f4", compressors=None)
    array[:] = 1
    (file,) = (tmp_path / "v.zarr" / "latents" / "c" / "1").rglob("0/0/0/0")
    file.write_bytes(file.read_bytes()[:-4])
    rows = list(np.zeros((2, 16), dtype=np.float32))
    with pytest.raises(Exception, match=r"buffer|size|shape|bytes"):
        StoredStates(array).read_states(range(2), rows)
