"""batch.json after edits by users, other versions and faults: errors name what is wrong."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui, only_queued, replace_by_fifo, replace_by_folder, replace_by_link

from wantui import __version__
from wantui.atomic_files import write_text_atomically
from wantui.batches.batch_folders import create_batch_folder
from wantui.batches.enqueue import find_missing_videos
from wantui.checksums import compute_document_checksum
from wantui.config import load_config
from wantui.json_files import UnreadableFileError, read_json_object
from wantui.planning import plan_batch
from wantui.storage import batch_index as library
from wantui.storage.batch_index import find_batches
from wantui.storage.journal import JournalTail, read_journal_tail
from wantui.storage.layout import BatchFolder, choose_batch_folder
from wantui.storage.log_files import close_log, open_log
from wantui.storage.manifest import MANIFEST_FORMAT, Manifest, read_manifest, write_manifest
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.manifest_store import ManifestStore

STORED = Path(__file__).parent / "data" / "batch-1.json"
Document = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    """A batch of four videos that an earlier version left: one done, one failed, two to be made."""
    (tmp_path / "b").mkdir()
    shutil.copy(STORED, tmp_path / "b" / "batch.json")
    return BatchFolder(tmp_path / "b")


def edit(folder: BatchFolder, change: Callable[[Document], object]) -> None:
    """Edit a manifest by hand."""
    document = json.loads(folder.manifest_path.read_text())
    change(document)
    folder.manifest_path.write_text(json.dumps(document))


def test_format_1_manifest_is_read_and_migrated_on_write(folder: BatchFolder) -> None:
    manifest = read_manifest(folder)
    assert manifest.count_states() == {"done": 1, "failed": 1, "queued": 2}
    assert manifest.videos[0].files["clip"] == "videos/prompt_000/video_001.mp4"
    assert manifest.videos[0].memory_plan == "resident"
    assert len(find_missing_videos(folder, manifest)) == 4  # its clip is not here
    assert folder.manifest_path.read_text() == STORED.read_text()
    ManifestStore(folder).record_failures([2], "no room")
    document = json.loads(folder.manifest_path.read_text())
    assert (document["format"], document["wantui"]) == (MANIFEST_FORMAT, __version__)
    assert read_manifest(folder).count_states() == {"done": 1, "failed": 2, "queued": 1}


@pytest.mark.parametrize(
    ("stored", "speed"), [("batch-1.json", "fused"), ("batch-2.json", "cached"), ("batch-4.json", "fused")]
)
def test_recipes_of_stored_manifests_keep_their_digests(folder: BatchFolder, stored: str, speed: str) -> None:
    shutil.copy(STORED.parent / stored, folder.manifest_path)
    manifest = read_manifest(folder)
    assert {video.recipe.speed for video in manifest.videos} == {speed}
    assert [video.recipe.digest[:12] for video in manifest.videos] == [video.id for video in manifest.videos]
    write_manifest(folder, manifest)
    again = read_manifest(folder)
    assert [video.recipe for video in again.videos] == [video.recipe for video in manifest.videos]
    assert [video.recipe.digest[:12] for video in again.videos] == [video.id for video in manifest.videos]


def test_format_4_manifest_keeps_its_sweep_cells_and_checksum(folder: BatchFolder) -> None:
    stored = json.loads((STORED.parent / "batch-4.json").read_text())
    folder.manifest_path.write_text(json.dumps(stored))
    assert compute_document_checksum(stored) == stored["checksum"]
    manifest = read_manifest(folder)
    assert [manifest.make_video_title(video) for video in manifest.videos] == [
        f"{variation} seed 7, {cell}"
        for variation in ("red", "blue")
        for cell in ("baseline", "cfg_scale 1, steps 2", "cfg_scale 6, steps 3")
    ]
    scales = {video.cell: (video.recipe.guidance_scale, video.recipe.steps) for video in manifest.videos}
    assert scales == {0: (4.0, 3), 1: (1.0, 2), 2: (6.0, 3)}
    assert {manifest.find_cell_folder(video) in video.files["clip"] for video in manifest.videos} == {True}
    write_manifest(folder, manifest)
    assert json.loads(folder.manifest_path.read_text()) == stored | {"wantui": __version__}


def test_journal_lines_extend_a_format_2_manifest(folder: BatchFolder) -> None:
    shutil.copy(STORED.parent / "batch-2.json", folder.manifest_path)
    before = folder.manifest_path.read_bytes()
    ManifestStore(folder).record_failures([0], "no room")
    assert folder.manifest_path.read_bytes() == before
    manifest = read_manifest(folder)
    assert (manifest.count_states(), manifest.faults) == ({"failed": 1, "queued": 1}, ())


def test_manifest_of_a_later_format_is_refused_naming_its_version(folder: BatchFolder) -> None:  # C3
    edit(folder, lambda document: document.update(format=5, wantui="9.1", journal="x"))
    with pytest.raises(ManifestError) as raised:
        read_manifest(folder)
    assert "was written by wantui 9.1 with format 5" in str(raised.value)
    assert f"wantui {__version__} reads 1, 2, 3, 4. Update wantui" in str(raised.value)


def test_manifest_format_that_is_text_is_refused(folder: BatchFolder) -> None:  # C3
    edit(folder, lambda document: document.update(format="1"))
    with pytest.raises(ManifestError, match="its format is '1'; it must be a number"):
        read_manifest(folder)


def test_unknown_manifest_field_error_names_the_writing_version(folder: BatchFolder) -> None:  # C3
    def add(document: Document) -> None:
        document.update(format=2, wantui="9.1")
        document["videos"][1]["rating"] = 5

    edit(folder, add)
    with pytest.raises(ManifestError) as raised:
        read_manifest(folder)
    assert "videos[1].rating is not a field of this version" in str(raised.value)
    assert f"(it was written by wantui 9.1; this is {__version__})" in str(raised.value)


def put(path: str, value: Any) -> Callable[[Document], None]:
    """Return an edit of one place of a document, such as videos.0.seed."""

    def change(document: Any) -> None:
        *parents, last = path.split(".")
        for part in parents:
            document = document[int(part) if part.isdecimal() else part]
        document[int(last) if last.isdecimal() else last] = value

    return change


EDITS: dict[str, tuple[Callable[[Document], None], str]] = {
    "variation 99": (put("videos.0.variation", 99), "videos[0].variation is 99, but the batch has 2 variations"),
    "variation -1": (put("videos.0.variation", -1), "videos[0].variation: Input should be greater"),
    "no variations": (put("variations", []), "videos[0].variation is 0, but the batch has 0 variations"),
    "no videos": (put("videos", []), "videos: List should have at least 1 item"),
    "config without model_settings": (put("config", {}), "config has no model_settings"),
    "model_settings a list": (put("config.model_settings", []), "config has no model_settings"),
    "memory_settings a list": (put("config.memory_settings", [1]), "config.memory_settings is not a section"),
    "two of one number": (put("videos.1.number", 1), "videos[0] and videos[1] have the same variation and number"),
    "number 0": (put("videos.0.number", 0), "videos[0].number: "),
    "number of many digits": (put("videos.0.number", 10**300), "videos[0].number: "),
    "long file name": (put("videos.0.files.clip", "videos/" + "x" * 256), "videos[0].files.clip is not a path inside"),
    "long path": (put("videos.0.files.clip", "x/" * 3000), "videos[0].files.clip is not a path inside"),
    "file outside": (put("videos.0.files.clip", "../../secret.mp4"), "videos[0].files.clip is not a path inside"),
    "file outside, hidden": (put("videos.0.files.clip", "videos/../../x"), "videos[0].files.clip is not a path inside"),
    "absolute file": (put("videos.0.files.clip", "/etc/passwd"), "videos[0].files.clip is not a path inside"),
    "the folder itself": (put("videos.0.files.latents", "."), "videos[0].files.latents is not a path inside"),
    "file with NUL": (put("videos.0.files.clip", "a\0b"), "videos[0].files.clip is not a path inside"),
    "choice without bracket": (
        put("variations.0.choices.0", {"text": "red"}),
        "variations[0].choices contains a choice",
    ),
    "choice of a number": (put("variations.0.choices.0.text", 3), "variations[0].choices contains a choice"),
    "unknown state": (put("videos.0.state", "ready"), "videos[0].state: Input should be "),
    "seed 2^70": (put("videos.0.recipe.seed", 2**70), "videos[0].recipe.seed: "),
    "steps 0": (put("videos.0.recipe.steps", 0), "videos[0].recipe.steps: "),
    "recipe of a later format": (
        put("videos.0.recipe.format", 3),
        "videos[0].recipe: it has format 3; this version reads",
    ),
    "recipe of text": (put("videos.0.recipe", "x"), "videos[0].recipe: "),
    "deep config": (put("config.deep", json.loads("[" * 250 + "]" * 250)), "recursion limit exceeded"),
}


@pytest.mark.parametrize("name", EDITS)
def test_invalid_manifest_is_refused_naming_the_field(folder: BatchFolder, wantui: Wantui, name: str) -> None:
    change, message = EDITS[name]  # F19, B7
    edit(folder, change)
    with pytest.raises(ManifestError) as raised:
        read_manifest(folder)
    assert message in str(raised.value)
    for arguments in (("library", "show"), ("analyze",), ("export",), ("run", "--detach", "--resume"), ("slurm",)):
        result = wantui(*arguments, folder.root)
        assert result.code == 2, (arguments, result)
        assert message in result.err or arguments == ("slurm",)
    listed = wantui("library", "ls", folder.root.parent, "--json")
    assert json.loads(listed.out)[0]["folder"] == str(folder.root)


CONTENTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_text("{"),
    "not UTF-8": lambda path: path.write_bytes(b'{"format": "\xff"}'),
    "deep": lambda path: path.write_text("[" * 200_000),
    "deep objects": lambda path: path.write_text('{"a":' * 200_000),
    "many digits": lambda path: path.write_text('{"format": ' + "1" * 5000 + "}"),
    "a list": lambda path: path.write_text("[1]"),
    "a FIFO": replace_by_fifo,
    "a device": lambda path: replace_by_link(path, "/dev/zero"),
    "a folder": replace_by_folder,
    "a sparse file of 3 GB": lambda path: os.truncate(path, 3 << 30),
    "a loop": lambda path: replace_by_link(path, path),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_invalid_manifest_does_not_hide_other_batches(folder: BatchFolder, wantui: Wantui, content: str) -> None:
    other = folder.root.with_name("other")  # R10, F17: hangs, 6 GB, RecursionError
    shutil.copytree(folder.root, other)
    CONTENTS[content](folder.manifest_path)
    with pytest.raises(ManifestError):
        read_manifest(folder)
    result = {batch.folder.name: batch for batch in find_batches([folder.root.parent])}
    assert result["other"].video_count == 4
    assert not result["other"].fault
    if content != "a loop":  # which no look finds
        assert result["b"].fault
    listed = wantui("library", "ls", folder.root.parent)
    assert "other" in listed.out
    assert listed.code == (0 if content == "a loop" else 1)  # B8
    assert wantui("library", "show", folder.root).code == 2


def test_listing_reads_states_from_the_journal_too(folder: BatchFolder) -> None:
    record = ManifestStore(folder)
    record.record_failures([2], "first")  # writes the manifest in format 2
    record.edit_video_entry(0, lambda entry: setattr(entry, "error", "looked at"))
    record.edit_video_entry(1, lambda entry: setattr(entry, "state", "queued"))
    assert folder.journal_path.exists()
    (result,) = find_batches([folder.root])
    assert dict(result.counts_by_state) == read_manifest(folder).count_states() == {"done": 1, "queued": 2, "failed": 1}


def test_manifest_that_cannot_be_read_back_is_not_written(folder: BatchFolder) -> None:
    from wantui.storage import manifest

    result: Manifest = read_manifest(folder)
    before = folder.manifest_path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "MAX_MANIFEST_BYTES", 100)
        with pytest.raises(ManifestError, match="Queue smaller batches"):
            manifest.write_manifest(folder, result)
    assert folder.manifest_path.read_bytes() == before


NAMES = {
    "a red star": "a_red_star",
    "_x-1_": "x-1",
    "../../etc": "etc",
    "圆 红": "圆_红",
    "Étoile (1.5)": "Étoile_1_5",
    "हिन्दी": "हिन्दी",
    "دائرة\u202e": "دائرة",
    "...": "batch",
    "": "batch",
    "e\u0301": "é",
}


@pytest.mark.parametrize("name", NAMES)
def test_batch_folder_names_keep_letters_of_any_script(tmp_path: Path, name: str) -> None:  # C7
    assert choose_batch_folder(tmp_path, name, None).root == tmp_path / NAMES[name]


@pytest.mark.parametrize("name", ["x" * 500, "圆" * 300, "e\u0301\u0302" * 200])
def test_long_batch_name_is_truncated_between_characters(tmp_path: Path, name: str) -> None:  # C7
    folder = choose_batch_folder(tmp_path, name, datetime(2026, 1, 2)).root
    assert 150 < len(folder.name.encode()) <= 255
    folder.mkdir()
    assert choose_batch_folder(tmp_path, name, datetime(2026, 1, 2)).root.name == f"{folder.name}_2"


@pytest.mark.parametrize("permissions", ["umask", "private"])
def test_private_batch_folder_is_inaccessible_to_others(tmp_path: Path, permissions: str) -> None:  # R15
    before = os.umask(0o022)
    try:
        settings = [f"output_dir={tmp_path}", f"output_permissions={permissions}", "use_timestamp=false"]
        folder, _ = create_batch_folder(plan_batch(load_config("nano", [*settings, "batch_name=a"]), "a star"))
        (tmp_path / "b").mkdir()
        existing, _ = create_batch_folder(plan_batch(load_config("nano", [*settings, "batch_name=b"]), "a star"))
    finally:
        os.umask(before)
    for one in (folder, existing):
        assert one.root.stat().st_mode & 0o777 == (0o755 if permissions == "umask" else 0o700)


def test_planted_link_at_a_log_path_is_not_followed(tmp_path: Path) -> None:  # R10
    victim = tmp_path / "victim"
    victim.write_text("before")
    (tmp_path / "batch.log").symlink_to(victim)
    (tmp_path / "note.txt.partial").symlink_to(victim)
    os.mkfifo(tmp_path / "fifo.log")
    for name in ("batch", "fifo"):
        log = open_log(f"planted-{name}", tmp_path / f"{name}.log")
        log.info("hello")
        close_log(log)
        assert "hello" in (tmp_path / f"{name}.log").read_text()
    write_text_atomically(tmp_path / "note.txt", "new")
    assert victim.read_text() == "before"
    assert (tmp_path / "note.txt").read_text() == "new"


def test_listing_reports_a_damaged_journal_line_beside_the_counts(folder: BatchFolder, wantui: Wantui) -> None:
    record = ManifestStore(folder)
    record.record_failures([2], "first")  # writes the manifest in format 2
    record.edit_video_entry(0, lambda entry: setattr(entry, "bytes", 9))
    with folder.journal_path.open("ab") as file:
        file.write(b"{}\n")
    (result,) = find_batches([folder.root])
    assert result.video_count == 4
    assert "line 2 of " in result.fault
    listed = wantui("library", "ls", folder.root)
    assert listed.code == 1
    assert "1/4" in listed.out
    assert "line 2 of " in listed.err


def test_listing_reads_only_the_new_lines_of_a_journal(folder: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []

    def read(path: Path, journal: str, start: int, number: int) -> JournalTail:
        starts.append(start)
        return read_journal_tail(path, journal, start, number)

    monkeypatch.setattr(library, "read_journal_tail", read)
    record = ManifestStore(folder)
    record.record_failures([2], "first")
    sizes = [0]
    for number in (0, 1):
        record.edit_video_entry(number, lambda entry: setattr(entry, "state", "cancelled"))
        (result,) = find_batches([folder.root])
        assert dict(result.counts_by_state) == read_manifest(folder).count_states()
        sizes.append(folder.journal_path.stat().st_size)
    assert starts == sizes[:-1]


def test_resuming_a_batch_folds_its_journal(folder: BatchFolder, wantui: Wantui) -> None:
    record = ManifestStore(folder)
    record.record_failures([2], "first")  # writes the manifest in format 2
    record.edit_video_entry(2, lambda entry: setattr(entry, "error", "torn"))
    with folder.journal_path.open("ab") as file:
        file.write(b"{")
    with only_queued():
        result = wantui("run", "--detach", "--resume", folder.root)
    assert result.code == 0, result.err
    assert not folder.journal_path.exists()
    assert read_manifest(folder).videos[2].error == "torn"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_manifest_saved_by_an_editor_with_a_byte_order_mark_is_read_or_refused_by_name(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "batch.json"
    path.write_text('{"name": "rote Kreise ●"}', encoding=encoding)
    if encoding == "utf-8-sig":
        assert read_json_object(path) == {"name": "rote Kreise ●"}
    else:
        with pytest.raises(UnreadableFileError, match=r"cannot be read: it is UTF-16\. Save it as UTF-8"):
            read_json_object(path)
