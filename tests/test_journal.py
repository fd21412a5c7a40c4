"""The journal of a manifest, after a crash at any point and with several writers."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import fsync

from wantui.config import load_config
from wantui.json_files import InaccessibleFileError
from wantui.planning import plan_batch
from wantui.storage import batch_index, manifest_file, manifest_store
from wantui.storage.batch_check import check_batch
from wantui.storage.batch_index import find_batches
from wantui.storage.journal import (
    MAX_DESCRIBED_FAULTS,
    JournalLine,
    JournalTail,
    append_journal_lines,
    encode_journal_line,
    read_journal_tail,
)
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import lock_manifest
from wantui.storage.manifest import (
    Manifest,
    VideoEntry,
    parse_manifest,
    read_manifest,
    write_batch_files,
    write_manifest,
)
from wantui.storage.manifest_file import ManifestFile
from wantui.storage.manifest_store import ManifestStore

VIDEOS = 24


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    result = BatchFolder(tmp_path / "b")
    result.root.mkdir()
    settings = ["use_timestamp=false", f"videos_per_variation={VIDEOS}", "model_settings.steps=3"]
    write_batch_files(result, plan_batch(load_config("nano", settings), "a star"))
    return result


def done(entry: VideoEntry) -> None:
    entry.state, entry.seconds, entry.bytes = "done", {"denoise": 1.5}, 1234


def states(folder: BatchFolder) -> list[str]:
    return [video.state for video in read_manifest(folder).videos]


def expected(count: int) -> list[str]:
    return ["done"] * count + ["queued"] * (VIDEOS - count)


def finish(folder: BatchFolder, numbers: range) -> ManifestStore:
    record = ManifestStore(folder)
    for number in numbers:
        record.edit_video_entry(number, done)
    return record


def test_finished_video_appends_a_journal_line_without_rewriting_the_manifest(folder: BatchFolder) -> None:  # R16
    before = folder.manifest_path.read_bytes()
    record = finish(folder, range(5))
    assert folder.manifest_path.read_bytes() == before
    assert len(folder.journal_path.read_bytes().splitlines()) == 5
    assert states(folder) == expected(5)
    assert [video.state for video in record.read_manifest().videos] == expected(5)
    assert read_manifest(folder).videos[4].seconds == {"denoise": 1.5}


def test_journal_is_folded_when_the_batch_ends(folder: BatchFolder) -> None:  # R16
    finish(folder, range(VIDEOS))
    assert not folder.journal_path.exists()
    assert [video["state"] for video in json.loads(folder.manifest_path.read_text())["videos"]] == expected(VIDEOS)


def test_manifest_of_a_rerun_batch_is_not_rewritten_for_each_video(folder: BatchFolder) -> None:
    record = finish(folder, range(VIDEOS))
    before = folder.manifest_path.read_bytes()
    for number in range(5):
        record.edit_video_entry(number, lambda entry: setattr(entry, "bytes", 99))
    assert folder.manifest_path.read_bytes() == before
    assert read_manifest(folder).videos[4].bytes == 99


def test_change_without_effect_writes_nothing(folder: BatchFolder) -> None:
    before = folder.manifest_path.read_bytes()
    ManifestStore(folder).edit_video_entry(0, lambda entry: None)
    assert not folder.journal_path.exists()
    assert folder.manifest_path.read_bytes() == before


def test_bytes_written_grow_linearly_with_the_videos(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:  # R16
    written: list[int] = []

    def count_manifest(*arguments: Any) -> int:
        written.append(write_manifest(*arguments))
        return written[-1]

    def count_lines(path: Path, end: int, lines: list[bytes]) -> int:
        written.append(sum(map(len, lines)))
        return append_journal_lines(path, end, lines)

    monkeypatch.setattr(manifest_file, "write_manifest", count_manifest)
    monkeypatch.setattr(manifest_file, "append_journal_lines", count_lines)
    size = folder.manifest_path.stat().st_size
    finish(folder, range(VIDEOS))
    assert sum(written) < 3 * size  # rewriting it for each video would be 24 times its size


@pytest.mark.slow
def test_journal_never_exceeds_the_manifest_size(folder: BatchFolder) -> None:
    record = ManifestStore(folder)
    for turn in range(200):
        record.edit_video_entry(turn % 3, lambda entry, turn=turn: setattr(entry, "bytes", turn + 1))  # type: ignore[misc]
        if folder.journal_path.exists():
            assert folder.journal_path.stat().st_size <= folder.manifest_path.stat().st_size
    assert [video.bytes for video in read_manifest(folder).videos[:3]] == [199, 200, 198]


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_torn_last_line_is_ignored_and_removed_by_the_fold(folder: BatchFolder, cut: int) -> None:  # R16
    finish(folder, range(3))
    folder.journal_path.write_bytes(folder.journal_path.read_bytes()[:-cut])
    assert states(folder) == expected(2)
    assert read_manifest(folder).faults == ()
    finish(folder, range(3, 4))
    assert states(folder) == ["done", "done", "queued", "done"] + ["queued"] * (VIDEOS - 4)
    assert not folder.journal_path.exists()


@pytest.mark.parametrize("damage", ["zeros", "zeros at the end", "newline", "bytes", "text"])
def test_damaged_end_of_a_journal_is_reported_and_preserved(folder: BatchFolder, damage: str) -> None:
    finish(folder, range(3))
    whole = folder.journal_path.read_bytes()
    end_of_second = whole.rstrip(b"\n").rindex(b"\n") + 1
    content, intact = {
        "zeros": (bytes(len(whole)), 0),
        "zeros at the end": (whole[:end_of_second] + bytes(len(whole) - end_of_second), 2),
        "newline": (whole[:-1] + b"J", 2),
        "bytes": (whole[:end_of_second] + b"\xe9" * 40, 2),
        "text": (whole[:end_of_second] + b"overwritten", 2),
    }[damage]
    folder.journal_path.write_bytes(content)
    manifest = read_manifest(folder)
    assert [video.state for video in manifest.videos] == expected(intact)
    (fault,) = manifest.faults
    zero_bytes = " (zero bytes)" if damage.startswith("zeros") else ""
    size = len(whole) if damage == "zeros" else len(content) - end_of_second
    assert (
        fault == f"the last {size} bytes of {folder.journal_path} are damaged: they are not a complete line{zero_bytes}"
    )
    (summary,) = find_batches([folder.root])
    assert summary.fault == fault
    assert fault in [item.damage for item in check_batch(folder.root)]
    finish(folder, range(5, 6))
    assert damaged_journals(folder) == {"batch.journal.damaged.jsonl": content}
    assert states(folder)[5] == "done"


@pytest.mark.parametrize("damage", ["bit", "zeros", "no JSON", "of another video", "no video", "odd state", "outside"])
def test_damaged_journal_line_is_reported_and_others_are_read(folder: BatchFolder, damage: str) -> None:  # R16
    finish(folder, range(4))
    lines = folder.journal_path.read_bytes().splitlines(keepends=True)
    result = json.loads(lines[1])
    if damage == "bit":
        lines[1] = lines[1].replace(b'"done"', b'"dnne"')
    elif damage == "zeros":
        lines[1] = bytes(len(lines[1]) - 1) + b"\n"
    elif damage == "no JSON":
        lines[1] = b"{\n"
    else:
        from wantui.storage.journal import JournalLine, encode_journal_line

        entry = result["entry"] | {"odd state": {"state": "ready"}, "outside": {"files": {"clip": "../x"}}}.get(
            damage, {}
        )
        video = 99 if damage == "no video" else 1
        name = "0" * 12 if damage == "of another video" else result["id"]
        lines[1] = encode_journal_line(result["journal"], JournalLine(video, name, entry))
    folder.journal_path.write_bytes(b"".join(lines))
    manifest = read_manifest(folder)
    assert [video.state for video in manifest.videos[:4]] == ["done", "queued", "done", "done"]
    (fault,) = manifest.faults
    assert "line 2 of " in fault
    finish(folder, range(4, 5))
    assert damaged_journals(folder) == {"batch.journal.damaged.jsonl": b"".join(lines)}
    assert not folder.journal_path.exists()
    assert read_manifest(folder).faults == ()


def test_library_ignores_journal_lines_with_a_wrong_id(folder: BatchFolder) -> None:
    manifest = read_manifest(folder)
    line = JournalLine(1, manifest.videos[0].id, {**manifest.videos[0].collect_outcome(), "state": "done"})
    folder.journal_path.write_bytes(encode_journal_line(manifest.journal, line))
    assert set(states(folder)) == {"queued"}
    (result,) = find_batches([folder.root])
    assert dict(result.counts_by_state) == {"queued": len(manifest.videos)}
    assert "line 1 of " in result.fault


INVALID = {
    "seconds": "a while",
    "files": {"clip": "../../elsewhere.mp4"},
    "odd": 1,
    "bytes": "many",
    "memory_plan": 7,
}


@pytest.mark.parametrize("field", [*INVALID, "no object"])
def test_library_ignores_journal_lines_with_invalid_fields(folder: BatchFolder, field: str) -> None:
    manifest = read_manifest(folder)
    entry = {**manifest.videos[1].collect_outcome(), "state": "done"}
    entry |= {field: INVALID.get(field)}
    line = JournalLine(1, manifest.videos[1].id, [entry] if field == "no object" else entry)  # type: ignore[arg-type]
    folder.journal_path.write_bytes(encode_journal_line(manifest.journal, line))
    assert set(states(folder)) == {"queued"}
    (result,) = find_batches([folder.root])
    assert dict(result.counts_by_state) == {"queued": VIDEOS}
    assert "line 1 of " in result.fault
    assert any(f"line 1 of {folder.journal_path} is damaged" in item.damage for item in check_batch(folder.root))


def test_restored_earlier_manifest_does_not_lose_journal_lines_silently(folder: BatchFolder) -> None:
    finish(folder, range(1))
    earlier = folder.manifest_path.read_bytes()
    writer = ManifestFile(folder)
    writer.read_manifest()
    writer.fold_journal()
    finish(folder, range(1, 3))
    lines = folder.journal_path.read_bytes()
    folder.manifest_path.write_bytes(earlier)
    (fault,) = read_manifest(folder).faults
    assert f"line 1 of {folder.journal_path} updates another batch.json" in fault
    ManifestStore(folder).fold_journal_when_reopened()
    assert damaged_journals(folder) == {"batch.journal.damaged.jsonl": lines}


def test_folded_journal_is_recognised_despite_newer_entries(folder: BatchFolder) -> None:
    record = ManifestStore(folder)
    record.edit_video_entry(0, lambda entry: setattr(entry, "bytes", 1))
    before = folder.journal_path.read_bytes()
    writer = ManifestFile(folder)
    writer.read_manifest().videos[0].bytes = 2
    writer.fold_journal()
    folder.journal_path.write_bytes(before)  # as where a crash kept it from being removed
    assert read_manifest(folder).faults == ()
    assert read_manifest(folder).videos[0].bytes == 2
    ManifestStore(folder).fold_journal_when_reopened()
    assert damaged_journals(folder) == {}
    assert not folder.journal_path.exists()


def damaged_journals(folder: BatchFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.root.glob("batch.journal.damaged*")}


def flip_a_byte(folder: BatchFolder) -> bytes:
    """Damage the first line of the journal; returns its bytes."""
    damaged = bytearray(folder.journal_path.read_bytes())
    damaged[40] ^= 1
    folder.journal_path.write_bytes(damaged)
    return bytes(damaged)


def test_damaged_journal_is_preserved_once(folder: BatchFolder) -> None:
    finish(folder, range(1))
    damaged = flip_a_byte(folder)
    record = ManifestStore(folder)
    record.fold_journal_when_reopened()
    for number in (0, *range(2, VIDEOS), 1):  # the last one ends the batch, and folds once more
        record.edit_video_entry(number, done)
    assert damaged_journals(folder) == {"batch.journal.damaged.jsonl": damaged}
    assert not folder.journal_path.exists()
    assert states(folder) == expected(VIDEOS)


def test_second_damaged_journal_does_not_replace_the_first(folder: BatchFolder) -> None:
    damaged = []
    for number in (0, 1):
        ManifestStore(folder).edit_video_entry(number, done)
        damaged.append(flip_a_byte(folder))
        ManifestStore(folder).fold_journal_when_reopened()
    assert damaged_journals(folder) == {
        "batch.journal.damaged.jsonl": damaged[0],
        "batch.journal.damaged-2.jsonl": damaged[1],
    }


def test_fold_succeeds_if_the_damaged_journal_is_gone(folder: BatchFolder) -> None:
    finish(folder, range(2))
    flip_a_byte(folder)
    writer = ManifestFile(folder)
    assert writer.read_manifest().faults
    folder.journal_path.unlink()
    writer.fold_journal()
    assert states(folder) == ["queued", "done"] + ["queued"] * (VIDEOS - 2)
    assert damaged_journals(folder) == {}


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "device"])
def test_journal_path_that_is_not_a_regular_file_neither_blocks_nor_is_followed(
    folder: BatchFolder, kind: str
) -> None:  # R10
    victim = folder.root / "victim"
    victim.write_text("before")
    if kind == "fifo":
        os.mkfifo(folder.journal_path)
    elif kind == "folder":
        folder.journal_path.mkdir()
    else:
        folder.journal_path.symlink_to(victim if kind == "link" else "/dev/zero")
    finish(folder, range(2))
    assert states(folder) == expected(2)
    assert victim.read_text() == "before"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("cancelled", [range(3, 4), range(VIDEOS)])
def test_journal_that_the_system_refuses_to_read_is_neither_ignored_nor_replaced(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch, number: int, cancelled: range
) -> None:
    finish(folder, range(3))
    store, content, original = ManifestStore(folder), folder.journal_path.read_bytes(), os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if Path(os.fsdecode(path)) == folder.journal_path and not flags & os.O_WRONLY:
            raise OSError(number, os.strerror(number), os.fspath(path))
        return original(path, flags, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        (fault,) = store.read_manifest().faults
        assert fault == f"{folder.journal_path} cannot be read: {os.strerror(number)}"
        store.fold_journal_when_reopened()
        with pytest.raises(OSError, match=r"batch\.journal\.jsonl") as caught:
            store.end_videos(cancelled, "cancelled")
        assert caught.value.errno == number
    assert folder.journal_path.read_bytes() == content
    assert not damaged_journals(folder)
    assert [video.state for video in store.read_manifest().videos] == expected(3)
    store.edit_video_entry(3, done)
    assert states(folder) == expected(4)


def test_full_disk_leaves_the_journal_unchanged(folder: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    record = finish(folder, range(2))
    before = folder.journal_path.read_bytes()
    write = os.write

    def half(descriptor: int, content: bytes) -> int:
        if len(content) < 200:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[:100])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            record.edit_video_entry(2, done)
    assert folder.journal_path.read_bytes() == before
    assert states(folder) == expected(2)
    record.edit_video_entry(2, done)
    assert states(folder) == expected(3)


def test_changes_of_another_process_are_read_incrementally(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = finish(folder, range(1))
    parsed: list[BatchFolder] = []

    def counted_parse(folder: BatchFolder) -> Manifest:
        parsed.append(folder)
        return parse_manifest(folder)

    monkeypatch.setattr(manifest_file, "parse_manifest", counted_parse)
    other = ManifestStore(folder)
    for number in range(1, 6):
        other.edit_video_entry(number, done)
        assert [video.state for video in mine.read_manifest().videos] == expected(number + 1)
    assert len(parsed) == 1  # by the other one


def test_fold_between_two_reads_is_noticed(folder: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(folder, range(4))
    folds = iter([True])

    def read_slowly(path: Path, *arguments: object) -> object:
        if next(folds, False):  # after the manifest was read, and before its journal is
            writer = ManifestFile(folder)
            writer.read_manifest()
            writer.fold_journal()
        return read_journal_tail(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(manifest_file, "read_journal_tail", read_slowly)
    assert states(folder) == expected(4)


def _work(root: Path, numbers: range) -> None:
    for number in numbers:
        ManifestStore(BatchFolder(root)).edit_video_entry(number, done)


@pytest.mark.processes
def test_several_processes_append_and_fold_without_losing_a_line(folder: BatchFolder) -> None:
    workers = [multiprocessing.Process(target=_work, args=(folder.root, range(k, VIDEOS - 1, 3))) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert states(folder) == expected(VIDEOS - 1)


@pytest.fixture
def _waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fsync)


WRITING = {"write", "fsync", "replace", "rename", "unlink", "open", "ftruncate", "close"}
"""Calls of the kernel before each of which a process may be killed."""


def finish_and_be_killed(folder: BatchFolder, numbers: list[int], point: int) -> tuple[int, int]:
    """Finish videos in a child that kills itself before its `point`-th call; returns its status and its reports."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        calls = 0

        def before_call(frame: object, event: str, called: object) -> None:
            nonlocal calls
            if event == "c_call" and getattr(called, "__name__", "") in WRITING:
                calls += 1
                if calls == point:
                    os.kill(os.getpid(), signal.SIGKILL)

        record = ManifestStore(folder)
        record.read_manifest()
        sys.setprofile(before_call)
        for number in numbers:
            record.edit_video_entry(number, done)
            os.write(sending, b"x")
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as file:
        reported = len(file.read())
    _, status = os.waitpid(child, 0)
    return status, reported


@pytest.mark.processes
@pytest.mark.usefixtures("_waits_for_the_disk")
@pytest.mark.parametrize("kind", ["append", "fold"])
def test_process_killed_at_any_system_call_loses_no_reported_change(folder: BatchFolder, kind: str) -> None:  # R16
    already = 4 if kind == "append" else VIDEOS - 1  # the last video ends the batch
    finish(folder, range(already))
    for point in range(1, 200):
        clone = BatchFolder(folder.root.with_name(f"clone-{point}"))
        shutil.copytree(folder.root, clone.root)
        numbers = list(range(already, min(already + 2, VIDEOS)))
        status, reported = finish_and_be_killed(clone, numbers, point)
        result, known = states(clone), already + reported
        assert result in (expected(known), expected(min(known + 1, VIDEOS))), f"killed before call {point}"
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        # Whoever continues finds a folder that can be written, and finishes the batch.
        finish(clone, range(known, VIDEOS)).fold_journal_when_reopened()
        assert states(clone) == expected(VIDEOS)
        assert not clone.journal_path.exists()
        assert not list(clone.root.glob("*.partial"))
    assert 10 < point < 199


def test_journal_left_by_a_crash_after_folding_is_recognised_as_old(folder: BatchFolder) -> None:
    finish(folder, range(4))
    old = folder.journal_path.read_bytes()
    ManifestStore(folder).edit_video_entry(1, lambda entry: setattr(entry, "state", "failed"))
    writer = ManifestFile(folder)
    writer.read_manifest()
    writer.fold_journal()
    folder.journal_path.write_bytes(old)
    assert states(folder)[:4] == ["done", "failed", "done", "done"]
    ManifestStore(folder).edit_video_entry(2, lambda entry: setattr(entry, "state", "failed"))
    assert states(folder)[:4] == ["done", "failed", "failed", "done"]
    assert read_manifest(folder).faults == ()


def test_reopened_batch_has_its_journal_folded(folder: BatchFolder) -> None:  # R16
    finish(folder, range(VIDEOS - 2))
    assert folder.journal_path.exists()
    ManifestStore(folder).fold_journal_when_reopened()
    assert not folder.journal_path.exists()
    assert [video["state"] for video in json.loads(folder.manifest_path.read_text())["videos"]] == expected(VIDEOS - 2)


@pytest.mark.parametrize("video", ["Infinity", "1e999", "null", '"0"', "1.5", "[]"])
def test_journal_line_without_a_valid_video_number_is_damaged(tmp_path: Path, video: str) -> None:  # R12
    content = {"journal": "a", "video": 0, "id": "b", "entry": {}}
    line = encode_journal_line("a", JournalLine(0, "b", {})).replace(b'"video":0', f'"video":{video}'.encode())
    assert content.keys() <= json.loads(line).keys()
    path = tmp_path / "batch.journal.jsonl"
    path.write_bytes(line)
    tail = read_journal_tail(path, "a")
    assert tail.lines == ()
    assert "number of a video" in tail.faults[0]


def test_damaged_lines_beyond_the_limit_are_counted(tmp_path: Path) -> None:  # R16
    path = tmp_path / "batch.journal.jsonl"
    path.write_bytes(b"\n" * 5000)
    faults = read_journal_tail(path, "a").faults
    assert len(faults) == MAX_DESCRIBED_FAULTS + 1
    assert "contains 4,990 more damaged lines" in faults[-1]


def test_line_numbers_include_damaged_lines_that_are_not_described(folder: BatchFolder) -> None:
    manifest_file = ManifestFile(folder)
    manifest_file.read_manifest()
    folder.journal_path.write_bytes(b"damaged\n" * 25)
    manifest_file.read_manifest()
    with folder.journal_path.open("ab") as journal:
        journal.write(b"also damaged\n")
    assert f"line 26 of {folder.journal_path} is damaged" in manifest_file.read_manifest().faults[-1]


def test_line_numbers_in_the_library_include_damaged_lines_that_are_not_described(folder: BatchFolder) -> None:
    folder.journal_path.write_bytes(b"damaged\n" * 25)
    find_batches([folder.root])
    with folder.journal_path.open("ab") as journal:
        journal.write(b"also damaged\n")
    (result,) = find_batches([folder.root])
    assert result.fault.split("; ")[-1].startswith(f"line 26 of {folder.journal_path} is damaged")


@pytest.mark.parametrize("is_listed_before", [False, True])
def test_listing_counts_videos_while_another_process_folds_the_journal(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch, is_listed_before: bool
) -> None:
    store = ManifestStore(folder)
    for index in range(8):
        store.edit_video_entry(index, done)
    if is_listed_before:
        find_batches([folder.root])
    store.edit_video_entry(8, done)

    def fold_and_append_before_reading(*arguments: Any) -> JournalTail:
        monkeypatch.undo()
        with lock_manifest(folder.root):
            store._manifest_file.read_manifest()
            store._manifest_file.fold_journal()
        for index in range(9, VIDEOS - 1):
            store.edit_video_entry(index, done)
        return read_journal_tail(*arguments)

    monkeypatch.setattr(batch_index, "read_journal_tail", fold_and_append_before_reading)
    (result,) = find_batches([folder.root])
    assert result.fault == ""
    assert dict(result.counts_by_state) == {"done": VIDEOS - 1, "queued": 1}


@pytest.mark.parametrize("name", ["read_json_object", "read_journal_tail"])
def test_batch_that_could_not_be_read_for_a_moment_is_listed_again(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ManifestStore(folder).edit_video_entry(0, done)

    def lack_descriptors(path: Path, *_: Any) -> Any:
        error = InaccessibleFileError(f"{path} cannot be read: Too many open files")
        raise error from OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(batch_index, name, lack_descriptors)
    (result,) = find_batches([folder.root])
    assert result.fault.endswith("cannot be read: Too many open files")
    monkeypatch.undo()
    (result,) = find_batches([folder.root])
    assert (result.fault, result.count_videos("done")) == ("", 1)


@pytest.mark.processes
def test_video_is_unlocked_if_its_temporary_files_cannot_be_removed(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(manifest_store, "remove_temporary_files", refuse)
    with pytest.raises(PermissionError):
        ManifestStore(folder).end_videos([0], "cancelled")
    code = "import sys; from pathlib import Path; from wantui.storage.locks import *\n"
    code += "print(try_lock_video(Path(sys.argv[1]), 0))"
    result = subprocess.run([sys.executable, "-c", code, str(folder.root)], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"


def test_error_with_a_non_utf8_path_is_stored_escaped(folder: BatchFolder) -> None:
    error = "FileNotFoundError: 'a\udcff.zarr'\nline 2"
    record = ManifestStore(folder)
    record.record_failures([0], error)
    record.end_videos([1], "failed", error)
    for manifest in (record.read_manifest(), read_manifest(folder)):
        assert manifest.faults == ()
        assert [video.error for video in manifest.videos[:3]] == [
            "FileNotFoundError: 'a\\udcff.zarr'\nline 2",
            "FileNotFoundError: 'a\\udcff.zarr'\nline 2",
            None,
        ]
    record.record_failures(list(range(2, VIDEOS)), error)  # the batch ends, and its manifest is written
    assert not folder.journal_path.exists()
    assert read_manifest(folder).count_states() == {"failed": VIDEOS}


def test_cancelled_video_removes_a_planted_link_but_not_its_target(folder: BatchFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    names = ("latents/prompt_000/vid_001.zarr.partial", "videos/prompt_000/video_001.checkpoint")
    for name in names:
        (folder.root / name).parent.mkdir(parents=True)
        (folder.root / name).symlink_to(outside)
    ManifestStore(folder).end_videos([0], "failed", "x")
    assert not [name for name in names if os.path.lexists(folder.root / name)]
    assert (outside / "kept").read_text() == "kept"
    assert read_manifest(folder).videos[0].state == "failed"
