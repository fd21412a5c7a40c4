"""Add new batches, or missing videos of existing batches, to the queue."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wantui.batches.batch_folders import check_new_batch_folder, create_batch_folder, remove_claimed_files
from wantui.batches.cell_cost import drop_oversized_cells, find_oversized_cells, format_memory_refusals
from wantui.config.settings import Settings
from wantui.config.sweep_syntax import describe_seeds
from wantui.engine.control import Engine, find_engine
from wantui.engine.slots import create_worker_slots
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.gpu.nvml import Gpu, list_usable_gpus, query_gpus, select_visible_gpus
from wantui.planning import Batch, BatchPreview, Recipe
from wantui.planning.fp8 import MIN_COMPUTE_CAPABILITY, explain_missing_fp8
from wantui.planning.memory_plan import find_plan
from wantui.planning.second_gpu import allows_second_gpu
from wantui.queue.lock_holders import LockListener
from wantui.queue.new_folders import record_new_folder
from wantui.queue.queue import Queue
from wantui.queue.records import BatchDescription, NewVideo
from wantui.queue.state_dir import StateDirectory
from wantui.samplers import count_model_evaluations
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.manifest_store import ManifestStore, is_video_complete
from wantui.storage.write_checks import reject_unwritable_batch


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


class UnknownDeviceError(UserError):
    """Raised for a device that no worker on this machine has."""

    exit_code = 3


def check_device_exists(state_dir: StateDirectory, device: str, on_locked: LockListener = lambda _: None) -> None:
    """Refuse a batch for a device that no worker serves.

    Args:
        on_locked: called with the name of a process for whose lock of the queue a starting engine waits.

    Raises:
        UnknownDeviceError: names the available devices.
    """
    engine = find_engine(state_dir.directory, on_locked)
    if engine is not None:
        if device not in engine.device_names:
            raise UnknownDeviceError(
                f"cannot use model_settings.device: {device}: the running engine has {', '.join(engine.device_names)}. "
                "If the device was added later, restart the engine: wantui engine stop"
                + "".join(f". {remark}" for remark in query_gpus().unusable)
            )
        return
    if device == "cpu":  # every engine has a CPU
        return
    report = query_gpus()
    gpus = select_visible_gpus(report.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not any(device in slot.served_devices for slot in create_worker_slots(gpus, None)):
        reason = report.reason or "; ".join((f"visible here: {format_count(len(gpus), 'GPU')}", *report.unusable))
        raise UnknownDeviceError(
            f"cannot use model_settings.device: {device}: this machine has no such device ({reason})"
        )


def check_fp8_available(state_dir: StateDirectory, device: str, recipes: Iterable[Recipe]) -> None:
    """Refuse `speed: fp8` for a device that cannot multiply in FP8.

    Args:
        device: device name in the config; every GPU that serves it must support FP8, because any may be used.

    Raises:
        UnknownDeviceError: names the device, and what to choose.
    """
    if all(recipe.speed != "fp8" for recipe in recipes):
        return
    if not can_use_gpu(state_dir, device):
        raise UnknownDeviceError(
            explain_missing_fp8("the CPU" if device == "cpu" else "this machine without a GPU", None)
        )
    for gpu in _list_device_gpus(state_dir, device):
        capability = gpu.compute_capability
        if capability is not None and capability < MIN_COMPUTE_CAPABILITY:
            raise UnknownDeviceError(explain_missing_fp8(f"GPU {gpu.index} ({gpu.name})", capability))


def check_second_gpu(state_dir: StateDirectory, settings: Settings) -> None:
    """Refuse a new batch that asks for two GPUs per video, if the machine or the memory plan cannot use two.

    Raises:
        UnknownDeviceError: tells how many GPUs there are.
        UserError: names the memory plan.
    """
    plan_name = settings.memory_settings.plan
    if settings.model_settings.gpus_per_video == 1:
        return
    if plan_name != "auto" and not allows_second_gpu(find_plan(plan_name)):
        raise UserError(
            f"cannot use model_settings.gpus_per_video: 2 with memory_settings.plan: {plan_name}, which streams the "
            "weights. Choose the plan auto"
        )
    engine, device = find_engine(state_dir.directory), settings.model_settings.device
    gpus = _list_engine_gpus(engine)
    slots = create_worker_slots(gpus, None)
    usable_gpus = list_usable_gpus(gpus)
    if any(slot.has_equal_gpu(other) for slot in slots if device in slot.served_devices for other in slots):
        return
    reason = f"{'this machine' if engine is None else 'the running engine'} has {format_count(len(usable_gpus), 'GPU')}"
    if len(names := dict.fromkeys(gpu.name for gpu in usable_gpus)) > 1:
        reason += f" of different kinds ({', '.join(names)}), and their results may differ"
    elif len(usable_gpus) > 1:
        reason += ", which are MIG instances: CUDA shows only one of them to a process"
    device_text = f", one of them {device}" if device.startswith("cuda:") else ""
    raise UnknownDeviceError(
        f"cannot use model_settings.gpus_per_video: 2: it needs two GPUs of one kind{device_text}, and {reason}. "
        "Set it to 1, which gives bit-identical videos"
    )


def _list_engine_gpus(engine: Engine | None) -> list[Gpu]:
    """Return the GPUs of an engine, or of a new one, also those that cannot be used."""
    if engine is None:
        return select_visible_gpus(query_gpus().gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not any(name.startswith("cuda:") for name in engine.device_names):
        return []
    return select_visible_gpus(query_gpus().gpus, engine.environment.get("CUDA_VISIBLE_DEVICES"))


def _list_device_gpus(state_dir: StateDirectory, device: str) -> list[Gpu]:
    """Return the GPUs of the running engine, or of a new one, that serve a device name in batches; none for cpu."""
    if device == "cpu":
        return []
    gpus = _list_engine_gpus(find_engine(state_dir.directory))
    slots = create_worker_slots(gpus, None)
    return [gpu for slot, gpu in zip(slots, list_usable_gpus(gpus), strict=False) if device in slot.served_devices]


def fit_batch_to_machine(state_dir: StateDirectory, batch: Batch, on_locked: LockListener = lambda _: None) -> Batch:
    """Return a batch that this machine can run; drop oversized cells if the settings allow that.

    Args:
        on_locked: called with the name of a process for whose lock of the queue a starting engine waits.

    Raises:
        UserError: the device is missing or lacks FP8, or cells of the sweep are too large for every GPU.
    """
    device = batch.config.settings.model_settings.device
    check_device_exists(state_dir, device, on_locked)
    check_fp8_available(state_dir, device, (cell.recipe for cell in batch.cells))
    check_second_gpu(state_dir, batch.config.settings)
    if batch.sweep is None:
        return batch
    return drop_oversized_cells(batch, _list_device_gpus(state_dir, device))


def can_use_gpu(state_dir: StateDirectory, device: str) -> bool:
    """Return whether a batch for this device may run on a GPU of the running engine, or of a new engine."""
    if device == "cpu":
        return False
    engine = find_engine(state_dir.directory)
    if engine is not None:
        return any(name.startswith("cuda") for name in engine.device_names)
    return bool(list_usable_gpus(_list_engine_gpus(None)))


def find_machine_refusals(state_dir: StateDirectory, batch: Batch | BatchPreview) -> list[UserError]:
    """Return the errors with which this machine would refuse a new batch; write nothing.

    The errors are about the device and the folder.
    """
    device = batch.config.settings.model_settings.device
    device_check = partial(check_device_exists, state_dir, device)
    fp8_check = partial(check_fp8_available, state_dir, device, [cell.recipe for cell in batch.possible_cells])
    second_gpu_check = partial(check_second_gpu, state_dir, batch.config.settings)
    folder_check = partial(check_new_batch_folder, batch.config)
    refusals: list[UserError] = []
    for check in (device_check, fp8_check, second_gpu_check, folder_check):
        try:
            check()
        except UserError as error:
            refusals.append(error)
    if batch.sweep is None:
        return refusals
    try:
        gpus = _list_device_gpus(state_dir, device)
    except UserError:  # the check of the device has reported it
        return refusals
    memory_refusals = format_memory_refusals(batch, find_oversized_cells(batch, gpus))
    return [*refusals, *map(UserError, memory_refusals)]


def find_missing_videos(
    folder: BatchFolder, manifest: Manifest, shard: Shard = WHOLE_BATCH
) -> list[tuple[int, VideoEntry]]:
    """Return the videos of a shard that are not done or whose files are missing, with their index in the manifest."""
    return [
        (index, video)
        for index, video in enumerate(manifest.videos)
        if shard.contains_index(index) and not is_video_complete(folder, video)
    ]


def enqueue_batch(
    queue: Queue,
    folder: BatchFolder,
    manifest: Manifest,
    device: str,
    missing_videos: Sequence[tuple[int, VideoEntry]],
    is_new: bool,
) -> int | None:
    """Put the missing videos of a batch on the queue; return the batch number.

    Return None, and queue nothing, for a complete batch that the queue does not have. Videos that are no longer in the
    manifest of a continued batch are removed from the queue.

    Args:
        missing_videos: the result of `find_missing_videos`.
    """
    if not is_new:
        with suppress(OSError, UserError):  # the worker reports errors of the folder
            ManifestStore(folder).fold_journal_when_reopened()
        if not missing_videos and not queue.has_folder(str(folder.root.resolve())):
            return None
    videos = [
        NewVideo(
            index,
            manifest.make_video_title(video),
            video.recipe.to_json(),
            count_model_evaluations(video.recipe.sampler, video.recipe.steps),
        )
        for index, video in missing_videos
    ]
    try:
        return queue.add_batch(
            folder.root.resolve(),
            device,
            videos,
            is_new,
            len(manifest.videos),
            _describe_batch(manifest),
            manifest.gpus_per_video,
        )
    except Exception:  # such as a full disk
        if is_new:  # nothing refers to the folder
            remove_claimed_files(folder, removes_root=bool(manifest.config.get("use_timestamp", True)))
        raise


def _describe_batch(manifest: Manifest) -> BatchDescription:
    seeds = describe_seeds({video.seed for video in manifest.videos})
    return BatchDescription(manifest.template, manifest.videos[0].recipe.model, seeds)


@dataclass(frozen=True)
class EnqueuedBatch:
    """A batch in the queue: its number, the number of added videos, and its folder."""

    batch_id: int
    video_count: int
    folder: Path


def enqueue_new_batch(state_dir: StateDirectory, batch: Batch) -> EnqueuedBatch:
    """Create the folder of a new batch, and add all its videos to the queue over a connection of this thread.

    Raises:
        UserError: this machine cannot run the batch, or as `create_batch_folder`.
    """
    device = batch.config.settings.model_settings.device
    batch = fit_batch_to_machine(state_dir, batch)
    with record_new_folder(state_dir.directory) as record:
        folder, manifest = create_batch_folder(batch, record)
        missing_videos = find_missing_videos(folder, manifest)
        return _open_queue_and_enqueue(state_dir, folder, manifest, device, missing_videos, is_new=True)


def enqueue_missing_videos(
    state_dir: StateDirectory, folder: BatchFolder, manifest: Manifest, shard: Shard = WHOLE_BATCH
) -> EnqueuedBatch | None:
    """Add the missing videos of an existing batch, or of a shard of it, to the queue; return None if none are missing.

    Raises:
        UserError: the device is missing, or the folder cannot be written.
    """
    missing_videos = find_missing_videos(folder, manifest, shard)
    if not missing_videos:
        return None
    reject_unwritable_batch(folder)
    device = str(manifest.config.get("model_settings", {}).get("device", "auto"))
    check_device_exists(state_dir, device)
    check_fp8_available(state_dir, device, (video.recipe for _, video in missing_videos))
    return _open_queue_and_enqueue(state_dir, folder, manifest, device, missing_videos, is_new=False)


def _open_queue_and_enqueue(
    state_dir: StateDirectory,
    folder: BatchFolder,
    manifest: Manifest,
    device: str,
    missing_videos: Sequence[tuple[int, VideoEntry]],
    is_new: bool,
) -> EnqueuedBatch:
    with Queue(state_dir.directory) as queue:
        batch_id = enqueue_batch(queue, folder, manifest, device, missing_videos, is_new)
    assert batch_id is not None  # videos are missing
    return EnqueuedBatch(batch_id, len(missing_videos), folder.root)
