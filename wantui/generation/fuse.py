"""Speeds of a transformer: reference (unchanged diffusers), fused (equal up to rounding), or cached.

reference  equal to diffusers bit for bit.
fused      equal up to bfloat16 rounding: projections of one input in one product; bias and GELU inside the products;
           norms in one pass with the preceding sums and with the rotary embedding; text padding merged; values that
           both passes share computed once. Falls back to reference on a CPU, with a narrow model such as nano, with
           sequential offload, and with 8-bit or GGUF weights.
cached     fused, and blocks are skipped where little changes (`step_cache`). The videos differ.

Blocks are fused by hand instead of torch.compile: its remaining gain is not worth the compilation for each video size,
and its autotuning may choose another order of summation, and so other bits, in each process.
"""

from types import MethodType
from typing import Any

from diffusers import WanPipeline
from torch import nn

from wantui.generation import fused_block
from wantui.generation.fused_attention import FusedCrossAttention, FusedSelfAttention
from wantui.generation.fused_linear import fuse_linear_layers
from wantui.planning.throughput import NATIVE_ATTENTION


def fuse_pipeline(pipeline: WanPipeline, attention_kernel: str) -> None:
    """Fuse the blocks of a newly loaded pipeline; see `fuse_blocks` for the arguments."""
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        if transformer is not None:
            fuse_blocks(transformer, attention_kernel)


def fuse_blocks(transformer: Any, attention_kernel: str = NATIVE_ATTENTION) -> None:
    """Replace parts of a transformer's blocks by fused ones.

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


def is_fused(transformer: Any) -> bool:
    """Return whether `fuse_blocks` was applied; such blocks take one timestep for all positions."""
    return isinstance(transformer.blocks[0].attn1.processor, FusedSelfAttention)
