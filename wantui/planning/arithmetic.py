"""How much a Wan transformer computes, counted from its sizes: what makes one video take longer than another."""

from wantui.models.catalogue import WanModel
from wantui.planning.recipe import Recipe

TEXT_LENGTH = 512
PER_TOKEN = 16
"""Spatial compression of Wan 2.2 5B, which has a timestep for each token."""


def forward_flops(model: WanModel, width: int, height: int, frames: int) -> int:
    """Floating-point operations of one pass through the transformer, a multiplication and an addition counted as two.

    Products of matrices only, as torch's FlopCounterMode counts them; the rest is under one per cent.
    """
    channels, latent_frames, latent_height, latent_width = model.latent_shape(width, height, frames)
    tokens = latent_frames * (latent_height // model.patch) * (latent_width // model.patch)
    d, f = model.dim, model.feed_forward
    times = tokens if model.spatial_compression == PER_TOKEN else 1
    block = (
        6 * tokens * d * d  # query, key, value and output of self-attention, query and output of cross-attention
        + 2 * TEXT_LENGTH * d * d  # key and value of cross-attention
        + 2 * tokens * tokens * d + 2 * tokens * TEXT_LENGTH * d
        + 2 * tokens * d * f
    )  # fmt: skip
    patches = 2 * tokens * d * channels * model.patch**2
    text = TEXT_LENGTH * (model.text_dim * d + d * d)
    time = times * (model.time_dim * d + d * d + 6 * d * d)
    return 2 * (model.blocks * block + patches + text + time)


def step_flops(model: WanModel, recipe: Recipe) -> int:
    """Of one evaluation: with guidance two passes."""
    passes = 2 if recipe.guidance_scale > 1 else 1
    return passes * forward_flops(model, recipe.width, recipe.height, recipe.frames)
