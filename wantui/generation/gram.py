"""Inner products and low-dimensional projections of a trajectory's states, computed during the denoising.

Sums are in float64: on a straight path of Wan's size a float32 Gram matrix would fake 0.7 rad of turning.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wantui.captures.trajectory import MAX_PROJECTION_DIMENSION, MAX_STATES_MEMORY_FRACTION

MAX_WIDENED_BYTES = 1 << 27
"""Bytes of earlier states that are converted to float64 at a time."""
PROJECTION_SEED = 0


class GramMatrix:
    """Gram matrix of the trajectory's states, which grows by a row with each state.

    Args:
        state_count: final number of states.
    """

    def __init__(self, state_count: int, device: torch.device) -> None:
        self.values = np.zeros((state_count, state_count))
        self.device = device
        self.earlier_states: Tensor | None = None
        """[count - 1, dimension] float32, the earlier states; the last state is not stored."""
        self.added_count = 0

    def add_state(self, state: Tensor) -> None:
        """Add the next state, of any shape."""
        flat_state = state.detach().reshape(-1).float()
        if self.earlier_states is None:
            self.earlier_states = self._allocate_states(flat_state.numel())
        wide_state = flat_state.to(self.device).double()
        chunk_rows, rows = max(1, MAX_WIDENED_BYTES // (8 * len(wide_state))), self.added_count
        if self.device.type == "cuda":
            # Allocating tensors of new sizes costs a GPU more than summing rows that are still zero.
            rows = min(len(self.earlier_states), -(-rows // chunk_rows) * chunk_rows)
        products = [
            torch.mv(chunk.to(self.device, non_blocking=True).double(), wide_state)
            for chunk in self.earlier_states[:rows].split(chunk_rows)
        ]
        earlier_products = torch.cat(products)[: self.added_count] if products else wide_state[:0]
        row = torch.cat([earlier_products, torch.dot(wide_state, wide_state)[None]]).cpu().numpy()
        self.values[self.added_count, : self.added_count + 1] = row
        self.values[: self.added_count + 1, self.added_count] = row
        if self.added_count < len(self.earlier_states):
            self.earlier_states[self.added_count] = flat_state
        self.added_count += 1
        if self.added_count == len(self.values):
            self.earlier_states = None

    def _allocate_states(self, dimension: int) -> Tensor:
        shape = (len(self.values) - 1, dimension)
        if self.device.type != "cuda":
            return torch.zeros(shape)
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        if 4 * math.prod(shape) <= MAX_STATES_MEMORY_FRACTION * free_bytes:
            return torch.zeros(shape, device=self.device)
        return torch.zeros(shape, pin_memory=True)

    def compute_live_metrics(self, sigmas: tuple[float, ...], dimension: int) -> dict[str, float]:
        """Return the live metrics of the latest state x_i, with D = `dimension` values and d_i = x_i - x_{i-1}.

        norm          |x_i| / sqrt(D)
        velocity      |d_i| / (sqrt(D) |sigma_i - sigma_{i-1}|), per unit of noise level
        turning       angle between d_{i-1} and d_i, radians
        straightness  |x_i - x_0| / sum of |d_j| for j <= i; 1 is a straight line
        """
        i, gram = self.added_count - 1, self.values / dimension
        metrics = {"norm": float(np.sqrt(gram[i, i]))}
        if i == 0:
            return metrics
        upper, lower = gram[1 : i + 1, 1 : i + 1], gram[:i, :i]
        step_products = upper + lower - gram[1 : i + 1, :i] - gram[:i, 1 : i + 1]
        step_lengths = np.sqrt(np.maximum(np.diagonal(step_products), 0))
        if sigmas[i] != sigmas[i - 1]:
            metrics["velocity"] = float(step_lengths[-1] / abs(sigmas[i] - sigmas[i - 1]))
        if i > 1 and step_lengths[-1] > 0 and step_lengths[-2] > 0:
            cosine = step_products[-1, -2] / (step_lengths[-1] * step_lengths[-2])
            metrics["turning"] = float(np.arccos(np.clip(cosine, -1, 1)))
        if step_lengths.sum() > 0:
            chord = np.sqrt(max(gram[i, i] + gram[0, 0] - 2 * gram[i, 0], 0))
            metrics["straightness"] = float(chord / step_lengths.sum())
        return metrics


class StateProjection:
    """Projection of states to few dimensions, the same for all states of equal size; inner products are unbiased.

    A balanced count sketch (Charikar, Chen and Farach-Colton 2002): each value gets a random sign and is added to one
    of `k` sums, all with equally many values. Squared distances have a relative standard error of about sqrt(2 / k),
    2.2 % for 4096. States of at most `k` values are not projected.
    """

    def __init__(self, dimension: int, device: torch.device, k: int = MAX_PROJECTION_DIMENSION) -> None:
        self.dimension, self.k = dimension, min(k, dimension)
        self.is_identity = dimension <= k
        self.description = (
            f"identity, {dimension}" if self.is_identity else f"balanced count sketch, {k}, seed {PROJECTION_SEED}"
        )
        if not self.is_identity:
            permutation, signs = _draw_permutation_and_signs(dimension)
            self.permutation, self.signs = torch.from_numpy(permutation).to(device), torch.from_numpy(signs).to(device)

    def __call__(self, state: Tensor) -> NDArray[np.float32]:
        """Return the projection [k] of a state of any shape."""
        flat_state = state.detach().reshape(-1).float()
        if self.is_identity:
            return flat_state.cpu().numpy()
        signed_values = flat_state.index_select(0, self.permutation).double() * self.signs
        padding_count = -self.dimension % self.k
        sums = torch.nn.functional.pad(signed_values, (0, padding_count)).view(-1, self.k).sum(0)
        return sums.float().cpu().numpy()


@lru_cache(maxsize=2)
def _draw_permutation_and_signs(dimension: int) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    # RandomState is the only numpy generator with a guaranteed stable stream.
    generator = np.random.RandomState(PROJECTION_SEED)
    permutation = generator.permutation(dimension).astype(np.int32)
    return permutation, (2 * generator.randint(0, 2, dimension) - 1).astype(np.int8)
