"""Store of `wantui bench` results on this machine: a file next to the queue, with an entry per device and speed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from wantui.atomic_files import write_text_atomically
from wantui.config.speeds import SpeedName, migrate_speed_name
from wantui.errors import UserError
from wantui.json_files import UnreadableFileError, read_json
from wantui.models.catalogue import find_model
from wantui.planning.memory_plan import RESIDENT_PLAN, MemoryPlan, can_fuse_pipeline
from wantui.planning.recipe import Recipe
from wantui.planning.throughput import NATIVE_ATTENTION, Throughput
from wantui.queue.state_dir import find_state_directory
from wantui.storage.locks import lock_by_file

THROUGHPUT_FILE = "throughput.json"
THROUGHPUT_LOCK_FILE = "throughput.lock"
"""Name of `THROUGHPUT_FILE`'s lock file."""
SPEEDS_BY_SIMILARITY: dict[SpeedName, tuple[SpeedName, ...]] = {
    "reference": ("reference", "fused", "fp8", "cached"),
    "fused": ("fused", "reference", "fp8", "cached"),
    "fp8": ("fp8", "fused", "reference", "cached"),
}
"""Speeds in order of similarity to a speed that `wantui bench` measures."""


def save_throughput(directory: Path, measured_throughput: Throughput) -> Path:
    """Store a measured throughput, replacing an earlier one of the same device and speed; return the path of the file.

    Several processes may measure devices of one machine at once: the file is locked meanwhile. Entries that this
    version cannot read are kept.

    Raises:
        OSError: the stored file cannot be read or written.
    """
    path = directory / THROUGHPUT_FILE
    with lock_by_file(directory / THROUGHPUT_LOCK_FILE):
        entries = [
            entry if other is None else asdict(other)
            for entry in _read_entries(path)
            if (other := _parse_entry(entry)) is None
            or (other.device, other.speed) != (measured_throughput.device, measured_throughput.speed)
        ]
        write_text_atomically(path, json.dumps([*entries, asdict(measured_throughput)], indent=1) + "\n")
    return path


def load_throughput(
    directory: Path, device: str, recipe: Recipe, plan: MemoryPlan = RESIDENT_PLAN
) -> Throughput | None:
    """Return the measured throughput of a device for a recipe's kind of blocks; None if the device was not measured.

    A cached video has fused blocks; the number of skipped blocks is not measured. If a speed was not measured, the most
    similar one is returned.

    Args:
        device: device name, as torch or the driver reports it.
    """
    wanted_speed: SpeedName = "reference"
    if _is_fused(recipe, plan):
        wanted_speed = "fp8" if recipe.speed == "fp8" else "fused"
    device_throughputs = [throughput for throughput in _read_throughputs(directory) if throughput.device == device]
    similar_speeds = SPEEDS_BY_SIMILARITY[wanted_speed]
    return min(device_throughputs, key=lambda throughput: similar_speeds.index(throughput.speed), default=None)


def load_attention_backend(device: str, recipe: Recipe, plan: MemoryPlan) -> str:
    """Return the attention backend measured for fused blocks on a device, by its diffusers name; else `native`."""
    if not _is_fused(recipe, plan):
        return NATIVE_ATTENTION
    try:
        throughput = load_throughput(find_state_directory().directory, device, recipe, plan)
    except UserError:  # without a state directory, nothing was measured
        return NATIVE_ATTENTION
    return NATIVE_ATTENTION if throughput is None else throughput.attention


def _is_fused(recipe: Recipe, plan: MemoryPlan) -> bool:
    try:
        return can_fuse_pipeline(find_model(recipe.model), plan, recipe.speed, recipe.weights)
    except UserError:  # a directory that has gone, of which nothing can be made
        return False


def _read_throughputs(directory: Path) -> list[Throughput]:
    """Return the entries that this version can read; none if the file cannot be read."""
    try:
        entries = _read_entries(directory / THROUGHPUT_FILE)
    except OSError:
        return []
    return [throughput for entry in entries if (throughput := _parse_entry(entry)) is not None]


def _read_entries(path: Path) -> list[Any]:
    """Return the stored entries; none if there is no file, or if it is damaged."""
    try:
        entries = read_json(path)
    except (FileNotFoundError, UnreadableFileError, ValueError):
        return []
    return entries if isinstance(entries, list) else []


def _parse_entry(entry: Any) -> Throughput | None:
    """Return a stored throughput; None if it is damaged, or has a field or speed of a later version."""
    try:
        throughput = Throughput(**entry | {"speed": migrate_speed_name(entry["speed"])})
    except (TypeError, KeyError, ValueError):
        return None
    return throughput if throughput.speed in get_args(SpeedName) else None
