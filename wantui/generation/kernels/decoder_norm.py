"""The VAE's RMSNorm over channels with the SiLU after it, as one kernel.

The order of summation is fixed: with the same GPU and software, a clip has the same bits in every process.
"""

import triton
import triton.language as tl
from torch import Tensor

VALUES_PER_PROGRAM = 8192
"""Tile size of a program: positions x channels, padded to a power of 2."""


def run_norm_and_silu_kernel(values: Tensor, gamma: Tensor, scale: float, output: Tensor) -> None:
    """Write SiLU(gamma x scale x values / |values|) to output; |values| is the Euclidean norm over the channels.

    Args:
        values: float32 [batch, channels, frames, height, width].
        gamma: float32, one weight for each channel.
        output: like values, contiguous, in channels_last_3d format, or a slice of such a tensor along the frames.
    """
    if values.stride(3) != values.shape[4] * values.stride(4):  # the kernel counts through the rows of a frame
        values = values.contiguous()
    assert output.stride(3) == output.shape[4] * output.stride(4), "the rows of the output do not follow each other"
    batch, channels, frames, height, width = values.shape
    positions = height * width
    padded_channels = triton.next_power_of_2(channels)
    positions_per_program = max(4, VALUES_PER_PROGRAM // padded_channels)
    _norm_and_silu_kernel[(triton.cdiv(positions, positions_per_program), frames, batch)](
        values,
        gamma,
        output,
        scale,
        channels,
        positions,
        *(tensor.stride(axis) for tensor in (values, output) for axis in (0, 1, 2, 4)),
        PADDED_CHANNELS=padded_channels,
        POSITIONS=positions_per_program,
        num_warps=8,
    )


@triton.jit
def _norm_and_silu_kernel(
    values,
    gamma,
    output,
    scale,
    channels,
    positions,
    values_batch_stride,
    values_channel_stride,
    values_frame_stride,
    values_position_stride,
    output_batch_stride,
    output_channel_stride,
    output_frame_stride,
    output_position_stride,
    PADDED_CHANNELS: tl.constexpr,  # noqa: N803 - power of 2
    POSITIONS: tl.constexpr,  # noqa: N803 - positions of a frame for each program, power of 2
):
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    frame, video = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, PADDED_CHANNELS)
    is_inside = (position < positions)[:, None] & (channel < channels)[None, :]
    row, column = position.to(tl.int64)[:, None], channel.to(tl.int64)[None, :]
    values += video * values_batch_stride + frame * values_frame_stride
    output += video * output_batch_stride + frame * output_frame_stride
    x = tl.load(values + row * values_position_stride + column * values_channel_stride, mask=is_inside, other=0.0)
    norm = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)  # like torch.nn.functional.normalize
    y = x / norm[:, None] * scale * tl.load(gamma + channel, mask=channel < channels, other=0.0)[None, :]
    y = y / (1.0 + tl.exp(-y))
    tl.store(output + row * output_position_stride + column * output_channel_stride, y, mask=is_inside)
