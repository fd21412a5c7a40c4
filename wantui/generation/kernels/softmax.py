"""`average_softmax_over_heads` as one kernel, so that a map costs less than one per cent of the block's time."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.planning.flops import TEXT_POSITION_COUNT

POSITIONS_PER_PROGRAM = 64
"""Number of video positions for each program."""


def run_softmax_mean_kernel(query: Tensor, key: Tensor, column_count: int) -> Tensor:
    """Return [1, positions, columns] float32, of query [1, positions, heads, dim] and key [1, 512, heads, dim] in 16
    bits."""
    _, positions, heads, dim = query.shape
    if query.stride(3) != 1 or key.stride(3) != 1:
        query, key = query.contiguous(), key.contiguous()
    means = torch.empty(1, positions, column_count, device=query.device, dtype=torch.float32)
    _softmax_mean_kernel[(triton.cdiv(positions, POSITIONS_PER_PROGRAM),)](
        query,
        key,
        means,
        positions,
        heads,
        column_count,
        dim,
        query.stride(1),
        query.stride(2),
        key.stride(1),
        key.stride(2),
        1 / math.sqrt(dim),
        math.log(TEXT_POSITION_COUNT - column_count + 1),
        PROGRAM_POSITIONS=POSITIONS_PER_PROGRAM,
        PADDED_COLUMNS=max(16, triton.next_power_of_2(column_count)),
        PADDED_HEAD_DIM=max(16, triton.next_power_of_2(dim)),
        num_stages=2,
    )
    return means


@triton.jit
def _softmax_mean_kernel(
    query,  # [positions, heads, head_dim], with the strides below
    key,  # [512, heads, head_dim], with the strides below
    means,  # [positions, columns] float32, contiguous
    position_count,
    head_count: tl.constexpr,
    column_count,
    head_dim,
    query_position_stride,
    query_head_stride,
    key_column_stride,
    key_head_stride,
    scale,  # 1 / sqrt(head_dim)
    log_padding_count,  # added to the logits of the last column
    PROGRAM_POSITIONS: tl.constexpr,  # noqa: N803
    PADDED_COLUMNS: tl.constexpr,  # noqa: N803 - power of 2
    PADDED_HEAD_DIM: tl.constexpr,  # noqa: N803 - power of 2
):
    positions = (tl.program_id(0) * PROGRAM_POSITIONS + tl.arange(0, PROGRAM_POSITIONS))[:, None].to(tl.int64)
    columns = tl.arange(0, PADDED_COLUMNS)[None, :]
    dims_across, dims_down = tl.arange(0, PADDED_HEAD_DIM)[None, :], tl.arange(0, PADDED_HEAD_DIM)[:, None]
    softmax_sum = tl.zeros((PROGRAM_POSITIONS, PADDED_COLUMNS), dtype=tl.float32)
    for head in range(head_count):
        query_rows = tl.load(
            query + positions * query_position_stride + head * query_head_stride + dims_across,
            mask=(positions < position_count) & (dims_across < head_dim),
            other=0.0,
        )
        key_columns = tl.load(
            key + columns * key_column_stride + head * key_head_stride + dims_down,
            mask=(columns < column_count) & (dims_down < head_dim),
            other=0.0,
        )
        logits = tl.dot(query_rows, key_columns) * scale
        logits = tl.where(columns == column_count - 1, logits + log_padding_count, logits)
        logits = tl.where(columns < column_count, logits, float("-inf"))
        p = tl.exp(logits - tl.max(logits, 1)[:, None])
        softmax_sum += p / tl.sum(p, 1)[:, None]
    tl.store(
        means + positions * column_count + columns,
        softmax_sum / head_count,
        mask=(positions < position_count) & (columns < column_count),
    )
