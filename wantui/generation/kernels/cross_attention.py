"""`attend_to` as one kernel, which reads the query once and writes the output once."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64
"""Places of the video for each program."""


def fused_attend_to(query: Tensor, keys: Tensor, values: Tensor, last: int) -> Tensor:
    """Return [1, positions, heads x dim] for a 16-bit query [1, positions, heads, dim]; see `CrossAttentionKV` for the
    other arguments."""
    _, positions, heads, dim = query.shape
    columns = len(keys)
    if query.stride(3) != 1:
        query = query.contiguous()
    attended = torch.empty(1, positions, heads * dim, device=query.device, dtype=query.dtype)
    _kernel[(heads, triton.cdiv(positions, ROWS))](
        query,
        keys,
        values,
        attended,
        positions,
        columns,
        dim,
        heads * dim,
        query.stride(1),
        query.stride(2),
        1 / math.sqrt(dim),
        math.log(last),
        ROWS_=ROWS,
        COLUMNS=max(16, triton.next_power_of_2(columns)),
        DIM=max(16, triton.next_power_of_2(dim)),
    )
    return attended


@triton.jit
def _kernel(
    query,
    keys,
    values,
    attended,
    positions,
    columns,
    dim,
    width,
    query_position_stride,
    query_head_stride,
    scale,
    last,
    ROWS_: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    DIM: tl.constexpr,  # noqa: N803
):
    head = tl.program_id(0)
    rows = (tl.program_id(1) * ROWS_ + tl.arange(0, ROWS_))[:, None].to(tl.int64)
    cols, down = tl.arange(0, COLUMNS), tl.arange(0, DIM)
    along = down[None, :]
    inside = (rows < positions) & (along < dim)
    q = tl.load(query + rows * query_position_stride + head * query_head_stride + along, mask=inside, other=0.0)
    k = tl.load(
        keys + cols[None, :] * width + head * dim + down[:, None],
        mask=(cols[None, :] < columns) & (down[:, None] < dim),
        other=0.0,
    )
    v = tl.load(
        values + cols[:, None] * width + head * dim + along, mask=(cols[:, None] < columns) & (along < dim), other=0.0
    )
    logits = tl.dot(q, k) * scale
    logits = tl.where(cols[None, :] == columns - 1, logits + last, logits)
    logits = tl.where(cols[None, :] < columns, logits, float("-inf"))
    p = tl.exp(logits - tl.max(logits, 1)[:, None])
    summed = tl.dot(p.to(v.dtype), v) / tl.sum(p, 1)[:, None]
    tl.store(attended + rows * width + head * dim + along, summed.to(q.dtype), mask=inside)
