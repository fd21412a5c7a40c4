"""Checkpoint file of the denoising loop, from which another process can resume bit for bit.

The stored sampler state is every attribute that differs from a fresh sampler: earlier model outputs (UniPC, DPM++),
the last sample (UniPC), the derivative (Heun), and counters (`samplers.SAMPLERS_BY_NAME`).
"""

import hashlib
import json
import math
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
from wantui.generation.denoise import create_scheduler
from wantui.generation.denoising_state import Checkpoint, DenoisingInputs, DenoisingStep
from wantui.generation.placement import find_device
from wantui.generation.provenance import ARITHMETIC_VERSION, ENVIRONMENT_FIELD, describe_provenance
from wantui.generation.samplers import SAMPLERS_BY_NAME
from wantui.planning import Recipe
from wantui.samplers import count_model_evaluations
from wantui.storage.output_errors import is_outage

CHECKPOINT_FORMAT = 3
"""Format of the file; other formats are rejected."""
MAX_CHECKPOINT_TIME_FRACTION = 0.01
"""Largest share of the time that writing checkpoints may take."""


class CheckpointRefusedError(Exception):
    """Raised for a checkpoint that does not match the video; the message names the difference."""


class CheckpointListener:
    """Write a checkpoint after every step, or less often if checkpoints would take over 1 % of the time.

    Args:
        checksum_functions: checksums of the stored captures, by capture.
        measure_seconds: returns the seconds that the denoising has taken so far, in all processes.
    """

    def __init__(
        self,
        pipeline: WanPipeline,
        recipe: Recipe,
        checkpoint_path: Path,
        checksum_functions: Mapping[str, Callable[[], tuple[int, ...]]],
        measure_seconds: Callable[[], float],
    ) -> None:
        self.checkpoint_path, self.checksum_functions = checkpoint_path, checksum_functions
        self.measure_seconds = measure_seconds
        self.identity = build_checkpoint_identity(pipeline, recipe)
        self.state_attributes = SAMPLERS_BY_NAME[recipe.sampler].state_attributes
        self.initial_scheduler_state = vars(create_scheduler(recipe, find_device(pipeline)))
        self.inputs: DenoisingInputs
        self.unwritten_step: DenoisingStep | None = None
        """Latest step if it is not written yet."""
        self.next_write_at = 0.0

    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None:
        self.inputs = inputs

    def on_step(self, step: DenoisingStep) -> None:
        self.unwritten_step = step
        if time.monotonic() >= self.next_write_at or step.evaluation_index + 1 == step.evaluation_count:
            self.write_latest_step()

    def write_latest_step(self) -> None:
        """Write the latest state, unless it was written before."""
        step, self.unwritten_step = self.unwritten_step, None
        if step is None:
            return
        # Not timed: captures are written in any case, and this waits for them.
        checksums_by_capture = {
            name: compute_checksums() for name, compute_checksums in self.checksum_functions.items()
        }
        started_at = time.monotonic()
        write_checkpoint(
            self.checkpoint_path,
            Checkpoint(
                step.evaluation_index + 1,
                step.latents,
                self._collect_changed_state(),
                checksums_by_capture,
                self.inputs.guidance.state,
                self.measure_seconds(),
            ),
            self.identity,
        )
        ended_at = time.monotonic()
        self.next_write_at = ended_at + (ended_at - started_at) / MAX_CHECKPOINT_TIME_FRACTION

    def _collect_changed_state(self) -> dict[str, Any]:
        """Return the attributes of the sampler that have changed since its creation.

        Raises:
            RuntimeError: an unknown attribute has changed: diffusers has changed.
        """
        changed_attributes = {
            name: value
            for name, value in vars(self.inputs.scheduler).items()
            if _is_different(value, self.initial_scheduler_state.get(name))
        }
        if unknown_names := sorted(changed_attributes.keys() - self.state_attributes):
            raise RuntimeError(
                f"a checkpoint cannot hold {', '.join(unknown_names)} of {type(self.inputs.scheduler).__name__}"
            )
        return changed_attributes

    def on_end(self) -> None:
        """Do nothing: the checkpoint stays until the video is recorded."""


def build_checkpoint_identity(pipeline: WanPipeline, recipe: Recipe) -> dict[str, Any]:
    """Return the data that must match to resume bit for bit: recipe (with the model's digest), software and device.

    The versions of wantui and Python are left out: a relevant change raises `ARITHMETIC_VERSION` or
    `CHECKPOINT_FORMAT`.
    """
    provenance = {
        name: value for name, value in describe_provenance(pipeline, recipe).items() if name not in ("wantui", "python")
    }
    uses_gpu = find_device(pipeline).type == "cuda"
    cpu_capability = None if uses_gpu else torch.backends.cpu.get_cpu_capability()
    return {"recipe": recipe.digest, "arithmetic": ARITHMETIC_VERSION, **provenance, "cpu": cpu_capability}


def write_checkpoint(path: Path, checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` atomically.

    The file is not synced: it must survive the process, and its digest detects damage from a crash of the machine.
    """
    tensors_by_name = {"latents": checkpoint.latents.detach().cpu().contiguous()}
    scheduler_state = {
        name: _pack_value(value, f"scheduler.{name}", tensors_by_name)
        for name, value in checkpoint.scheduler_state.items()
    }
    header = {
        "format": CHECKPOINT_FORMAT,
        "made_by": identity,
        "steps_done": checkpoint.steps_done,
        "seconds": checkpoint.seconds,
        "scheduler": scheduler_state,
        "captured": {name: list(checksums) for name, checksums in checkpoint.checksums_by_capture.items()},
    }
    if checkpoint.guidance_state:  # otherwise left out, as in earlier versions
        header["guidance"] = {
            name: _pack_value(value, f"guidance.{name}", tensors_by_name)
            for name, value in checkpoint.guidance_state.items()
        }
    header["sha256"] = _compute_checkpoint_digest(header, tensors_by_name)
    path.parent.mkdir(exist_ok=True)
    temporary_path = make_partial_path(path)
    try:
        # save_file is not used: its errors do not identify a full disk.
        temporary_file_identity = create_empty_file(temporary_path)
        temporary_path.write_bytes(save(tensors_by_name, {"wantui": json.dumps(header)}))
        rename_created_file(temporary_path, path, temporary_file_identity)
    except BaseException:
        temporary_path.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path, pipeline: WanPipeline, recipe: Recipe) -> Checkpoint | None:
    """Read the checkpoint at `path`; return None if there is no file.

    Raises:
        CheckpointRefusedError: the file is damaged, or from another recipe or other software.
        Exception: the file system is protected or unreachable, or resources are lacking; the checkpoint may be intact.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file():  # reading a pipe would wait for ever
        raise CheckpointRefusedError(f"{path.name} is not a regular file")
    try:
        path.open("rb").close()  # safetensors hides why a file cannot be opened
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["wantui"])
            tensors_by_name = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
        stored_format, stored_digest = header.get("format"), header.pop("sha256", None)
        is_digest_correct = stored_digest == _compute_checkpoint_digest(header, tensors_by_name)
    except Exception as error:  # damaged bytes raise errors of many types; the video can always restart
        if is_outage(error, path.parent):
            raise
        raise CheckpointRefusedError(f"it cannot be read ({type(error).__name__}: {error})") from None
    if stored_format != CHECKPOINT_FORMAT:
        raise CheckpointRefusedError(
            f"its format is {stored_format!r}, but this version reads format {CHECKPOINT_FORMAT}"
        )
    if not is_digest_correct:
        raise CheckpointRefusedError("its checksum does not match")
    try:
        return _parse_checkpoint(header, tensors_by_name, pipeline, recipe)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointRefusedError(f"it does not contain a checkpoint ({type(error).__name__}: {error})") from None


def _parse_checkpoint(
    header: dict[str, Any], tensors_by_name: dict[str, Tensor], pipeline: WanPipeline, recipe: Recipe
) -> Checkpoint:
    """Return the checkpoint from the content of an undamaged file.

    Raises:
        CheckpointRefusedError: it is from another recipe, other software or another sampler.
        Exception: its content has another form, or does not fit on the device.
    """
    current_identity, stored_identity = build_checkpoint_identity(pipeline, recipe), dict(header["made_by"])
    stored_identity["blocks"] = migrate_speed_name(stored_identity["blocks"])
    stored_identity.setdefault(ENVIRONMENT_FIELD, "")  # as in versions that did not store it
    for name in {**current_identity, **stored_identity}:
        if stored_identity.get(name) != current_identity.get(name):
            raise CheckpointRefusedError(f"{name} was {stored_identity.get(name)} and is {current_identity.get(name)}")
    evaluation_count, steps_done = count_model_evaluations(recipe.sampler, recipe.steps), header["steps_done"]
    stored_state = header["scheduler"]
    if unknown_names := sorted(stored_state.keys() - SAMPLERS_BY_NAME[recipe.sampler].state_attributes):
        raise CheckpointRefusedError(f"the sampler {recipe.sampler} has no state attribute {', '.join(unknown_names)}")
    scheduler_step = stored_state.get("_step_index")
    if type(steps_done) is not int or not 1 <= steps_done <= evaluation_count or scheduler_step != steps_done:
        raise CheckpointRefusedError(
            f"it was saved after {steps_done} of {evaluation_count} model evaluations, but the state of its sampler "
            f"after {scheduler_step}"
        )
    checksums_by_capture = {str(name): tuple(map(int, checksums)) for name, checksums in header["captured"].items()}
    frames = (recipe.frames - 1) // pipeline.vae_scale_factor_temporal + 1
    latent_sides = (side // pipeline.vae_scale_factor_spatial for side in (recipe.height, recipe.width))
    latents = tensors_by_name["latents"]
    expected_shape = (1, pipeline.transformer.config.in_channels, frames, *latent_sides)
    if tuple(latents.shape) != expected_shape or not latents.is_floating_point():
        raise CheckpointRefusedError(
            f"its latents are {tuple(latents.shape)} of {latents.dtype}, but must be {expected_shape}"
        )
    device = find_device(pipeline)
    scheduler_state = {name: _unpack_value(value, tensors_by_name, device) for name, value in stored_state.items()}
    guidance_state = {
        name: _unpack_value(value, tensors_by_name, device) for name, value in header.get("guidance", {}).items()
    }
    seconds = float(header.get("seconds", 0.0))  # earlier versions stored none
    if not 0 <= seconds < math.inf:
        raise CheckpointRefusedError(f"its recorded denoising time is {seconds} s")
    return Checkpoint(steps_done, latents.to(device), scheduler_state, checksums_by_capture, guidance_state, seconds)


def _is_different(value: Any, initial_value: Any) -> bool:
    if isinstance(value, Tensor):
        return not (
            isinstance(initial_value, Tensor)
            and value.shape == initial_value.shape
            and torch.equal(value, initial_value)
        )
    if isinstance(value, list):
        if not isinstance(initial_value, list) or len(value) != len(initial_value):
            return True
        return any(
            _is_different(value_item, initial_item)
            for value_item, initial_item in zip(value, initial_value, strict=True)
        )
    return type(value) is not type(initial_value) or bool(value != initial_value)


def _pack_value(value: Any, tensor_name: str, tensors_by_name: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; tensors in it are added to `tensors_by_name`."""
    if isinstance(value, Tensor):
        # safetensors refuses tensors that share memory
        tensors_by_name[tensor_name] = value.detach().cpu().contiguous().clone()
        return {"tensor": tensor_name, "on": value.device.type}
    if isinstance(value, list):
        return [_pack_value(item, f"{tensor_name}.{i}", tensors_by_name) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{tensor_name} has the type {type(value).__name__}, which a checkpoint cannot store")


def _unpack_value(value: Any, tensors_by_name: dict[str, Tensor], device: torch.device) -> Any:
    if isinstance(value, dict):
        return tensors_by_name[value["tensor"]].to("cpu" if value["on"] == "cpu" else device)
    if isinstance(value, list):
        return [_unpack_value(item, tensors_by_name, device) for item in value]
    return value


def _compute_checkpoint_digest(header: Mapping[str, Any], tensors_by_name: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header without its digest, and of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors_by_name):
        digest.update(f"{name}\0{tensors_by_name[name].dtype}\0{tuple(tensors_by_name[name].shape)}\0".encode())
        digest.update(tensors_by_name[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
