"""Folders of new batches whose command ended before it queued the batch."""

import errno
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Wantui, only_queued
from signalled_command import run_until

from wantui.batches.batch_folders import create_batch_folder
from wantui.batches.enqueue import enqueue_batch, find_missing_videos
from wantui.config import load_config
from wantui.engine.queue_opening import open_queue
from wantui.planning import plan_batch
from wantui.queue import new_folders
from wantui.queue.new_folders import RECORDS_FOLDER, record_new_folder
from wantui.queue.state_dir import StateDirectory, find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest
from wantui.storage.manifest_store import ManifestStore


def create_and_interrupt(state_dir: StateDirectory) -> tuple[BatchFolder, Manifest]:
    """Create a batch folder in a block that a signal ends before the batch is queued."""
    with suppress(KeyboardInterrupt), record_new_folder(state_dir.directory) as record:
        created = create_batch_folder(plan_batch(load_config("nano"), "a [red|blue] star"), record)
        assert read_notes(state_dir) == []  # its command is running
        raise KeyboardInterrupt
    return created


def read_notes(state_dir: StateDirectory) -> list[str]:
    queue, notes = open_queue(state_dir)
    queue.close()
    return notes


def has_records(state_dir: StateDirectory) -> bool:
    return any((state_dir.directory / RECORDS_FOLDER).iterdir())


def test_unqueued_folder_is_reported_until_it_is_queued() -> None:
    state_dir = find_state_directory()
    folder, manifest = create_and_interrupt(state_dir)
    root = folder.root.resolve()
    for _ in range(2):
        assert read_notes(state_dir) == [
            f"{root} was never queued: the command that created it was interrupted. Queue it: wantui run --resume "
            f"{root}; "
            f"or remove it: wantui library trash {root}"
        ]
    with open_queue(state_dir)[0] as queue:
        enqueue_batch(queue, folder, manifest, "cpu", find_missing_videos(folder, manifest), is_new=False)
    assert read_notes(state_dir) == []
    assert not has_records(state_dir)


@pytest.mark.parametrize("change", ["deleted", "generated"])
def test_unqueued_folder_is_not_reported_if_nothing_is_left_to_queue(change: str) -> None:
    state_dir = find_state_directory()
    folder, manifest = create_and_interrupt(state_dir)
    if change == "deleted":
        shutil.rmtree(folder.root)
    else:  # by another queue
        ManifestStore(folder).end_videos(range(len(manifest.videos)), "cancelled")
    assert read_notes(state_dir) == []
    assert not has_records(state_dir)


def test_unqueued_folder_with_a_damaged_manifest_is_reported() -> None:
    state_dir = find_state_directory()
    folder, _ = create_and_interrupt(state_dir)
    folder.manifest_path.write_text("{")
    assert "was never queued" in read_notes(state_dir)[0]


def test_refused_batch_leaves_no_record(wantui: Wantui) -> None:
    assert wantui("run", "-t", "a star", "--set", "model_settings.model_id=/nonexistent").code == 2
    assert not has_records(find_state_directory())


def test_queued_batch_leaves_no_record(wantui: Wantui) -> None:
    with only_queued():
        assert wantui("run", "-t", "a star", "--detach").code == 0
    assert not has_records(find_state_directory())


def test_run_creates_no_folder_if_it_cannot_be_recorded(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = find_state_directory().directory
    with monkeypatch.context() as patch:
        patch.setattr(new_folders, "RECORDS_FOLDER", "queue.db")
        result = wantui("run", "-t", "a star", "--detach")
    assert (result.code, result.out) == (2, "")
    assert f"cannot use {directory / 'queue.db'}: it is not a folder. Remove it, and try again" in result.err

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    result = wantui("run", "-t", "a star", "--detach")
    assert result.code == 2
    assert ".json: No space left on device. Free disk space, or make the folder writable" in result.err
    assert not Path("outputs").exists()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("event", "name", "report"),
    [
        (
            "open",
            "outputs/new/.lock",
            "is an incomplete batch folder: the command that created it was interrupted. Remove",
        ),
        ("open", "prompt_template.txt.partial", "is an incomplete batch folder"),
        (
            "import",
            "wantui.batches.batch_cost",
            "was never queued: the command that created it was interrupted. Queue it: ",
        ),
    ],
)
def test_folder_of_a_killed_run_is_reported_by_the_next_command(
    wantui: Wantui, event: str, name: str, report: str
) -> None:
    assert run_until(signal.SIGKILL, event, name).returncode == -signal.SIGKILL
    result = wantui("queue", "ls")
    assert result.code == 0
    assert f"warning: {Path('outputs/new').resolve()} {report}" in result.err
