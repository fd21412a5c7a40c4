"""Provenance of a video: everything besides the recipe that can change the bits of its latents or clip."""

import os
import platform
from importlib.metadata import version
from typing import Any

import diffusers
import torch
import transformers
from diffusers import WanPipeline

from wantui import __version__
from wantui.environment import ARITHMETIC_VARIABLES
from wantui.generation import kernels
from wantui.generation.attention_backends import find_kernel_version
from wantui.generation.fuse import has_fp8_blocks
from wantui.generation.fused_attention import FusedSelfAttention
from wantui.generation.fused_decoder import has_fused_decoder
from wantui.generation.placement import find_device, find_tile_side
from wantui.models.catalogue import find_model
from wantui.models.fingerprint import find_cached_commit
from wantui.planning import Recipe

ARITHMETIC_VERSION = 1
"""Version of wantui's own arithmetic, increased by every change that alters the bits of latents: checkpoints of an
earlier version are refused, and the video restarts."""
ENVIRONMENT_FIELD = "environment"
"""Field of the provenance that contains the `ARITHMETIC_VARIABLES` that are set; empty if none is, and missing in clips
and checkpoints of earlier versions."""
LIBRARIES_BY_WEIGHT_KIND = {"int8": ("torchao",), "gguf": ("gguf",)}
"""Libraries that convert stored weights during computation, by kind of weights."""


def describe_provenance(pipeline: WanPipeline, recipe: Recipe) -> dict[str, Any]:
    """Return everything besides the recipe that affects the latents.

    This is: versions, device, number of threads, commit of a hub model (a recipe may name only a branch), how blocks
    are computed, the software that merged the adapters, and environment variables that change the arithmetic.
    """
    model = find_model(recipe.model)
    device = find_device(pipeline)
    uses_gpu = device.type == "cuda"
    processor = pipeline.transformer.blocks[0].attn1.processor
    block_fields: dict[str, str | None] = {"blocks": "reference"}
    if isinstance(processor, FusedSelfAttention):
        blocks = "fp8" if has_fp8_blocks(pipeline.transformer) else "fused"
        block_fields = {"blocks": blocks, "attention": processor.kernel_name, "triton": kernels.find_triton_version()}
        if kernel_version := find_kernel_version(processor.kernel_name):
            block_fields["attention_version"] = kernel_version
    return {
        "wantui": __version__,
        "commit": None if model.is_local else find_cached_commit(model.location, recipe.revision),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if uses_gpu else platform.processor() or platform.machine(),
        "threads": None if uses_gpu else torch.get_num_threads(),
        **block_fields,
        **(_describe_merging() if recipe.source.merged_files else {}),
        **{name: version(name) for name in LIBRARIES_BY_WEIGHT_KIND.get(recipe.weights, ())},
        ENVIRONMENT_FIELD: " ".join(
            f"{name}={os.environ[name]}" for name in ARITHMETIC_VARIABLES if os.environ.get(name)
        ),
    }


def was_rendered_on_gpu(provenance: dict[str, Any]) -> bool:
    """Return whether a provenance names a GPU: `device` is a name of any form, but only GPUs record no `threads`."""
    return "threads" in provenance and provenance["threads"] is None


def _describe_merging() -> dict[str, Any]:
    """Return everything that may change the bits of weights when adapters are merged into them, on the CPU."""
    return {
        "peft": version("peft"),
        "merge_cpu": platform.processor() or platform.machine(),
        "merge_threads": torch.get_num_threads(),
    }


def describe_clip_provenance(pipeline: WanPipeline, recipe: Recipe) -> dict[str, Any]:
    """Return everything besides the recipe that affects the clip.

    This is the result of `describe_provenance`, whether the decoder is fused, and the side of the decoded tiles in
    pixels (None without tiles).
    """
    return {
        **describe_provenance(pipeline, recipe),
        "decoder": "fused" if has_fused_decoder(pipeline.vae) else "reference",
        "tile": find_tile_side(pipeline, recipe.width, recipe.height),
    }
