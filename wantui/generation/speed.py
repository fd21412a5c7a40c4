"""How fast a transformer is made: as diffusers has it, compiled to the same result up to rounding, or with a cache.

plain  to the bit what diffusers computes.
exact  the same numbers up to the rounding of bfloat16: blocks compiled, projections of one input in one product, bias
       and GELU inside the products, norms with the sums before them and with the rotary embedding in one pass, pads of
       the text taken together, and what passes have in common computed once. On a CPU, of a narrow model as nano, or
       where blocks come from the machine's memory or are held in 8 bits, it is plain.
fast   exact, and blocks are left out where little changes (`cache`). Other videos come of it.
"""

import os
import tempfile
from types import MethodType
from typing import Any

import torch
from diffusers import WanPipeline
from platformdirs import user_cache_path
from torch import nn

from wantui.generation import fused_block
from wantui.generation.fused_attention import FusedSelfAttention, FusedTextAttention
from wantui.generation.fused_linear import fuse
from wantui.planning.throughput import NATIVE

CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"
GRAPHS = 128
"""So many of a block are kept; torch's own 8 are soon used up, and the next one would be an error."""


def speed_up(pipeline: WanPipeline, attention: str) -> None:
    """Make a pipeline fast whose blocks stay on a GPU as they were loaded; arguments as of `compile_blocks`."""
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        if transformer is not None:
            compile_blocks(transformer, attention)


def compile_blocks(transformer: Any, attention: str = NATIVE, **how: Any) -> None:
    """Fuse the blocks of a transformer; they are compiled at their first run.

    Args:
        attention: the kernel of self-attention, as diffusers calls it; native is torch's own.
        how: of torch.compile.
    """
    # A block has a graph for each size of video, with and without capture, all of which are kept.
    torch._dynamo.config.recompile_limit = GRAPHS
    _keep_what_is_compiled()
    fuse_blocks(transformer, attention)
    for block in transformer.blocks:
        # Not the block as a module: diffusers' caches lay themselves around `forward`, and cannot be compiled.
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False, **how)


def _keep_what_is_compiled() -> None:
    """Between runs; torch finds it again from its source.

    As soon as anything asks for it, torch puts a choice of its own into the environment: a temporary directory.
    """
    said = os.environ.get(CACHE_DIR)
    if said is None or said.startswith(f"{tempfile.gettempdir()}/torchinductor_"):
        os.environ[CACHE_DIR] = str(user_cache_path("wantui") / "compiled")


def fuse_blocks(transformer: Any, attention: str = NATIVE) -> None:
    """Put what is computed together into the blocks of a transformer, in the place of its parts."""
    transformer.fuse_qkv_projections()
    self_attention, text_attention = FusedSelfAttention(attention), FusedTextAttention()
    for index, block in enumerate(transformer.blocks):
        _forget_parts(block.attn1, ("to_q", "to_k", "to_v"))
        _forget_parts(block.attn2, ("to_k", "to_v"))
        fuse(block)
        if isinstance(block.norm2, nn.LayerNorm):  # all published ones have it
            block.forward = MethodType(fused_block.forward, block)
        for part, processor in ((block.attn1, self_attention), (block.attn2, text_attention)):
            part.wantui_block = torch.tensor([index])
            part.set_processor(processor)


def is_fused(transformer: Any) -> bool:
    """Whether `fuse_blocks` was there; such blocks take one timestep for all places."""
    return hasattr(transformer.blocks[0].attn1, "wantui_block")


def _forget_parts(attention: nn.Module, names: tuple[str, ...]) -> None:
    """Of a fused projection, whose weights would be held twice."""
    for name in names:
        setattr(attention, name, None)
