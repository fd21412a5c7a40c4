"""Convert tensors on the device to numpy arrays."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def to_latents_array(latents: Tensor) -> NDArray[np.float32]:
    """Return latents [1, channels, frames, height, width] as float32 [channels, frames, height, width]."""
    return np.ascontiguousarray(latents[0].float().cpu().numpy())
