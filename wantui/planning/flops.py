"""Operation and parameter counts of a Wan transformer, from its sizes; they predict relative times and memory."""

from wantui.models.catalogue import WanModel
from wantui.planning.model_source import Weights
from wantui.planning.recipe import Recipe

TEXT_LENGTH = 512
"""Number of text positions of the transformer, including padding; the default of `encode_prompt` would be 226."""


def count_positions(model: WanModel, width: int, height: int, frames: int) -> int:
    """Count the positions of a latent video, which are the tokens of the transformer."""
    _, latent_frames, latent_height, latent_width = model.compute_latent_shape(width, height, frames)
    return latent_frames * (latent_height // model.patch_size) * (latent_width // model.patch_size)


def count_forward_flops(model: WanModel, width: int, height: int, frames: int) -> int:
    """Count the floating-point operations of one pass through the transformer; a multiply-add counts as two.

    Counts matrix products only, as torch's FlopCounterMode does; everything else is under one per cent.
    """
    channels, tokens = model.latent_channels, count_positions(model, width, height, frames)
    d, f = model.dim, model.feed_forward
    times = tokens if model.has_timestep_per_token else 1
    block = (
        6 * tokens * d * d  # query, key, value and output of self-attention, query and output of cross-attention
        + 2 * TEXT_LENGTH * d * d  # key and value of cross-attention
        + 2 * tokens * tokens * d + 2 * tokens * TEXT_LENGTH * d
        + 2 * tokens * d * f
    )  # fmt: skip
    patches = 2 * tokens * d * channels * model.patch_size**2
    text = TEXT_LENGTH * (model.text_dim * d + d * d)
    time = times * (model.time_dim * d + d * d + 6 * d * d)
    return 2 * (model.blocks * block + patches + text + time)


def count_transformer_parameters(model: WanModel) -> int:
    """Count the parameters of one transformer."""
    d, channels = model.dim, model.latent_channels * model.patch_size**2
    embeddings = channels * d + d + model.time_dim * d + d * d + 2 * d + 6 * d * d + 6 * d + model.text_dim * d + d * d
    return model.blocks * count_block_parameters(model) + embeddings + 2 * d + d * channels + channels + 2 * d


def count_block_parameters(model: WanModel) -> int:
    """Count the parameters of one block: two attentions with their norms, feed-forward, modulation."""
    d, f = model.dim, model.feed_forward
    return 8 * d * d + 12 * d + 2 * d * f + f + d + 8 * d


def count_quantized_block_parameters(model: WanModel, weights: Weights) -> int:
    """Count the parameters of a block that are stored in 8 bits; int8 keeps biases in the model's dtype."""
    d, f = model.dim, model.feed_forward
    return 8 * d * d + 2 * d * f + (8 * d + f + d if weights == "float8" else 0)


def count_full_precision_parameters(model: WanModel) -> int:
    """Count the parameters of a transformer that are always float32: time embedding, modulation, norms."""
    d = model.dim
    return model.blocks * count_full_precision_block_parameters(model) + model.time_dim * d + d * d + 2 * d + 2 * d


def count_full_precision_block_parameters(model: WanModel) -> int:
    """Count the parameters of one block that are always float32: modulation, and the norm before cross-attention."""
    return 8 * model.dim


def count_step_flops(model: WanModel, recipe: Recipe) -> int:
    """Count the FLOPs of one model evaluation: one pass, or two with guidance."""
    passes = 2 if recipe.guidance_scale > 1 else 1
    return passes * count_forward_flops(model, recipe.width, recipe.height, recipe.frames)
