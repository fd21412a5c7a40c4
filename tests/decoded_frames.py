"""Decoded frames in floating point, for comparisons with diffusers to the bit."""

import numpy as np
from diffusers import WanPipeline
from numpy.typing import NDArray
from torch import Tensor

from wantui.generation.decode import decode_chunks


def decode_float_frames(pipeline: WanPipeline, latents: Tensor) -> NDArray[np.float32]:
    """Return what `WanPipeline.__call__(output_type="np")` returns of one video, [frames, height, width, rgb]."""
    chunks = decode_chunks(pipeline, latents)
    return np.concatenate(
        [pipeline.video_processor.postprocess(chunk[0].permute(1, 0, 2, 3), output_type="np") for chunk in chunks]
    )
