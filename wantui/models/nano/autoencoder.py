"""Nano's video autoencoder: an AutoencoderKLWan of few channels, trained on whole clips.

The stock module walks through a clip in chunks of 1, 4, 4, ... frames with a cache of features, which makes training
slow. The same function can be computed on the whole clip at once: causal convolutions pad with zeros, and the temporal
resampling leaves the first frame alone. `whole_clip` switches a module to that form; tests hold the two forms equal.
"""

import math
from collections.abc import Callable
from types import MethodType

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor, nn

from wantui.models.nano.muon import Muon
from wantui.models.nano.render import pool_to_latent_frames, render, to_signed
from wantui.models.nano.world import CLIP_FRAMES, CLIP_SIZE, Scenes, sample_scenes

LATENT_CHANNELS = 16
LATENT_FRAMES, LATENT_SIZE = (CLIP_FRAMES - 1) // 4 + 1, CLIP_SIZE // 8
INITIAL_LOG_VARIANCE = -4.0


def new_autoencoder() -> AutoencoderKLWan:
    """An untrained autoencoder whose temporal kernels start as the identity in time."""
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=6,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 8],
        num_res_blocks=1,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    with torch.no_grad():
        for name, module in vae.named_modules():
            if not isinstance(module, WanCausalConv3d) or module.weight.shape[2] != 3:
                continue
            if name.endswith("time_conv"):
                out_channels, channels = module.weight.shape[:2]
                identity = torch.eye(channels)
                module.weight.mul_(0.1)
                nn.init.zeros_(module.bias)
                if out_channels == channels:  # downsampling: the mean of three frames
                    module.weight[..., 0, 0] += identity[:, :, None] / 3
                else:  # upsampling: both new frames copy the latest
                    module.weight[:, :, 2, 0, 0] += torch.cat([identity, identity])
            else:
                module.weight[:, :, :2] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = INITIAL_LOG_VARIANCE
    return vae


def _resample_whole_clip(self: WanResample, x: Tensor, feat_cache: None = None, feat_idx: None = None) -> Tensor:
    batch, channels, frames = x.shape[:3]
    if self.mode == "upsample3d" and frames > 1:
        pairs = self.time_conv(x[:, :, 1:]).unflatten(1, (2, channels))
        x = torch.cat([x[:, :, :1], pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
    if self.mode == "downsample3d" and frames > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
    return x


def whole_clip(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Make `encode_clip` and `decode_clip` of this autoencoder equal its own chunked encode and decode."""
    for module in vae.modules():
        if isinstance(module, WanResample):
            module.forward = MethodType(_resample_whole_clip, module)
    return vae


def encode_clip(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the latents, each [n, 16, latent frames, height / 8, width / 8]."""
    mean, log_variance = vae.quant_conv(vae.encoder(video)).chunk(2, dim=1)
    return mean, log_variance


def decode_clip(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Video [n, rgb, frames, height, width] in -1 to 1, not clamped."""
    return vae.decoder(vae.post_quant_conv(latents))


class ReconstructionLoss(nn.Module):
    """L1 + 4 MSE + 2e-4 KL + 0.2 times the error of a linear read-out of colour from latents.

    The read-out keeps the latents legible, so that a preview can be drawn from them with one matrix.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = whole_clip(vae)
        self.read_out = nn.Linear(LATENT_CHANNELS, 3)

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the mean squared error; `noise` has the latents' shape."""
        mean, log_variance = (moment.float() for moment in encode_clip(self.vae, video))
        log_variance = log_variance.clamp(-20, 10)
        latents = mean + (log_variance / 2).exp() * noise
        error = decode_clip(self.vae, latents).float() - video
        mse = error.square().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        colour_error = (self.read_out(latents.movedim(1, -1)) - small_picture(video).movedim(1, -1)).square().mean()
        return error.abs().mean() + 4 * mse + 2e-4 * kl + 0.2 * colour_error, mse.detach()


def small_picture(video: Tensor) -> Tensor:
    """The video at the latents' resolution: area means, [n, rgb, latent frames, height / 8, width / 8]."""
    return pool_to_latent_frames(F.avg_pool3d(video, (1, 8, 8)))


def train_autoencoder(
    image_steps: int, clip_steps: int, bank_size: int, device: str, log: Callable[[str], None]
) -> AutoencoderKLWan:
    """Train on single frames first, then on whole clips, and store the latents' statistics in the config."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = ReconstructionLoss(new_autoencoder()).to(device)
    videos = torch.cat([render(scenes, device)[0] for scenes in _chunks(sample_scenes(bank_size, rng), 64)])
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    share = 1 if device == "cuda" else 12  # of the batch: a CPU makes fewer samples, and more steps of them
    phases = ((image_steps, 128 // share, 1, 2e-3), (clip_steps, 24 // share, CLIP_FRAMES, 6e-3))
    for steps, batch_size, frames, peak_rate in phases:
        optimizer = Muon(model.named_parameters(), weight_decay=1e-3)
        loss_of = torch.compile(model) if frames > 1 else model  # twice as fast, after minutes of compiling
        for step in range(steps):
            batch = videos[torch.randint(len(videos), (batch_size,), device=device)]
            if frames == 1:
                batch = batch[:, :, step % CLIP_FRAMES][:, :, None]
            noise_shape = (batch_size, LATENT_CHANNELS, (frames - 1) // 4 + 1, LATENT_SIZE, LATENT_SIZE)
            with autocast:
                loss, mse = loss_of(to_signed(batch), torch.randn(noise_shape, device=device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if frames > 1 else 1.0
            optimizer.step(peak_rate * min(1.0, (step + 1) / 150) * (decay + 0.005))
            if step % 100 == 0 or step == steps - 1:
                log(f"autoencoder, {frames} frames, step {step}: {10 * math.log10(4 / mse.item()):.1f} dB")
    vae = model.vae.eval().requires_grad_(False)
    measure_latents(vae, videos[:512])
    return vae


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, videos: Tensor) -> None:
    """Write mean and standard deviation of each latent channel into the autoencoder's config."""
    moments = [encode_clip(vae, to_signed(batch)) for batch in videos.split(64)]
    mean, log_variance = (torch.cat(parts).double() for parts in zip(*moments, strict=True))
    dims = (0, 2, 3, 4)
    std = (mean.var(dims) + log_variance.exp().mean(dims)).sqrt()
    vae.register_to_config(latents_mean=mean.mean(dims).tolist(), latents_std=std.tolist())


def _chunks(scenes: Scenes, size: int) -> list[Scenes]:
    return [scenes[start : start + size] for start in range(0, len(scenes), size)]
