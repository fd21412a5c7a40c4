"""`mean_over_heads` as one kernel, which keeps a block's map at under one per cent of the block's time."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.planning.flops import TEXT_LENGTH

ROWS = 64
"""Places of the video for each program."""


def fused_mean_over_heads(query: Tensor, key: Tensor, columns: int) -> Tensor:
    """Return [1, positions, columns] float32, of query [1, positions, heads, dim] and key [1, 512, heads, dim] in 16
    bits."""
    _, places, heads, dim = query.shape
    if query.stride(3) != 1 or key.stride(3) != 1:
        query, key = query.contiguous(), key.contiguous()
    means = torch.empty(1, places, columns, device=query.device, dtype=torch.float32)
    _kernel[(triton.cdiv(places, ROWS),)](
        query,
        key,
        means,
        places,
        heads,
        columns,
        dim,
        query.stride(1),
        query.stride(2),
        key.stride(1),
        key.stride(2),
        1 / math.sqrt(dim),
        math.log(TEXT_LENGTH - columns + 1),
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
    found,
    places,
    heads: tl.constexpr,
    columns,
    dim,
    query_of_place,
    query_of_head,
    key_of_column,
    key_of_head,
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
            query + rows * query_of_place + head * query_of_head + along,
            mask=(rows < places) & (along < dim),
            other=0.0,
        )
        right = tl.load(
            key + cols * key_of_column + head * key_of_head + down, mask=(cols < columns) & (down < dim), other=0.0
        )
        logits = tl.dot(left, right) * scale
        logits = tl.where(cols == columns - 1, logits + rest, logits)
        logits = tl.where(cols < columns, logits, float("-inf"))
        p = tl.exp(logits - tl.max(logits, 1)[:, None])
        summed += p / tl.sum(p, 1)[:, None]
    tl.store(found + rows * columns + cols, summed / heads, mask=(rows < places) & (cols < columns))
