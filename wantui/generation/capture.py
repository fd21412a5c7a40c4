"""What is stored of a video while it is made: its trajectory always, latents and attention maps on request.

Each tap takes from the device what it needs and hands it to one writing thread.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wantui.generation.attention import CrossAttention
from wantui.generation.denoise import Start, Step
from wantui.generation.gram import GramMatrix, Projection
from wantui.planning import Recipe
from wantui.storage.attention import AttentionWriter
from wantui.storage.background import BackgroundWriter
from wantui.storage.group import NotWhole
from wantui.storage.latents import TrajectoryWriter


class TrajectoryTap:
    """Stores a trajectory; `figures` are those of its latest state.

    Args:
        earlier: checksums of the states that an earlier process stored.
        resumable: whether another process may have to go on from here.
    """

    def __init__(
        self, path: Path, recipe: Recipe, background: BackgroundWriter, earlier: Sequence[int], resumable: bool
    ) -> None:
        self.path, self.recipe, self.background = path, recipe, background
        self.earlier, self.resumable = earlier, resumable
        self.figures: dict[str, float] = {}

    def on_start(self, start: Start, steps_done: int) -> None:
        if steps_done and len(self.earlier) != steps_done + 1:
            raise NotWhole(f"{len(self.earlier)} states were stored before step {steps_done}")
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
            self._take(start.noise)
            self._write(0, start.noise)
        for state in self.writer.earlier:
            self._take(torch.from_numpy(state)[None].to(device))
        self.writer.earlier.clear()

    def on_step(self, step: Step) -> None:
        if self.writer.is_finished:
            return
        self._take(step.latents)
        self._write(step.index + 1, step.latents, step.predicted_clean if self.writer.predicted is not None else None)
        self.figures = self.gram.figures(self.sigmas, self.dimension)

    def _take(self, state: Tensor) -> None:
        self.gram.add(state)
        self.projected.append(self.projection(state))
        self.power.append(state[0].double().square().mean((1, 2, 3)).cpu().numpy())

    def _write(self, step: int, state: Tensor, predicted: Tensor | None = None) -> None:
        if self.writer.latents is None and self.writer.exact is None:
            self.writer.checksums.append(0)  # nothing of it goes to the disk
            return
        clean = None if predicted is None else array(predicted)
        self.background.submit(partial(self.writer.write, step, array(state), clean))

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

    def checksums(self) -> tuple[int, ...]:
        """Of each state that is on the disk."""
        self.background.flush()
        return tuple(self.writer.checksums)


class AttentionTap:
    """Stores the attention maps of the marked words."""

    def __init__(self, path: Path, recipe: Recipe, background: BackgroundWriter, earlier: Sequence[int]) -> None:
        self.path, self.recipe, self.background, self.earlier = path, recipe, background, earlier

    def on_start(self, start: Start, steps_done: int) -> None:
        assert start.attention is not None
        self.attention: CrossAttention = start.attention
        steps = sorted(self.attention.steps)
        if len(self.earlier) != sum(step < steps_done for step in steps):
            raise NotWhole(f"attention maps of {len(self.earlier)} steps were stored before step {steps_done}")
        self.writer = AttentionWriter(
            self.path,
            {context: self.attention.names(context) for context in self.attention.prompts},
            self.attention.map_shape,
            steps,
            [start.sigmas[step] for step in steps],
            len(self.attention.pipeline.transformer.blocks),
            self.recipe,
            {
                word.name: {
                    "text": word.text,
                    "start": word.start,
                    "end": word.end,
                    "weight": word.weight,
                    "tokens": list(word.tokens),
                    "pieces": list(word.pieces),
                }
                for word in self.attention.prompts["cond"].words
            },
            self.earlier,
        )

    def on_step(self, step: Step) -> None:
        if step.attention is None:
            return
        maps = {
            context: dict(zip(own, torch.stack(list(own.values())).cpu().numpy(), strict=True))
            for context, own in step.attention.maps.items()
        }
        self.background.submit(partial(self.writer.write, maps, step.attention.blocks))

    def on_end(self) -> None:
        self.background.flush()
        check = self.attention.check
        self.writer.finish(
            {
                "self_check": {
                    "output_error": check.output_error,
                    "weighted_error": check.weighted_error,
                    "map_error": check.map_error,
                    "pads_taken_together": check.collapsed,
                }
            }
        )

    def checksums(self) -> tuple[int, ...]:
        """Of each step whose maps are on the disk."""
        self.background.flush()
        return tuple(self.writer.checksums)


def array(latents: Tensor) -> NDArray[np.float32]:
    """[channels, frames, height, width] float32 of latents with a batch of one."""
    return np.ascontiguousarray(latents[0].float().cpu().numpy())
