"""`average_softmax_over_heads` as one kernel, so that a map costs less than one per cent of the block's time."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.generation.kernels.cross_attention_parts import exponentiate_logits, load_head
from wantui.generation.kernels.launch import (
    choose_block_sizes,
    compute_logit_terms,
    count_merged_padding,
    count_programs,
    list_strides,
    make_heads_contiguous,
)


def run_softmax_mean_kernel(query: Tensor, key: Tensor, column_count: int) -> Tensor:
    """Return [1, positions, columns] float32 of a query and a key in 16 bits.

    The query is [1, positions, heads, dim], and the key [1, 512, heads, dim].
    """
    _, positions, heads, dim = query.shape
    query, key = make_heads_contiguous(query, key)
    means = torch.empty(1, positions, column_count, device=query.device, dtype=torch.float32)
    _softmax_mean_kernel[(count_programs(positions),)](
        query,
        key,
        means,
        positions,
        heads,
        column_count,
        dim,
        *list_strides(query, key),
        *compute_logit_terms(dim, count_merged_padding(column_count)),
        **choose_block_sizes(column_count, dim),
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
        query_rows = load_head(
            query, head, positions, dims_across, position_count, head_dim, query_position_stride, query_head_stride
        )
        key_columns = load_head(
            key, head, columns, dims_down, column_count, head_dim, key_column_stride, key_head_stride
        )
        logits = tl.dot(query_rows, key_columns) * scale
        p = exponentiate_logits(logits, columns, column_count, log_padding_count)
        softmax_sum += p / tl.sum(p, 1)[:, None]
    tl.store(
        means + positions * column_count + columns,
        softmax_sum / head_count,
        mask=(positions < position_count) & (columns < column_count),
    )
