"""`average_over_heads` as one kernel, so that a map costs less than one per cent of the block's time."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.planning.flops import TEXT_POSITION_COUNT

ROWS = 64
"""Places of the video for each program."""


def fused_average_over_heads(query: Tensor, key: Tensor, columns: int) -> Tensor:
    """Return [1, positions, columns] float32, of query [1, positions, heads, dim] and key [1, 512, heads, dim] in 16
    bits."""
    _, positions, heads, dim = query.shape
    if query.stride(3) != 1 or key.stride(3) != 1:
        query, key = query.contiguous(), key.contiguous()
    means = torch.empty(1, positions, columns, device=query.device, dtype=torch.float32)
    _kernel[(triton.cdiv(positions, ROWS),)](
        query,
        key,
        means,
        positions,
        heads,
        columns,
        dim,
        query.stride(1),
        query.stride(2),
        key.stride(1),
        key.stride(2),
        1 / math.sqrt(dim),
        math.log(TEXT_POSITION_COUNT - columns + 1),
        ROWS_=ROWS,
        COLUMNS=max(16, triton.next_power_of_2(columns)),
        DIM=max(16, triton.next_power_of_2(dim)),
        num_stages=2,
    )
    return means


@triton.jit
def _kernel(
    query,
    key,
    means,
    positions,
    heads: tl.constexpr,
    columns,
    dim,
    query_position_stride,
    query_head_stride,
    key_column_stride,
    key_head_stride,
    scale,
    rest,
    ROWS_: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    DIM: tl.constexpr,  # noqa: N803
):
    rows = (tl.program_id(0) * ROWS_ + tl.arange(0, ROWS_))[:, None].to(tl.int64)
    cols = tl.arange(0, COLUMNS)[None, :]
    along, down = tl.arange(0, DIM)[None, :], tl.arange(0, DIM)[:, None]
    summed = tl.zeros((ROWS_, COLUMNS), dtype=tl.float32)
    for head in range(heads):
        left = tl.load(
            query + rows * query_position_stride + head * query_head_stride + along,
            mask=(rows < positions) & (along < dim),
            other=0.0,
        )
        right = tl.load(
            key + cols * key_column_stride + head * key_head_stride + down,
            mask=(cols < columns) & (down < dim),
            other=0.0,
        )
        logits = tl.dot(left, right) * scale
        logits = tl.where(cols == columns - 1, logits + rest, logits)
        logits = tl.where(cols < columns, logits, float("-inf"))
        p = tl.exp(logits - tl.max(logits, 1)[:, None])
        summed += p / tl.sum(p, 1)[:, None]
    tl.store(means + rows * columns + cols, summed / heads, mask=(rows < positions) & (cols < columns))
