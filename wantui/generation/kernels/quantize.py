"""Rounding of rows to FP8 as one kernel, optionally after GELU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.generation import e4m3

MAX_E4M3 = tl.constexpr(e4m3.MAX_E4M3)
MIN_ROW_MAXIMUM = tl.constexpr(e4m3.MIN_ROW_MAXIMUM)


def run_quantize_kernel(
    values: Tensor, applies_gelu: bool, dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[Tensor, Tensor]:
    """Return contiguous 16-bit values [rows, width] in e4m3 and the scales [rows, 1] float32 of their rows.

    Args:
        applies_gelu: whether to apply GELU in its tanh form, in float32, before rounding.
        dtype: another dtype of the result, for tests: Triton's interpreter rounds to e4m3 wrongly.
    """
    rows, width = values.shape
    quantized = torch.empty(values.shape, dtype=dtype, device=values.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=values.device)
    padded_width = triton.next_power_of_2(width)
    _quantize_kernel[(rows,)](
        values,
        quantized,
        scales,
        width,
        APPLIES_GELU=applies_gelu,
        PADDED_WIDTH=padded_width,
        num_warps=4 if padded_width <= 2048 else 8 if padded_width <= 8192 else 16,
    )
    return quantized, scales


@triton.jit
def scale_to_e4m3(x):
    """Return a row divided by its scale, and the scale; infinity and NaN become NaN."""
    largest = tl.maximum(tl.max(tl.abs(x), 0), MIN_ROW_MAXIMUM)
    return x * (MAX_E4M3 / largest), largest / MAX_E4M3


@triton.jit
def _quantize_kernel(
    values,  # [rows, width], contiguous
    quantized,  # [rows, width], contiguous, e4m3
    scales,  # [rows] float32
    width,
    APPLIES_GELU: tl.constexpr,  # noqa: N803
    PADDED_WIDTH: tl.constexpr,  # noqa: N803 - power of 2
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED_WIDTH)
    is_inside = columns < width
    x = tl.load(values + row * width + columns, mask=is_inside, other=0.0).to(tl.float32)
    if APPLIES_GELU:
        # sqrt(2 / pi) (x + 0.044715 x^3), doubled, because tanh(u) = 2 sigmoid(2 u) - 1
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    scaled, scale = scale_to_e4m3(x)
    tl.store(quantized + row * width + columns, scaled.to(quantized.dtype.element_ty), mask=is_inside)
    tl.store(scales + row, scale)
