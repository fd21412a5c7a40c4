"""Published captures: every chunk must exist, every byte is verified, and an error names the damaged file."""

import asyncio
import errno
import json
import math
import os
import runpy
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import recipe_for

from wantui.analysis import loading as read
from wantui.analysis.attention_summary import compute_word_curves
from wantui.analysis.gram import StateBuffer, compute_gram
from wantui.analysis.loading import select_corrected_states
from wantui.atomic_files import atomic_write, sync_to_disk
from wantui.captures import CAPTURES
from wantui.captures.attention import AttentionRequest
from wantui.config.settings import Settings
from wantui.models.catalogue import NANO
from wantui.planning import CaptureRequests, PromptMark
from wantui.planning.disk_estimate import list_captured_steps
from wantui.planning.recipe import parse_recipe
from wantui.samplers import count_model_evaluations
from wantui.storage.attention_maps import AttentionMapsError, AttentionMapWriter, open_attention_maps
from wantui.storage.output_errors import is_outage
from wantui.storage.state_reader import StoredStates
from wantui.storage.trajectory_writer import TrajectoryWriter
from wantui.storage.verified_store import VerifiedStore, list_members
from wantui.storage.zarr_group import (
    CaptureError,
    PartialCaptureError,
    is_group_published,
    open_capture,
    publish_group,
    reopen_group_for_writing,
    verify_capture,
)

STEPS, SHAPE = 4, (4, 3, 4, 4)


def write_trajectory(path: Path, capture: CaptureRequests, sampler: str = "unipc") -> np.ndarray:
    """Write a capture of random states; returns them, [S + 1, *SHAPE]."""
    evaluations = count_model_evaluations(sampler, STEPS)
    sigmas = np.linspace(1, 0, STEPS + 1)
    if sampler == "heun":
        sigmas = np.repeat(sigmas, 2)[1:-1]
        sigmas = np.append(sigmas, 0.0)[: evaluations + 1]
    states = np.random.default_rng(0).normal(size=(evaluations + 1, *SHAPE)).astype(np.float32)
    recipe = recipe_for(NANO, steps=STEPS, sampler=sampler, capture=capture)
    writer = TrajectoryWriter(path, SHAPE, sigmas.tolist(), (1000 * sigmas[:-1]).tolist(), recipe)
    for step, state in enumerate(states):
        writer.write_state(step, state, state)
    flat = states.reshape(len(states), -1).astype(np.float64)
    derived = {
        "gram": flat @ flat.T,
        "projection": flat.astype(np.float32),
        "channel_power": (states.astype(np.float64) ** 2).mean((2, 3, 4)),
    }
    writer.finish_group(derived, {"projection": "identity"})
    return states


def write_maps(path: Path) -> None:
    attention = AttentionRequest(unconditional=True)
    mark = PromptMark(text="star", start=6, end=10)
    recipe = recipe_for(NANO, steps=STEPS, marks=(mark,), capture=CaptureRequests(attention=attention))
    names = {"cond": ["star", "prompt_mass", "end_mass", "pad_mass"], "uncond": ["prompt_mass", "end_mass", "pad_mass"]}
    words = {"star": {"text": "star", "start": 6, "end": 10, "weight": 1.0, "tokens": [5], "pieces": ["star"]}}
    shape = (1, 1, 3, 2, 2)
    writer = AttentionMapWriter(path, names, shape, range(STEPS), [1.0, 0.7, 0.5, 0.2], 2, recipe, words)
    random = np.random.default_rng(1)
    for _ in range(STEPS):
        maps = {
            context: {name: random.random(shape).astype(np.float32) for name in own} for context, own in names.items()
        }
        writer.write_maps(maps, {context: [True, True] for context in names})
    writer.finish_group({})


EVERYTHING = CaptureRequests(latents=True, predicted_clean=True, compress=True)
PLAIN = CaptureRequests(latents=True)


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trajectory and maps that no test changes: writing them takes longer than copying them."""
    folder = tmp_path_factory.mktemp("undamaged")
    write_trajectory(folder / "vid_001.zarr", EVERYTHING)
    write_maps(folder / "maps.zarr")
    return folder


@pytest.fixture
def trajectory(undamaged: Path, tmp_path: Path) -> Path:
    return shutil.copytree(undamaged / "vid_001.zarr", tmp_path / "vid_001.zarr")


@pytest.fixture
def maps(undamaged: Path, tmp_path: Path) -> Path:
    return shutil.copytree(undamaged / "maps.zarr", tmp_path / "maps.zarr")


@pytest.mark.slow
def test_capture_of_an_earlier_version_is_identified_by_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "maps.zarr"
    write_maps(path)
    group = zarr.open_group(path, mode="r+")
    stored = group.attrs["recipe"]
    recipe = parse_recipe(stored)
    former = stored | {"format": 1, "speed": "plain"}
    former["capture"]["attention"]["pieces"] = former["capture"]["attention"].pop("per_token")
    group.attrs["recipe"] = former
    del group.attrs["checksums"]
    assert is_group_published(path.with_name("maps.zarr.partial"), path, recipe)
    assert not is_group_published(path.with_name("maps.zarr.partial"), path, recipe.model_copy(update={"seed": 1}))


def test_capture_of_another_video_is_refused(trajectory: Path, maps: Path) -> None:
    for path in (trajectory, maps):
        recipe = parse_recipe(open_capture(path).attrs["recipe"])
        for open_group in (open_capture, verify_capture):
            open_group(path, recipe)
            with pytest.raises(
                CaptureError, match=rf"{path} belongs to another video \(seed {recipe.seed} instead of 4321\)"
            ):
                open_group(path, recipe.model_copy(update={"seed": 4321}))
    with pytest.raises(AttentionMapsError, match="belongs to another video"):
        open_attention_maps(maps, recipe.model_copy(update={"marks": ()}))


def test_capture_without_a_recipe_is_read(trajectory: Path) -> None:
    recipe = parse_recipe(open_capture(trajectory).attrs["recipe"])
    without_checksums(trajectory)
    del zarr.open_group(trajectory, mode="r+").attrs["recipe"]
    assert open_capture(trajectory, recipe)["latents"].shape == (STEPS + 1, *SHAPE)


def without_checksums(path: Path) -> None:
    """Make of a capture what an earlier version wrote."""
    group = zarr.open_group(path, mode="r+")
    del group.attrs["checksums"]


def chunks(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")


def flip_one_bit(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "bit": flip_one_bit,
    "zeros": lambda content: bytes(len(content)),
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0\0\0\0",
    "other": lambda content: np.random.default_rng(2).bytes(len(content)),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_trajectory_file_is_detected(trajectory: Path, damage: str) -> None:  # R5
    for file in sorted(file for file in trajectory.rglob("*") if file.is_file()):
        before = file.read_bytes()
        file.write_bytes(DAMAGE[damage](before))
        with pytest.raises(CaptureError) as raised:
            verify_capture(trajectory)
        assert str(trajectory) in str(raised.value)
        file.write_bytes(before)
    assert verify_capture(trajectory)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_attention_map_file_is_detected(maps: Path, damage: str) -> None:  # R5
    for file in sorted(file for file in maps.rglob("*") if file.is_file()):
        before = file.read_bytes()
        file.write_bytes(DAMAGE[damage](before))
        with pytest.raises(CaptureError):
            verify_capture(maps)
        file.write_bytes(before)
    assert verify_capture(maps)


@pytest.mark.slow
def test_damaged_maps_raise_one_error_when_they_are_read(maps: Path) -> None:  # B7, F7
    chunk = next(file for file in chunks(maps) if file.parts[-7:-6] != ("uncond",) and "star" in file.parts)
    for damage in DAMAGE.values():
        before = chunk.read_bytes()
        chunk.write_bytes(damage(before))
        with pytest.raises(AttentionMapsError, match="star"):
            open_attention_maps(maps).read_map("star")
        chunk.write_bytes(before)


def test_map_is_looked_up_once(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_maps = open_attention_maps(maps)
    read_keys, get = [], VerifiedStore.get

    async def record_key(store: VerifiedStore, key: str, *arguments: Any, **options: Any) -> Any:
        read_keys.append(key)
        return await get(store, key, *arguments, **options)

    monkeypatch.setattr(VerifiedStore, "get", record_key)
    stored_maps.read_map("star", 0)
    assert read_keys.count("star/zarr.json") == 1


@pytest.mark.parametrize("damage", ["zeros", "cut", "empty", "longer"])
def test_damage_detected_by_a_codec_raises_one_error_without_checksums(maps: Path, damage: str) -> None:  # F7
    without_checksums(maps)
    chunk = next(file for file in chunks(maps) if "star" in file.parts)
    chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    with pytest.raises(AttentionMapsError, match="cannot be read"):
        open_attention_maps(maps).read_map("star")


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_uncompressed_states_are_verified_when_read_directly_from_files(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "vid_001.zarr"  # R5
    states = write_trajectory(path, PLAIN)
    whole = StoredStates(open_capture(path)["latents"])
    assert whole.plain_file_folder is not None
    expected = states.reshape(len(states), -1).astype(np.float64)
    gram = compute_gram(whole.read_states, len(whole), whole.dimension, StateBuffer())
    assert gram == pytest.approx(expected @ expected.T)
    file = path / "latents" / "c" / "2" / "0" / "0" / "0" / "0"
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    damaged = StoredStates(open_capture(path)["latents"])
    with pytest.raises(CaptureError, match="latents"):
        compute_gram(damaged.read_states, len(damaged), damaged.dimension, StateBuffer())


def test_swapped_chunk_is_detected(trajectory: Path) -> None:  # R5: each is well by itself
    one, other = chunks(trajectory / "latents")[:2]
    shutil.copy(one, other)
    with pytest.raises(CaptureError, match="its CRC-32 does not match"):
        open_capture(trajectory)["latents"][:]


@pytest.mark.slow
def test_captures_without_checksums_are_read_as_unverified(trajectory: Path) -> None:  # R5
    without_checksums(trajectory)
    group = open_capture(trajectory)
    assert group["gram"].shape == (STEPS + 1, STEPS + 1)
    assert not verify_capture(trajectory)


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("stray", [".DS_Store", "c/.DS_Store", "c/0/.nfs0001", "c/99", "Thumbs.db"])
def test_stray_file_does_not_hide_a_missing_chunk(trajectory: Path, stray: str, verified: bool) -> None:  # A11
    if not verified:
        without_checksums(trajectory)
    latents = trajectory / "latents"
    assert len(chunks(latents)) == STEPS + 1
    missing = chunks(latents)[1]
    missing.unlink()
    (latents / stray).parent.mkdir(parents=True, exist_ok=True)
    (latents / stray).write_bytes(b"x")
    with pytest.raises(CaptureError, match=r"1 of the 5 chunks of .*latents is missing. Copy .* again"):
        open_capture(trajectory)


def test_stray_files_in_a_complete_capture_are_ignored(trajectory: Path) -> None:  # A11
    (trajectory / "latents" / "c" / ".DS_Store").write_bytes(b"x")
    (trajectory / ".DS_Store").write_bytes(b"x")
    assert verify_capture(trajectory)


LAYOUTS: dict[str, dict[str, Any]] = {
    "slashes": {"chunks": (1, 4)},
    "dots": {"chunks": (1, 4), "chunk_key_encoding": {"name": "default", "separator": "."}},
    "v2 keys": {"chunks": (1, 4), "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v2 keys nested": {"chunks": (1, 4), "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "sharded": {"chunks": (1, 2), "shards": (1, 4)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_chunk_is_detected_in_every_layout(tmp_path: Path, layout: str) -> None:  # A11
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    array = group.create_array("a", shape=(3, 7), dtype="float32", **LAYOUTS[layout])
    array[:] = np.arange(21).reshape(3, 7) + 1
    assert open_capture(tmp_path / "g.zarr")["a"][2, 6] == 21
    files = chunks(tmp_path / "g.zarr" / "a")
    assert len(files) == 6
    files[3].rename(files[3].with_name("stray"))
    with pytest.raises(CaptureError, match=r"1 of the 6 chunks of .*a is missing"):
        open_capture(tmp_path / "g.zarr")


ODD_METADATA = {
    "not JSON": "{",
    "a list": "[]",
    "null": "null",
    "no node type": "{}",
    "deep": "[" * 100_000,
    "no shape": '{"zarr_format": 3, "node_type": "array"}',
    "shape of text": '{"zarr_format": 3, "node_type": "array", "shape": "x", "chunk_grid": 3, "data_type": "float32"}',
    "data type": '{"zarr_format": 3, "node_type": "group", "attributes": 3}',
    "format 9": '{"zarr_format": 9, "node_type": "group", "attributes": {}}',
}


@pytest.mark.parametrize("file", ["zarr.json", "gram/zarr.json"])
@pytest.mark.parametrize("odd", ODD_METADATA)
def test_invalid_metadata_raises_one_error_that_names_the_file(trajectory: Path, odd: str, file: str) -> None:  # F7
    without_checksums(trajectory)
    (trajectory / file).write_text(ODD_METADATA[odd])
    with pytest.raises(CaptureError, match=r"vid_001\.zarr"):
        open_capture(trajectory)["gram"]


def test_metadata_with_too_many_chunks_is_refused(trajectory: Path) -> None:  # F7
    without_checksums(trajectory)
    metadata = trajectory / "latents" / "zarr.json"
    metadata.write_text(metadata.read_text().replace(f"[\n    {STEPS + 1},", "[\n    1000000000000000,"))
    with pytest.raises(CaptureError, match="1,000,000,000,000,000 chunks"):
        open_capture(trajectory)


def test_removed_array_is_detected(trajectory: Path) -> None:  # R5: as if it had never been stored
    shutil.rmtree(trajectory / "channel_power")
    with pytest.raises(CaptureError, match=r"channel_power.* is missing"):
        open_capture(trajectory)


def test_fifo_in_a_capture_does_not_block(trajectory: Path) -> None:  # R10
    chunk = chunks(trajectory / "gram")[0]
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(CaptureError, match=r"1 of the 1 chunks of"):
        open_capture(trajectory)
    (trajectory / "zarr.json").unlink()
    os.mkfifo(trajectory / "zarr.json")
    with pytest.raises(CaptureError, match="not a regular file"):
        open_capture(trajectory)


def test_heun_captures_contain_only_corrected_states(tmp_path: Path) -> None:  # S9
    assert list_captured_steps("heun", 7, 3) == [0, 6, 12, 13]
    assert list_captured_steps("heun", 3, 1) == [0, 2, 4, 5]
    assert list_captured_steps("heun", 1, 1) == [0, 1]
    assert list_captured_steps("euler", 7, 3) == [0, 3, 6, 7]
    states = write_trajectory(tmp_path / "v.zarr", CaptureRequests(latents=True, interval=2), "heun")
    group = open_capture(tmp_path / "v.zarr")
    assert group["steps"][:].tolist() == [0, 4, 7]
    assert np.array_equal(group["latents"][:], states[[0, 4, 7]])
    sigmas = group["sigmas"][:]
    assert all(step == len(sigmas) - 1 or sigmas[step + 1] != sigmas[step] for step in (0, 4, 7))


def test_heun_predictors_in_earlier_captures_are_excluded_with_a_warning() -> None:  # S9
    sigmas = np.array([1.0, 0.9, 0.9, 0.7, 0.7, 0.5, 0.5, 0.2, 0.2, 0.0])
    chosen, warnings = select_corrected_states([0, 3, 6, 9], sigmas)
    assert chosen == [0, 2, 3]
    assert warnings == ("1 of 4 stored states are excluded: they are predictors of the heun sampler",)
    assert select_corrected_states(range(10), sigmas) == ([0, 2, 4, 6, 8, 9], ())
    assert select_corrected_states([0, 2, 4], np.array([1.0, 0.8, 0.5, 0.2, 0.0])) == ([0, 1, 2], ())


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["folder", "file inside", "pipe inside"])
def test_planted_links_in_a_partial_capture_are_not_followed(tmp_path: Path, planted: str) -> None:  # R10
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("before")
    path = tmp_path / "vid_001.zarr"
    partial = tmp_path / "vid_001.zarr.partial"
    if planted == "folder":
        partial.symlink_to(outside)
    else:
        partial.mkdir()
        if planted == "file inside":
            (partial / "zarr.json").symlink_to(outside / "victim")
        else:
            os.mkfifo(partial / "zarr.json")  # a reader would wait for ever
    recipe = recipe_for(NANO, steps=STEPS, capture=PLAIN)
    sigmas = np.linspace(1, 0, STEPS + 1).tolist()
    with pytest.raises(PartialCaptureError):
        TrajectoryWriter(path, SHAPE, sigmas, sigmas[:-1], recipe, checksums=[1])
    write_trajectory(path, PLAIN)
    assert verify_capture(path)
    assert [file.name for file in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "before"


def test_chunk_removed_after_opening_is_not_read_as_zeros(trajectory: Path) -> None:
    array = open_capture(trajectory)["gram"]
    chunk = chunks(trajectory / "gram")[0]
    chunk.unlink()
    with pytest.raises(FileNotFoundError, match="gram"):
        array[:]


def test_partial_capture_with_an_impossible_shape_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "vid_001.zarr"
    write_trajectory(path, PLAIN)
    partial = tmp_path / "vid_001.zarr.partial"
    path.rename(partial)
    metadata_path = partial / "steps" / "zarr.json"
    metadata = json.loads(metadata_path.read_text())
    metadata["shape"] = [1 << 48]
    metadata_path.write_text(json.dumps(metadata))
    sigmas = np.linspace(1, 0, STEPS + 1).tolist()
    with pytest.raises(PartialCaptureError, match="Unable to allocate"):
        TrajectoryWriter(path, SHAPE, sigmas, sigmas[:-1], recipe_for(NANO, steps=STEPS, capture=PLAIN), checksums=[1])


def test_lack_of_memory_for_a_small_array_is_an_outage(tmp_path: Path) -> None:
    error = MemoryError("Unable to allocate")
    error.shape, error.dtype = (8,), np.dtype(np.float64)  # type: ignore[attr-defined]
    assert is_outage(error, tmp_path)
    error.shape = (1 << 48,)  # type: ignore[attr-defined]
    assert not is_outage(error, tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "x"), RuntimeError("can't start new thread"), MemoryError()])
def test_lack_of_resources_does_not_discard_a_partial_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "vid_001.zarr"
    write_trajectory(path, PLAIN)
    path.rename(tmp_path / "vid_001.zarr.partial")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(zarr, "open_group", refuse)
    sigmas = np.linspace(1, 0, STEPS + 1).tolist()
    with pytest.raises(type(error)):
        TrajectoryWriter(path, SHAPE, sigmas, sigmas[:-1], recipe_for(NANO, steps=STEPS, capture=PLAIN), checksums=[1])


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_special_file_in_a_partial_capture_neither_blocks_nor_is_published(tmp_path: Path, kind: str) -> None:
    partial = tmp_path / "vid_001.zarr.partial"
    write_trajectory(tmp_path / "vid_001.zarr", PLAIN)
    (tmp_path / "vid_001.zarr").rename(partial)
    planted = partial / "latents" / "planted"
    if kind == "fifo":
        os.mkfifo(planted)
    else:
        planted.symlink_to("/etc/hostname")
    with pytest.raises(CaptureError, match="planted is neither a file nor a folder"):
        publish_group(partial, tmp_path / "vid_001.zarr")
    with pytest.raises(PartialCaptureError, match="planted"):
        reopen_group_for_writing(partial)
    with pytest.raises(OSError, match=r"Invalid argument|symbolic links"):
        sync_to_disk(planted)


def test_file_replaced_while_being_written_is_not_published(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("before")
    with pytest.raises(OSError, match="was replaced by another file"), atomic_write(path) as partial:  # noqa: PT012
        other = tmp_path / "other"
        other.write_text("of somebody else")
        other.replace(partial)
    assert path.read_text() == "before"
    assert partial.read_text() == "of somebody else"


@pytest.mark.torch
def test_every_capture_kind_has_a_recorder_and_unique_names() -> None:
    for name in ("name", "folder_name", "file_key", "section_key"):
        assert len({getattr(kind, name) for kind in CAPTURES}) == len(CAPTURES)
    for kind in CAPTURES:
        recorder = import_module(f"wantui.generation.captures.{kind.name}").Recorder
        for method in ("on_start", "on_step", "on_end", "compute_checksums"):
            assert callable(getattr(recorder, method))
        assert isinstance(getattr(Settings(), kind.section_key), kind.settings_type)


@pytest.mark.parametrize(
    "shape",
    [[], [4, -3, 4, 4], [4, 0, 4, 4], [4, 3, 4, -0.5], ["4", 3, 4, 4], 192, "4344", [True, 3, 4, 4], [4, 3, 4, 5]],
)
def test_invalid_shape_in_an_unverified_trajectory_is_an_error(
    trajectory: Path, shape: Any, recwarn: pytest.WarningsRecorder
) -> None:
    without_checksums(trajectory)
    zarr.open_group(trajectory, mode="r+").attrs["shape"] = shape
    with pytest.raises(CaptureError, match=r"vid_001\.zarr cannot be read: its attribute shape is"):
        read._load_trajectory(trajectory, None, None)
    assert not list(recwarn)


@pytest.mark.parametrize("scale", [0, -1.0, "1", None, True, [], math.nan, math.inf, 1e39])
def test_invalid_scale_in_unverified_maps_is_an_error(maps: Path, scale: Any, recwarn: pytest.WarningsRecorder) -> None:
    without_checksums(maps)
    zarr.open_group(maps, mode="r+")["star"].attrs["scale"] = scale
    with pytest.raises(AttentionMapsError, match=r"maps\.zarr cannot be read: its attribute scale is"):
        open_attention_maps(maps).read_mean_map("star")
    assert not list(recwarn)


def write_star_maps(path: Path, request: AttentionRequest, maps: np.ndarray) -> None:
    """Write maps [steps, blocks | 1, heads | 1, frames, height, width] of the word star in a video of 80x64 pixels."""
    mark = PromptMark(text="star", start=6, end=10)
    recipe = recipe_for(
        NANO, steps=len(maps), width=80, height=64, marks=(mark,), capture=CaptureRequests(attention=request)
    )
    words = {"star": {"text": "star", "start": 6, "end": 10, "weight": 1.0, "tokens": [5], "token_texts": ["star"]}}
    levels = np.linspace(1, 0.1, len(maps))
    writer = AttentionMapWriter(
        path, {"cond": ["star"]}, maps.shape[1:], range(len(maps)), levels.tolist(), 2, recipe, words
    )
    for step in maps:
        writer.write_maps({"cond": {"star": step.astype(np.float32)}}, {"cond": [True, True]})
    writer.finish_group({})


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 64])
def test_summary_of_downsampled_map_counts_every_position_once(tmp_path: Path, factor: int) -> None:
    full = np.random.default_rng(2).random((2, 1, 1, 3, 4, 5))
    rows, columns = (range(0, size, factor) for size in (4, 5))
    cells = [[full[..., y : y + factor, x : x + factor] for x in columns] for y in rows]
    pooled = np.stack([np.stack([cell.mean((-2, -1)) for cell in row], axis=-1) for row in cells], axis=-2)
    write_star_maps(tmp_path / "maps.zarr", AttentionRequest(downsample=factor), pooled)
    result = compute_word_curves(open_attention_maps(tmp_path / "maps.zarr"), "star")
    assert result.mass == pytest.approx(full.mean((1, 2, 3, 4, 5)))
    spread_out = [
        np.concatenate([np.broadcast_to(c.mean((-2, -1), keepdims=True), c.shape) for c in r], -1) for r in cells
    ]
    a = np.concatenate(spread_out, -2)[:, 0, 0]
    x, share = (np.arange(5) + 0.5) / 5, a / a.sum((2, 3), keepdims=True)
    assert result.centre[..., 0] == pytest.approx((share * x).sum((2, 3)))
    q = a / a.sum((1, 2, 3), keepdims=True)
    assert result.entropy == pytest.approx(-(q * np.log(q)).sum((1, 2, 3)) / np.log(60))


def test_map_that_does_not_fit_its_recipe_is_refused(tmp_path: Path) -> None:
    write_star_maps(tmp_path / "maps.zarr", AttentionRequest(downsample=3), np.ones((2, 1, 1, 3, 4, 5)))
    with pytest.raises(AttentionMapsError, match="maps of 5x4 do not fit 80x64 pixels averaged over 3 x 3 positions"):
        open_attention_maps(tmp_path / "maps.zarr")


def test_mean_map_excludes_skipped_blocks(tmp_path: Path) -> None:
    maps = np.random.default_rng(3).random((3, 2, 1, 3, 4, 5))
    maps[1, 1], maps[2] = np.nan, np.nan
    write_star_maps(tmp_path / "maps.zarr", AttentionRequest(per_block=True), maps)
    mean = open_attention_maps(tmp_path / "maps.zarr").read_mean_map("star")
    assert mean[0] == pytest.approx(maps[0].mean((0, 1)))
    assert mean[1] == pytest.approx(maps[1, 0, 0])
    assert np.isnan(mean[2]).all()


def test_zarr_warns_about_foreign_folders_of_others_after_a_capture_was_opened(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "theirs.zarr", mode="w")
    group.create_array("a", data=np.arange(3))
    (tmp_path / "theirs.zarr" / "notes").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(import_module(VerifiedStore.__module__).__file__))
        assert list(list_members(group)) == ["a"]
        with pytest.raises(UserWarning, match="Object at notes is not recognized"):
            dict(group.members(max_depth=None))


@pytest.mark.parametrize("has_checksums", [True, False])
def test_chunk_that_is_removed_while_it_is_read_counts_as_missing(
    trajectory: Path, monkeypatch: pytest.MonkeyPatch, has_checksums: bool
) -> None:
    is_small_file = VerifiedStore._is_small_file

    def remove_afterwards(store: VerifiedStore, key: str) -> bool:
        is_small = is_small_file(store, key)
        (store.root / key).unlink()
        return is_small

    monkeypatch.setattr(VerifiedStore, "_is_small_file", remove_afterwards)
    store = VerifiedStore(trajectory, {"gram/c/0/0": 1} if has_checksums else None, ValueError)
    reading = store.get("gram/c/0/0", zarr.core.buffer.default_buffer_prototype())
    if has_checksums:  # zarr would read it as zeros
        with pytest.raises(FileNotFoundError):
            asyncio.run(reading)
    else:
        assert asyncio.run(reading) is None
