"""Bytes of a model's weights as loaded, and of the latents of a video."""

from math import prod

from wantui.models.catalogue import WanModel
from wantui.planning.flops import (
    count_block_parameters,
    count_full_precision_block_parameters,
    count_full_precision_parameters,
    count_quantized_block_parameters,
    count_transformer_parameters,
)
from wantui.planning.fp8 import count_fp8_blocks, count_saved_block_bytes
from wantui.planning.recipe import Recipe

BYTES_BY_DTYPE = {"float32": 4, "bfloat16": 2}
"""Bytes per number of each dtype."""


def estimate_transformer_bytes(model: WanModel, recipe: Recipe) -> int:
    """Return the weight bytes of one transformer, as loaded."""
    if recipe.transformer_file is not None:
        return recipe.transformer_file.bytes
    loaded_bytes = _estimate_parameter_bytes(
        model, recipe, count_transformer_parameters(model), count_full_precision_parameters(model), model.block_count
    )
    return loaded_bytes - count_fp8_savings(model, recipe, count_fp8_blocks(model.block_count))


def count_fp8_savings(model: WanModel, recipe: Recipe, block_count: int) -> int:
    """Return the bytes by which `speed: fp8` reduces the weights of blocks; 0 for other speeds."""
    if recipe.speed != "fp8":
        return 0
    return block_count * count_saved_block_bytes(model, BYTES_BY_DTYPE[recipe.dtype])


def estimate_block_bytes(model: WanModel, recipe: Recipe) -> int:
    """Return the weight bytes of one block; for weights in a file, the block's share of the file.

    With `speed: fp8`, this is the first or the last block; `count_fp8_savings` is the difference of the others.
    """
    parameter_count = count_block_parameters(model)
    if recipe.transformer_file is not None:
        return recipe.transformer_file.bytes * parameter_count // count_transformer_parameters(model)
    return _estimate_parameter_bytes(model, recipe, parameter_count, count_full_precision_block_parameters(model), 1)


def estimate_mean_block_bytes(model: WanModel, recipe: Recipe) -> float:
    """Return the weight bytes of one block, averaged over the blocks of a transformer."""
    fp8_share = count_fp8_blocks(model.block_count) / model.block_count
    return estimate_block_bytes(model, recipe) - fp8_share * count_fp8_savings(model, recipe, 1)


def _estimate_parameter_bytes(
    model: WanModel, recipe: Recipe, parameter_count: int, full_precision_count: int, block_count: int
) -> int:
    """Return the bytes of parameters in a number of blocks; `full_precision_count` of them are float32."""
    dtype_bytes = BYTES_BY_DTYPE[recipe.dtype]
    quantized_count = scale_count = 0
    if recipe.weights != "full":
        quantized_count = block_count * count_quantized_block_parameters(model, recipe.weights)
    if recipe.weights == "int8":
        scale_count = block_count * (9 * model.transformer_width + model.feed_forward_width)  # one scale per row
    return (
        dtype_bytes * (parameter_count - full_precision_count - quantized_count)
        + quantized_count
        + 4 * (full_precision_count + scale_count)
    )


def estimate_latent_bytes(model: WanModel, recipe: Recipe) -> int:
    """Return the bytes of a video's latents, which are float32."""
    return 4 * prod(model.compute_latent_shape(recipe.width, recipe.height, recipe.frames))


def estimate_weight_bytes(model: WanModel, recipe: Recipe) -> int | None:
    """Return the weight bytes of all parts, as loaded, or None if their sizes are unknown."""
    if model.text_encoder_parameter_count is None or model.vae_parameter_count is None:
        return None
    dtype_bytes = BYTES_BY_DTYPE[recipe.dtype]
    transformer_bytes = estimate_transformer_bytes(model, recipe) * model.transformer_count
    return transformer_bytes + dtype_bytes * model.text_encoder_parameter_count + 4 * model.vae_parameter_count
