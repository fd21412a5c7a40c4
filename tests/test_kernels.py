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
from wantui.generation.kernels.cross_attention import run_cross_attention_kernel
from wantui.generation.kernels.norm import (
    run_add_kernel,
    run_add_layer_norm_kernel,
    run_layer_norm_kernel,
    run_rms_norm_kernel,
)
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
