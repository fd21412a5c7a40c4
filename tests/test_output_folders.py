"""Output folders that cannot be written, or are deleted, while a batch runs."""

import errno
import fcntl
import gc
import json
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui, batch, generate_queued_videos, only_queued
from unwritable_folders import freeze_folder, thaw_folder

from wantui.batches import batch_folders
from wantui.checksums import compute_file_sha256
from wantui.engine.supervisor import Supervisor
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.storage import log_files, manifest_file
from wantui.storage import manifest_store as record
from wantui.storage.disk_space import query_free_disk_bytes
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import MANIFEST_LOCK_FILE
from wantui.storage.log_files import close_log, open_log
from wantui.storage.manifest import Manifest, parse_manifest, read_manifest
from wantui.storage.mp4 import ClipWriter
from wantui.storage.output_errors import (
    UNWRITABLE_ERROR_NUMBERS,
    find_unwritable_folder,
    is_folder_deleted,
    probe_write_error,
)
from wantui.worker import finalize as ending
from wantui.worker import worker

pytestmark = pytest.mark.torch

Freeze = Callable[[Path], None]


@pytest.fixture
def freeze() -> Iterator[Freeze]:
    """Make a folder unwritable, even for root, until the test ends."""
    frozen: list[Path] = []

    def begin(folder: Path) -> None:
        freeze_folder(folder)
        frozen.append(folder)

    yield begin
    for folder in frozen:
        thaw_folder(folder)


def look_at_hold(queue: Queue) -> None:
    """Run an engine without workers: it looks at the hold and ends, as it can make nothing."""
    import logging

    Supervisor(queue, [], Path("logs"), logging.getLogger("engine"), ends_when_idle=True).run()


@pytest.mark.parametrize("below", ["", "videos/prompt_000"])
def test_unwritable_folder_holds_its_batch_until_writable(
    wantui: Wantui, small: list[str], freeze: Freeze, below: str
) -> None:  # R9
    with only_queued():
        folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 3, "--detach", *small))
    clips = folder.make_clip_path(0, 1).parent
    clips.mkdir(parents=True)
    freeze(folder.root / below)
    generate_queued_videos(find_state_directory())
    queue = Queue(find_state_directory().directory)
    (held_batch,) = queue.list_held_batches()
    assert held_batch.hold is not None
    assert (held_batch.hold.kind, held_batch.hold.folder) == ("folder", (folder.root / below).resolve())
    assert "cannot write the output folder" in held_batch.hold.reason
    assert [video.state for video in queue.list_videos(1)] == ["queued"] * 3
    look_at_hold(queue)
    assert queue.list_held_batches() == [held_batch]
    thaw_folder(folder.root / below)
    look_at_hold(queue)
    assert queue.list_held_batches() == []
    generate_queued_videos(find_state_directory())
    assert [video.state for video in read_manifest(folder).videos] == ["done"] * 3


@pytest.mark.parametrize("cause", ["folder", "disk"])
def test_batches_in_other_folders_continue_and_every_client_names_the_held_batch(
    wantui: Wantui, small: list[str], freeze: Freeze, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    with only_queued():
        held, other = (
            batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, "--detach", *small)) for _ in range(2)
        )
    if cause == "folder":
        freeze(held.root)
        reason = f"cannot write the output folder {held.root.resolve()}: "
    else:
        monkeypatch.setattr(
            worker,
            "query_free_disk_bytes",
            lambda folder: 0 if folder.name == held.root.name else query_free_disk_bytes(folder),
        )
        reason = f"not enough disk space in {held.root.resolve()} ("
    generate_queued_videos(find_state_directory())
    queue = Queue(find_state_directory().directory)
    assert [batch_row.counts for batch_row in queue.list_batches()] == [{"queued": 1}, {"done": 1}]
    assert {video.state for video in read_manifest(other).videos} == {"done"}
    assert queue.read_hold() is None
    listed = wantui("queue", "ls")
    assert f"held: batch 1 ({held.root.name}): {reason}" in listed.err
    assert "It resumes automatically once that is fixed" in listed.err
    assert "on hold" in listed.out
    (listed_json,) = json.loads(wantui("queue", "ls", "--json").out)["batches"]
    assert (listed_json["state"], listed_json["held"].startswith(reason)) == ("held", True)
    assert f"held: batch 1 ({held.root.name}): {reason}" in wantui("queue", "show", 1).err
    assert f"the batch is on hold: {reason}" in wantui("watch", 1).err
    assert f"held: batch 1 ({held.root.name}): {reason}" in wantui("engine", "status").out
    assert wantui("queue", "resume", 1).err.startswith("batch 1 resumed\n")
    assert queue.list_held_batches() == []


def test_deleting_an_unwritable_folder_ends_its_hold(tmp_path: Path) -> None:  # R9
    queue = Queue(tmp_path)
    number = queue.add_batch(tmp_path / "gone", "cpu", [NewVideo(0, "video", "{}", 4)])
    queue.hold_queue("folder", "cannot write", tmp_path / "gone")
    queue.hold_batch(number, "folder", "cannot write", tmp_path / "gone")
    look_at_hold(queue)
    assert (queue.read_hold(), queue.list_held_batches()) == (None, [])


def test_repeated_transient_error_fails_the_video(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # R9
    def encode(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ClipWriter, "_encode_frame", encode)
    result = wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)
    started = [event for event in Queue(find_state_directory().directory).list_events(0) if event.kind == "started"]
    assert (result.code, len(started)) == (1, 3)
    assert "Input/output error" in result.err


def test_briefly_inaccessible_folder_neither_ends_the_worker_nor_fails_the_video(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_queued():
        folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, "--detach", *small))
    real, refused = Path.stat, [folder.root.resolve()] * 2  # first for its log

    def stale(path: Path, **how: Any) -> os.stat_result:
        if path in refused:
            refused.remove(path)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, **how)

    monkeypatch.setattr(Path, "stat", stale)
    generate_queued_videos(find_state_directory())
    queue = Queue(find_state_directory().directory)
    assert [event.kind for event in queue.list_events(0) if event.kind in ("failed", "done")] == ["done"]
    assert not refused


def test_worker_caches_the_manifest_of_one_batch_only(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[record.ManifestStore] = weakref.WeakSet()
    most = 0

    class Counted(record.ManifestStore):
        def __init__(self, folder: BatchFolder) -> None:
            nonlocal most
            super().__init__(folder)
            alive.add(self)
            gc.collect()
            most = max(most, len(alive))

    with only_queued():
        for name in "abcd":
            wantui("run", "-t", "a star", "--videos-per-variation", 1, "--batch-name", name, "--detach", *small)
    monkeypatch.setattr(record, "ManifestStore", Counted)
    generate_queued_videos(find_state_directory())
    assert not any(result.unfinished_count for result in Queue(find_state_directory().directory).list_batches())
    assert most <= 3  # of the batch before, whose last video is being ended, too


def test_paused_claims_do_not_count_as_transient_errors(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_queued():
        wantui("run", "-t", "a star", "--videos-per-variation", 1, "--detach", *small)
    queue = Queue(find_state_directory().directory)
    for _ in range(5):
        claim = queue.claim_next_video("worker-0:7", ("auto", "cpu"))
        assert claim is not None
        queue.release_video(claim, "paused after 1 of 3 steps")
    real, errors = ClipWriter._encode_frame, [errno.EIO, errno.ESTALE]

    def encode(*arguments: Any) -> Any:
        if errors:
            raise OSError(number := errors.pop(), os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(ClipWriter, "_encode_frame", encode)
    generate_queued_videos(find_state_directory())
    assert [video.state for video in queue.list_videos(1)] == ["done"]


@pytest.mark.parametrize("moment", ["step", "decode", "record"])
def test_folder_deleted_during_generation_is_named_and_not_recreated(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:  # R9
    kind, name = {
        "step": (Queue, "record_step"),
        "decode": (ClipWriter, "_encode_frame"),
        "record": (record.ManifestStore, "edit_video_entry"),
    }[moment]
    real = getattr(kind, name)

    def deleting(*arguments: Any, **named: Any) -> Any:
        while Path("outputs").exists():  # another thread may put a file into a folder that is being emptied
            shutil.rmtree("outputs", ignore_errors=True)
        return real(*arguments, **named)

    monkeypatch.setattr(kind, name, deleting)
    result = wantui("run", "-t", "a star", "--videos-per-variation", 2, "--store-latents", *small)
    assert result.code == 1
    assert "Traceback" not in result.err
    assert result.err.count("was deleted") >= 2
    assert "--resume outputs" not in result.err  # it was deleted
    assert not Path("outputs").exists()


def test_folder_errors_are_distinguished_from_file_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/weights/transformer")
    assert find_unwritable_folder(tmp_path, elsewhere) is None
    assert find_unwritable_folder(tmp_path, OSError(errno.ENOSPC, "No space left on device")) is None
    for number in UNWRITABLE_ERROR_NUMBERS:

        def refuse(number: int = number, **_: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", refuse)
            assert find_unwritable_folder(tmp_path, OSError(number, "")) == (tmp_path, os.strerror(number))


def test_inaccessible_folder_is_not_treated_as_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(_: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "lstat", stale)
    assert not is_folder_deleted(Path("outputs"))


def test_full_disk_does_not_count_as_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe_write_error(tmp_path) is None

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert probe_write_error(tmp_path) is None


def test_resume_of_an_unwritable_folder_is_refused_before_queueing(
    wantui: Wantui, small: list[str], freeze: Freeze
) -> None:  # R4
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    folder.make_clip_path(0, 1).unlink()
    (folder.root / ".lock").unlink()
    freeze(folder.root)
    result = wantui("run", "--resume", folder.root)
    assert result.code == 2
    assert "cannot write the batch folder" in result.err
    assert not Queue(find_state_directory().directory).list_batches()[0].unfinished_count
    assert BatchFolder(folder.root).manifest_path.exists()


@pytest.mark.parametrize("stamped", ["true", "false"])
@pytest.mark.parametrize("below", ["", "deeper/down"])
def test_output_folder_below_a_dangling_link_is_refused(
    wantui: Wantui, small: list[str], below: str, stamped: str
) -> None:  # B3
    Path("link").symlink_to("nowhere")
    where = Path("link") / below
    result = wantui("run", "-t", "a star", *small, "--output-dir", where, "--set", f"use_timestamp={stamped}")
    assert result.code == 2
    assert "link is neither a folder nor a link to a folder" in result.err
    assert not Path("nowhere").exists()
    assert wantui("preview", "-t", "a star", *small, "--output-dir", where).code == 2


def test_batch_name_of_a_dangling_link_is_refused(wantui: Wantui, small: list[str]) -> None:  # B3
    Path("outputs").mkdir()
    Path("outputs/mine").symlink_to("nowhere")
    result = wantui("run", "-t", "a star", *small, "--batch-name", "mine", "--set", "use_timestamp=false")
    assert (result.code, "mine exists already" in result.err) == (2, True)


def test_run_reports_an_error_if_100_folder_names_are_claimed(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # B3
    Path("outputs/taken").mkdir(parents=True)
    monkeypatch.setattr(batch_folders, "choose_batch_folder", lambda *_: BatchFolder(Path("outputs/taken")))
    result = wantui("run", "-t", "a star", *small)
    assert (result.code, "100 names in a row were taken" in result.err) == (2, True)


def test_closing_many_videos_reads_the_manifest_once(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_queued():
        folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 8, "--detach", *small))
    parsed: list[BatchFolder] = []

    def counted_parse(folder: BatchFolder) -> Manifest:
        parsed.append(folder)
        return parse_manifest(folder)

    monkeypatch.setattr(manifest_file, "parse_manifest", counted_parse)

    def fail(*_: object) -> None:
        raise ValueError("no frames\udcff")

    monkeypatch.setattr(ClipWriter, "_encode_frame", fail)
    generate_queued_videos(find_state_directory())
    count = len(parsed)
    assert read_manifest(folder).count_states() == {"failed": 8}
    assert all("no frames\\udcff" in str(video.error) for video in read_manifest(folder).videos)
    assert count == 1


def test_checksums_are_computed_without_the_manifest_lock(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def look_at_lock(path: Path) -> str:
        with (Path(path).parents[2] / MANIFEST_LOCK_FILE).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody has it
        hashed.append(path)
        return compute_file_sha256(path)

    monkeypatch.setattr(ending, "compute_file_sha256", look_at_lock)
    with only_queued():
        folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, "--detach", *small))
    generate_queued_videos(find_state_directory())
    assert read_manifest(folder).count_states() == {"done": 1}
    assert len(hashed) == 2


def test_working_folder_with_a_non_utf8_name_is_refused(
    wantui: Wantui, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))
    odd.mkdir()
    monkeypatch.chdir(odd)
    with only_queued():
        result = wantui("run", "-t", "a star", "--detach", *small)
    assert result.code == 2
    assert "a\\udcff/outputs: its name is not UTF-8. Choose another output_dir" in result.err
    assert list(odd.iterdir()) == []


def test_run_names_a_deleted_manifest_and_the_state_of_its_videos(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = record.ManifestStore.edit_video_entry

    def deleting(self: record.ManifestStore, *arguments: Any) -> None:
        self.folder.manifest_path.unlink(missing_ok=True)
        real(self, *arguments)

    monkeypatch.setattr(record.ManifestStore, "edit_video_entry", deleting)
    result = wantui("run", "-t", "a star", "--videos-per-variation", 2, *small)
    assert result.code == 1
    assert "0 of 2 videos done, 2 failed:" in result.err
    assert "is not a batch folder: it has no batch.json" in result.err.splitlines()[-1]


def test_log_on_a_full_disk_is_closed_without_an_error() -> None:  # R9
    log = open_log("full disk", Path("/dev/full"))
    (handler,) = log.handlers
    assert isinstance(handler, RotatingFileHandler)
    log.info("nothing takes this line")
    close_log(log)
    assert handler.stream is None
    assert log.handlers == []


def test_run_leaves_no_batch_folder_when_queue_disk_is_full(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(Queue, "add_batch", full)
    result = wantui("run", "-t", "a star", *small)
    assert result.code == 3
    assert "cannot use the queue: database or disk is full. Free disk space" in result.err
    assert list(Path("outputs").iterdir()) == []


def test_log_line_with_a_non_utf8_path_is_written_escaped() -> None:
    log = open_log("odd path", Path("odd.log"))
    log.warning("cannot write %s", Path("/data/\udcff"))
    close_log(log)
    assert Path("odd.log").read_text().endswith("WARNING cannot write /data/\\udcff\n")


def test_removed_log_is_written_again() -> None:
    log = open_log("removed", Path("batch.log"))
    log.info("before")
    Path("batch.log").unlink()
    log.info("after")
    log.info("and later")
    close_log(log)
    assert [line.partition("INFO")[2].strip() for line in Path("batch.log").read_text().splitlines()] == [
        "after",
        "and later",
    ]


def test_log_whose_folder_is_removed_is_no_error() -> None:
    Path("logs").mkdir()
    log = open_log("removed folder", Path("logs/batch.log"))
    shutil.rmtree("logs")
    log.info("lost")
    close_log(log)
    assert not Path("logs").exists()


def test_log_of_several_processes_is_rotated_once_for_each_full_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_LOG_MEGABYTES", 0.01)
    logs = [open_log(f"writer {number}", Path("batch.log")) for number in range(5)]  # each has a stream of its own
    texts = [f"{number:03d} {'x' * 100}" for number in range(200)]  # 27 kB in all
    for number, text in enumerate(texts):
        logs[number % len(logs)].info(text)
    for log in logs:
        close_log(log)
    paths = [Path("batch.log.2"), Path("batch.log.1"), Path("batch.log")]
    assert sorted(Path().glob("batch.log*")) == sorted(paths)
    assert [line.partition("INFO")[2].strip() for path in paths for line in path.read_text().splitlines()] == texts
    assert min(path.stat().st_size for path in paths[:2]) > 9_800
