"""What is shown of a trajectory while it is made: a few scalars for each step, computed on the device in float64.

With x_i the latents after step i (x_0 the initial noise), D their number of values, and d_i = x_i - x_{i-1}:

norm         |x_i| / sqrt(D)
velocity     |d_i| / (sqrt(D) |sigma_i - sigma_{i-1}|), per unit of noise level
turning      angle between d_{i-1} and d_i in radians
linearity    |x_i - x_0| / sum of |d_j| for j <= i; 1 is a straight line
"""

import math

import torch
from torch import Tensor

from wantui.generation.denoise import Start, Step


class LiveGeometry:
    """A tap whose `figures` are those of the latest step. Holds two states and a difference, whatever the steps."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        self.noise: Tensor | None = None
        self.difference: Tensor | None = None
        self.length: float | None = 0.0
        """Of the path so far; None where its beginning was made by another process."""

    def on_start(self, start: Start, steps_done: int) -> None:
        self.noise = start.noise
        self.length = 0.0 if steps_done == 0 else None

    def on_step(self, step: Step) -> None:
        assert self.noise is not None
        difference = step.latents.double() - step.latents_before.double()
        chord = step.latents.double() - self.noise.double()
        earlier = self.difference if self.difference is not None else torch.zeros_like(difference)
        # One transfer from the device for all of them.
        norm, moved, straight, before, along = torch.stack(
            [
                step.latents.double().norm(),
                difference.norm(),
                chord.norm(),
                earlier.norm(),
                (earlier * difference).sum(),
            ]
        ).tolist()
        scale = math.sqrt(difference.numel())
        self.figures = {"norm": norm / scale}
        if step.sigma != step.sigma_next:
            self.figures["velocity"] = moved / scale / abs(step.sigma - step.sigma_next)
        if before > 0 and moved > 0:
            self.figures["turning"] = math.acos(min(1.0, max(-1.0, along / (before * moved))))
        if self.length is not None:
            self.length += moved
            if self.length > 0:
                self.figures["linearity"] = straight / self.length
        self.difference = difference

    def on_end(self) -> None:
        pass


def memory_figures(device: torch.device) -> dict[str, int]:
    """Bytes that torch holds on a GPU: allocated now, reserved now, allocated at most since the video began."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }
