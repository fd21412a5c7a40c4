"""Kernels of attention bending: columns of the softmax over the text, and the output with bent columns."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.generation.kernels.cross_attention_parts import exponentiate_logits, load_head
from wantui.generation.kernels.launch import (
    POSITIONS_PER_PROGRAM,
    choose_block_sizes,
    compute_logit_terms,
    count_merged_padding,
    count_programs,
    list_strides,
    make_heads_contiguous,
)


def run_softmax_columns_kernel(
    query: Tensor, key: Tensor, column_count: int, columns: Tensor, added_logits: Tensor | None
) -> Tensor:
    """Return chosen columns of the softmax, [chosen, heads, positions] float32.

    Args:
        query: [1, positions, heads, dim]. key: [1, 512, heads, dim], in 16 bits.
        column_count: number of text columns; the last column also represents all later positions.
        columns: [chosen] int64, indices of the chosen columns.
        added_logits: [columns] float32, added to the logits.
    """
    _, positions, heads, dim = query.shape
    query, key = make_heads_contiguous(query, key)
    chosen = torch.empty(len(columns), heads, positions, device=query.device, dtype=torch.float32)
    slots = torch.full((column_count,), -1, device=query.device, dtype=torch.int32)
    slots[columns] = torch.arange(len(columns), device=query.device, dtype=torch.int32)
    logits = torch.zeros(column_count, device=query.device) if added_logits is None else added_logits
    _softmax_columns_kernel[(heads, count_programs(positions))](
        query,
        key,
        slots,
        logits,
        chosen,
        positions,
        heads,
        column_count,
        dim,
        *list_strides(query, key),
        *compute_logit_terms(dim, count_merged_padding(column_count)),
        **choose_block_sizes(column_count, dim),
    )
    return chosen


def run_output_correction_kernel(
    output: Tensor, values: Tensor, change: Tensor, bent_output: Tensor, first_head: int
) -> None:
    """Write output + sum_j change_j v_j of some heads into `bent_output`.

    Args:
        output, bent_output: [1, positions, heads x dim], in 16 bits, contiguous.
        values: [chosen, some heads, dim], in 16 bits, contiguous.
        change: [chosen, some heads, positions] float32, contiguous.
        first_head: first of the heads.
    """
    chosen_count, heads, dim = values.shape
    _, positions, width = output.shape
    _output_correction_kernel[(heads, count_programs(positions))](
        output,
        values,
        change,
        bent_output,
        positions,
        heads,
        first_head,
        width,
        dim,
        chosen_count,
        PROGRAM_POSITIONS=POSITIONS_PER_PROGRAM,
        PADDED_HEAD_DIM=max(16, triton.next_power_of_2(dim)),
    )


def run_renormalised_output_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    column_count: int,
    columns: Tensor,
    added_logits: Tensor | None,
    bent: Tensor,
    row_factor: Tensor,
    bent_output: Tensor,
    first_head: int,
) -> None:
    """Write the renormalised output with bent columns into some heads of `bent_output`.

    It is g times the output of the other columns, plus the output of the bent columns.

    Args:
        query: [1, positions, some heads, dim]. key, value: [1, 512, some heads, dim], in 16 bits.
        column_count, columns, added_logits: as for `run_softmax_columns_kernel`.
        bent: [chosen, some heads, positions] float32, contiguous.
        row_factor: [some heads, positions] float32, contiguous; g.
        bent_output: [1, positions, heads x dim], in 16 bits, contiguous.
        first_head: first of the heads.
    """
    _, positions, heads, dim = query.shape
    query, key, value = make_heads_contiguous(query, key, value)
    is_other = torch.ones(column_count, device=query.device)
    is_other[columns] = 0
    logits = torch.zeros(column_count, device=query.device) if added_logits is None else added_logits
    _renormalised_output_kernel[(heads, count_programs(positions))](
        query,
        key,
        value,
        is_other,
        logits,
        columns,
        bent,
        row_factor,
        bent_output,
        positions,
        heads,
        first_head,
        bent_output.shape[2],
        column_count,
        dim,
        len(columns),
        *list_strides(query, key, value),
        *compute_logit_terms(dim, count_merged_padding(column_count)),
        **choose_block_sizes(column_count, dim),
    )


@triton.jit
def _softmax_columns_kernel(
    query,  # [positions, heads, head_dim], with the strides below
    key,  # [512, heads, head_dim], with the strides below
    slots,  # [columns] int32: index of the column in `chosen`, or -1
    added_logits,  # [columns] float32
    chosen,  # [chosen, heads, positions] float32, contiguous
    position_count,
    head_count,
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
    head = tl.program_id(0)
    positions = (tl.program_id(1) * PROGRAM_POSITIONS + tl.arange(0, PROGRAM_POSITIONS))[:, None].to(tl.int64)
    columns = tl.arange(0, PADDED_COLUMNS)[None, :]
    dims_across, dims_down = tl.arange(0, PADDED_HEAD_DIM)[None, :], tl.arange(0, PADDED_HEAD_DIM)[:, None]
    query_rows = load_head(
        query, head, positions, dims_across, position_count, head_dim, query_position_stride, query_head_stride
    )
    key_columns = load_head(key, head, columns, dims_down, column_count, head_dim, key_column_stride, key_head_stride)
    logits = tl.dot(query_rows, key_columns) * scale
    logits += tl.load(added_logits + columns, mask=columns < column_count, other=0.0)
    p = exponentiate_logits(logits, columns, column_count, log_padding_count)
    p = p / tl.sum(p, 1)[:, None]
    slot = tl.load(slots + columns, mask=columns < column_count, other=-1).to(tl.int64)
    tl.store(
        chosen + (slot * head_count + head) * position_count + positions,
        p,
        mask=(positions < position_count) & (slot >= 0),
    )


@triton.jit
def _output_correction_kernel(
    output,  # [positions, width], contiguous
    values,  # [chosen, heads, head_dim], contiguous
    change,  # [chosen, heads, positions] float32, contiguous
    bent_output,  # [positions, width], contiguous
    position_count,
    head_count,  # of the values
    first_head,  # of the output
    width,
    head_dim,
    chosen_count,
    PROGRAM_POSITIONS: tl.constexpr,  # noqa: N803
    PADDED_HEAD_DIM: tl.constexpr,  # noqa: N803 - power of 2
):
    head = tl.program_id(0)
    positions = (tl.program_id(1) * PROGRAM_POSITIONS + tl.arange(0, PROGRAM_POSITIONS)).to(tl.int64)
    dims = tl.arange(0, PADDED_HEAD_DIM)
    offsets = positions[:, None] * width + (first_head + head) * head_dim + dims[None, :]
    is_inside = (positions[:, None] < position_count) & (dims[None, :] < head_dim)
    kernel_output = tl.load(output + offsets, mask=is_inside, other=0.0)
    total = kernel_output.to(tl.float32)
    for index in range(chosen_count):
        row = (index * head_count + head).to(tl.int64)
        factors = tl.load(change + row * position_count + positions, mask=positions < position_count, other=0.0)
        value_row = tl.load(values + row * head_dim + dims, mask=dims < head_dim, other=0.0).to(tl.float32)
        total += factors[:, None] * value_row[None, :]
    tl.store(bent_output + offsets, total.to(kernel_output.dtype), mask=is_inside)


@triton.jit
def _renormalised_output_kernel(
    query,  # [positions, heads, head_dim], with the strides below
    key,  # [512, heads, head_dim], with the strides below
    value,  # [512, heads, head_dim], with the strides below
    is_other,  # [columns] float32: 1 for a column that is not bent, else 0
    added_logits,  # [columns] float32
    bent_columns,  # [chosen] int64
    bent,  # [chosen, heads, positions] float32, contiguous
    row_factor,  # [heads, positions] float32, contiguous
    bent_output,  # [positions, width], contiguous
    position_count,
    head_count,  # of the query
    first_head,  # of the output
    width,
    column_count,
    head_dim,
    chosen_count,
    query_position_stride,
    query_head_stride,
    key_column_stride,
    key_head_stride,
    value_column_stride,
    value_head_stride,
    scale,  # 1 / sqrt(head_dim)
    log_padding_count,  # added to the logits of the last column
    PROGRAM_POSITIONS: tl.constexpr,  # noqa: N803
    PADDED_COLUMNS: tl.constexpr,  # noqa: N803 - power of 2
    PADDED_HEAD_DIM: tl.constexpr,  # noqa: N803 - power of 2
):
    head = tl.program_id(0)
    positions = (tl.program_id(1) * PROGRAM_POSITIONS + tl.arange(0, PROGRAM_POSITIONS)).to(tl.int64)
    rows, columns, dims = positions[:, None], tl.arange(0, PADDED_COLUMNS)[None, :], tl.arange(0, PADDED_HEAD_DIM)
    dims_across, dims_down, columns_down = dims[None, :], dims[:, None], tl.arange(0, PADDED_COLUMNS)[:, None]
    query_rows = load_head(
        query, head, rows, dims_across, position_count, head_dim, query_position_stride, query_head_stride
    )
    key_columns = load_head(key, head, columns, dims_down, column_count, head_dim, key_column_stride, key_head_stride)
    value_rows = load_head(
        value, head, columns_down, dims_across, column_count, head_dim, value_column_stride, value_head_stride
    )
    logits = tl.dot(query_rows, key_columns) * scale
    logits += tl.load(added_logits + columns, mask=columns < column_count, other=0.0)
    p = exponentiate_logits(logits, columns, column_count, log_padding_count)
    p = p / tl.sum(p, 1)[:, None]
    p = p * tl.load(is_other + columns, mask=columns < column_count, other=0.0)
    factor = tl.load(row_factor + head * position_count + positions, mask=positions < position_count, other=0.0)
    total = tl.dot(p.to(value_rows.dtype), value_rows) * factor[:, None]
    for index in range(chosen_count):
        row = (index * head_count + head).to(tl.int64)
        bent_values = tl.load(bent + row * position_count + positions, mask=positions < position_count, other=0.0)
        column = tl.load(bent_columns + index)
        value_row = tl.load(
            value + column * value_column_stride + head * value_head_stride + dims, mask=dims < head_dim, other=0.0
        )
        total += bent_values[:, None] * value_row.to(tl.float32)[None, :]
    is_inside = (rows < position_count) & (dims_across < head_dim)
    offsets = rows * width + (first_head + head) * head_dim + dims_across
    tl.store(bent_output + offsets, total.to(query_rows.dtype), mask=is_inside)
