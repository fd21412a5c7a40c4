"""`apply_norm_and_rotary` as one kernel, which reads and writes query and key once."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def run_norm_rotary_kernel(
    projected: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> None:
    """Compute `apply_norm_and_rotary` in place for a contiguous `projected` of 16 bits, with weights of 16 bits."""
    positions, dim = projected.shape[1], cos.shape[3]
    heads = query_weight.shape[0] // dim
    # An int32 word contains the two 16-bit numbers that are rotated together.
    packed_pairs, *packed_weights = (part.view(torch.int32) for part in (projected, query_weight, key_weight))
    _norm_rotary_kernel[(positions,)](
        packed_pairs,
        *packed_weights,
        cos,
        sin,
        heads,
        dim // 2,
        packed_pairs.shape[2],
        eps,
        BFLOAT=projected.dtype == torch.bfloat16,
        PADDED_HEADS=triton.next_power_of_2(heads),
        PADDED_PAIRS=triton.next_power_of_2(dim // 2),
        num_warps=4 if heads <= 16 else 8,
    )


@triton.jit
def _unpack_first(words, BFLOAT: tl.constexpr):  # noqa: N803
    return (words & 0xFFFF).to(tl.uint16).to(tl.bfloat16 if BFLOAT else tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _unpack_second(words, BFLOAT: tl.constexpr):  # noqa: N803
    return _unpack_first(words >> 16, BFLOAT)


@triton.jit
def _round_to_16_bits(values, BFLOAT: tl.constexpr):  # noqa: N803
    return values.to(tl.bfloat16 if BFLOAT else tl.float16)


@triton.jit
def _norm_rotary_kernel(
    projected,  # [positions, row_length] int32 words: query, key and value; query and key are overwritten
    query_weight,  # [heads x pairs] int32 words
    key_weight,  # [heads x pairs] int32 words
    cos,  # [positions, 2 x pairs] float32, each value twice
    sin,  # [positions, 2 x pairs] float32, each value twice
    head_count,
    pair_count,  # pairs of values in a head
    row_length,  # words between two positions
    eps,
    BFLOAT: tl.constexpr,  # noqa: N803 - otherwise float16
    PADDED_HEADS: tl.constexpr,  # noqa: N803 - power of 2
    PADDED_PAIRS: tl.constexpr,  # noqa: N803 - power of 2
):
    position = tl.program_id(0).to(tl.int64)
    head, pair = tl.arange(0, PADDED_HEADS)[:, None], tl.arange(0, PADDED_PAIRS)[None, :]
    is_inside = (head < head_count) & (pair < pair_count)
    word_offsets = head * pair_count + pair
    c = tl.load(cos + (position * pair_count + pair) * 2, mask=pair < pair_count, other=0.0)
    s = tl.load(sin + (position * pair_count + pair) * 2, mask=pair < pair_count, other=0.0)
    for is_key in tl.static_range(2):
        addresses = projected + position * row_length + is_key * head_count * pair_count + word_offsets
        words = tl.load(addresses, mask=is_inside, other=0)
        weights = tl.load((key_weight if is_key else query_weight) + word_offsets, mask=is_inside, other=0)
        first, second = _unpack_first(words, BFLOAT), _unpack_second(words, BFLOAT)
        scale = tl.rsqrt(tl.sum(tl.sum(first * first + second * second, 1), 0) / (2 * head_count * pair_count) + eps)
        # Round between norm and rotation, like diffusers.
        first = _round_to_16_bits(first * scale * _unpack_first(weights, BFLOAT), BFLOAT).to(tl.float32)
        second = _round_to_16_bits(second * scale * _unpack_second(weights, BFLOAT), BFLOAT).to(tl.float32)
        low = _round_to_16_bits(first * c - second * s, BFLOAT).to(tl.uint16, bitcast=True).to(tl.int32)
        high = _round_to_16_bits(first * s + second * c, BFLOAT).to(tl.uint16, bitcast=True).to(tl.int32)
        tl.store(addresses, low | (high << 16), mask=is_inside)
