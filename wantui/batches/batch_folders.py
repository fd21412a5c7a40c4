"""Create the folder of a new batch: claimed by one command, and removed again if the batch cannot start."""

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from wantui.atomic_files import remove_path
from wantui.config import Config
from wantui.errors import UserError
from wantui.formatting import escape_unprintable, format_bytes
from wantui.paths import check_output_folder, expand_user_path
from wantui.planning import Batch, BatchPreview, estimate_batch_disk
from wantui.queue.new_folders import FolderCallback
from wantui.storage.disk_space import estimate_batch_disk_need, query_free_disk_bytes
from wantui.storage.layout import WRITTEN_FOLDERS, BatchFolder, choose_batch_folder
from wantui.storage.locks import MANIFEST_LOCK_FILE, VIDEO_LOCK_FILE, claim_batch_folder
from wantui.storage.manifest import Manifest, write_batch_files

WANTUI_FILE_NAMES = (
    "batch.json",
    "batch.json.partial",
    "batch.journal.jsonl",
    "batch.journal.damaged.jsonl",
    "batch.edited.json",
    "configs",
    *WRITTEN_FOLDERS,
    "logs",
    VIDEO_LOCK_FILE,
)
"""Names of wantui's files and folders in a batch folder, without the manifest lock."""
MAX_FOLDER_NAME_ATTEMPTS = 100
"""Maximum number of folder names to try if other runs create them at the same time."""


def refuse_unsupported_batch(batch: Batch | BatchPreview) -> None:
    """Refuse a batch that this version cannot run.

    Raises:
        UserError: lists all unsupported features.
    """
    if batch.refusals:
        raise UserError("cannot generate this batch:\n  " + "\n  ".join(batch.refusals))


def check_new_batch_folder(config: Config) -> None:
    """Refuse a batch whose folder `create_batch_folder` could not create.

    Raises:
        UserError: the folder cannot be written, or the folder of the batch exists already.
    """
    settings = config.settings
    output_dir = expand_user_path(settings.output_dir)
    _reject_non_utf8_folder(output_dir.absolute())
    check_output_folder(output_dir)
    if not settings.use_timestamp:
        folder = choose_batch_folder(output_dir, settings.batch_name or config.name, None)
        if os.path.lexists(folder.root):
            _require_empty_folder(folder, is_private=False)


def create_batch_folder(batch: Batch, record: FolderCallback | None = None) -> tuple[BatchFolder, Manifest]:
    """Create the folder of a batch, with its manifest.

    Args:
        record: function that records the folder before it is created.

    Raises:
        UserError: this version does not support the batch, the disk is too full, or the folder cannot be written.
            Nothing is left on disk.
    """
    refuse_unsupported_batch(batch)
    _reject_non_utf8_folder(expand_user_path(batch.config.settings.output_dir).absolute())
    missing_folders = _list_missing_folders(expand_user_path(batch.config.settings.output_dir))
    folder: BatchFolder | None = None
    is_new = False
    try:
        folder, is_new = _create_claimed_folder(batch, record or _skip_recording)
        check_batch_fits_on_disk(folder.root, batch)
        return folder, write_batch_files(folder, batch)
    except BaseException as error:
        if folder is not None:
            remove_claimed_files(folder, removes_root=is_new)
        _remove_empty_folders(missing_folders)
        if folder is not None and isinstance(error, OSError):
            raise _make_write_error(folder, error) from None
        raise


def _skip_recording(_: Path) -> None:
    """Record no folder: the batch is not put on the queue of this machine."""


def _reject_non_utf8_folder(folder: Path) -> None:
    """Refuse a folder that neither the queue nor a manifest can store.

    Raises:
        UserError: the folder name is not UTF-8.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"cannot create a batch in {escape_unprintable(str(folder))}: its name is not UTF-8. "
            "Choose another output_dir, or start in another folder"
        ) from None


def _list_missing_folders(folder: Path) -> list[Path]:
    """Return the missing folders among a folder and its parents, the deepest first."""
    folder = folder.absolute()
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def remove_claimed_files(folder: BatchFolder, removes_root: bool) -> None:
    """Remove wantui's own files from a claimed batch folder, and nothing else.

    Args:
        removes_root: whether to remove the folder too, if it is then empty; False if the user created it.
    """
    for name in (*WANTUI_FILE_NAMES, MANIFEST_LOCK_FILE):  # the lock last: no other run may claim the folder before
        with suppress(OSError):
            remove_path(folder.root / name)
    if removes_root:
        _remove_empty_folders([folder.root])


def _remove_empty_folders(folders: Sequence[Path]) -> None:
    """Remove folders that were created for a batch, the deepest first."""
    for path in folders:
        with suppress(OSError):  # the folder is missing, or already used by another process
            path.rmdir()


def check_batch_fits_on_disk(batch_root: Path, batch: Batch) -> None:
    """Refuse a batch that would fill the disk.

    Raises:
        UserError: names the needed and the free bytes.
    """
    disk_need = estimate_batch_disk_need(batch, estimate_batch_disk(batch).total_bytes)
    free_bytes = query_free_disk_bytes(batch_root)
    if disk_need.total_bytes > free_bytes:
        remedies = ["another output_dir"]
        if disk_need.count_fitting_videos(free_bytes, batch.video_count):
            remedies.append("fewer videos")
        if disk_need.total_bytes - disk_need.stored_bytes < free_bytes:
            remedies.append("a larger latent_analysis_settings.storage_interval")
        raise UserError(
            f"cannot queue the batch: {batch_root.parent} has {format_bytes(free_bytes)} free, but "
            f"the batch needs more: {disk_need.description}. "
            f"Free disk space, or choose {' or '.join(remedies)}"
        )


def _create_claimed_folder(batch: Batch, record: FolderCallback) -> tuple[BatchFolder, bool]:
    """Create or claim an empty folder for this batch; return it, and whether it was created.

    Raises:
        UserError: the folder is not empty, is claimed by another run, or cannot be written.
    """
    settings = batch.config.settings
    output_dir = expand_user_path(settings.output_dir)
    timestamp = datetime.now() if settings.use_timestamp else None
    # Users who may not enter the folder cannot read its files, whatever the file modes are.
    is_private = settings.output_permissions == "private"
    folder_mode = 0o700 if is_private else 0o777
    folder = choose_batch_folder(output_dir, settings.batch_name or batch.config.name, timestamp)
    try:
        # Create this folder first: below, FileExistsError then means that the batch name is taken.
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _make_write_error(folder, error) from None
    for _ in range(MAX_FOLDER_NAME_ATTEMPTS):
        folder = choose_batch_folder(output_dir, settings.batch_name or batch.config.name, timestamp)
        is_missing = not os.path.lexists(folder.root)
        if is_missing:
            record(folder.root)
        try:
            folder.root.mkdir(mode=folder_mode)
            is_new = True
        except KeyboardInterrupt:  # it may come after the folder is created
            if is_missing:
                _remove_empty_folders([folder.root])
            raise
        except FileExistsError:
            if timestamp is not None:  # another run took the name in the same second
                continue
            folder, is_new = _require_empty_folder(folder, is_private), False
            record(folder.root)
        except OSError as error:
            raise _make_write_error(folder, error) from None
        try:
            claim_batch_folder(folder.root)  # a new folder too: a run without time stamp may claim it while it is empty
            return folder, is_new
        except FileExistsError:
            if timestamp is None:
                raise _make_taken_folder_error(folder) from None
        except (OSError, KeyboardInterrupt) as error:
            if is_new:
                with suppress(OSError):
                    remove_path(folder.root / MANIFEST_LOCK_FILE)
                _remove_empty_folders([folder.root])
            if isinstance(error, KeyboardInterrupt):
                raise
            raise _make_write_error(folder, error) from None
    raise UserError(
        f"cannot create a batch folder in {output_dir}: {MAX_FOLDER_NAME_ATTEMPTS} names in a row were taken by other "
        "runs. Try again"
    )


def _require_empty_folder(folder: BatchFolder, is_private: bool) -> BatchFolder:
    """Return an existing folder if it is empty; restrict a private folder to its owner first.

    Raises:
        UserError: the folder is not empty, or cannot be read.
    """
    try:
        if folder.root.is_dir() and not any(folder.root.iterdir()):
            if is_private:
                folder.root.chmod(0o700)
            return folder
    except OSError as error:
        raise _make_write_error(folder, error) from None
    raise _make_taken_folder_error(folder)


def _make_taken_folder_error(folder: BatchFolder) -> UserError:
    has_batch = os.path.lexists(folder.manifest_path)
    advice = (
        "already holds a batch. Continue it with `wantui run --resume`, or choose"
        if has_batch
        else "exists already. Choose"
    )
    return UserError(f"{folder.root} {advice} another name")


def _make_write_error(folder: BatchFolder, error: OSError) -> UserError:
    if isinstance(error, FileExistsError):
        return UserError(
            f"the output folder {folder.root} cannot be written: {error.filename} is neither a folder nor a link to "
            "a folder. Choose another output_dir"
        )
    return UserError(
        f"the output folder {folder.root} cannot be written: {error.strerror or error}. Choose another output_dir"
    )
