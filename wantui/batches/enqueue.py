"""Create the folder of a planned batch, and add new batches or missing videos of existing ones to the queue."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from wantui.atomic_files import remove_path
from wantui.config import Config
from wantui.engine.control import find_engine
from wantui.engine.slots import create_worker_slots
from wantui.errors import UserError
from wantui.formatting import escape_unprintable, format_bytes, format_count
from wantui.gpu.nvml import query_gpus, select_visible_gpus
from wantui.paths import check_output_folder, expand_user_path
from wantui.planning import Batch, BatchPreview, estimate_batch_disk
from wantui.queue.new_folders import FolderRecorder, record_new_folder
from wantui.queue.queue import Queue
from wantui.queue.records import BatchDescription, NewVideo
from wantui.queue.state_dir import StateDirectory
from wantui.schedule import count_model_evaluations
from wantui.storage.disk_space import estimate_disk_need, query_free_disk_bytes
from wantui.storage.layout import WRITTEN_FOLDERS, BatchFolder, choose_batch_folder
from wantui.storage.locks import MANIFEST_LOCK_FILE, VIDEO_LOCK_FILE, claim_batch_folder, refuse_unwritable_batch
from wantui.storage.manifest import Manifest, VideoEntry, write_batch_files
from wantui.storage.manifest_store import ManifestStore


@dataclass(frozen=True)
class Shard:
    """A part of a batch, written as 2/8: every `count`-th video, starting with the `number`-th."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse a shard as typed by a user.

        Raises:
            UserError: the text is not a valid share.
        """
        match = SHARD_PATTERN.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"cannot read the share {text!r}: write K/N with 1 <= K <= N, for example 2/8")
        return cls(int(match[1]), int(match[2]))

    def contains_index(self, index: int) -> bool:
        return index % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE_BATCH = Shard(1, 1)
SHARD_PATTERN = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
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


class UnknownDeviceError(UserError):
    """Raised for a device that no worker on this machine has."""

    exit_code = 3


def check_device_exists(state_dir: StateDirectory, device: str) -> None:
    """Refuse a batch for a device that no worker serves.

    Raises:
        UnknownDeviceError: names the available devices.
    """
    engine = find_engine(state_dir.directory)
    if engine is not None:
        if device not in engine.device_names:
            raise UnknownDeviceError(
                f"cannot use model_settings.device: {device}: the running engine has {', '.join(engine.device_names)}. "
                "If the device was added later, restart the engine: wantui engine stop"
            )
        return
    if device == "cpu":  # every engine has a CPU
        return
    report = query_gpus()
    gpus = select_visible_gpus(report.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not any(device in slot.served_devices for slot in create_worker_slots(gpus, None)):
        reason = report.reason or f"visible here: {format_count(len(gpus), 'GPU')}"
        raise UnknownDeviceError(
            f"cannot use model_settings.device: {device}: this machine has no such device ({reason})"
        )


def can_use_gpu(state_dir: StateDirectory, device: str) -> bool:
    """Return whether a batch for this device may run on a GPU of the running engine, or of a new one."""
    if device == "cpu":
        return False
    engine = find_engine(state_dir.directory)
    if engine is not None:
        return any(name.startswith("cuda") for name in engine.device_names)
    return bool(select_visible_gpus(query_gpus().gpus, os.environ.get("CUDA_VISIBLE_DEVICES")))


def refuse_unsupported_batch(batch: Batch | BatchPreview) -> None:
    """Stop at what this version cannot do.

    Raises:
        UserError: lists all unsupported features.
    """
    if batch.refusals:
        raise UserError("cannot generate this batch:\n  " + "\n  ".join(batch.refusals))


def find_machine_refusals(state_dir: StateDirectory, batch: Batch | BatchPreview) -> list[str]:
    """Return the reasons why this machine cannot run a new batch: its device, or its folder. Writes nothing."""
    device_check = partial(check_device_exists, state_dir, batch.config.settings.model_settings.device)
    folder_check = partial(_check_new_batch_folder, batch.config)
    refusals = []
    for check in (device_check, folder_check):
        try:
            check()
        except UserError as error:
            refusals.append(str(error))
    return refusals


def _check_new_batch_folder(config: Config) -> None:
    """Refuse a folder in which `create_batch_folder` could not create the folder of a batch.

    Raises:
        UserError: the folder cannot be written, or the folder of the batch exists already.
    """
    settings = config.settings
    output_dir = expand_user_path(settings.output_dir)
    _refuse_non_utf8_folder(output_dir.absolute())
    check_output_folder(output_dir)
    if not settings.use_timestamp:
        folder = choose_batch_folder(output_dir, settings.batch_name or config.name, None)
        if os.path.lexists(folder.root):
            _require_empty_folder(folder, is_private=False)


def create_batch_folder(batch: Batch, record: FolderRecorder | None = None) -> tuple[BatchFolder, Manifest]:
    """Create the folder of a batch, with its manifest.

    Args:
        record: function that records the folder before it is created.

    Raises:
        UserError: this version does not support the batch, the disk is too full, or the folder cannot be written.
            Nothing is left on disk.
    """
    refuse_unsupported_batch(batch)
    _refuse_non_utf8_folder(expand_user_path(batch.config.settings.output_dir).absolute())
    missing_folders = _list_missing_folders(expand_user_path(batch.config.settings.output_dir))
    folder: BatchFolder | None = None
    is_new = False
    try:
        folder, is_new = _create_claimed_folder(batch, record or _record_nothing)
        check_batch_fits_on_disk(folder.root, batch)
        return folder, write_batch_files(folder, batch)
    except BaseException as error:
        if folder is not None:
            remove_claimed_files(folder, removes_root=is_new)
        _remove_empty_folders(missing_folders)
        if folder is not None and isinstance(error, OSError):
            raise _make_write_error(folder, error) from None
        raise


def _record_nothing(_: Path) -> None:
    """Record no folder: the batch is not put on the queue of this machine."""


def _refuse_non_utf8_folder(folder: Path) -> None:
    """Refuse a folder that neither the queue nor a manifest can store.

    Raises:
        UserError: the folder name is not UTF-8.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"cannot create a batch in {escape_unprintable(str(folder))}: its name is not UTF-8. "
            "Choose another --output-dir, or start in another folder"
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


def find_missing_videos(
    folder: BatchFolder, manifest: Manifest, shard: Shard = WHOLE_BATCH
) -> list[tuple[int, VideoEntry]]:
    """Return the videos of a shard that are not done or whose files are missing, with their index in the manifest."""
    return [
        (index, video)
        for index, video in enumerate(manifest.videos)
        if shard.contains_index(index)
        and (video.state != "done" or not all((folder.root / path).exists() for path in video.files.values()))
    ]


def enqueue_batch(
    queue: Queue, folder: BatchFolder, manifest: Manifest, device: str, is_new: bool, shard: Shard = WHOLE_BATCH
) -> tuple[int, int]:
    """Put the missing videos of a batch on the queue; return the batch's number and the number of those videos.

    Videos that are no longer in the manifest of a continued batch are removed from the queue.
    """
    if not is_new:
        with suppress(OSError, UserError):  # the worker reports errors of the folder
            ManifestStore(folder).fold_journal_when_reopened()
    variation_ids = [variation.id for variation in manifest.variations]
    missing_videos = find_missing_videos(folder, manifest, shard)
    videos = [
        NewVideo(
            index,
            f"{variation_ids[video.variation]} seed {video.seed}",
            video.recipe.to_json(),
            count_model_evaluations(video.recipe.sampler, video.recipe.steps),
        )
        for index, video in missing_videos
    ]
    try:
        batch_number = queue.add_batch(
            folder.root.resolve(), device, videos, is_new, len(manifest.videos), _describe_batch(manifest)
        )
        return batch_number, len(missing_videos)
    except Exception:  # such as a full disk
        if is_new:  # nothing refers to the folder
            remove_claimed_files(folder, removes_root=bool(manifest.config.get("use_timestamp", True)))
        raise


def _describe_batch(manifest: Manifest) -> BatchDescription:
    seeds = [video.seed for video in manifest.videos]
    first, last = min(seeds), max(seeds)
    seed_range = str(first) if first == last else f"{first} to {last}"
    return BatchDescription(manifest.template, manifest.videos[0].recipe.model, seed_range)


@dataclass(frozen=True)
class EnqueuedBatch:
    """A batch on the queue: its number, the number of added videos, and its folder."""

    batch_id: int
    video_count: int
    folder: Path


def enqueue_new_batch(state_dir: StateDirectory, batch: Batch) -> EnqueuedBatch:
    """Create the folder of a new batch and add all its videos to the queue, with a connection for this thread.

    Raises:
        UserError: the device is missing, or as `create_batch_folder`.
    """
    device = batch.config.settings.model_settings.device
    check_device_exists(state_dir, device)
    with record_new_folder(state_dir.directory) as record:
        folder, manifest = create_batch_folder(batch, record)
        return _open_queue_and_enqueue(state_dir, folder, manifest, device, True, WHOLE_BATCH)


def enqueue_missing_videos(
    state_dir: StateDirectory, folder: BatchFolder, manifest: Manifest, shard: Shard = WHOLE_BATCH
) -> EnqueuedBatch | None:
    """Add the missing videos of an existing batch, or of a shard of it, to the queue; return None if none are missing.

    Raises:
        UserError: the device is missing, or the folder cannot be written.
    """
    if not find_missing_videos(folder, manifest, shard):
        return None
    refuse_unwritable_batch(folder)
    device = str(manifest.config.get("model_settings", {}).get("device", "auto"))
    check_device_exists(state_dir, device)
    return _open_queue_and_enqueue(state_dir, folder, manifest, device, False, shard)


def _open_queue_and_enqueue(
    state_dir: StateDirectory, folder: BatchFolder, manifest: Manifest, device: str, is_new: bool, shard: Shard
) -> EnqueuedBatch:
    with Queue(state_dir.directory) as queue:
        batch_id, video_count = enqueue_batch(queue, folder, manifest, device, is_new, shard)
    return EnqueuedBatch(batch_id, video_count, folder.root)


def check_batch_fits_on_disk(batch_root: Path, batch: Batch) -> None:
    """Refuse a batch that would fill the disk.

    Raises:
        UserError: names the needed and the free bytes.
    """
    disk_need, free_bytes = (
        estimate_disk_need(batch.videos[0].recipe, estimate_batch_disk(batch).total_bytes),
        query_free_disk_bytes(batch_root),
    )
    if disk_need.total_bytes > free_bytes:
        raise UserError(
            f"cannot queue the batch: {batch_root.parent} has {format_bytes(free_bytes)} free, "
            f"{disk_need.description}. "
            "Choose another --output-dir, fewer videos, or a larger latent_analysis_settings.storage_interval"
        )


def _create_claimed_folder(batch: Batch, record: FolderRecorder) -> tuple[BatchFolder, bool]:
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
    """Return an existing folder if it is empty, after restricting a private one to its owner.

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
    advice = "already holds a batch. Continue it with --resume, or choose" if has_batch else "exists already. Choose"
    return UserError(f"{folder.root} {advice} another name")


def _make_write_error(folder: BatchFolder, error: OSError) -> UserError:
    if isinstance(error, FileExistsError):
        return UserError(
            f"the output folder {folder.root} cannot be written: {error.filename} is not a folder or a link to one. "
            "Choose another --output-dir"
        )
    return UserError(
        f"the output folder {folder.root} cannot be written: {error.strerror or error}. Choose another --output-dir"
    )
