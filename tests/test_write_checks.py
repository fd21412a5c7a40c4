"""Batch folders and result files that cannot be written: they are refused early, with the reason and advice."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import send2trash

from wantui.errors import UserError
from wantui.storage import locks
from wantui.storage.batch_index import move_to_trash
from wantui.storage.layout import BatchFolder
from wantui.storage.write_checks import check_result_path, reject_unwritable_batch


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "Mount its file system for writing"),
        (errno.EACCES, r"chmod -R g\+rwX"),
        (errno.ENOSPC, "Free disk space"),
        (errno.ENOENT, "The folder was moved or deleted. Use its new path"),
        (errno.EIO, "copy the folder to another file system"),
    ],
)
def test_unwritable_batch_folder_advice_fits_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def fail(path: Path) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(locks, "_open_lock_file", fail)
    with pytest.raises(UserError, match=advice) as refused:
        reject_unwritable_batch(BatchFolder(tmp_path))
    assert os.strerror(number) in str(refused.value)
    assert ("chmod" in str(refused.value)) == (number == errno.EACCES)


@pytest.mark.parametrize("folder_name", ["", "analysis", "videos"])
@pytest.mark.parametrize(
    ("flags", "number", "advice"),
    [(0, errno.EACCES, "chmod -R g+rwX"), (os.ST_RDONLY, errno.EROFS, "Mount its file system for writing")],
)
def test_result_in_an_unwritable_batch_is_refused_with_advice_for_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_name: str, flags: int, number: int, advice: str
) -> None:
    folder, may_access = tmp_path / folder_name, os.access
    folder.mkdir(exist_ok=True)
    path = tmp_path / "analysis" / "similarity.json"
    check_result_path(tmp_path, path)
    monkeypatch.setattr(os, "access", lambda tested, mode: Path(tested) != folder and may_access(tested, mode))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    with pytest.raises(UserError) as refused:
        check_result_path(tmp_path, path)
    assert str(refused.value).startswith(f"cannot write the batch folder {tmp_path}: {folder}: {os.strerror(number)}. ")
    assert advice in str(refused.value)


def test_result_in_the_place_of_a_folder_or_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    with pytest.raises(UserError, match=r"analysis: it is not a regular file\. Move it out of the batch folder"):
        check_result_path(tmp_path, tmp_path / "analysis")
    (tmp_path / "exports").touch()
    with pytest.raises(UserError, match=r"exports is not a folder\. Move it out of the batch folder"):
        check_result_path(tmp_path, tmp_path / "exports" / "result.json")


@pytest.fixture
def batch_without_trash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a batch folder that the trash refuses for a lack of permission."""
    folder = tmp_path / "batch"
    folder.mkdir()
    (folder / "batch.json").touch()

    def refuse(path: str) -> None:
        raise send2trash.TrashPermissionError(path)

    monkeypatch.setattr(send2trash, "send2trash", refuse)
    return folder


def test_trash_without_permission_names_the_folder_once_with_advice(batch_without_trash: Path) -> None:
    with pytest.raises(UserError) as refused:
        move_to_trash(batch_without_trash)
    assert str(refused.value) == (
        f"{batch_without_trash} cannot be moved to the trash: Permission denied. Ask its owner to move it, or for "
        "write permission on it and its parent folder"
    )


def test_trash_on_a_read_only_file_system_says_so(batch_without_trash: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: mode == os.F_OK)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(UserError) as refused:
        move_to_trash(batch_without_trash)
    assert str(refused.value) == (
        f"{batch_without_trash} cannot be moved to the trash: Read-only file system. Mount its file system for writing"
    )
