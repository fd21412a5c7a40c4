"""Checkpoint of a denoising loop after a step: a file from which another process continues with equal bits.

A sampler's state is whatever in it differs from a sampler that was just set up: UniPC's and DPM++'s earlier model
outputs, UniPC's last sample, Heun's derivative, the counters of each (`samplers.SAMPLERS`).
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

from wantui.atomic_files import create_new, partial_path, replace_created
from wantui.config.speeds import current_speed_name
from wantui.generation.denoise import Checkpoint, Start, Step, new_scheduler
from wantui.generation.placement import device_of
from wantui.generation.provenance import ARITHMETIC, made_with
from wantui.generation.samplers import SAMPLERS
from wantui.planning import Recipe
from wantui.schedule import model_evaluations

FORMAT = 3
"""Format of the file; a file of another format is refused by name."""
CHECKPOINT_TIME_BUDGET = 0.01
"""Checkpoints may take this share of the time."""


class CheckpointRefusedError(Exception):
    """Raised for a checkpoint that does not match; the text gives the difference."""


class CheckpointTap:
    """Writes a checkpoint after every step, or less often where that would take more than 1 % of the time."""

    def __init__(
        self, pipeline: WanPipeline, recipe: Recipe, path: Path, captured: Mapping[str, Callable[[], tuple[int, ...]]]
    ) -> None:
        self.path, self.captured = path, captured
        self.identity = identity(pipeline, recipe)
        self.state = SAMPLERS[recipe.sampler].state
        self.fresh = vars(new_scheduler(recipe, device_of(pipeline)))
        self.scheduler: Any = None
        self.latest: Step | None = None
        """The last step, where it is not written yet."""
        self.earliest = 0.0

    def on_start(self, start: Start, steps_done: int) -> None:
        self.scheduler = start.scheduler

    def on_step(self, step: Step) -> None:
        self.latest = step
        if time.monotonic() >= self.earliest or step.index + 1 == step.count:
            self.write_latest()

    def write_latest(self) -> None:
        """Write the state of the denoising, unless the latest one is already written."""
        step, self.latest = self.latest, None
        if step is None:
            return
        # Waiting for captures is no part of what a checkpoint takes: they are written in any case.
        captured = {name: checksums() for name, checksums in self.captured.items()}
        began = time.monotonic()
        write_checkpoint(
            self.path,
            Checkpoint(
                step.index + 1,
                step.latents,
                self._state(),
                captured,
            ),
            self.identity,
        )
        ended = time.monotonic()
        self.earliest = ended + (ended - began) / CHECKPOINT_TIME_BUDGET

    def _state(self) -> dict[str, Any]:
        """Attributes of the sampler that its steps have changed.

        Raises:
            RuntimeError: one that this version does not know; diffusers has changed.
        """
        changed = {name: value for name, value in vars(self.scheduler).items() if _differs(value, self.fresh.get(name))}
        if unknown := sorted(changed.keys() - self.state):
            raise RuntimeError(f"a checkpoint cannot hold {', '.join(unknown)} of {type(self.scheduler).__name__}")
        return changed

    def on_end(self) -> None:
        """Keep the checkpoint until the video is recorded."""


def identity(pipeline: WanPipeline, recipe: Recipe) -> dict[str, Any]:
    """Return the data that must be equal for equal bits: recipe (with the model's digest), software and device.

    The version of wantui is not part of it, nor that of Python: `ARITHMETIC` and `FORMAT` change when they matter.
    """
    made = {name: value for name, value in made_with(pipeline, recipe).items() if name not in ("wantui", "python")}
    on_gpu = device_of(pipeline).type == "cuda"
    cpu = None if on_gpu else torch.backends.cpu.get_cpu_capability()
    return {"recipe": recipe.digest, "arithmetic": ARITHMETIC, **made, "cpu": cpu}


def write_checkpoint(path: Path, checkpoint: Checkpoint, made_by: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` as a whole.

    It is not synced: it has to outlive the process, and a digest tells when it did not outlive the machine.
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
    header["sha256"] = _digest(header, tensors)
    path.parent.mkdir(exist_ok=True)
    partial = partial_path(path)
    try:
        # Not by save_file, whose errors do not tell a full disk from anything else.
        created = create_new(partial)
        partial.write_bytes(save(tensors, {"wantui": json.dumps(header)}))
        replace_created(partial, path, created)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path, pipeline: WanPipeline, recipe: Recipe) -> Checkpoint | None:
    """Read the checkpoint at `path`, if there is one.

    Raises:
        CheckpointRefusedError: it is damaged, or was made from another recipe or by other software.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file():  # reading a pipe would wait for ever
        raise CheckpointRefusedError(f"{path.name} is no regular file")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["wantui"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        found_format, digest = header.get("format"), header.pop("sha256", None)
        is_whole = digest == _digest(header, tensors)
    except Exception as error:  # of damaged bytes anything can come; the video can always start again
        raise CheckpointRefusedError(f"it cannot be read ({type(error).__name__}: {error})") from None
    if found_format != FORMAT:
        raise CheckpointRefusedError(f"its format is {found_format!r}, and this version reads {FORMAT}")
    if not is_whole:
        raise CheckpointRefusedError("its bytes are not those that were written")
    try:
        return _checked(header, tensors, pipeline, recipe)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointRefusedError(
            f"it does not hold what a checkpoint holds ({type(error).__name__}: {error})"
        ) from None


def _checked(header: dict[str, Any], tensors: dict[str, Tensor], pipeline: WanPipeline, recipe: Recipe) -> Checkpoint:
    """Return a checkpoint whose bytes are those that were written.

    Raises:
        CheckpointRefusedError: it was made from another recipe or by other software, or is not of its sampler.
        Exception: it is of another form, or does not fit on the device.
    """
    here, then = identity(pipeline, recipe), dict(header["made_by"])
    then["blocks"] = current_speed_name(then["blocks"])
    for name in {**here, **then}:
        if then.get(name) != here.get(name):
            raise CheckpointRefusedError(f"{name} was {then.get(name)} and is {here.get(name)}")
    count, steps_done = model_evaluations(recipe.sampler, recipe.steps), header["steps_done"]
    scheduler = header["scheduler"]
    if unknown := sorted(scheduler.keys() - SAMPLERS[recipe.sampler].state):
        raise CheckpointRefusedError(f"{', '.join(unknown)} is no state of the sampler {recipe.sampler}")
    at = scheduler.get("_step_index")
    if type(steps_done) is not int or not 1 <= steps_done <= count or at != steps_done:
        raise CheckpointRefusedError(f"it is of step {steps_done} of {count}, and its sampler of step {at}")
    captured = {str(name): tuple(map(int, checksums)) for name, checksums in header["captured"].items()}
    frames = (recipe.frames - 1) // pipeline.vae_scale_factor_temporal + 1
    sides = (side // pipeline.vae_scale_factor_spatial for side in (recipe.height, recipe.width))
    latents, shape = tensors["latents"], (1, pipeline.transformer.config.in_channels, frames, *sides)
    if tuple(latents.shape) != shape or not latents.is_floating_point():
        raise CheckpointRefusedError(f"its latents are {tuple(latents.shape)} of {latents.dtype}, and must be {shape}")
    device = device_of(pipeline)
    state = {name: _unpack(value, tensors, device) for name, value in scheduler.items()}
    return Checkpoint(steps_done, latents.to(device), state, captured)


def _differs(value: Any, fresh: Any) -> bool:
    if isinstance(value, Tensor):
        return not (isinstance(fresh, Tensor) and value.shape == fresh.shape and torch.equal(value, fresh))
    if isinstance(value, list):
        if not isinstance(fresh, list) or len(value) != len(fresh):
            return True
        return any(_differs(one, other) for one, other in zip(value, fresh, strict=True))
    return type(value) is not type(fresh) or bool(value != fresh)


def _pack(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; tensors in it are added to `tensors`."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()  # no two may share memory
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


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over the header, without its digest, and over name, kind, shape and bytes of each tensor."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name].dtype}\0{tuple(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
