"""The state of a denoising loop after a step, in a file from which another process goes on to the same bits.

A sampler's state is whatever in it differs from a sampler that was just set up: UniPC's and DPM++'s earlier model
outputs, UniPC's last sample, Heun's derivative, the counters of each. Nothing about a particular sampler stands here.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wantui.generation.denoise import Checkpoint, Start, Step, new_scheduler
from wantui.generation.memory import device_of
from wantui.generation.versions import made_with
from wantui.planning import Recipe
from wantui.storage.atomic import partial_path

FORMAT = 2
MOST_OF_THE_TIME = 0.01
"""Checkpoints may take this share of the time."""


class CheckpointRefused(Exception):
    """A checkpoint that cannot be gone on from; the text says what does not match."""


class CheckpointTap:
    """Writes a checkpoint after every step, or less often where that would take more than 1 % of the time."""

    def __init__(
        self, pipeline: WanPipeline, recipe: Recipe, path: Path, captured: Mapping[str, Callable[[], tuple[int, ...]]]
    ) -> None:
        self.path, self.captured = path, captured
        self.identity = identity(pipeline, recipe)
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
        """Write where the denoising stands, unless that was done."""
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
                {name: value for name, value in vars(self.scheduler).items() if _differs(value, self.fresh.get(name))},
                captured,
            ),
            self.identity,
        )
        ended = time.monotonic()
        self.earliest = ended + (ended - began) / MOST_OF_THE_TIME

    def on_end(self) -> None:
        """It stays until the video is recorded."""


def identity(pipeline: WanPipeline, recipe: Recipe) -> dict[str, Any]:
    """What must be equal for the bits to be equal: recipe (with the model's digest), and with what it is made."""
    return {"format": FORMAT, "recipe": recipe.digest, **made_with(pipeline, recipe)}


def write_checkpoint(path: Path, checkpoint: Checkpoint, made_by: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` as a whole.

    It is not synced: it has to outlive the process, and a digest tells when it did not outlive the machine.
    """
    tensors = {"latents": checkpoint.latents.detach().cpu().contiguous()}
    scheduler = {name: _pack(value, f"scheduler.{name}", tensors) for name, value in checkpoint.scheduler.items()}
    header = {
        **made_by,
        "steps_done": checkpoint.steps_done,
        "scheduler": scheduler,
        "captured": checkpoint.captured,
        "sha256": _digest(tensors),
    }
    path.parent.mkdir(exist_ok=True)
    partial = partial_path(path)
    try:
        # Not by save_file, whose errors do not tell a full disk from anything else.
        partial.write_bytes(save(tensors, {"wantui": json.dumps(header)}))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path, pipeline: WanPipeline, recipe: Recipe) -> Checkpoint | None:
    """The checkpoint at `path`, if there is one.

    Raises:
        CheckpointRefused: it is damaged, or was made from another recipe or by other software.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["wantui"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointRefused(f"it cannot be read ({error})") from None
    for name, here in identity(pipeline, recipe).items():
        if header.get(name) != here:
            raise CheckpointRefused(f"{name} was {header.get(name)} and is {here}")
    if header["sha256"] != _digest(tensors):
        raise CheckpointRefused("its bytes are not those that were written")
    device = device_of(pipeline)
    return Checkpoint(
        header["steps_done"],
        tensors["latents"].to(device),
        {name: _unpack(value, tensors, device) for name, value in header["scheduler"].items()},
        {name: tuple(checksums) for name, checksums in header["captured"].items()},
    )


def _differs(value: Any, fresh: Any) -> bool:
    if isinstance(value, Tensor):
        return not (isinstance(fresh, Tensor) and value.shape == fresh.shape and torch.equal(value, fresh))
    if isinstance(value, list):
        if not isinstance(fresh, list) or len(value) != len(fresh):
            return True
        return any(_differs(one, other) for one, other in zip(value, fresh, strict=True))
    return type(value) is not type(fresh) or bool(value != fresh)


def _pack(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; tensors in it go into `tensors`."""
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


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
