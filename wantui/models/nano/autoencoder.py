"""Nano's video autoencoder: an AutoencoderKLWan with few channels, trained on windows of clips.

It has the architecture of Wan 2.2 (pixels folded into channels, shortcuts around each change of scale), which needs a
quarter of the arithmetic, and the compression of Wan 2.1: 8x8 pixels, 4 frames, 16 channels.

The stock module processes a clip in chunks of 1, 4, 4, ... frames with a cache of features, which makes training slow.
The same function can be computed for a whole clip at once: causal convolutions pad with zeros, and the temporal
resampling does not change the first frame. `enable_whole_clip_resampling` switches a module to that form.
"""

import math
from collections.abc import Callable, Sequence
from types import MethodType

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    patchify,
    unpatchify,
)
from torch import Tensor, nn

from wantui.models.nano.muon import Muon
from wantui.models.nano.render import pool_to_latent_frames, render_scenes, scale_to_vae_range
from wantui.models.nano.world import (
    CLIP_FRAME_COUNT,
    CLIP_SIDE_PIXELS,
    NATURAL_SHAPE_FREQUENCIES,
    Scenes,
    sample_scenes,
)

LATENT_CHANNEL_COUNT = 16
INITIAL_LOG_VARIANCE = -4.0
PATCH_SIDE_PIXELS = 2
AUTOENCODER_PEAK_LEARNING_RATE, DECODER_PEAK_LEARNING_RATE = 6e-3, 2e-3
"""Peak learning rates of the autoencoder, and of the decoder when it is trained alone."""
MAX_LATENT_NOISE = 0.15
"""Maximum noise on latents when the decoder is trained alone, in standard deviations of the latents."""
WINDOW_SIDE_PIXELS = 64
"""Width and height of a training window in pixels: a quarter of the picture."""


def build_autoencoder() -> AutoencoderKLWan:
    """Build an untrained autoencoder whose temporal kernels are initialised to the identity in time.

    The attention of the two middle blocks is initialised to zero and never trained: this world does not need it, and
    without it all layers are local, so training on windows also works for the whole picture.
    """
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=LATENT_CHANNEL_COUNT,
        dim_mult=[1, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=PATCH_SIDE_PIXELS,
        in_channels=3 * PATCH_SIDE_PIXELS**2,
        out_channels=3 * PATCH_SIDE_PIXELS**2,
        latents_mean=[0.0] * LATENT_CHANNEL_COUNT,
        latents_std=[1.0] * LATENT_CHANNEL_COUNT,
    )
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, WanAttentionBlock):
                nn.init.zeros_(module.proj.weight)
                nn.init.zeros_(module.proj.bias)
                module.requires_grad_(False)
            if not isinstance(module, WanCausalConv3d) or module.weight.shape[2] != 3:
                continue
            if name.endswith("time_conv"):
                out_channels, in_channels = module.weight.shape[:2]
                identity = torch.eye(in_channels)
                module.weight.mul_(0.1)
                nn.init.zeros_(module.bias)
                if out_channels == in_channels:  # downsampling: the mean of three frames
                    module.weight[..., 0, 0] += identity[:, :, None] / 3
                else:  # upsampling: both new frames copy the latest
                    module.weight[:, :, 2, 0, 0] += torch.cat([identity, identity])
            else:
                module.weight[:, :, :2] = 0
        vae.quant_conv.bias[LATENT_CHANNEL_COUNT:] = INITIAL_LOG_VARIANCE
    return vae


def _resample_whole_clip(self: WanResample, x: Tensor, feat_cache: None = None, feat_idx: None = None) -> Tensor:
    """Replace `WanResample.forward` for a whole clip."""
    batch_size, channel_count, frame_count = x.shape[:3]
    if self.mode == "upsample3d" and frame_count > 1:
        frame_pairs = self.time_conv(x[:, :, 1:]).unflatten(1, (2, channel_count))
        x = torch.cat([x[:, :, :1], frame_pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch_size, -1)).transpose(1, 2)
    if self.mode == "downsample3d" and frame_count > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
    return x


def enable_whole_clip_resampling(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Prepare an autoencoder for `encode_clip` and `decode_clip`, which give the results of its chunked methods."""
    for module in vae.modules():
        if isinstance(module, WanResample):
            module.forward = MethodType(_resample_whole_clip, module)
    return vae


def encode_clip(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Encode video to mean and log-variance of latents, each [n, 16, latent frames, height / 8, width / 8]."""
    mean, log_variance = vae.quant_conv(vae.encoder(patchify(video, PATCH_SIDE_PIXELS))).chunk(2, dim=1)
    return mean, log_variance


def decode_clip(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode latents to video [n, rgb, frames, height, width] in -1 to 1, not clamped."""
    return unpatchify(vae.decoder(vae.post_quant_conv(latents), first_chunk=True), PATCH_SIDE_PIXELS)


class ReconstructionLoss(nn.Module):
    """Loss of the autoencoder: L1 + 4 MSE + 2e-4 KL + 0.2 times the error of a linear colour read-out from latents.

    The read-out term makes the colours linear in the latents, so that a single matrix can compute a preview.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = enable_whole_clip_resampling(vae)
        self.read_out = nn.Linear(LATENT_CHANNEL_COUNT, 3)

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean squared error; `noise` has the shape of the latents."""
        mean, log_variance = (moment.float() for moment in encode_clip(self.vae, video))
        log_variance = log_variance.clamp(-20, 10)
        latents = mean + (log_variance / 2).exp() * noise
        error = decode_clip(self.vae, latents).float() - video
        mse = error.square().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        colour_error = (
            (self.read_out(latents.movedim(1, -1)) - downsample_to_latents(video).movedim(1, -1)).square().mean()
        )
        return error.abs().mean() + 4 * mse + 2e-4 * kl + 0.2 * colour_error, mse.detach()


def downsample_to_latents(video: Tensor) -> Tensor:
    """Average a video to the resolution of its latents: [n, rgb, latent frames, height / 8, width / 8]."""
    return pool_to_latent_frames(F.avg_pool3d(video, (1, 8, 8)))


def train_autoencoder(
    image_step_count: int,
    clip_step_count: int,
    clip_count: int,
    device: str,
    log_line: Callable[[str], None],
    shape_frequencies: Sequence[float] = NATURAL_SHAPE_FREQUENCIES,
) -> AutoencoderKLWan:
    """Train an autoencoder on windows of single frames, then of clips; store latent statistics in its config.

    Args:
        shape_frequencies: frequencies of the shapes in its clips, in the order of `SHAPES`.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = ReconstructionLoss(build_autoencoder()).to(device)
    trained_parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    scenes = sample_scenes(clip_count, rng, shape_frequencies=shape_frequencies)
    videos = torch.cat([render_scenes(batch, device)[0] for batch in _split_scenes(scenes, 64)])
    log_line(f"rendered {clip_count} clips")
    divisor = 1 if device == "cuda" else 8  # smaller batches on a CPU
    compiled_loss = torch.compile(model, dynamic=False)  # twice as fast, after a minute of compilation per phase
    for step_count, batch_size, frame_count in (
        (image_step_count, 256 // divisor, 1),
        (clip_step_count, 64 // divisor, CLIP_FRAME_COUNT),
    ):
        optimizer = Muon(trained_parameters, weight_decay=1e-3)
        for step_index in range(step_count):
            batch = scale_to_vae_range(_sample_windows(videos, batch_size, frame_count)).to(
                memory_format=torch.channels_last_3d
            )
            noise = torch.randn(
                batch_size,
                LATENT_CHANNEL_COUNT,
                (frame_count - 1) // 4 + 1,
                WINDOW_SIDE_PIXELS // 8,
                WINDOW_SIDE_PIXELS // 8,
            )
            with torch.autocast(device, torch.bfloat16):
                loss, mse = compiled_loss(batch, noise.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            decay_factor = 0.5 * (1 + math.cos(math.pi * step_index / step_count)) if frame_count > 1 else 1.0
            optimizer.apply_update(
                AUTOENCODER_PEAK_LEARNING_RATE * min(1.0, (step_index + 1) / 100) * (decay_factor + 0.005)
            )
            if step_index % 100 == 0 or step_index == step_count - 1:
                log_line(
                    f"autoencoder, {frame_count} frames, step {step_index}: {10 * math.log10(4 / mse.item()):.1f} dB"
                )
    vae = model.vae.eval().requires_grad_(False)
    store_latent_statistics(vae, videos[:512])
    return vae


class DecodingLoss(nn.Module):
    """Loss of the decoder alone: L1 + 4 MSE of clips decoded from noisy latents of the frozen encoder.

    The noise imitates the small errors of latents that a transformer generates.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = enable_whole_clip_resampling(vae)

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean squared error; `noise` has the shape and scale of the latents."""
        with torch.no_grad():
            latents = encode_clip(self.vae, video)[0].float()
        error = decode_clip(self.vae, latents + noise).float() - video
        mse = error.square().mean()
        return error.abs().mean() + 4 * mse, mse.detach()


def train_decoder(
    vae: AutoencoderKLWan,
    step_count: int,
    clip_count: int,
    device: str,
    log_line: Callable[[str], None],
    shape_frequencies: Sequence[float] = NATURAL_SHAPE_FREQUENCIES,
) -> None:
    """Train only the decoder, so that edges stay clean even if latents differ slightly from encoded clips.

    The encoder is frozen, and with it the latents that the transformer learns.

    Args:
        shape_frequencies: frequencies of the shapes in its clips, in the order of `SHAPES`.
    """
    torch.manual_seed(1)
    rng = np.random.default_rng(2)
    model = DecodingLoss(vae.to(device))
    named_parameters = [*vae.decoder.named_parameters(), *vae.post_quant_conv.named_parameters()]
    # without the untrained attention, which is zero
    trained_parameters = [(name, parameter) for name, parameter in named_parameters if parameter.any()]
    for _, parameter in trained_parameters:
        parameter.requires_grad_(True)
    scenes = sample_scenes(clip_count, rng, shape_frequencies=shape_frequencies)
    videos = torch.cat([render_scenes(batch, device)[0] for batch in _split_scenes(scenes, 64)])
    noise_std = MAX_LATENT_NOISE * torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
    compiled_loss = torch.compile(model, dynamic=False)
    optimizer = Muon(trained_parameters, weight_decay=1e-3)
    batch_size = 64 if device == "cuda" else 8
    for step_index in range(step_count):
        batch = scale_to_vae_range(_sample_windows(videos, batch_size, CLIP_FRAME_COUNT)).to(
            memory_format=torch.channels_last_3d
        )
        latent_shape = (
            batch_size,
            LATENT_CHANNEL_COUNT,
            (CLIP_FRAME_COUNT - 1) // 4 + 1,
            WINDOW_SIDE_PIXELS // 8,
            WINDOW_SIDE_PIXELS // 8,
        )
        noise = noise_std * torch.rand(batch_size, 1, 1, 1, 1, device=device) * torch.randn(latent_shape, device=device)
        with torch.autocast(device, torch.bfloat16):
            loss, mse = compiled_loss(batch, noise)
        loss.backward()
        nn.utils.clip_grad_norm_([parameter for _, parameter in trained_parameters], 1.0)
        decay_factor = 0.5 * (1 + math.cos(math.pi * step_index / step_count))
        optimizer.apply_update(DECODER_PEAK_LEARNING_RATE * min(1.0, (step_index + 1) / 100) * (decay_factor + 0.005))
        if step_index % 100 == 0 or step_index == step_count - 1:
            log_line(f"decoder, step {step_index}: {10 * math.log10(4 / mse.item()):.1f} dB")
    vae.eval().requires_grad_(False)


def _sample_windows(videos: Tensor, window_count: int, frame_count: int) -> Tensor:
    """Sample n windows at random positions of random clips, starting at a random frame."""
    clip_indices = torch.randint(len(videos), (window_count,)).tolist()
    window_corners = torch.randint(CLIP_SIDE_PIXELS - WINDOW_SIDE_PIXELS + 1, (window_count, 2)).tolist()
    first_frames = torch.randint(CLIP_FRAME_COUNT - frame_count + 1, (window_count,)).tolist()
    return torch.stack(
        [
            videos[
                clip_index,
                :,
                first_frame : first_frame + frame_count,
                top : top + WINDOW_SIDE_PIXELS,
                left : left + WINDOW_SIDE_PIXELS,
            ]
            for clip_index, (top, left), first_frame in zip(clip_indices, window_corners, first_frames, strict=True)
        ]
    )


@torch.no_grad()
def store_latent_statistics(vae: AutoencoderKLWan, videos: Tensor) -> None:
    """Store the mean and standard deviation of each latent channel in the config of the autoencoder."""
    latent_moments = [encode_clip(vae, scale_to_vae_range(batch)) for batch in videos.split(64)]
    mean, log_variance = (torch.cat(batches).double() for batches in zip(*latent_moments, strict=True))
    averaged_dims = (0, 2, 3, 4)
    std = (mean.var(averaged_dims) + log_variance.exp().mean(averaged_dims)).sqrt()
    vae.register_to_config(latents_mean=mean.mean(averaged_dims).tolist(), latents_std=std.tolist())


def _split_scenes(scenes: Scenes, batch_size: int) -> list[Scenes]:
    return [scenes[start : start + batch_size] for start in range(0, len(scenes), batch_size)]
