"""Speeds of a transformer: as diffusers has it, fused to the same result up to rounding, or with a cache.

reference  what diffusers computes, to the bit.
fused      the same numbers up to the rounding of bfloat16: projections of one input in one product, bias and GELU
           inside the products, norms with the sums before them and with the rotary embedding in one pass, padding of
           the text merged, and what passes have in common computed once. It is the reference on a CPU, with a narrow
           model such as nano, and where weights come layer by layer, in 8 bits or from a GGUF file.
cached     fused, and blocks are skipped where little changes (`step_cache`). The videos are other ones.

Blocks are fused by hand and not by torch.compile: what is left for it is not worth its seconds for each size of video,
and where it chooses how to sum by what is quick at the moment, a video has other bits in another process.
"""

from types import MethodType
from typing import Any

from diffusers import WanPipeline
from torch import nn

from wantui.generation import fused_block
from wantui.generation.fused_attention import FusedSelfAttention, FusedTextAttention
from wantui.generation.fused_linear import fuse
from wantui.planning.throughput import NATIVE_ATTENTION


def fuse_pipeline(pipeline: WanPipeline, attention: str) -> None:
    """Fuse the blocks of a pipeline that was just loaded; arguments as of `fuse_blocks`."""
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        if transformer is not None:
            fuse_blocks(transformer, attention)


def fuse_blocks(transformer: Any, attention: str = NATIVE_ATTENTION) -> None:
    """Replace parts of a transformer's blocks by fused ones.

    Args:
        attention: the kernel of self-attention, as diffusers calls it; native is torch's own.
    """
    for index, block in enumerate(transformer.blocks):
        for part, fused in ((block.attn1, ("to_q", "to_k", "to_v")), (block.attn2, ("to_k", "to_v"))):
            part.fuse_projections()
            for name in fused:  # whose weights would be held twice
                setattr(part, name, None)
        fuse(block)
        if isinstance(block.norm2, nn.LayerNorm):  # all published ones have it
            block.forward = MethodType(fused_block.forward, block)
        block.attn1.set_processor(FusedSelfAttention(index, attention))
        block.attn2.set_processor(FusedTextAttention(index))


def is_fused(transformer: Any) -> bool:
    """Return whether `fuse_blocks` was applied; such blocks take one timestep for all positions."""
    return isinstance(transformer.blocks[0].attn1.processor, FusedSelfAttention)
