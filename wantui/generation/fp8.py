"""Matrix products in FP8 for `speed: fp8`: e4m3 with a scale for each row of the activations and of the weights.

A row is divided by its scale, so that its largest value becomes 448, the largest of e4m3, and rounded. The products are
summed by the tensor cores with fast accumulation, which on Hopper keeps fewer bits than float32, multiplied by both
scales, and rounded to bfloat16. An error of rounding is at most 2^-4 of a value, or, for values below 2^-6, 2^-10 (both
before scaling).

Not in FP8: everything outside of the blocks; the first and the last block, whose errors weigh most; the keys and values
of the text, which are computed once per video; attention, norms and sums.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wantui.generation import kernels
from wantui.generation.e4m3 import E4M3, MAX_E4M3, MIN_ROW_MAXIMUM
from wantui.generation.fused_linear import FusedGelu, FusedLinear
from wantui.generation.fused_norm import add_gated, apply_layer_norm
from wantui.planning.memory_plan import MIN_FUSED_TRANSFORMER_WIDTH

MIN_PRODUCT_ROWS = 256
"""Smallest number of rows of a product. cuBLAS 13 refuses products of few long rows on an H200: at most 85 of 8,960
inputs, 42 of 14,336 and 127 of 16,384."""


class QuantizedRows(NamedTuple):
    """Activations in e4m3: values [1, positions, width], and the scales [positions, 1] float32 of their rows."""

    values: Tensor
    scales: Tensor


def quantize_rows(values: Tensor, applies_gelu: bool = False) -> QuantizedRows:
    """Round [..., width] to e4m3, with a scale for each row; infinity and NaN become NaN.

    Args:
        applies_gelu: whether to apply GELU in its tanh form, in float32, before rounding.
    """
    rows = values.flatten(0, -2)
    if kernels.can_use_kernels(values):
        from wantui.generation.kernels.quantize import run_quantize_kernel

        quantized, scales = run_quantize_kernel(rows.contiguous(), applies_gelu)
    else:
        wide_rows = F.gelu(rows.float(), approximate="tanh") if applies_gelu else rows.float()
        largest = wide_rows.abs().amax(1, keepdim=True).clamp_min(MIN_ROW_MAXIMUM)
        # torch rounds values beyond 448 to NaN.
        scaled = (wide_rows * (MAX_E4M3 / largest)).clamp(-MAX_E4M3, MAX_E4M3)
        quantized, scales = scaled.to(E4M3), largest / MAX_E4M3
    return QuantizedRows(quantized.view(values.shape), scales)


def quantize_layer_norm(
    hidden: Tensor, added: Tensor | None, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, QuantizedRows]:
    """Return the sum that `fused_norm.add_gated` computes, or `hidden` without `added`, and its LayerNorm in e4m3."""
    if kernels.can_use_kernels(hidden):
        from wantui.generation.kernels.norm import run_quantized_layer_norm_kernel

        added = None if added is None else added.contiguous()
        normed, scales = run_quantized_layer_norm_kernel(hidden.contiguous(), added, gate, weight, bias, eps)
        return hidden if added is None else added, QuantizedRows(normed, scales)
    hidden_sum = hidden if added is None else add_gated(hidden, added, gate)
    return hidden_sum, quantize_rows(apply_layer_norm(hidden_sum, weight, bias, eps))


def _multiply_rows(values: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor) -> Tensor:
    """Return the product [rows, outputs] bfloat16 of e4m3 values [rows, inputs] and a weight [outputs, inputs]."""
    row_count = len(values)
    if row_count < MIN_PRODUCT_ROWS:
        missing_rows = (0, 0, 0, MIN_PRODUCT_ROWS - row_count)
        values = F.pad(values.view(torch.uint8), missing_rows).view(E4M3)
        scales = F.pad(scales, missing_rows)
    product = torch._scaled_mm(
        values,
        weight.t(),
        scale_a=scales,
        scale_b=weight_scales[None],
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return product[:row_count]


def compute_test_product(device: torch.device) -> Tensor:
    """Return a product of ones plus a bias of 512, as `Fp8Linear` computes it: [512, 512] bfloat16, each value 1024.

    Whether a GPU has products with a scale for each row also depends on the version of torch.

    Raises:
        RuntimeError, ValueError: torch refuses the product on this device.
    """
    width = MIN_FUSED_TRANSFORMER_WIDTH
    values, scales = torch.ones(width, width, device=device).to(E4M3), torch.ones(width, 1, device=device)
    bias = torch.full((width,), width, dtype=torch.bfloat16, device=device)
    return _multiply_rows(values, scales, values, scales.flatten(), bias).cpu()  # waits for errors of the GPU


class Fp8Linear(nn.Module):
    """A linear layer in FP8, whose weight [outputs, inputs] has a float32 scale for each row.

    Args:
        layer: layer with a bias, whose weight is rounded.
        device: device that rounds the weight, which then returns to its own device.
    """

    def __init__(self, layer: nn.Linear, device: torch.device) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        quantized, scales = quantize_rows(layer.weight.detach().to(device))
        self.weight = nn.Parameter(quantized.to(layer.weight.device), requires_grad=False)
        self.weight_scales = nn.Parameter(scales.to(layer.weight.device).flatten(), requires_grad=False)

    def forward(self, hidden: Tensor | QuantizedRows) -> Tensor:
        """Map [..., inputs] to [..., outputs] bfloat16; values in other dtypes are first rounded to e4m3."""
        values, scales = hidden if isinstance(hidden, QuantizedRows) else quantize_rows(hidden)
        product = _multiply_rows(values.flatten(0, -2), scales, self.weight, self.weight_scales, self.bias)
        return product.unflatten(0, values.shape[:-1])


class Fp8FeedForward(nn.Module):
    """A feed-forward layer in FP8, which applies GELU while it rounds the hidden values."""

    def __init__(self, inner: nn.Linear, outer: nn.Linear, device: torch.device) -> None:
        super().__init__()
        self.inner, self.outer = Fp8Linear(inner, device), Fp8Linear(outer, device)

    def forward(self, hidden: Tensor | QuantizedRows) -> Tensor:
        """Map [1, positions, width] to the same shape, in bfloat16."""
        return self.outer(quantize_rows(self.inner(hidden), applies_gelu=True))


def quantize_block(block: Any, device: torch.device) -> None:
    """Replace the linear layers of a fused block with layers in FP8, except keys and values of the text.

    Args:
        device: device that rounds the weights, which then return to their own device.
    """
    block.attn1.to_qkv = Fp8Linear(block.attn1.to_qkv, device)
    block.attn2.to_q = Fp8Linear(block.attn2.to_q, device)
    for attention in (block.attn1, block.attn2):
        attention.to_out[0] = Fp8Linear(attention.to_out[0], device)
    activation, *_, outer = block.ffn.net
    assert isinstance(activation, FusedGelu)
    assert isinstance(outer, FusedLinear)
    block.ffn = Fp8FeedForward(activation.proj, outer, device)
