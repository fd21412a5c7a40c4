"""Decode latents to frames, one latent frame at a time, so that a long video needs no more memory than a short one."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from numpy.typing import NDArray
from torch import Tensor, nn

from wantui.generation.finite import check_finite
from wantui.generation.placement import find_device, find_tile_side


def decode_frames(pipeline: WanPipeline, latents: Tensor) -> Generator[NDArray[np.uint8], None, None]:
    """Yield the frames of one video, uint8 [height, width, rgb].

    Args:
        latents: normalised latents [1, channels, frames, height, width], as `denoise_latents` returns them.

    Raises:
        NotFiniteError: the VAE returns NaN or infinity, which clamping and rounding would turn into black or white.
    """
    with closing(decode_chunks(pipeline, latents)) as chunks:
        for chunk in chunks:
            brightness = pipeline.video_processor.denormalize(chunk[0].permute(1, 2, 3, 0))
            # Round on the device: a quarter of the bytes of float32 leave it.
            yield from (brightness * 255).round().to(torch.uint8).contiguous().cpu().numpy()


def decode_stored_frames(
    pipeline: WanPipeline, latents: NDArray[np.float32]
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield the frames of stored latents [channels, frames, height, width], as `decode_frames` does."""
    return decode_frames(pipeline, torch.from_numpy(latents)[None])


def decode_chunks(pipeline: WanPipeline, latents: Tensor) -> Generator[Tensor, None, None]:
    """Yield consecutive frames of one video, float32 [1, rgb, frames, height, width] in -1 to 1.

    The frames are bit-identical to the output of `vae.decode`, even if `fuse_decoder` has changed it: `vae.decode` also
    decodes one latent frame at a time, but returns all frames together.

    Args, Raises:
        see `decode_frames`.
    """
    height, width = (side * pipeline.vae_scale_factor_spatial for side in latents.shape[3:])
    uses_tiles = find_tile_side(pipeline, width, height) is not None
    hook_handle = pipeline.vae.decoder.register_forward_hook(_check_decoder_output)
    try:
        yield from (_decode_tiles if uses_tiles else _decode_latent_frames)(pipeline, latents)
    finally:
        hook_handle.remove()


def _check_decoder_output(decoder: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    check_finite(output, "decoding gave")


@torch.no_grad()
def _decode_tiles(pipeline: WanPipeline, latents: Tensor) -> Iterator[Tensor]:
    """Decode all frames together from tiles, which takes less memory for the VAE and more memory for the frames."""
    yield pipeline.vae.decode(_denormalise_latents(pipeline, latents), return_dict=False)[0]


def _denormalise_latents(pipeline: WanPipeline, latents: Tensor) -> Tensor:
    vae = pipeline.vae
    latents = latents.to(find_device(pipeline), dtype=vae.dtype)
    mean = torch.tensor(vae.config.latents_mean).view(1, vae.config.z_dim, 1, 1, 1).to(latents.device, latents.dtype)
    # As in the pipeline: dividing by the reciprocal differs in rounding from multiplying.
    reciprocal_std = 1.0 / torch.tensor(vae.config.latents_std).view(1, vae.config.z_dim, 1, 1, 1).to(
        latents.device, latents.dtype
    )
    return latents / reciprocal_std + mean


@torch.no_grad()
def _decode_latent_frames(pipeline: WanPipeline, latents: Tensor) -> Iterator[Tensor]:
    """Decode the video [1, rgb, frames, height, width] in -1 to 1: the first frame alone, then four at a time."""
    vae = pipeline.vae
    hidden_latents = vae.post_quant_conv(_denormalise_latents(pipeline, latents))
    vae.clear_cache()
    # Keep this list instead of reading the VAE's at each frame: an abandoned decoding clears the VAE's list when it is
    # garbage-collected, perhaps during another decoding.
    feature_cache = vae._feat_map
    try:
        for frame_index in range(hidden_latents.shape[2]):
            chunk = vae.decoder(
                hidden_latents[:, :, frame_index : frame_index + 1],
                feat_cache=feature_cache,
                feat_idx=[0],
                first_chunk=frame_index == 0,
            )
            if vae.config.patch_size is not None:
                chunk = unpatchify(chunk, patch_size=vae.config.patch_size)
            yield chunk.clamp(-1.0, 1.0)
    finally:
        vae.clear_cache()
