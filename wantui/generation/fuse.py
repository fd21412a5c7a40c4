"""Speeds of a pipeline: reference (unchanged diffusers), fused (equal up to rounding), fp8, or cached.

reference  equal to diffusers bit for bit.
fused      equal up to bfloat16 rounding: projections of one input in one product; bias and GELU inside the products;
           norms in one pass with the preceding sums and with the rotary embedding; text padding merged; values that
           both passes share computed once; and the VAE's decoder (`fused_decoder`), up to the rounding of its
           convolutions. Falls back to reference on a CPU, with a narrow model such as nano, with
           sequential offload, and with 8-bit or GGUF weights.
fp8        fused, and the products of all blocks but the first and the last in FP8 (`fp8`). The videos differ. Never
           falls back: what cannot be computed in FP8 is refused (`planning.fp8_checks`).
cached     fused, and blocks are skipped where little changes (`step_cache`). The videos differ.

Blocks are fused by hand instead of by torch.compile. The additional gain of torch.compile is not worth a compilation
for each video size, and its autotuning may choose another order of summation, and therefore other bits, in each
process.
"""

from types import MethodType
from typing import Any

import torch
from diffusers import WanPipeline
from torch import nn

from wantui.generation import fused_block
from wantui.generation.fp8 import Fp8FeedForward, quantize_block
from wantui.generation.fused_attention import FusedCrossAttention, FusedSelfAttention
from wantui.generation.fused_decoder import fuse_decoder
from wantui.generation.fused_linear import fuse_linear_layers
from wantui.generation.placement import list_transformers
from wantui.planning.fp8 import is_block_in_fp8
from wantui.planning.throughput import NATIVE_ATTENTION


def fuse_pipeline(pipeline: WanPipeline, attention_kernel: str, fp8_device: torch.device | None = None) -> None:
    """Fuse the blocks and the decoder of a newly loaded pipeline.

    Args:
        attention_kernel: see `fuse_blocks`.
        fp8_device: device that rounds the weights to FP8, for products in FP8; None for other speeds.
    """
    for transformer in list_transformers(pipeline):
        fuse_blocks(transformer, attention_kernel)
        if fp8_device is not None:
            quantize_blocks(transformer, fp8_device)
    if pipeline.vae is not None:
        fuse_decoder(pipeline.vae)


def fuse_blocks(transformer: Any, attention_kernel: str = NATIVE_ATTENTION) -> None:
    """Replace parts of a transformer's blocks with fused parts.

    Args:
        attention_kernel: self-attention kernel, one of `attention_backends.KERNEL_NAMES`; native is torch's.
    """
    for block_index, block in enumerate(transformer.blocks):
        for attention_module, projection_names in (
            (block.attn1, ("to_q", "to_k", "to_v")),
            (block.attn2, ("to_k", "to_v")),
        ):
            attention_module.fuse_projections()
            for name in projection_names:  # free the separate weights
                setattr(attention_module, name, None)
        fuse_linear_layers(block)
        if isinstance(block.norm2, nn.LayerNorm):  # true for all published models
            block.forward = MethodType(fused_block.forward_fused_block, block)
        block.attn1.set_processor(FusedSelfAttention(block_index, attention_kernel))
        block.attn2.set_processor(FusedCrossAttention(block_index))


def quantize_blocks(transformer: Any, device: torch.device, skips_end_blocks: bool = True) -> None:
    """Compute the products of a transformer's fused blocks in FP8.

    Args:
        device: device that rounds the weights, which then return to their own device.
        skips_end_blocks: whether to leave out the first and the last block; False only to measure a block.
    """
    for block_index, block in enumerate(transformer.blocks):
        if skips_end_blocks and not is_block_in_fp8(block_index, len(transformer.blocks)):
            continue
        quantize_block(block, device)
        if isinstance(block.norm2, nn.LayerNorm):
            block.forward = MethodType(fused_block.forward_fp8_block, block)


def find_attention_kernel(transformer: Any) -> str:
    """Return the name of the self-attention kernel; native for blocks that are not fused."""
    processor = transformer.blocks[0].attn1.processor
    return processor.kernel_name if isinstance(processor, FusedSelfAttention) else NATIVE_ATTENTION


def has_fp8_blocks(transformer: Any) -> bool:
    """Return whether `quantize_blocks` was applied."""
    return any(isinstance(block.ffn, Fp8FeedForward) for block in transformer.blocks)


def is_fused(transformer: Any) -> bool:
    """Return whether `fuse_blocks` was applied; such blocks take one timestep for all positions."""
    return isinstance(transformer.blocks[0].attn1.processor, FusedSelfAttention)
