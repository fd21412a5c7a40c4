"""wantui library check: every damaged item of a batch by name, and what could not be verified."""

import errno
import io
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import zarr
import zarr.core.sync as zarr_sync
from conftest import TEMPLATE, MakeOnce, Wantui, deny, generate_batch, replace_by_fifo, replace_by_folder

from wantui.analysis.attention_overlay import find_clip_path
from wantui.analysis.loading import read_batch_videos
from wantui.captures.attention import ATTENTION
from wantui.captures.guidance_gap import GUIDANCE_GAP
from wantui.captures.trajectory import TRAJECTORY
from wantui.errors import UserError
from wantui.notebook import open_batch
from wantui.storage.batch_check import check_batch
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.manifest_file import ManifestFile
from wantui.storage.mp4 import read_frames, write_mp4
from wantui.storage.uturn_file import UTurnEntry, UTurnIndex, add_uturn, get_uturn_index_path, make_uturn_paths
from wantui.storage.zarr_import import import_zarr


@pytest.fixture
def generated_batch(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    """Two videos with all captures, in a copy that the test may change."""
    options = ["-t", TEMPLATE, "--videos-per-variation", 1, "--store-latents", "--store-attention", *small]
    generated_batch = make_once("with-captures", lambda folder: generate_batch(folder, *options))
    return BatchFolder(Path(shutil.copytree(generated_batch / "batch", "outputs/made")))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE: dict[str, tuple[Callable[[BatchFolder], object], str]] = {
    "clip": (lambda b: flip(b.make_clip_path(0, 1)), "red seed 42: .*video_001.mp4 is damaged"),
    "sheet": (lambda b: flip(b.make_sheet_path(1, 1)), "blue seed 42: .*video_001.jpg is damaged"),
    "gram": (lambda b: flip(b.make_trajectory_path(0, 1) / "gram/c/0/0"), "red seed 42: .*gram/c/0/0 is damaged"),
    "states": (
        lambda b: flip(b.make_trajectory_path(0, 1) / "latents/c/1/0/0/0/0"),
        "red seed 42: .*latents/c/1/.* is damaged",
    ),
    "metadata": (lambda b: flip(b.make_trajectory_path(0, 1) / "sigmas/zarr.json"), "red seed 42: .*sigmas/zarr.json"),
    "array's metadata a folder": (
        lambda b: replace_by_folder(b.make_attention_path(0, 1) / "circle/zarr.json"),
        "red seed 42: .*circle/zarr.json is missing",
    ),
    "recipe": (
        lambda b: b.manifest_path.write_text(
            re.sub('"checksum": "[^"]*"', '"checksum": ""', b.manifest_path.read_text()).replace(
                '"guidance_scale": 4', '"guidance_scale": 7', 1
            )
        ),
        "red seed 42: its recipe in .*batch.json does not match its id",
    ),
    "maps": (
        lambda b: flip(b.make_attention_path(1, 1) / "circle/c/1/0/0/0/0/0"),
        "blue seed 42: .*circle/c/1/.* is damaged",
    ),
    "missing clip": (lambda b: b.make_clip_path(0, 1).unlink(), "red seed 42: .*video_001.mp4 is missing"),
    "missing capture": (
        lambda b: shutil.rmtree(b.make_trajectory_path(1, 1)),
        "blue seed 42: .*vid_001.zarr is missing",
    ),
    "manifest": (lambda b: b.manifest_path.write_text("{"), "batch.json cannot be read"),
    "figure in the manifest": (
        lambda b: b.manifest_path.write_text(
            re.sub('"denoise": [0-9]', '"denoise": 9', b.manifest_path.read_text(), count=1)
        ),
        "batch.json has changed since wantui wrote it",
    ),
    "date in the manifest": (
        lambda b: b.manifest_path.write_text(b.manifest_path.read_text().replace('"created": "2', '"created": "3', 1)),
        "batch.json has changed since wantui wrote it",
    ),
    "cut config": (lambda b: cut(b.config_path), "generation_config.yaml is damaged"),
    "cut template": (lambda b: cut(b.template_path), "prompt_template.txt is damaged: it differs from batch.json"),
    "cut variations": (lambda b: cut(b.variations_path), "prompt_variations.json is damaged: "),
    "changed config": (
        lambda b: b.config_path.write_text(b.config_path.read_text().replace("steps: 3", "steps: 4")),
        "generation_config.yaml is damaged: it differs from batch.json",
    ),
    "bytes in config": (lambda b: b.config_path.write_bytes(b"\xff\0"), "generation_config.yaml is damaged: .*utf-8"),
    "missing config": (lambda b: b.config_path.unlink(), "generation_config.yaml is missing"),
    "missing variations": (lambda b: b.variations_path.unlink(), "prompt_variations.json is missing"),
    "template FIFO": (
        lambda b: replace_by_fifo(b.template_path),
        "prompt_template.txt cannot be read: it is not a regular file",
    ),
    "journal": (lambda b: b.journal_path.write_text("{}\n"), "line 1 of .*batch.journal.jsonl is damaged"),
}


def test_library_check_reports_each_damaged_item(generated_batch: BatchFolder, wantui: Wantui) -> None:  # R5
    whole = wantui("library", "check", generated_batch.root)
    assert (whole.code, whole.out) == (0, "")
    assert "14 items checked, 0 damaged\n" in whole.err
    for name, (damage, report) in DAMAGE.items():
        clone = BatchFolder(generated_batch.root.with_name(f"clone-{name}"))
        shutil.copytree(generated_batch.root, clone.root)
        damage(clone)
        result = wantui("library", "check", clone.root)
        assert result.code == 1, name
        (line,) = result.out.splitlines()
        assert re.search(report, line), (name, line)
        assert "1 damaged" in result.err
        items = json.loads(wantui("library", "check", clone.root, "--json").out)
        assert [item["path"] for item in items if item["damage"] and not item["is_unreadable"]]
        if name == "clip":
            both = wantui("library", "check", generated_batch.root, clone.root)
            assert (both.code, both.out) == (1, result.out)
        shutil.rmtree(clone.root)


def test_items_of_earlier_versions_are_counted_as_unverified(
    generated_batch: BatchFolder, wantui: Wantui
) -> None:  # R5
    for path in (generated_batch.make_trajectory_path(0, 1), generated_batch.make_attention_path(0, 1)):
        del zarr.open_group(path, mode="r+").attrs["checksums"]
    document = json.loads(generated_batch.manifest_path.read_text())
    del document["videos"][0]["sha256"], document["checksum"]
    generated_batch.manifest_path.write_text(json.dumps(document | {"format": 1}))
    result = wantui("library", "check", generated_batch.root)
    assert result.code == 0
    assert "14 items checked, 0 damaged, 5 without checksums (written by an earlier version)" in result.err
    generated_batch.make_clip_path(0, 1).write_bytes(generated_batch.make_clip_path(0, 1).read_bytes()[:3000])
    assert wantui("library", "check", generated_batch.root).code == 1
    assert wantui("library", "check", "nowhere").code == 2


def test_contact_sheet_of_an_earlier_version_is_read(generated_batch: BatchFolder, wantui: Wantui) -> None:
    remove_clip_digests(generated_batch)
    sheet = generated_batch.root / read_manifest(generated_batch).videos[0].files["sheet"]
    sheet.unlink()
    sheet.symlink_to("/proc/self/mem")  # a regular file that can be opened, but not read
    (line,) = wantui("library", "check", generated_batch.root).out.splitlines()
    assert f"{sheet} cannot be read: Input/output error" in line


@pytest.mark.parametrize("has_digests", [True, False])
def test_damaged_uturn_clip_is_reported_with_the_name_of_its_video(
    generated_batch: BatchFolder, wantui: Wantui, has_digests: bool
) -> None:
    root, source = generated_batch.root, read_manifest(generated_batch).videos[0].id
    entry = UTurnEntry(source=source, source_sha256=None, generic_prompt="a shape", evaluation=1, sigma=0.5)
    paths = make_uturn_paths(root, entry)
    paths["clip"].parent.mkdir(parents=True)
    write_mp4(paths["clip"], list(read_frames(generated_batch.make_clip_path(0, 1))), 8, 9, {})
    np.save(paths["state"], np.zeros(3, np.float32))
    add_uturn(root, entry)
    if not has_digests:
        get_uturn_index_path(root).write_text(UTurnIndex(uturns=[entry]).model_dump_json())

    def check_uturns() -> list[tuple[str, bool, bool]]:
        items = json.loads(wantui("library", "check", root, "--json").out)
        uturns = [item for item in items if Path(item["path"]) in paths.values()]
        return [(item["video"], item["damage"] == "", item["is_verified"]) for item in uturns]

    assert check_uturns() == [("red seed 42", True, has_digests)] * 2
    paths["clip"].write_bytes(paths["clip"].read_bytes()[:3000])
    assert [intact for _, intact, _ in check_uturns()] == [False, True]


def test_edited_manifest_is_read_and_preserved(generated_batch: BatchFolder, wantui: Wantui) -> None:
    generated_batch.manifest_path.write_text(
        generated_batch.manifest_path.read_text().replace('"created": "2', '"created": "3', 1)
    )
    edited = generated_batch.manifest_path.read_bytes()
    assert wantui("library", "show", generated_batch.root).code == 0
    assert wantui("library", "check", generated_batch.root).code == 1
    file = ManifestFile(generated_batch)
    assert file.read_manifest().created.startswith("3")
    file.fold_journal()
    file.fold_journal()  # only what was edited is kept
    assert [path.name for path in generated_batch.list_preserved_files()] == ["batch.edited.json"]
    (kept,) = generated_batch.list_preserved_files()
    assert kept.read_bytes() == edited
    result = wantui("library", "check", generated_batch.root)
    assert result.code == 1
    assert "another program changed batch.json" in result.out
    assert (
        "kept the changed file as batch.edited.json before it wrote batch.json again. If the change was" in result.out
    )
    kept.unlink()
    assert wantui("library", "check", generated_batch.root).code == 0


def test_resuming_a_batch_with_an_edited_manifest_causes_a_warning(
    generated_batch: BatchFolder, wantui: Wantui
) -> None:
    assert "was changed after" not in wantui("run", "--resume", generated_batch.root).err
    generated_batch.manifest_path.write_text(
        generated_batch.manifest_path.read_text().replace('"created": "2', '"created": "3', 1)
    )
    result = wantui("run", "--resume", generated_batch.root)
    assert (
        f"warning: {generated_batch.manifest_path} was changed after wantui wrote it (its SHA-256 differs)"
        in result.err
    )
    assert result.code == 0


@pytest.mark.parametrize("words", [("library", "show"), ("sheet",), ("gallery",)])
def test_commands_that_show_a_batch_with_an_edited_manifest_say_so(
    generated_batch: BatchFolder, wantui: Wantui, words: tuple[str, ...]
) -> None:
    assert "was changed after" not in wantui(*words, generated_batch.root).err
    text = generated_batch.manifest_path.read_text()
    generated_batch.manifest_path.write_text(text.replace('"text": "red"', '"text": "blue"'))
    warning = f"warning: {generated_batch.manifest_path} was changed after wantui wrote it (its SHA-256 differs)"
    result = wantui(*words, generated_batch.root)
    assert (result.code, result.err.count(warning)) == (0, 1)


def test_analysis_of_a_batch_with_an_edited_manifest_causes_a_warning(
    generated_batch: BatchFolder, wantui: Wantui
) -> None:
    assert "was changed after" not in wantui("analyze", generated_batch.root).err
    assert open_batch(generated_batch.root).faults == ()
    text = generated_batch.manifest_path.read_text()
    generated_batch.manifest_path.write_text(text.replace('"text": "red"', '"text": "blue"'))
    warning = f"{generated_batch.manifest_path} was changed after wantui wrote it (its SHA-256 differs)"
    result = wantui("analyze", generated_batch.root)
    assert (result.code, result.err.count(warning)) == (0, 1)
    assert [warning in fault for fault in open_batch(generated_batch.root).faults] == [True]  # with an absolute path


def test_seed_that_differs_from_the_recipe_is_refused(generated_batch: BatchFolder, wantui: Wantui) -> None:
    document = json.loads(generated_batch.manifest_path.read_text())
    document["videos"][1]["seed"] = 7
    generated_batch.manifest_path.write_text(json.dumps(document))
    result = wantui("analyze", generated_batch.root)
    assert result.code == 2
    assert "videos[1].seed is 7, but its recipe has the seed 42" in result.err


def test_folder_without_a_batch_is_not_counted_as_damaged(
    generated_batch: BatchFolder, wantui: Wantui, tmp_path: Path
) -> None:
    (tmp_path / "notes" / "videos").mkdir(parents=True)
    missing = tmp_path / "missing"
    result = wantui("library", "check", tmp_path / "notes", generated_batch.root, missing)
    assert (result.code, result.out) == (2, "")
    assert "14 items checked, 0 damaged\n" in result.err
    assert f"cannot check {tmp_path / 'notes'}: it is not a batch folder: it has no batch.json. List the" in result.err
    assert f"cannot check {missing}: it does not exist. List the batches in a folder: wantui library ls" in result.err
    generated_batch.manifest_path.unlink()  # the lock file remains: this was a batch
    result = wantui("library", "check", generated_batch.root, missing)
    assert result.code == 1
    assert f"{generated_batch.root} is not a batch folder: it has no batch.json" in result.out
    assert "1 item checked, 1 damaged\n" in result.err


def test_preserved_journal_is_reported_until_it_is_removed(generated_batch: BatchFolder, wantui: Wantui) -> None:
    generated_batch.journal_path.write_text("{}\n")
    result = wantui("run", "--resume", generated_batch.root)
    assert f"warning: line 1 of {generated_batch.journal_path} is damaged" in result.err
    assert not generated_batch.journal_path.exists()
    (kept,) = generated_batch.list_preserved_files()
    assert "batch.journal.damaged.jsonl is a journal with unreadable lines" in (
        wantui("library", "check", generated_batch.root).out
    )
    kept.unlink()
    assert wantui("library", "check", generated_batch.root).code == 0


def swap(first: Path, second: Path) -> None:
    first.rename(first.with_suffix(".swapped"))
    second.rename(first)
    first.with_suffix(".swapped").rename(second)


def test_captures_of_another_video_are_refused_by_every_reader(generated_batch: BatchFolder, wantui: Wantui) -> None:
    for kind in (TRAJECTORY, ATTENTION, GUIDANCE_GAP):
        swap(generated_batch.make_capture_path(kind, 0, 1), generated_batch.make_capture_path(kind, 1, 1))
    checked = wantui("library", "check", generated_batch.root)
    assert (checked.code, len(checked.out.splitlines())) == (1, 6)
    for line in checked.out.splitlines():
        assert re.search(r"\.zarr belongs to another video \(prompt 'a .*' instead of 'a .*'\), or the manifest", line)
    videos = list(read_batch_videos(generated_batch.root))
    assert [video.is_damaged for video in videos] == [True, True]
    assert all("belongs to another video" in video.exclusion_reason for video in videos)
    for command in (["export"], ["decode"], ["analyze", "--attention"], ["attention", "--word", "circle"]):
        result = wantui(*command, generated_batch.root)
        assert result.code in (1, 2), command
        assert "belongs to another video" in result.err, command
    video = open_batch(generated_batch.root).videos[0]
    for read in (video.read_latents, video.draw_steps, video.open_attention):
        with pytest.raises(UserError, match="belongs to another video"):
            read()


CLIP_READERS = (
    ["sheet"],
    ["decode", "--fast"],
    ["similarity", "--baseline", "red", "--metrics", "psnr"],
    ["attention", "--word", "circle"],
)


def check_clip_is_refused(wantui: Wantui, generated_batch: BatchFolder, message: str) -> None:
    for command in CLIP_READERS:
        result = wantui(*command, generated_batch.root)
        assert result.code in (1, 2), command
        assert re.search(message, result.err), command
    video = open_batch(generated_batch.root).videos[0]
    for read in (video.read_frames, video.draw_steps):
        with pytest.raises(UserError, match=message):
            read()
    red = next(video for video in read_batch_videos(generated_batch.root) if video.variation == "red")
    with pytest.raises(UserError, match=message):
        find_clip_path(red)


@pytest.mark.parametrize("has_digests", [True, False], ids=["recorded digest", "earlier version"])
def test_clip_of_another_video_is_refused_by_every_reader(
    generated_batch: BatchFolder, wantui: Wantui, has_digests: bool
) -> None:  # R5
    shutil.copy(generated_batch.make_clip_path(1, 1), generated_batch.make_clip_path(0, 1))
    if not has_digests:
        remove_clip_digests(generated_batch)
    message = "belongs to another video .prompt 'a blue circle.*' instead of 'a red circle"
    check_clip_is_refused(wantui, generated_batch, message)
    (line,) = wantui("library", "check", generated_batch.root).out.splitlines()
    assert re.search(f"red seed 42: .*video_001.mp4 {message}", line)


def test_damaged_clip_that_can_be_decoded_is_refused_by_every_reader(
    generated_batch: BatchFolder, wantui: Wantui
) -> None:  # R5
    path = generated_batch.make_clip_path(0, 1)
    content = bytearray(path.read_bytes())
    content[content.index(b"mdat") + len(content[content.index(b"mdat") :]) // 2] ^= 1
    path.write_bytes(content)
    check_clip_is_refused(wantui, generated_batch, "is damaged or was changed: its SHA-256 differs")


def test_shortened_clip_of_an_earlier_version_is_refused(generated_batch: BatchFolder, wantui: Wantui) -> None:  # R5
    path = generated_batch.make_clip_path(0, 1)
    frames = list(read_frames(path))[:5]
    write_mp4(path, frames, 8, len(frames), {})
    remove_clip_digests(generated_batch)
    for command in (["sheet", "-o", "x.mp4"], ["similarity", "--baseline", "red", "--metrics", "psnr"]):
        result = wantui(*command, generated_batch.root)
        assert result.code in (1, 2), command
        assert "is damaged: it contains 5 frames instead of 9" in result.err, command


def remove_clip_digests(batch: BatchFolder) -> None:
    """Remove what versions before 0.2 did not record."""
    document = json.loads(batch.manifest_path.read_text())
    for video in document["videos"]:
        del video["sha256"]
    del document["checksum"]
    batch.manifest_path.write_text(json.dumps(document))


DENIED: dict[str, Callable[[BatchFolder], Path]] = {
    "videos": lambda b: b.make_clip_path(0, 1).parent,
    "captures": lambda b: b.make_trajectory_path(0, 1).parent,
    "capture": lambda b: b.make_trajectory_path(0, 1),
    "array": lambda b: b.make_trajectory_path(0, 1) / "latents",
    "chunks": lambda b: b.make_trajectory_path(0, 1) / "latents" / "c",
}


@pytest.mark.parametrize("denied", DENIED)
def test_inaccessible_folder_stops_neither_check_nor_export_nor_analysis(
    generated_batch: BatchFolder, wantui: Wantui, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    deny(monkeypatch, DENIED[denied](generated_batch))
    checked = json.loads(wantui("library", "check", generated_batch.root, "--json").out)
    assert len(checked) == 14
    damage = [item for item in checked if item["damage"]]
    assert {item["video"] for item in damage} == {"red seed 42"}
    assert all("Permission denied" in item["damage"] and item["is_unreadable"] for item in damage)
    result = wantui("library", "check", generated_batch.root)
    assert result.code == 1
    assert f"14 items checked, 0 damaged, {len(damage)} unreadable (their content was not checked)\n" in result.err
    exported = wantui("export", generated_batch.root, "--format", "npy", "-o", "out")
    assert len(exported.out.splitlines()) == (2 if denied == "videos" else 1)
    videos = list(read_batch_videos(generated_batch.root))
    assert [video.is_damaged for video in videos] == [denied != "videos", False]


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


FILES: dict[str, Callable[[BatchFolder], Path]] = {
    "manifest": lambda b: b.manifest_path,
    "journal": lambda b: write_text(b.journal_path, ""),
    "marks": lambda b: write_text(b.marks_path, "{}"),
    "config": lambda b: b.config_path,
    "variations": lambda b: b.variations_path,
    "clip": lambda b: b.make_clip_path(0, 1),
    "capture": lambda b: b.make_trajectory_path(0, 1) / "gram" / "c" / "0" / "0",
}


def refuse_reading(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Let the system refuse to open a file with an error number."""

    def guard(module: ModuleType) -> None:
        original = module.open

        def refuse(asked: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(asked, int) and Path(os.fsdecode(asked)) == path:
                raise OSError(number, os.strerror(number), os.fspath(asked))
            return original(asked, *arguments, **options)

        monkeypatch.setattr(module, "open", refuse)

    guard(os)
    guard(io)


IMPOSSIBLE_ARRAYS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "NaN": ("gram", lambda gram: gram * float("nan"), "NaN or infinity"),
    "truth values": ("gram", lambda gram: gram > 0, "the stored inner products are damaged: bool instead of floats"),
    "whole numbers": ("sigmas", lambda sigmas: sigmas.astype(int), "noise levels are damaged: int64 instead of floats"),
    "cut": ("gram", lambda gram: gram[:-1], "do not match"),
    "lower triangle": ("gram", lambda gram: np.tril(gram), "no set of states has these inner products"),
    "reversed levels": ("sigmas", lambda sigmas: sigmas[::-1], "noise levels are damaged: they must fall"),
}


def change_array_without_checksums(generated_batch: BatchFolder, name: str, change: Callable[[Any], Any]) -> None:
    """Replace an array of the first trajectory, and remove its checksums, as earlier versions had none."""
    group = zarr.open_group(generated_batch.make_trajectory_path(0, 1), mode="r+")
    del group.attrs["checksums"]
    group.create_array(name, data=change(group[name][:]), overwrite=True)


@pytest.mark.parametrize(("name", "change", "reason"), IMPOSSIBLE_ARRAYS.values(), ids=IMPOSSIBLE_ARRAYS)
def test_impossible_trajectory_of_an_earlier_version_counts_as_unreadable(
    generated_batch: BatchFolder, wantui: Wantui, name: str, change: Callable[[Any], Any], reason: str
) -> None:
    change_array_without_checksums(generated_batch, name, change)
    for command in (["analyze"], ["analyze", "--groups"]):
        result = wantui(*command, generated_batch.root)
        assert result.code == 1, command
        assert reason in result.err, command
    assert [video.is_damaged for video in read_batch_videos(generated_batch.root)] == [True, False]


FOREIGN_STATES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "whole numbers": ("latents", lambda latents: latents.astype(int), "latents are int64 instead of floating-point"),
    "texts": ("latents", lambda latents: latents.astype("U4"), "instead of floating-point numbers"),
    "missing step": ("steps", lambda steps: steps[:-1], "its array `steps` does not list its 4 stored states"),
    "negative step": ("steps", lambda steps: steps - 1, "its array `steps` must increase and stay between 0 and 3"),
    "later step": ("steps", lambda steps: steps + 1, "its array `steps` must increase and stay between 0 and 3"),
    "equal steps": ("steps", lambda steps: steps * 0 + 1, "its array `steps` must increase and stay between 0 and 3"),
    "fractions": ("steps", lambda steps: steps + 0.5, "its array `steps` does not list its 4 stored states"),
}


@pytest.mark.parametrize(("name", "change", "reason"), FOREIGN_STATES.values(), ids=FOREIGN_STATES)
def test_foreign_states_of_an_earlier_version_are_refused_by_every_reader(
    generated_batch: BatchFolder, wantui: Wantui, name: str, change: Callable[[Any], Any], reason: str
) -> None:
    change_array_without_checksums(generated_batch, name, change)
    for command in (["analyze", "--from-latents"], ["export", "--format", "npy", "-o", "out"]):
        result = wantui(*command, generated_batch.root)
        assert result.code == 1, command
        assert reason in result.err, command
    video = open_batch(generated_batch.root).videos[0]
    for read in (video.read_latents, video.draw_steps):
        with pytest.raises(UserError, match=re.escape(reason)):
            read()


@pytest.mark.parametrize("refused", FILES)
@pytest.mark.parametrize(("number", "is_unreadable"), [(errno.EACCES, True), (errno.ESTALE, True), (errno.EIO, False)])
def test_refused_file_is_unreadable_and_not_damaged(
    generated_batch: BatchFolder,
    wantui: Wantui,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
    number: int,
    is_unreadable: bool,
) -> None:
    refuse_reading(monkeypatch, FILES[refused](generated_batch), number)
    checked = json.loads(wantui("library", "check", generated_batch.root, "--json").out)
    damage = [item for item in checked if item["damage"]]
    assert len(damage) == 1
    assert os.strerror(number) in damage[0]["damage"]
    assert damage[0]["is_unreadable"] is is_unreadable


def test_library_reports_unlistable_folders(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    deny(monkeypatch, tmp_path / "closed")
    result = wantui("library", "ls", tmp_path / "closed")
    assert result.code == 1
    assert "closed cannot be read: Permission denied" in result.err
    above = wantui("library", "ls", tmp_path)
    assert above.code == 0  # a private batch of another user is no damage
    assert f"skipped 1 folder (permission denied): {tmp_path / 'closed'}" in above.err


def test_lack_of_threads_is_not_damage(generated_batch: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    import_zarr.cache_clear()
    monkeypatch.setattr(zarr_sync, "loop", [None])
    monkeypatch.setattr(zarr_sync, "iothread", [None])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        items = [item for item in check_batch(generated_batch.root) if item.damage]
    captures = [item for item in items if item.path.suffix == ".zarr"]
    assert len(captures) == 6
    assert all(item.is_unreadable and "cannot start a thread" in item.damage for item in captures)
    assert [item for item in check_batch(generated_batch.root) if item.damage] == []


@pytest.mark.parametrize("error", [av.error.BlockingIOError(errno.EAGAIN, "x"), MemoryError()])
def test_lack_of_resources_does_not_make_a_clip_unreadable(
    generated_batch: BatchFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(av, "open", fail)
    items = [item for item in check_batch(generated_batch.root) if item.damage]
    assert len(items) == 2
    for item in items:
        assert item.is_unreadable
        assert f"{item.path} cannot be read: " in item.damage
