"""`compute_cross_attention` as one kernel, which reads the query once and writes the output once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.generation.kernels.cross_attention_parts import exponentiate_logits, load_head
from wantui.generation.kernels.launch import (
    choose_block_sizes,
    compute_logit_terms,
    count_programs,
    list_strides,
    make_heads_contiguous,
)


def run_cross_attention_kernel(query: Tensor, keys: Tensor, values: Tensor, padding_count: int) -> Tensor:
    """Return [1, positions, heads x dim] for a 16-bit query [1, positions, heads, dim].

    `CrossAttentionKV` describes the other arguments.
    """
    _, positions, heads, dim = query.shape
    column_count = len(keys)
    (query,) = make_heads_contiguous(query)
    attention_output = torch.empty(1, positions, heads * dim, device=query.device, dtype=query.dtype)
    _cross_attention_kernel[(heads, count_programs(positions))](
        query,
        keys,
        values,
        attention_output,
        positions,
        column_count,
        dim,
        heads * dim,
        *list_strides(query),
        *compute_logit_terms(dim, padding_count),
        **choose_block_sizes(column_count, dim),
    )
    return attention_output


@triton.jit
def _cross_attention_kernel(
    query,  # [positions, heads, head_dim], with the strides below
    keys,  # [columns, heads, head_dim], contiguous
    values,  # [columns, heads, head_dim], contiguous
    attention_output,  # [positions, heads x head_dim], contiguous
    position_count,
    column_count,
    head_dim,
    width,  # heads x head_dim
    query_position_stride,
    query_head_stride,
    scale,  # 1 / sqrt(head_dim)
    log_padding_count,  # added to the logits of the last column
    PROGRAM_POSITIONS: tl.constexpr,  # noqa: N803
    PADDED_COLUMNS: tl.constexpr,  # noqa: N803 - power of 2
    PADDED_HEAD_DIM: tl.constexpr,  # noqa: N803 - power of 2
):
    head = tl.program_id(0)
    positions = (tl.program_id(1) * PROGRAM_POSITIONS + tl.arange(0, PROGRAM_POSITIONS))[:, None].to(tl.int64)
    columns, dims = tl.arange(0, PADDED_COLUMNS), tl.arange(0, PADDED_HEAD_DIM)
    dims_across = dims[None, :]
    q = load_head(
        query, head, positions, dims_across, position_count, head_dim, query_position_stride, query_head_stride
    )
    k = load_head(keys, head, columns[None, :], dims[:, None], column_count, head_dim, width, head_dim)
    v = load_head(values, head, columns[:, None], dims_across, column_count, head_dim, width, head_dim)
    p = exponentiate_logits(tl.dot(q, k) * scale, columns[None, :], column_count, log_padding_count)
    weighted_sum = tl.dot(p.to(v.dtype), v) / tl.sum(p, 1)[:, None]
    is_inside = (positions < position_count) & (dims_across < head_dim)
    tl.store(
        attention_output + positions * width + head * head_dim + dims_across, weighted_sum.to(q.dtype), mask=is_inside
    )
