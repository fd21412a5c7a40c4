"""Arguments that the launches of the attention kernels share."""

import math

import triton
from torch import Tensor

from wantui.models.text_positions import TEXT_POSITION_COUNT

POSITIONS_PER_PROGRAM = 64
"""Number of video positions for each program."""


def count_programs(positions: int) -> int:
    """Return the number of programs along the video positions."""
    return int(triton.cdiv(positions, POSITIONS_PER_PROGRAM))


def count_merged_padding(column_count: int) -> int:
    """Return the number of text positions that the last column represents."""
    return TEXT_POSITION_COUNT - column_count + 1


def make_heads_contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors [1, rows, heads, dim] with a stride of 1 along dim; if any tensor has another stride, copy all."""
    if all(tensor.stride(3) == 1 for tensor in tensors):
        return tensors
    return tuple(tensor.contiguous() for tensor in tensors)


def list_strides(*tensors: Tensor) -> list[int]:
    """Return the strides of rows and heads of each tensor [1, rows, heads, dim]."""
    return [stride for tensor in tensors for stride in (tensor.stride(1), tensor.stride(2))]


def compute_logit_terms(dim: int, pad_count: int) -> tuple[float, float]:
    """Return the factor of the logits, and the term added to the logit of the last column for its pads."""
    return 1 / math.sqrt(dim), math.log(pad_count)


def choose_block_sizes(column_count: int, dim: int) -> dict[str, int]:
    """Return the constants of a kernel: the positions of a program, and powers of 2 for columns and head."""
    return {
        "PROGRAM_POSITIONS": POSITIONS_PER_PROGRAM,
        "PADDED_COLUMNS": max(16, triton.next_power_of_2(column_count)),
        "PADDED_HEAD_DIM": max(16, triton.next_power_of_2(dim)),
    }
