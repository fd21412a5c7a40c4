"""Stars, rejections and notes of videos in marks.json, and how they are shown by commands."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clip_batches import write_clip_batch
from conftest import Wantui

from wantui.errors import UserError
from wantui.storage.batch_check import check_batch
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest
from wantui.storage.manifest_labels import make_column_labels, make_variation_labels
from wantui.storage.marks import MAX_NOTE_LENGTH, NO_MARK, VideoMark, edit_mark, read_marks
from wantui.storage.mp4 import ClipError, read_frames, read_middle_frame


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    return BatchFolder(tmp_path)


def test_marks_of_a_batch_without_file_are_empty(folder: BatchFolder) -> None:
    marks = read_marks(folder)
    assert (marks.marks_by_video, marks.faults, marks.get_mark("a")) == ({}, (), NO_MARK)


def test_edited_mark_is_read_back_and_other_fields_stay(folder: BatchFolder) -> None:
    edit_mark(folder, "a", star=True)
    edit_mark(folder, "b", reject=True)
    assert edit_mark(folder, "a", note="the best\none ★") == read_marks(folder)
    marks = read_marks(folder)
    assert marks.marks_by_video == {"a": VideoMark(star=True, note="the best\none ★"), "b": VideoMark(reject=True)}
    assert marks.count_stars() == 1


def test_empty_mark_is_removed_from_the_file(folder: BatchFolder) -> None:
    edit_mark(folder, "a", star=True)
    edit_mark(folder, "a", star=False)
    assert json.loads(folder.marks_path.read_text()) == {"format": 1, "videos": {}}


def test_fields_of_other_programs_are_kept(folder: BatchFolder) -> None:
    document = {"format": 1, "author": "ann", "videos": {"a": {"rating": 4}, "b": {"star": True, "tags": ["x"]}}}
    folder.marks_path.write_text(json.dumps(document))
    edit_mark(folder, "b", star=False)
    edit_mark(folder, "c", reject=True)
    document["videos"] = {"a": {"rating": 4}, "b": {"tags": ["x"]}, "c": {"reject": True}}
    assert json.loads(folder.marks_path.read_text()) == document


def test_concurrent_writers_do_not_lose_each_others_marks(folder: BatchFolder) -> None:
    names = [f"video {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: edit_mark(folder, name, star=True), names))
    assert sorted(read_marks(folder).marks_by_video) == sorted(names)
    assert not list(folder.root.glob("*.partial"))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b'{"videos": 3}', b'{"format": "x"}', b""])
def test_damaged_file_is_named_and_preserved(folder: BatchFolder, content: bytes) -> None:
    folder.marks_path.write_bytes(content)
    assert "marks.json" in read_marks(folder).faults[0]
    edit_mark(folder, "a", star=True)
    assert (folder.root / "marks.damaged.json").read_bytes() == content
    assert read_marks(folder).marks_by_video == {"a": VideoMark(star=True)}
    folder.marks_path.write_bytes(content)
    edit_mark(folder, "a", star=True)
    assert (folder.root / "marks.damaged-2.json").read_bytes() == content


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_file_that_the_system_refuses_to_read_is_left_alone(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    edit_mark(folder, "a", star=True)
    content, open_file = folder.marks_path.read_bytes(), os.open

    def refuse_marks(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path) == folder.marks_path:
            raise OSError(number, os.strerror(number))
        return open_file(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse_marks)
        with pytest.raises(
            UserError, match=rf"marks\.json cannot be read: {os.strerror(number)}\. Nothing was changed"
        ):
            edit_mark(folder, "b", star=True)
    assert folder.marks_path.read_bytes() == content
    assert not list(folder.root.glob("marks.damaged*"))
    edit_mark(folder, "b", star=True)
    assert sorted(read_marks(folder).marks_by_video) == ["a", "b"]


def test_damaged_entry_does_not_hide_the_others(folder: BatchFolder) -> None:
    folder.marks_path.write_text('{"videos": {"a": {"star": "yes"}, "b": {"star": true}, "c": 7}}')
    marks = read_marks(folder)
    assert marks.marks_by_video == {"b": VideoMark(star=True)}
    assert len(marks.faults) == 2
    assert "video a: star: Input should be a valid boolean" in marks.faults[0]
    edit_mark(folder, "d", reject=True)
    assert sorted(read_marks(folder).marks_by_video) == ["b", "d"]
    assert "yes" in (folder.root / "marks.damaged.json").read_text()


def test_file_of_a_later_version_is_not_changed(folder: BatchFolder) -> None:
    content = '{"format": 2, "videos": []}'
    folder.marks_path.write_text('{"format": 2, "videos": {}}')
    with pytest.raises(UserError, match="format 2, written by a later version"):
        edit_mark(folder, "a", star=True)
    assert folder.marks_path.read_text() == content.replace("[]", "{}")


def test_note_that_is_too_long_is_refused(folder: BatchFolder) -> None:
    with pytest.raises(UserError, match=f"note: String should have at most {MAX_NOTE_LENGTH} characters"):
        edit_mark(folder, "a", note="x" * (MAX_NOTE_LENGTH + 1))
    assert not folder.marks_path.exists()


def test_fifo_and_link_at_the_path_of_the_marks_are_replaced(folder: BatchFolder, tmp_path: Path) -> None:
    os.mkfifo(folder.marks_path)
    assert "not a regular file" in read_marks(folder).faults[0]
    edit_mark(folder, "a", star=True)
    assert read_marks(folder).get_mark("a").star
    target = tmp_path / "target"
    target.write_text("{}")
    folder.marks_path.unlink()
    folder.marks_path.symlink_to(target)
    edit_mark(folder, "b", star=True)
    assert target.read_text() == "{}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_is_named_with_advice(folder: BatchFolder) -> None:
    folder.root.chmod(0o500)
    with pytest.raises(UserError, match=r"marks\.json: Permission denied\. Ask its owner"):
        edit_mark(folder, "a", star=True)


@pytest.mark.slow
def test_library_show_prints_marks(wantui: Wantui, tmp_path: Path) -> None:
    manifest = write_clip_batch(tmp_path / "batch")
    assert "mark" not in wantui("library", "show", tmp_path / "batch").out.splitlines()[0].split()
    edit_mark(BatchFolder(tmp_path / "batch"), manifest.videos[1].id, star=True, note="the best")
    edit_mark(BatchFolder(tmp_path / "batch"), manifest.videos[2].id, reject=True)
    shown = json.loads(wantui("library", "show", tmp_path / "batch", "--json").out)
    assert [video["mark"] for video in shown["videos"][:3]] == [
        {"star": False, "reject": False, "note": ""},
        {"star": True, "reject": False, "note": "the best"},
        {"star": False, "reject": True, "note": ""},
    ]
    lines = wantui("library", "show", tmp_path / "batch").out.splitlines()
    assert "star: the best" in lines[2]
    assert "reject" in lines[3]


def test_library_show_and_check_name_damaged_marks(wantui: Wantui, tmp_path: Path) -> None:
    write_clip_batch(tmp_path / "batch", unfinished=(0, 1, 2, 3, 4, 5, 6, 7))
    (tmp_path / "batch" / "marks.json").write_text("{")
    result = wantui("library", "show", tmp_path / "batch")
    assert result.code == 1
    assert "marks.json cannot be read" in result.err
    assert any("marks.json" in item.damage for item in check_batch(tmp_path / "batch"))
    edit_mark(BatchFolder(tmp_path / "batch"), "a", star=True)
    damages = [item.damage for item in check_batch(tmp_path / "batch") if item.path.name == "marks.damaged.json"]
    assert len(damages) == 1
    assert "then remove it" in damages[0]


# What the matrix of the Library shares with sheets and the gallery


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_clip_batch(tmp_path / "batch", "a [red|red|blue] [circle|square]", unfinished=tuple(range(12)))


def test_variation_labels_name_differences_or_the_unique_id(manifest: Manifest) -> None:
    labels = [label.label for label in make_variation_labels(manifest, range(len(manifest.variations)))]
    assert labels[-2:] == ["blue, circle", "blue, square"]
    assert len(set(labels)) == len(labels)


def test_column_labels_are_seeds_unless_they_differ_in_a_column(manifest: Manifest) -> None:
    assert make_column_labels(manifest.videos) == ("seed 42", "seed 43")
    manifest.videos[0].seed = 7
    assert make_column_labels(manifest.videos) == ("video 1", "seed 43")


def test_middle_frame_equals_that_of_the_clip_or_its_last(tmp_path: Path) -> None:
    manifest = write_clip_batch(tmp_path / "batch", seeds=1)
    clip = tmp_path / "batch" / manifest.videos[0].files["clip"]
    frames = list(read_frames(clip))
    assert (read_middle_frame(clip, len(frames)) == frames[len(frames) // 2]).all()
    assert (read_middle_frame(clip, 1000) == frames[-1]).all()
    with pytest.raises(ClipError):
        read_middle_frame(tmp_path / "batch" / "batch.json", 9)
