"""Kernels for a GPU against torch in float64: on a GPU where there is one, else with Triton and TRITON_INTERPRET=1."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or Triton and TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

from wantui.generation.fused_attention import apply_norm_and_rotary
from wantui.generation.fused_norm import add_gated, apply_layer_norm, apply_rms_norm
from wantui.generation.kernels.bending import (
    run_output_correction_kernel,
    run_renormalised_output_kernel,
    run_softmax_columns_kernel,
)
from wantui.generation.kernels.cross_attention import run_cross_attention_kernel
from wantui.generation.kernels.decoder_norm import run_norm_and_silu_kernel
from wantui.generation.kernels.norm import (
    run_add_kernel,
    run_add_layer_norm_kernel,
    run_layer_norm_kernel,
    run_quantized_layer_norm_kernel,
    run_rms_norm_kernel,
)
from wantui.generation.kernels.quantize import run_quantize_kernel
from wantui.generation.kernels.rotary import run_norm_rotary_kernel
from wantui.generation.kernels.softmax import run_softmax_mean_kernel
from wantui.generation.pass_cache import merge_padding

pytestmark = pytest.mark.torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter does not multiply bfloat16.
DTYPE, ROUNDING = (torch.bfloat16, 6e-3) if torch.cuda.is_available() else (torch.float16, 1e-3)
SHAPES = [(150, 3, 64, 17), (150, 2, 24, 5), (70, 12, 128, 60)]
"""Places, heads, width of a head, length of the text."""


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, DTYPE)


def text(heads: int, dim: int, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values, the pads of which are alike."""
    both = random(1, 512, heads, 2 * dim)
    both[:, length:] = both[:, length : length + 1]
    keys, values = both.chunk(2, 3)
    return keys, values


def relative_error(result: Tensor, wanted: Tensor) -> float:
    return float((result.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize(("places", "heads", "dim", "length"), SHAPES)
def test_attention_with_merged_padding_equals_attention_to_512_tokens(
    places: int, heads: int, dim: int, length: int
) -> None:
    query, (keys, values) = random(1, places, heads, dim), text(heads, dim, length)
    together = merge_padding(keys, values)
    assert together is not None
    q, k, v = (part.double().transpose(1, 2) for part in (query, keys, values))
    full = F.scaled_dot_product_attention(q, k, v)
    assert relative_error(run_cross_attention_kernel(query, *together), full.transpose(1, 2).flatten(2)) < ROUNDING


@pytest.mark.parametrize(("places", "heads", "dim", "length"), SHAPES)
def test_mean_map_equals_a_softmax_over_512_tokens(places: int, heads: int, dim: int, length: int) -> None:
    query, (keys, _) = random(1, places, heads, dim), text(heads, dim, length)
    columns = length + 3
    p = torch.einsum("nhd,thd->hnt", query[0].double(), keys[0].double()).div(dim**0.5).softmax(2).mean(0)
    wanted = torch.cat([p[:, : columns - 1], p[:, columns - 1 :].sum(1, keepdim=True)], 1)
    assert relative_error(run_softmax_mean_kernel(query, keys, columns)[0], wanted) < 1e-5


@pytest.mark.parametrize(("places", "heads", "dim", "length"), SHAPES)
def test_fused_norm_rotary_equals_norm_and_rotary(places: int, heads: int, dim: int, length: int) -> None:
    width = heads * dim
    projected, weight = random(1, places, 3 * width), random(width)
    angles = torch.randn(1, places, 1, dim // 2, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    cos, sin = (part.repeat_interleave(2, 3) for part in (angles.cos(), angles.sin()))
    key_weight = weight.flip(0)
    wanted = projected.double()
    apply_norm_and_rotary(wanted, weight.double(), key_weight.double(), cos.double(), sin.double(), 1e-6)
    run_norm_rotary_kernel(projected, weight, key_weight, cos, sin, 1e-6)
    for result, right in zip(projected.chunk(3, 2), wanted.chunk(3, 2), strict=True):
        assert relative_error(result, right) < ROUNDING


@pytest.mark.parametrize("width", [72, 192, 1536])
def test_fused_add_norm_equals_add_and_norm(width: int) -> None:
    hidden, added = random(1, 70, width), random(1, 71, width)[:, 1:] / 3
    gate, weight, bias = random(3, width).float()
    x, y, g, w, b = (part.double() for part in (hidden, added, gate, weight, bias))
    for gated in (True, False):
        total, normed = run_add_layer_norm_kernel(hidden, added.clone(), gate if gated else None, weight, bias, 1e-6)
        wanted = add_gated(x, y.clone(), g if gated else None)
        assert torch.equal(run_add_kernel(hidden, added.clone(), gate if gated else None), total)
        assert relative_error(total, wanted) < ROUNDING
        assert relative_error(normed, apply_layer_norm(total.double(), w, b, 1e-6)) < ROUNDING
    assert relative_error(run_layer_norm_kernel(hidden, weight, bias, 1e-6), apply_layer_norm(x, w, b, 1e-6)) < ROUNDING
    scale = random(width)
    assert relative_error(run_rms_norm_kernel(hidden, scale, 1e-6), apply_rms_norm(x, scale.double(), 1e-6)) < ROUNDING


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(("places", "heads", "dim", "length"), SHAPES)
def test_softmax_columns_equal_a_softmax_over_512_tokens(
    places: int, heads: int, dim: int, length: int, is_weighted: bool
) -> None:
    query, (keys, _) = random(1, places, heads, dim), text(heads, dim, length)
    column_count, columns = length + 3, torch.tensor([3, 0, length - 1, length + 2], device=DEVICE)
    logits = torch.einsum("nhd,thd->hnt", query[0].double(), keys[0].double()).div(dim**0.5)
    added_logits = None
    if is_weighted:
        added_logits = torch.zeros(column_count, device=DEVICE)
        added_logits[0], added_logits[3] = 1.5, -torch.inf
        logits[:, :, :column_count] += added_logits.double()
    p = logits.softmax(2)
    wanted = torch.stack([p[:, :, 3], p[:, :, 0], p[:, :, length - 1], p[:, :, length + 2 :].sum(2)])
    result = run_softmax_columns_kernel(query, keys, column_count, columns, added_logits)
    assert result.shape == (4, heads, places)
    assert relative_error(result, wanted) < 1e-5


@pytest.mark.parametrize(("places", "heads", "dim", "length"), SHAPES)
def test_bent_outputs_equal_sums_over_bent_columns(places: int, heads: int, dim: int, length: int) -> None:
    query, (keys, values) = random(1, places, heads, dim), text(heads, dim, length)
    column_count, columns = length + 3, torch.tensor([1, length - 1], device=DEVICE)
    logits = torch.einsum("nhd,thd->hnt", query[0].double(), keys[0].double()).div(dim**0.5)
    full = logits.softmax(2)
    p = torch.cat([full[:, :, : column_count - 1], full[:, :, column_count - 1 :].sum(2, keepdim=True)], 2)
    bent = p[:, :, columns].roll(5, 1).permute(2, 0, 1).float().contiguous()
    row_factor = torch.rand(heads, places, generator=torch.Generator().manual_seed(0)).to(DEVICE) + 0.5
    first, group = 1, slice(1, heads)
    for factor in (None, row_factor):
        edited = p if factor is None else p * factor[:, :, None]
        edited = edited.index_copy(2, columns, bent.double().permute(1, 2, 0))
        wanted = torch.einsum("hnt,thd->nhd", edited, values[0, :column_count].double())[:, group]
        result = torch.zeros(1, places, heads * dim, device=DEVICE, dtype=DTYPE)
        if factor is None:
            output = torch.einsum("hnt,thd->nhd", p, values[0, :column_count].double()).flatten(1)[None].to(DTYPE)
            change = (bent.double() - p[:, :, columns].permute(2, 0, 1)).float()[:, group].contiguous()
            chosen = values[0, columns][:, group].contiguous()
            run_output_correction_kernel(output, chosen, change, result, first)
        else:
            run_renormalised_output_kernel(
                query[:, :, group],
                keys[:, :, group],
                values[:, :, group],
                column_count,
                columns,
                None,
                bent[:, group].contiguous(),
                factor[group].contiguous(),
                result,
                first,
            )
        by_head = result[0].reshape(places, heads, dim)
        assert relative_error(by_head[:, group], wanted) < ROUNDING
        assert (by_head[:, 0] == 0).all()


# Triton's interpreter loses the carry when it rounds to e4m3: there, the scaled values are not rounded.
ROUNDED_DTYPE, ROUNDING_STEP = (torch.float8_e4m3fn, 2.0**-4) if torch.cuda.is_available() else (torch.float32, 1e-5)


def check_scaled_rows(quantized: Tensor, scales: Tensor, wanted: Tensor) -> None:
    """Check the largest value of each row, and the closed form of the rounding error (`test_fp8`)."""
    quantized, wanted, scales = quantized.flatten(0, -2).double(), wanted.double().flatten(0, -2), scales.double()
    largest = wanted.abs().amax(1, keepdim=True)
    assert torch.allclose(scales, largest / 448, rtol=1e-5)
    assert torch.allclose(quantized.abs().amax(1), torch.tensor(448.0, device=DEVICE).double(), rtol=1e-6)
    bound = torch.maximum(ROUNDING_STEP * wanted.abs(), ROUNDING_STEP / 64 * scales) * (1 + 1e-4) + 1e-6 * largest
    assert bool(((quantized * scales - wanted).abs() <= bound).all())


@pytest.mark.parametrize("width", [64, 96, 1536])
@pytest.mark.parametrize("applies_gelu", [False, True])
def test_rows_are_scaled_to_the_range_of_e4m3(width: int, applies_gelu: bool) -> None:
    values = random(20, width)
    quantized, scales = run_quantize_kernel(values, applies_gelu, ROUNDED_DTYPE)
    assert quantized.dtype == ROUNDED_DTYPE
    check_scaled_rows(quantized, scales, F.gelu(values.double(), approximate="tanh") if applies_gelu else values)


def test_rows_of_zeros_stay_zero_and_infinity_becomes_nan() -> None:
    values = random(3, 64)
    values[0] = 0
    values[1, 5] = float("inf")
    quantized, scales = run_quantize_kernel(values, False, ROUNDED_DTYPE)
    assert not quantized[0].float().any()
    assert bool(scales[0].isfinite())
    assert bool(quantized[1, 5].float().isnan())
    assert bool(quantized[2].float().isfinite().all())


@pytest.mark.parametrize("width", [48, 96, 1536])
@pytest.mark.parametrize("has_added", [False, True])
def test_scaled_layer_norm_is_the_layer_norm_of_the_rounded_sum(width: int, has_added: bool) -> None:
    hidden, added, gate = random(1, 20, width), random(1, 21, width)[:, 1:].contiguous(), random(width).float()
    weight, bias = random(width).float() + 1, random(width).float()
    total = hidden.double() + added.double() * gate.double() if has_added else hidden.double()
    quantized, scales = run_quantized_layer_norm_kernel(
        hidden, added if has_added else None, gate if has_added else None, weight, bias, 1e-6, ROUNDED_DTYPE
    )
    if has_added:
        assert relative_error(added, total) < ROUNDING
    summed = (added if has_added else hidden).double()
    check_scaled_rows(quantized, scales, F.layer_norm(summed, (width,), weight.double(), bias.double(), 1e-6))


@pytest.mark.parametrize("channels", [24, 96, 160])
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last_3d], ids=["contiguous", "channels last"]
)
def test_norm_and_silu_of_the_decoder_equals_float64(channels: int, layout: torch.memory_format) -> None:
    shape = (2, channels, 3, 5, 14)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE).contiguous(memory_format=layout)
    values[0, :, 1, 2, 3] = 0.0
    gamma = torch.rand(channels, 1, 1, 1, generator=torch.Generator().manual_seed(1)).to(DEVICE) + 0.5
    padded = torch.full((2, channels, 5, 5, 14), -7.0, device=DEVICE).contiguous(memory_format=torch.channels_last_3d)
    run_norm_and_silu_kernel(values, gamma, channels**0.5, padded[:, :, 2:])
    expected = F.silu(F.normalize(values.double(), dim=1) * channels**0.5 * gamma.double())
    assert (padded[:, :, 2:].double() - expected).abs().max() < 2e-6
    assert (padded[:, :, :2] == -7).all()


def test_norm_and_silu_of_the_decoder_takes_values_of_any_layout() -> None:
    values = torch.randn(1, 8, 2, 6, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE).transpose(3, 4)
    gamma, output = torch.ones(8, 1, 1, 1, device=DEVICE), torch.empty(1, 8, 2, 4, 6, device=DEVICE)
    run_norm_and_silu_kernel(values, gamma, 8**0.5, output)
    expected = F.silu(F.normalize(values.double(), dim=1) * 8**0.5)
    assert (output.double() - expected).abs().max() < 2e-6
