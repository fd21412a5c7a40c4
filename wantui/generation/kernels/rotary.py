"""`apply_norm_rotary` as one kernel, which reads and writes query and key once."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def fused_norm_rotary(
    projected: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> None:
    """Apply `apply_norm_rotary` in place to a contiguous `projected` of 16 bits, like the weights."""
    positions, dim = projected.shape[1], cos.shape[3]
    heads = query_weight.shape[0] // dim
    # An int32 word contains the two 16-bit numbers that are rotated together.
    words, *weights = (part.view(torch.int32) for part in (projected, query_weight, key_weight))
    _kernel[(positions,)](
        words,
        *weights,
        cos,
        sin,
        heads,
        dim // 2,
        words.shape[2],
        eps,
        BFLOAT=projected.dtype == torch.bfloat16,
        HEADS=triton.next_power_of_2(heads),
        PAIRS=triton.next_power_of_2(dim // 2),
        num_warps=4 if heads <= 16 else 8,
    )


@triton.jit
def _first(words, BFLOAT: tl.constexpr):  # noqa: N803
    return (words & 0xFFFF).to(tl.uint16).to(tl.bfloat16 if BFLOAT else tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _second(words, BFLOAT: tl.constexpr):  # noqa: N803
    return _first(words >> 16, BFLOAT)


@triton.jit
def _narrow(values, BFLOAT: tl.constexpr):  # noqa: N803
    return values.to(tl.bfloat16 if BFLOAT else tl.float16)


@triton.jit
def _kernel(
    projected,
    query_weight,
    key_weight,
    cos,
    sin,
    heads,
    pairs,
    row,
    eps,
    BFLOAT: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    PAIRS: tl.constexpr,  # noqa: N803
):
    position = tl.program_id(0).to(tl.int64)
    head, pair = tl.arange(0, HEADS)[:, None], tl.arange(0, PAIRS)[None, :]
    inside = (head < heads) & (pair < pairs)
    along = head * pairs + pair
    c = tl.load(cos + (position * pairs + pair) * 2, mask=pair < pairs, other=0.0)
    s = tl.load(sin + (position * pairs + pair) * 2, mask=pair < pairs, other=0.0)
    for which in tl.static_range(2):
        at = projected + position * row + which * heads * pairs + along
        words = tl.load(at, mask=inside, other=0)
        weights = tl.load((key_weight if which else query_weight) + along, mask=inside, other=0)
        first, second = _first(words, BFLOAT), _second(words, BFLOAT)
        scale = tl.rsqrt(tl.sum(tl.sum(first * first + second * second, 1), 0) / (2 * heads * pairs) + eps)
        # Round between norm and rotation, like diffusers.
        first = _narrow(first * scale * _first(weights, BFLOAT), BFLOAT).to(tl.float32)
        second = _narrow(second * scale * _second(weights, BFLOAT), BFLOAT).to(tl.float32)
        low = _narrow(first * c - second * s, BFLOAT).to(tl.uint16, bitcast=True).to(tl.int32)
        high = _narrow(first * s + second * c, BFLOAT).to(tl.uint16, bitcast=True).to(tl.int32)
        tl.store(at, low | (high << 16), mask=inside)
