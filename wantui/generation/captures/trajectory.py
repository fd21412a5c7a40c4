"""Record the trajectory: inner products and projections of its states, and the states on request."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wantui.generation.arrays import to_latents_array
from wantui.generation.gram import GramMatrix, Projection
from wantui.planning import Recipe
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.trajectory_writer import TrajectoryWriter
from wantui.storage.zarr_group import IncompleteCaptureError

if TYPE_CHECKING:
    from wantui.generation.denoise import Start, Step


class Recorder:
    """Record a trajectory; see `captures.Recorder` for the arguments."""

    def __init__(
        self, path: Path, recipe: Recipe, background: BackgroundWriter, earlier: Sequence[int], resumable: bool
    ) -> None:
        self.path, self.recipe, self.background = path, recipe, background
        self.earlier, self.resumable = earlier, resumable
        self.figures: dict[str, float] = {}
        """Live metrics of the trajectory up to its latest state."""

    def on_start(self, start: "Start", steps_done: int) -> None:
        if steps_done and len(self.earlier) != steps_done + 1:
            raise IncompleteCaptureError(f"{len(self.earlier)} states were stored before step {steps_done}")
        shape, device = tuple(start.noise.shape[1:]), start.noise.device
        self.writer = TrajectoryWriter(
            self.path, shape, start.sigmas, start.timesteps, self.recipe, self.earlier, self.resumable
        )
        self.sigmas, self.dimension = start.sigmas, start.noise.numel()
        self.gram = GramMatrix(len(start.sigmas), device)
        self.projection = Projection(self.dimension, device)
        self.projected: list[NDArray[np.float32]] = []
        self.power: list[NDArray[np.float64]] = []
        if steps_done == 0:
            self._add_to_geometry(start.noise)
            self._write(0, start.noise)
        for state in self.writer.earlier:
            self._add_to_geometry(torch.from_numpy(state)[None].to(device))
        self.writer.earlier.clear()

    def on_step(self, step: "Step") -> None:
        if self.writer.is_finished:
            return
        self._add_to_geometry(step.latents)
        self._write(step.index + 1, step.latents, step.predicted_clean if self.writer.predicted is not None else None)
        self.figures = self.gram.figures(self.sigmas, self.dimension)

    def _add_to_geometry(self, state: Tensor) -> None:
        self.gram.add(state)
        self.projected.append(self.projection(state))
        self.power.append(state[0].double().square().mean((1, 2, 3)).cpu().numpy())

    def _write(self, step: int, state: Tensor, predicted: Tensor | None = None) -> None:
        if self.writer.latents is None and self.writer.exact is None:
            self.writer.checksums.append(0)  # the recipe does not store states
            return
        clean = None if predicted is None else to_latents_array(predicted)
        self.background.submit(partial(self.writer.write, step, to_latents_array(state), clean))

    def on_end(self) -> None:
        self.background.flush()
        if self.writer.is_finished:
            return
        derived: dict[str, NDArray[Any]] = {
            "gram": self.gram.values,
            "projection": np.stack(self.projected),
            "channel_power": np.stack(self.power),
        }
        self.writer.finish(derived, {"projection": self.projection.name})

    def compute_checksums(self) -> tuple[int, ...]:
        """Return the CRC-32 of each stored state."""
        self.background.flush()
        return tuple(self.writer.checksums)
