"""Operation and parameter counts of a Wan transformer, from its sizes; they predict relative times and memory."""

from wantui.models.catalogue import WanModel
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning.guidance_plan import compute_mean_passes
from wantui.planning.model_source import WeightsForm
from wantui.planning.recipe import Recipe


def count_latent_positions(model: WanModel, width: int, height: int, frame_count: int) -> int:
    """Count the positions of a latent video, which are the tokens of the transformer."""
    _, latent_frames, latent_height, latent_width = model.compute_latent_shape(width, height, frame_count)
    return latent_frames * (latent_height // model.patch_size) * (latent_width // model.patch_size)


def count_forward_flops(model: WanModel, width: int, height: int, frame_count: int) -> int:
    """Count the floating-point operations of one pass through the transformer; a multiply-add counts as two.

    Counts matrix products only, as torch's FlopCounterMode does; everything else is under one per cent.
    """
    latent_channels, token_count = model.latent_channels, count_latent_positions(model, width, height, frame_count)
    d, f = model.transformer_width, model.feed_forward_width
    timestep_count = token_count if model.has_timestep_per_token else 1
    block_flops = (
        6 * token_count * d * d  # query, key, value and output of self-attention, query and output of cross-attention
        + 2 * TEXT_POSITION_COUNT * d * d  # key and value of cross-attention
        + 2 * token_count * token_count * d + 2 * token_count * TEXT_POSITION_COUNT * d
        + 2 * token_count * d * f
    )  # fmt: skip
    patch_flops = 2 * token_count * d * latent_channels * model.patch_size**2
    text_flops = TEXT_POSITION_COUNT * (model.text_width * d + d * d)
    time_flops = timestep_count * (model.timestep_width * d + d * d + 6 * d * d)
    return 2 * (model.block_count * block_flops + patch_flops + text_flops + time_flops)


def count_transformer_parameters(model: WanModel) -> int:
    """Count the parameters of one transformer."""
    d, patch_values = model.transformer_width, model.latent_channels * model.patch_size**2
    embedding_parameters = (
        patch_values * d
        + d
        + model.timestep_width * d
        + d * d
        + 2 * d
        + 6 * d * d
        + 6 * d
        + model.text_width * d
        + d * d
    )
    return (
        model.block_count * count_block_parameters(model)
        + embedding_parameters
        + 2 * d
        + d * patch_values
        + patch_values
        + 2 * d
    )


def count_block_parameters(model: WanModel) -> int:
    """Count the parameters of one block: two attentions with their norms, feed-forward, modulation."""
    d, f = model.transformer_width, model.feed_forward_width
    return 8 * d * d + 12 * d + 2 * d * f + f + d + 8 * d


def count_quantized_block_parameters(model: WanModel, weights: WeightsForm) -> int:
    """Count the parameters of a block that are stored in 8 bits; int8 keeps biases in the model's dtype."""
    d, f = model.transformer_width, model.feed_forward_width
    return 8 * d * d + 2 * d * f + (8 * d + f + d if weights == "float8" else 0)


def count_full_precision_parameters(model: WanModel) -> int:
    """Count the parameters of a transformer that are always float32: time embedding, modulation, norms."""
    d = model.transformer_width
    return (
        model.block_count * count_full_precision_block_parameters(model)
        + model.timestep_width * d
        + d * d
        + 2 * d
        + 2 * d
    )


def count_full_precision_block_parameters(model: WanModel) -> int:
    """Count the parameters of one block that are always float32: modulation, and the norm before cross-attention."""
    return 8 * model.transformer_width


def count_step_flops(model: WanModel, recipe: Recipe) -> float:
    """Count the FLOPs of one model evaluation, averaged over the denoising: one pass, or two with guidance."""
    return compute_mean_passes(recipe) * count_forward_flops(model, recipe.width, recipe.height, recipe.frames)
