"""Inner products of a trajectory's states during denoising, and a low-dimensional projection of the states.

Sums are in float64: on a straight path of Wan's size a float32 Gram matrix would fake 0.7 rad of turning.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wantui.captures.trajectory import MAX_PROJECTION_DIMENSION

SHARE_OF_FREE_MEMORY = 1 / 16
"""Largest share of free GPU memory for the states; beyond it they are in pinned CPU memory."""
WIDENED_BYTES = 1 << 27
"""Bytes of earlier states that are converted to float64 at a time."""
SEED = 0


class GramMatrix:
    """Gram matrix of the trajectory's states, which grows by a row with each state.

    Args:
        count: final number of states.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.values = np.zeros((count, count))
        self.device = device
        self.states: Tensor | None = None
        """[count - 1, dimension] float32, the earlier states; the last state is not stored."""
        self.size = 0

    def add(self, state: Tensor) -> None:
        """Add the next state, of any shape."""
        flat = state.detach().reshape(-1).float()
        if self.states is None:
            self.states = self._allocate_states(flat.numel())
        wide = flat.to(self.device).double()
        several, rows = max(1, WIDENED_BYTES // (8 * len(wide))), self.size
        if self.device.type == "cuda":
            # Allocating tensors of new sizes costs a GPU more than summing rows that are still zero.
            rows = min(len(self.states), -(-rows // several) * several)
        products = [
            torch.mv(some.to(self.device, non_blocking=True).double(), wide)
            for some in self.states[:rows].split(several)
        ]
        earlier = torch.cat(products)[: self.size] if products else wide[:0]
        row = torch.cat([earlier, torch.dot(wide, wide)[None]]).cpu().numpy()
        self.values[self.size, : self.size + 1] = row
        self.values[: self.size + 1, self.size] = row
        if self.size < len(self.states):
            self.states[self.size] = flat
        self.size += 1
        if self.size == len(self.values):
            self.states = None

    def _allocate_states(self, dimension: int) -> Tensor:
        shape = (len(self.values) - 1, dimension)
        if self.device.type != "cuda":
            return torch.zeros(shape)
        free, _ = torch.cuda.mem_get_info(self.device)
        if 4 * math.prod(shape) <= SHARE_OF_FREE_MEMORY * free:
            return torch.zeros(shape, device=self.device)
        return torch.zeros(shape, pin_memory=True)

    def figures(self, sigmas: tuple[float, ...], dimension: int) -> dict[str, float]:
        """Return the live metrics of the latest state x_i, with D = `dimension` values and d_i = x_i - x_{i-1}.

        norm          |x_i| / sqrt(D)
        velocity      |d_i| / (sqrt(D) |sigma_i - sigma_{i-1}|), per unit of noise level
        turning       angle between d_{i-1} and d_i, radians
        straightness  |x_i - x_0| / sum of |d_j| for j <= i; 1 is a straight line
        """
        i, gram = self.size - 1, self.values / dimension
        figures = {"norm": float(np.sqrt(gram[i, i]))}
        if i == 0:
            return figures
        upper, lower = gram[1 : i + 1, 1 : i + 1], gram[:i, :i]
        steps = upper + lower - gram[1 : i + 1, :i] - gram[:i, 1 : i + 1]
        lengths = np.sqrt(np.maximum(np.diagonal(steps), 0))
        if sigmas[i] != sigmas[i - 1]:
            figures["velocity"] = float(lengths[-1] / abs(sigmas[i] - sigmas[i - 1]))
        if i > 1 and lengths[-1] > 0 and lengths[-2] > 0:
            cosine = steps[-1, -2] / (lengths[-1] * lengths[-2])
            figures["turning"] = float(np.arccos(np.clip(cosine, -1, 1)))
        if lengths.sum() > 0:
            chord = np.sqrt(max(gram[i, i] + gram[0, 0] - 2 * gram[i, 0], 0))
            figures["straightness"] = float(chord / lengths.sum())
        return figures


class Projection:
    """Projection of states to few dimensions, the same for all states of a size; inner products are unbiased.

    A balanced count sketch (Charikar, Chen and Farach-Colton 2002): each value gets a random sign and is added to one
    of `k` sums, all with equally many values. Squared distances have a relative standard error of about sqrt(2 / k),
    2.2 % for 4096. States of at most `k` values are not projected.
    """

    def __init__(self, dimension: int, device: torch.device, k: int = MAX_PROJECTION_DIMENSION) -> None:
        self.dimension, self.k = dimension, min(k, dimension)
        self.is_identity = dimension <= k
        self.name = f"identity, {dimension}" if self.is_identity else f"balanced count sketch, {k}, seed {SEED}"
        if not self.is_identity:
            order, signs = _draw_order_and_signs(dimension)
            self.order, self.signs = torch.from_numpy(order).to(device), torch.from_numpy(signs).to(device)

    def __call__(self, state: Tensor) -> NDArray[np.float32]:
        """Return the projection [k] of a state of any shape."""
        flat = state.detach().reshape(-1).float()
        if self.is_identity:
            return flat.cpu().numpy()
        mixed = flat.index_select(0, self.order).double() * self.signs
        missing = -self.dimension % self.k
        sums = torch.nn.functional.pad(mixed, (0, missing)).view(-1, self.k).sum(0)
        return sums.float().cpu().numpy()


@lru_cache(maxsize=2)
def _draw_order_and_signs(dimension: int) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    # RandomState is the only numpy generator with a guaranteed stable stream.
    random = np.random.RandomState(SEED)
    order = random.permutation(dimension).astype(np.int32)
    return order, (2 * random.randint(0, 2, dimension) - 1).astype(np.int8)
