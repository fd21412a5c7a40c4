"""How fast a transformer is made: as diffusers has it, compiled to the same result up to rounding, or with a cache.

plain  to the bit what diffusers computes.
exact  the same numbers up to the rounding of bfloat16: blocks compiled, projections of one input in one product, bias
       and GELU inside the products, norm and rotary embedding of query and key in one pass, pads of the text taken
       together, and what passes have in common computed once. On a CPU, or where blocks come from the machine's memory
       or are held in 8 bits, it is plain.
fast   exact, and a step in which the first block changes little leaves out the other blocks (diffusers' first-block
       cache). Other videos come of it.
"""

import os
import warnings
from typing import Any

import torch
from diffusers import WanPipeline
from diffusers.hooks import FirstBlockCacheConfig
from platformdirs import user_cache_path
from torch import nn

from wantui.generation.fused_attention import FusedSelfAttention, FusedTextAttention
from wantui.generation.fused_linear import fuse
from wantui.planning.recipe import Speed

CACHE_THRESHOLD = 0.07
"""Largest relative change of the first block's residual at which the others are left out."""
GRAPHS = 128
"""So many of a block are kept; torch's own 8 are soon used up, and the next one would be an error."""
OPTIONS = {"coordinate_descent_tuning": True}
"""Of inductor: tries sizes of its elementwise kernels one after the other, 1 % of a step for some seconds once."""


def speed_up(pipeline: WanPipeline, speed: Speed, compiles: bool) -> None:
    """Make a pipeline that was just placed as fast as asked for.

    Args:
        compiles: whether its blocks stay on a GPU as they were loaded.
    """
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        if transformer is None or speed == "plain":
            continue
        if compiles:
            compile_blocks(transformer)
        if speed == "fast":
            transformer.enable_cache(FirstBlockCacheConfig(threshold=CACHE_THRESHOLD))


def compile_blocks(transformer: Any) -> None:
    """Fuse projections, biases and GELU of a transformer on a GPU; its blocks are compiled at their first run."""
    # A block has a graph for each size of video, with and without capture, all of which are kept.
    torch._dynamo.config.recompile_limit = GRAPHS
    # What was compiled is kept between runs, and is found again by torch from its source.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache_path("wantui") / "compiled"))
    fuse_blocks(transformer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, options=OPTIONS)


def fuse_blocks(transformer: Any) -> None:
    """Put what is computed together into the blocks of a transformer, in the place of its parts."""
    transformer.fuse_qkv_projections()
    self_attention, text_attention = FusedSelfAttention(), FusedTextAttention()
    for index, block in enumerate(transformer.blocks):
        _forget_parts(block.attn1, ("to_q", "to_k", "to_v"))
        _forget_parts(block.attn2, ("to_k", "to_v"))
        fuse(block)
        for attention, processor in ((block.attn1, self_attention), (block.attn2, text_attention)):
            attention.wantui_block = torch.tensor([index])
            attention.set_processor(processor)


def _forget_parts(attention: nn.Module, names: tuple[str, ...]) -> None:
    """Of a fused projection, whose weights would be held twice."""
    for name in names:
        setattr(attention, name, None)
