"""The softmax of a block's attention over the text, in float32, with the padding merged into one column.

The last column also represents all later pads: the logarithm of their number is added to its logit. Products of
bfloat16 numbers are exact in float32, and are summed in float32.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from wantui.captures.attention import count_text_columns
from wantui.generation import kernels
from wantui.models.text_positions import TEXT_POSITION_COUNT

LOGITS_CHUNK_BYTES = 1 << 25
"""Bytes of float32 logits that are computed at a time."""
MAX_FUSED_COLUMNS = 128
"""Columns that fit into the registers of one program on a GPU."""


def choose_column_count(key: Tensor, value: Tensor, token_count: int) -> tuple[int, bool]:
    """Return the number of text columns to compute, and whether the last column contains the merged padding.

    Args:
        key, value: [1, 512, heads, dim].
        token_count: number of tokens including the end token; the other positions are padding.
    """
    if not all(bool((pads == pads[:1]).all()) for pads in (key[0, token_count:], value[0, token_count:])):
        return TEXT_POSITION_COUNT, False
    return count_text_columns(token_count), True


def compute_softmax_rows(
    query: Tensor, key: Tensor, column_count: int, added_logits: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the softmax over the text at consecutive positions: [heads, positions, columns] float32.

    Args:
        query: [1, positions, heads, dim]. key: [1, 512, heads, dim].
        column_count: number of text columns; the last column also represents all later positions.
        added_logits: [columns] float32, added to the logits.
    """
    keys = key[0, :column_count].permute(1, 2, 0)
    heads, dim = query.shape[2:]
    scale, log_padding_count = 1 / math.sqrt(dim), math.log(TEXT_POSITION_COUNT - column_count + 1)
    chunk_rows = max(1, LOGITS_CHUNK_BYTES // (4 * heads * column_count))
    for first_row in range(0, query.shape[1], chunk_rows):
        rows = slice(first_row, min(first_row + chunk_rows, query.shape[1]))
        logits = _multiply_in_float32(query[0, rows].movedim(1, 0), keys).mul_(scale)
        if log_padding_count:
            logits[:, :, -1] += log_padding_count
        if added_logits is not None:
            logits += added_logits
        yield rows, torch.softmax(logits, 2)


def average_softmax_over_heads(query: Tensor, key: Tensor, column_count: int) -> Tensor:
    """Return the [1, positions, columns] mean over heads of the softmax; arguments as in `compute_softmax_rows`.

    On a GPU, 16-bit inputs use one kernel that reads the query once and writes only the mean.
    """
    if column_count <= MAX_FUSED_COLUMNS and kernels.can_use_kernels(query):
        from wantui.generation.kernels.softmax import run_softmax_mean_kernel

        return run_softmax_mean_kernel(query, key, column_count)
    return torch.cat([p.mean(0, keepdim=True) for _, p in compute_softmax_rows(query, key, column_count)], 1)


def _multiply_in_float32(left: Tensor, right: Tensor) -> Tensor:
    """Return the batched matrix product, summed in float32."""
    if left.dtype == torch.float32:
        return torch.bmm(left, right)
    if left.is_cuda and _can_bmm_sum_in_float32():
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def _can_bmm_sum_in_float32() -> bool:
    """Return whether torch.bmm sums bfloat16 into float32 itself; since torch 2.8, on a GPU."""
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 8)
