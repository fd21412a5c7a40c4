"""Locks in a batch folder, between processes and between users of a shared folder, and the files that remain."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from wantui.errors import UserError
from wantui.storage import locks
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import (
    MANIFEST_LOCK_FILE,
    VIDEO_LOCK_FILE,
    can_lock_files,
    lock_by_file,
    lock_manifest,
    try_lock_video,
    unlock_video,
)
from wantui.storage.write_checks import check_batch_writable, reject_unwritable_batch

TRY = """
import sys
from pathlib import Path
from wantui.storage.locks import try_lock_video
print(try_lock_video(Path(sys.argv[1]), int(sys.argv[2])))
"""


def other_process_locks(folder: Path, number: int) -> bool:
    """Whether another process gets the lock of a video."""
    output = subprocess.run(
        [sys.executable, "-c", TRY, folder, str(number)], capture_output=True, text=True, check=True
    )
    return output.stdout == "True\n"


def descriptors(root: Path) -> int:
    """Return the number of this process's descriptors of files in a folder, those that were deleted too."""
    result = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was that of the listing
            result += str(link.readlink()).startswith(str(root))
    return result


@pytest.mark.processes
def test_video_lock_excludes_other_processes_until_unlocked(tmp_path: Path) -> None:
    assert try_lock_video(tmp_path, 0)
    assert try_lock_video(tmp_path, 1)
    assert not other_process_locks(tmp_path, 0)
    unlock_video(tmp_path, 1)  # must not drop the lock of the other
    assert not other_process_locks(tmp_path, 0)
    assert other_process_locks(tmp_path, 1)
    unlock_video(tmp_path, 0)
    assert other_process_locks(tmp_path, 0)


@pytest.mark.processes
def test_video_lock_survives_checks_and_access_by_another_path(tmp_path: Path) -> None:
    folder, other = tmp_path / "batch", tmp_path / "link"
    folder.mkdir()
    other.symlink_to(folder)
    assert try_lock_video(folder, 0)
    check_batch_writable(BatchFolder(folder))
    assert try_lock_video(other, 1)
    unlock_video(other, 1)
    with lock_manifest(folder):
        pass
    assert not other_process_locks(folder, 0)
    unlock_video(folder, 0)


def test_unlocked_folder_has_no_open_descriptor(tmp_path: Path) -> None:  # B4
    before = descriptors(tmp_path)
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert try_lock_video(folder, 0)
        with lock_manifest(folder):
            pass
        unlock_video(folder, 0)
        unlock_video(folder, 0)
        check_batch_writable(BatchFolder(folder))
    assert descriptors(tmp_path) == before


def test_deleted_folder_with_a_lock_has_no_open_descriptor(tmp_path: Path) -> None:  # B4
    before = descriptors(tmp_path)
    for _ in range(5):
        folder = tmp_path / "batch"
        folder.mkdir()
        assert try_lock_video(folder, 0)
        shutil.rmtree(folder)
        unlock_video(folder, 0)
    folder.mkdir()
    assert try_lock_video(folder, 0)
    unlock_video(folder, 0)
    assert descriptors(tmp_path) == before


@pytest.mark.processes
def test_lock_is_released_after_its_file_was_deleted(tmp_path: Path) -> None:
    before = descriptors(tmp_path)
    assert try_lock_video(tmp_path, 0)
    (tmp_path / VIDEO_LOCK_FILE).rename(tmp_path / "kept")
    unlock_video(tmp_path, 0)
    (tmp_path / "kept").rename(tmp_path / VIDEO_LOCK_FILE)
    assert other_process_locks(tmp_path, 0)
    assert descriptors(tmp_path) == before


def test_stale_lock_file_does_not_affect_other_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, other = tmp_path / "stale", tmp_path / "other"
    stale.mkdir()
    other.mkdir()
    assert try_lock_video(stale, 0)
    unreachable = (stale / VIDEO_LOCK_FILE).stat().st_ino
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        result = real(descriptor)
        if result.st_ino == unreachable:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return result

    monkeypatch.setattr(os, "fstat", fstat)
    assert try_lock_video(other, 0)
    unlock_video(other, 0)
    unlock_video(stale, 0)


@pytest.mark.parametrize("name", [MANIFEST_LOCK_FILE, VIDEO_LOCK_FILE])
def test_planted_link_at_a_lock_path_is_not_followed(tmp_path: Path, name: str) -> None:  # R10
    folder, victim = tmp_path / "batch", tmp_path / "victim"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        check_batch_writable(BatchFolder(folder))
    assert not victim.exists()


@pytest.mark.parametrize("max_seconds", [float("inf"), 20])
def test_lock_whose_file_was_replaced_while_waiting_excludes_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_seconds: float
) -> None:
    path, real_flock = tmp_path / "lock", fcntl.flock
    locked_inodes: list[int] = []

    def replace_before_locking(descriptor: int, operation: int) -> None:
        if not locked_inodes:
            path.unlink()
            path.touch()
        real_flock(descriptor, operation)
        locked_inodes.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(fcntl, "flock", replace_before_locking)
    with lock_by_file(path, max_seconds):
        assert locked_inodes[-1] == path.stat().st_ino
    assert descriptors(tmp_path) == 0


def test_replaced_lock_file_does_not_extend_the_maximum_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seconds, replaced_inodes = tmp_path / "lock", 0.0, set[int]()

    def replace_file(descriptor: int, _: int) -> None:
        inode = os.fstat(descriptor).st_ino
        if len(replaced_inodes) < 3 and inode not in replaced_inodes:
            replaced_inodes.add(inode)
            path.rename(tmp_path / f"lock{inode}")  # so that no other file gets its inode
            path.touch()
        raise BlockingIOError

    def sleep(duration: float) -> None:
        nonlocal seconds
        seconds += duration

    monkeypatch.setattr(fcntl, "flock", replace_file)
    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=lambda: seconds, sleep=sleep))
    with lock_by_file(path, 1):
        assert len(replaced_inodes) == 3
        assert seconds < 1.1


def test_lock_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / VIDEO_LOCK_FILE)
    with pytest.raises(UserError, match="it is not a regular file"):
        reject_unwritable_batch(BatchFolder(tmp_path))


def test_only_unsupported_lock_errors_count_as_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: int) -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "lockf", refuse)

    answer(errno.ENOLCK)
    assert try_lock_video(tmp_path, 0)
    answer(errno.EAGAIN)
    assert not try_lock_video(tmp_path, 0)
    answer(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        try_lock_video(tmp_path, 0)


def test_checking_lock_support_leaves_no_files(tmp_path: Path) -> None:  # C15
    assert can_lock_files(Path.cwd())
    assert list(Path.cwd().iterdir()) == []


@pytest.fixture
def group_folder() -> Iterator[Path]:
    """A folder that its group shares, below folders that everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="wantui-group-"))
    os.chown(folder, 0, 50)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


SECOND = """
import os, sys
from pathlib import Path
from wantui.storage.locks import lock_manifest, try_lock_video
from wantui.storage.write_checks import reject_unwritable_batch
from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
os.setgroups([50])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
os.umask(0o002)
folder = Path(sys.argv[1])
try:
    reject_unwritable_batch(BatchFolder(folder))
    with lock_manifest(folder):
        print(try_lock_video(folder, 0), try_lock_video(folder, 1))
except UserError as error:
    print(error)
"""


def as_second_user(folder: Path) -> str:
    """Return the error that another user of the group gets, or which of the first two videos it locks."""
    result = subprocess.run([sys.executable, "-c", SECOND, folder], capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


SECOND_USER = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@pytest.mark.processes
@SECOND_USER
def test_second_user_of_a_group_folder_can_lock_other_videos(group_folder: Path) -> None:  # R4
    before = os.umask(0o002)
    try:
        assert try_lock_video(group_folder, 0)
        with lock_manifest(group_folder):
            pass
        assert {
            stat.S_IMODE((group_folder / name).stat().st_mode) for name in (MANIFEST_LOCK_FILE, VIDEO_LOCK_FILE)
        } == {0o664}
        assert as_second_user(group_folder) == "False True\n"
    finally:
        os.umask(before)
        unlock_video(group_folder, 0)


@pytest.mark.processes
@SECOND_USER
def test_inaccessible_lock_file_is_reported_before_anything_is_generated(group_folder: Path) -> None:  # R4
    (group_folder / VIDEO_LOCK_FILE).touch(0o600)
    output = as_second_user(group_folder)
    assert output.startswith(
        f"cannot write the batch folder {group_folder}: {group_folder / VIDEO_LOCK_FILE}: Permission denied"
    )
    assert "chmod -R g+rwX" in output


@pytest.mark.processes
@SECOND_USER
def test_lock_files_of_earlier_versions_become_group_writable(group_folder: Path) -> None:  # R4
    for name in (MANIFEST_LOCK_FILE, VIDEO_LOCK_FILE):
        (group_folder / name).touch(0o600)
    check_batch_writable(BatchFolder(group_folder))
    assert as_second_user(group_folder) == "True True\n"
