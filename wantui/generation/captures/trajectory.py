"""Record the trajectory: inner products and projections of its states, and the states on request."""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wantui.generation.arrays import to_latents_array
from wantui.generation.captures.base import CaptureRecorder
from wantui.generation.denoising_state import DenoisingInputs, DenoisingStep
from wantui.generation.gram import GramMatrix, StateProjection
from wantui.planning import Recipe
from wantui.planning.guidance_plan import changes_guidance
from wantui.storage.trajectory_writer import TrajectoryWriter
from wantui.storage.zarr_group import PartialCaptureError


def _build_guidance_arrays(recipe: Recipe, inputs: DenoisingInputs) -> dict[str, NDArray[Any]]:
    """Return scale and passes of each evaluation if a control changes guidance; otherwise no arrays."""
    if not changes_guidance(recipe):
        return {}
    evaluations = inputs.guidance.evaluations
    return {
        "guidance_scales": np.array([evaluation.scale for evaluation in evaluations], dtype=np.float64),
        "pass_counts": np.array([evaluation.pass_count for evaluation in evaluations], dtype=np.int64),
    }


class Recorder(CaptureRecorder):
    """Record a trajectory."""

    writer: TrajectoryWriter

    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None:
        self.live_metrics: dict[str, float] = {}
        """Live metrics of the trajectory up to its latest state."""
        if steps_done and len(self.earlier_checksums) != steps_done + 1:
            raise PartialCaptureError(
                f"{steps_done} steps are complete, but {len(self.earlier_checksums)} states are stored"
            )
        shape, device = tuple(inputs.noise.shape[1:]), inputs.noise.device
        self.writer = TrajectoryWriter(
            self.path,
            shape,
            inputs.sigmas,
            inputs.timesteps,
            self.recipe,
            self.earlier_checksums,
            self.is_resumable,
            _build_guidance_arrays(self.recipe, inputs),
        )
        self.sigmas, self.dimension = inputs.sigmas, inputs.noise.numel()
        self.gram_matrix = GramMatrix(len(inputs.sigmas), device)
        self.projection = StateProjection(self.dimension, device)
        self.projected_states: list[NDArray[np.float32]] = []
        self.channel_powers: list[NDArray[np.float64]] = []
        if steps_done == 0:
            self._add_to_geometry(inputs.noise)
            self._write_state(0, inputs.noise)
        for state in self.writer.earlier_states:
            self._add_to_geometry(torch.from_numpy(state)[None].to(device))
        self.writer.earlier_states.clear()

    def on_step(self, step: DenoisingStep) -> None:
        if self.writer.is_finished:
            return
        self._add_to_geometry(step.latents)
        self._write_state(
            step.evaluation_index + 1,
            step.latents,
            step.predicted_clean if self.writer.predicted_clean_array is not None else None,
        )
        self.live_metrics = self.gram_matrix.compute_live_metrics(self.sigmas, self.dimension)

    def _add_to_geometry(self, state: Tensor) -> None:
        self.gram_matrix.add_state(state)
        self.projected_states.append(self.projection(state))
        self.channel_powers.append(state[0].double().square().mean((1, 2, 3)).cpu().numpy())

    def _write_state(self, step: int, state: Tensor, clean_latents: Tensor | None = None) -> None:
        if self.writer.latents_array is None and self.writer.exact_states_array is None:
            self.writer.checksums.append(0)  # the recipe does not store states
            return
        predicted_clean = None if clean_latents is None else to_latents_array(clean_latents)
        self.background_writer.submit_write(
            partial(self.writer.write_state, step, to_latents_array(state), predicted_clean)
        )

    def on_end(self) -> None:
        self.background_writer.wait_for_writes()
        if self.writer.is_finished:
            return
        derived_arrays: dict[str, NDArray[Any]] = {
            "gram": self.gram_matrix.values,
            "projection": np.stack(self.projected_states),
            "channel_power": np.stack(self.channel_powers),
        }
        self.writer.finish_group(derived_arrays, {"projection": self.projection.description})
