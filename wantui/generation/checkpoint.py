"""Checkpoint file of the denoising loop, from which another process continues bit for bit.

The stored sampler state is every attribute that differs from a fresh sampler: earlier model outputs (UniPC, DPM++),
the last sample (UniPC), the derivative (Heun), and counters (`samplers.SAMPLERS`).
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from wantui.atomic_files import create_empty_file, make_partial_path, rename_created_file
from wantui.config.speeds import migrate_speed_name
from wantui.generation.denoise import Checkpoint, Start, Step, create_scheduler
from wantui.generation.placement import find_device
from wantui.generation.provenance import ARITHMETIC, describe_provenance
from wantui.generation.samplers import SAMPLERS
from wantui.planning import Recipe
from wantui.schedule import count_model_evaluations

FORMAT = 3
"""Format of the file; other formats are refused."""
CHECKPOINT_TIME_BUDGET = 0.01
"""Largest share of the time that writing checkpoints may take."""


class CheckpointRefusedError(Exception):
    """Raised for a checkpoint that does not match the video; the message names the difference."""


class CheckpointTap:
    """Write a checkpoint after every step, or less often to stay within 1 % of the time."""

    def __init__(
        self, pipeline: WanPipeline, recipe: Recipe, path: Path, captured: Mapping[str, Callable[[], tuple[int, ...]]]
    ) -> None:
        self.path, self.captured = path, captured
        self.identity = build_identity(pipeline, recipe)
        self.state = SAMPLERS[recipe.sampler].state_attributes
        self.initial_state = vars(create_scheduler(recipe, find_device(pipeline)))
        self.scheduler: Any = None
        self.latest: Step | None = None
        """Latest step if it is not written yet."""
        self.next_write_at = 0.0

    def on_start(self, start: Start, steps_done: int) -> None:
        self.scheduler = start.scheduler

    def on_step(self, step: Step) -> None:
        self.latest = step
        if time.monotonic() >= self.next_write_at or step.index + 1 == step.count:
            self.write_latest()

    def write_latest(self) -> None:
        """Write the latest state, unless it is already written."""
        step, self.latest = self.latest, None
        if step is None:
            return
        # Not timed: captures are written in any case, and this waits for them.
        captured = {name: checksums() for name, checksums in self.captured.items()}
        started_at = time.monotonic()
        write_checkpoint(
            self.path,
            Checkpoint(
                step.index + 1,
                step.latents,
                self._collect_changed_state(),
                captured,
            ),
            self.identity,
        )
        ended = time.monotonic()
        self.next_write_at = ended + (ended - started_at) / CHECKPOINT_TIME_BUDGET

    def _collect_changed_state(self) -> dict[str, Any]:
        """Return the sampler's attributes that its steps have changed.

        Raises:
            RuntimeError: an unknown attribute has changed: diffusers has changed.
        """
        changed = {
            name: value for name, value in vars(self.scheduler).items() if _differs(value, self.initial_state.get(name))
        }
        if unknown := sorted(changed.keys() - self.state):
            raise RuntimeError(f"a checkpoint cannot hold {', '.join(unknown)} of {type(self.scheduler).__name__}")
        return changed

    def on_end(self) -> None:
        """Do nothing: the checkpoint stays until the video is recorded."""


def build_identity(pipeline: WanPipeline, recipe: Recipe) -> dict[str, Any]:
    """Return the data that must match to continue bit for bit: recipe (with the model's digest), software and device.

    The versions of wantui and Python are left out: a relevant change raises `ARITHMETIC` or `FORMAT`.
    """
    made = {
        name: value for name, value in describe_provenance(pipeline, recipe).items() if name not in ("wantui", "python")
    }
    on_gpu = find_device(pipeline).type == "cuda"
    cpu = None if on_gpu else torch.backends.cpu.get_cpu_capability()
    return {"recipe": recipe.digest, "arithmetic": ARITHMETIC, **made, "cpu": cpu}


def write_checkpoint(path: Path, checkpoint: Checkpoint, made_by: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` atomically.

    The file is not synced: it must survive the process, and its digest detects damage from a crash of the machine.
    """
    tensors = {"latents": checkpoint.latents.detach().cpu().contiguous()}
    scheduler = {name: _pack(value, f"scheduler.{name}", tensors) for name, value in checkpoint.scheduler.items()}
    header = {
        "format": FORMAT,
        "made_by": made_by,
        "steps_done": checkpoint.steps_done,
        "scheduler": scheduler,
        "captured": {name: list(checksums) for name, checksums in checkpoint.captured.items()},
    }
    header["sha256"] = _compute_digest(header, tensors)
    path.parent.mkdir(exist_ok=True)
    partial = make_partial_path(path)
    try:
        # save_file is not used: its errors do not identify a full disk.
        created = create_empty_file(partial)
        partial.write_bytes(save(tensors, {"wantui": json.dumps(header)}))
        rename_created_file(partial, path, created)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path, pipeline: WanPipeline, recipe: Recipe) -> Checkpoint | None:
    """Read the checkpoint at `path`; return None if there is no file.

    Raises:
        CheckpointRefusedError: the file is damaged, or from another recipe or other software.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file():  # reading a pipe would wait for ever
        raise CheckpointRefusedError(f"{path.name} is not a regular file")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["wantui"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        found_format, digest = header.get("format"), header.pop("sha256", None)
        is_whole = digest == _compute_digest(header, tensors)
    except Exception as error:  # damaged bytes raise errors of many types; the video can always restart
        raise CheckpointRefusedError(f"it cannot be read ({type(error).__name__}: {error})") from None
    if found_format != FORMAT:
        raise CheckpointRefusedError(f"its format is {found_format!r}, but this version reads format {FORMAT}")
    if not is_whole:
        raise CheckpointRefusedError("its checksum does not match")
    try:
        return _parse_checkpoint(header, tensors, pipeline, recipe)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointRefusedError(f"it does not contain a checkpoint ({type(error).__name__}: {error})") from None


def _parse_checkpoint(
    header: dict[str, Any], tensors: dict[str, Tensor], pipeline: WanPipeline, recipe: Recipe
) -> Checkpoint:
    """Return the checkpoint from the content of an undamaged file.

    Raises:
        CheckpointRefusedError: it is from another recipe, other software or another sampler.
        Exception: its content has another form, or does not fit on the device.
    """
    current_identity, stored_identity = build_identity(pipeline, recipe), dict(header["made_by"])
    stored_identity["blocks"] = migrate_speed_name(stored_identity["blocks"])
    for name in {**current_identity, **stored_identity}:
        if stored_identity.get(name) != current_identity.get(name):
            raise CheckpointRefusedError(f"{name} was {stored_identity.get(name)} and is {current_identity.get(name)}")
    count, steps_done = count_model_evaluations(recipe.sampler, recipe.steps), header["steps_done"]
    scheduler = header["scheduler"]
    if unknown := sorted(scheduler.keys() - SAMPLERS[recipe.sampler].state_attributes):
        raise CheckpointRefusedError(f"{', '.join(unknown)} is not part of the state of the sampler {recipe.sampler}")
    at = scheduler.get("_step_index")
    if type(steps_done) is not int or not 1 <= steps_done <= count or at != steps_done:
        raise CheckpointRefusedError(f"it is at step {steps_done} of {count}, but its sampler is at step {at}")
    captured = {str(name): tuple(map(int, checksums)) for name, checksums in header["captured"].items()}
    frames = (recipe.frames - 1) // pipeline.vae_scale_factor_temporal + 1
    sides = (side // pipeline.vae_scale_factor_spatial for side in (recipe.height, recipe.width))
    latents, shape = tensors["latents"], (1, pipeline.transformer.config.in_channels, frames, *sides)
    if tuple(latents.shape) != shape or not latents.is_floating_point():
        raise CheckpointRefusedError(f"its latents are {tuple(latents.shape)} of {latents.dtype}, but must be {shape}")
    device = find_device(pipeline)
    state = {name: _unpack(value, tensors, device) for name, value in scheduler.items()}
    return Checkpoint(steps_done, latents.to(device), state, captured)


def _differs(value: Any, fresh: Any) -> bool:
    if isinstance(value, Tensor):
        return not (isinstance(fresh, Tensor) and value.shape == fresh.shape and torch.equal(value, fresh))
    if isinstance(value, list):
        if not isinstance(fresh, list) or len(value) != len(fresh):
            return True
        return any(_differs(value_item, fresh_item) for value_item, fresh_item in zip(value, fresh, strict=True))
    return type(value) is not type(fresh) or bool(value != fresh)


def _pack(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; tensors in it are added to `tensors`."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()  # safetensors refuses tensors that share memory
        return {"tensor": key, "on": value.device.type}
    if isinstance(value, list):
        return [_pack(item, f"{key}.{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{key} is a {type(value).__name__}, which a checkpoint cannot hold")


def _unpack(value: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    if isinstance(value, dict):
        return tensors[value["tensor"]].to("cpu" if value["on"] == "cpu" else device)
    if isinstance(value, list):
        return [_unpack(item, tensors, device) for item in value]
    return value


def _compute_digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header without its digest, and of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name].dtype}\0{tuple(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
