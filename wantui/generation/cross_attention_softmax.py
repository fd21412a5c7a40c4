"""The softmax of a block's attention over the text, in float32, with the padding merged into one column.

The last column also represents all later pads: the logarithm of their number is added to its logit. Products of
bfloat16 numbers are exact in float32, and are summed in float32.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from wantui.generation import kernels
from wantui.planning.flops import TEXT_POSITION_COUNT

CHUNK_BYTES = 1 << 25
"""Bytes of float32 logits that are computed at a time."""
FUSED_COLUMNS = 128
"""Columns that fit into the registers of one program on a GPU."""


def compute_softmax_rows(
    query: Tensor, key: Tensor, columns: int, added: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the softmax over the text at consecutive positions: [heads, positions, columns] float32.

    Args:
        query: [1, positions, heads, dim]. key: [1, 512, heads, dim].
        columns: number of text columns; the last column also represents all later positions.
        added: [columns] float32, added to the logits.
    """
    keys = key[0, :columns].permute(1, 2, 0)
    heads, dim = query.shape[2:]
    scale, log_padding_count = 1 / math.sqrt(dim), math.log(TEXT_POSITION_COUNT - columns + 1)
    several = max(1, CHUNK_BYTES // (4 * heads * columns))
    for first in range(0, query.shape[1], several):
        rows = slice(first, min(first + several, query.shape[1]))
        logits = _multiply(query[0, rows].movedim(1, 0), keys).mul_(scale)
        if log_padding_count:
            logits[:, :, -1] += log_padding_count
        if added is not None:
            logits += added
        yield rows, torch.softmax(logits, 2)


def average_over_heads(query: Tensor, key: Tensor, columns: int) -> Tensor:
    """Return the [1, positions, columns] mean over heads of the softmax; arguments as in `compute_softmax_rows`.

    On a GPU, 16-bit inputs use one kernel that reads the query once and writes only the mean.
    """
    if columns <= FUSED_COLUMNS and kernels.serve(query):
        from wantui.generation.kernels.softmax import fused_average_over_heads

        return fused_average_over_heads(query, key, columns)
    return torch.cat([p.mean(0, keepdim=True) for _, p in compute_softmax_rows(query, key, columns)], 1)


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the batched matrix product, summed in float32."""
    if left.dtype == torch.float32:
        return torch.bmm(left, right)
    if left.is_cuda and _bmm_widens():
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def _bmm_widens() -> bool:
    """Return whether torch.bmm sums bfloat16 into float32 itself; since torch 2.8, on a GPU."""
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 8)
