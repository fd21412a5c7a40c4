"""Load only the VAE of a model, to decode stored latents without a transformer and a text encoder."""

import torch
from diffusers import WanPipeline

from wantui.generation.cuda_errors import is_out_of_memory
from wantui.generation.errors import LoadError
from wantui.generation.fused_decoder import fuse_decoder, has_fused_decoder
from wantui.generation.load import load_pipeline_parts
from wantui.generation.placement import apply_memory_plan, find_device, query_free_gpu_bytes, select_gpu
from wantui.generation.self_check import check_pipeline_works
from wantui.models.catalogue import WanModel
from wantui.planning import Recipe
from wantui.planning.memory_plan import (
    ALLOCATOR_OVERHEAD_FACTOR,
    CONTEXT_BYTES,
    RESIDENT_PLAN,
    SMALL_TILE_SIDE_PIXELS,
    TILE_SIDE_PIXELS,
    estimate_decode_bytes,
)
from wantui.planning.requirements import explain_missing_compiler

PARTS_WITHOUT_VAE = ("transformer", "transformer_2", "text_encoder")


def load_vae_pipeline(
    model: WanModel,
    revision: str | None,
    device: torch.device,
    *,
    fuses_decoder: bool = False,
    may_fetch: bool = True,
) -> WanPipeline:
    """Load a pipeline whose only part with weights is the VAE, place it, and check that it works.

    Args:
        revision: branch, tag or commit of a hub model; not used for a local directory.
        fuses_decoder: whether to fuse the decoder, as for fused videos.
        may_fetch: whether to download missing files of the VAE.

    Raises:
        LoadError: weights are missing or damaged, or do not fit into the GPU's memory; or a requirement of the fused
            decoder is missing.
    """
    if fuses_decoder and (missing_compiler := explain_missing_compiler()):
        raise LoadError(
            f"the video was decoded with a kernel, which has to be compiled on this machine, but {missing_compiler}. "
            "Install it, or use --device cpu, which decodes with diffusers' code"
        )
    pipeline = load_pipeline_parts(
        model,
        revision,
        "float32",
        dict.fromkeys(PARTS_WITHOUT_VAE),
        replaced_parts=PARTS_WITHOUT_VAE,
        may_fetch=may_fetch,
    )
    select_gpu(device)
    try:
        if fuses_decoder:
            fuse_decoder(pipeline.vae)
        apply_memory_plan(pipeline, device, RESIDENT_PLAN)
        check_pipeline_works(pipeline)
    except LoadError:
        raise
    except Exception as error:  # Triton and compilers raise errors of many kinds
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            reason = f"{device} has too little free memory for the VAE of {model.name}"
        else:
            reason = f"the VAE of {model.name} does not work on {device}: {error} ({type(error).__name__})"
        raise LoadError(f"{reason}. Use --device cpu") from error
    return pipeline


def choose_tile_side(pipeline: WanPipeline, model: WanModel, recipe: Recipe, first_side: int | None) -> int | None:
    """Return the side, in pixels, of the tiles in which a video is decoded; None decodes complete frames.

    Args:
        first_side: side with which the video's clip was decoded; smaller tiles are chosen only if it does not fit.

    Raises:
        LoadError: not even the smallest tiles fit into the GPU's memory.
    """
    device = find_device(pipeline)
    if device.type != "cuda":
        return first_side
    largest_side = first_side or max(recipe.width, recipe.height)
    smaller_sides = [side for side in (TILE_SIDE_PIXELS, SMALL_TILE_SIDE_PIXELS) if side < largest_side]
    # The VAE is already on the GPU, in this process' context.
    free_bytes = query_free_gpu_bytes(device) - CONTEXT_BYTES - torch.cuda.memory_allocated(device)
    for side in (first_side, *smaller_sides):
        decode_bytes = estimate_decode_bytes(model, recipe, side, has_fused_decoder(pipeline.vae))
        if int(decode_bytes * ALLOCATOR_OVERHEAD_FACTOR) <= free_bytes:
            return side
    raise LoadError(
        f"{device} has too little free memory to decode {recipe.width}x{recipe.height} pixels, even in tiles. End "
        "other processes on it, or use --device cpu"
    )
