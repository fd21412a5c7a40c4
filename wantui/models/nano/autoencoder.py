"""Nano's video autoencoder: an AutoencoderKLWan with few channels, trained on windows of clips.

Its architecture is that of Wan 2.2 (pixels folded into channels, shortcuts around each change of scale), which needs a
quarter of the arithmetic. Its compression is that of Wan 2.1: 8x8 pixels, 4 frames, 16 channels.

The stock module processes a clip in chunks of 1, 4, 4, ... frames with a cache of features, which makes training slow.
The same function can be computed for a whole clip at once: causal convolutions pad with zeros, and the temporal
resampling does not change the first frame. `enable_whole_clip` switches a module to that form.
"""

import math
from collections.abc import Callable
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
from wantui.models.nano.render import pool_to_latent_frames, render, to_vae_range
from wantui.models.nano.world import CLIP_FRAMES, CLIP_SIZE, Scenes, sample_scenes

LATENT_CHANNELS = 16
INITIAL_LOG_VARIANCE = -4.0
PATCH_SIZE = 2
PEAK_RATE, DECODER_PEAK_RATE = 6e-3, 2e-3
"""Peak learning rates of the autoencoder, and of the decoder when it is trained alone."""
LATENT_NOISE = 0.15
"""Maximum noise on latents when the decoder is trained alone, in standard deviations of the latents."""
WINDOW_SIZE = 64
"""Width and height of a training window in pixels: a quarter of the picture."""


def build_autoencoder() -> AutoencoderKLWan:
    """Build an untrained autoencoder whose temporal kernels are initialised to the identity in time.

    The attention of the two middle blocks is initialised to zero and never trained: this world does not need it, and
    without it all layers are local, so that training on windows also works for the whole picture.
    """
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=PATCH_SIZE,
        in_channels=3 * PATCH_SIZE**2,
        out_channels=3 * PATCH_SIZE**2,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
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
    """Replace `WanResample.forward` for a whole clip."""
    batch, channels, frames = x.shape[:3]
    if self.mode == "upsample3d" and frames > 1:
        pairs = self.time_conv(x[:, :, 1:]).unflatten(1, (2, channels))
        x = torch.cat([x[:, :, :1], pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
    if self.mode == "downsample3d" and frames > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
    return x


def enable_whole_clip(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Prepare an autoencoder for `encode_clip` and `decode_clip`, which then equal its chunked encode and decode."""
    for module in vae.modules():
        if isinstance(module, WanResample):
            module.forward = MethodType(_resample_whole_clip, module)
    return vae


def encode_clip(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Encode video to mean and log-variance of latents, each [n, 16, latent frames, height / 8, width / 8]."""
    mean, log_variance = vae.quant_conv(vae.encoder(patchify(video, PATCH_SIZE))).chunk(2, dim=1)
    return mean, log_variance


def decode_clip(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode latents to video [n, rgb, frames, height, width] in -1 to 1, not clamped."""
    return unpatchify(vae.decoder(vae.post_quant_conv(latents), first_chunk=True), PATCH_SIZE)


class ReconstructionLoss(nn.Module):
    """Loss of the autoencoder: L1 + 4 MSE + 2e-4 KL + 0.2 times the error of a linear colour read-out from latents.

    The read-out term makes the colours linear in the latents, so that a single matrix can compute a preview.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = enable_whole_clip(vae)
        self.read_out = nn.Linear(LATENT_CHANNELS, 3)

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
    image_steps: int, clip_steps: int, bank_size: int, device: str, log: Callable[[str], None]
) -> AutoencoderKLWan:
    """Train an autoencoder on windows of single frames, then of clips; store latent statistics in its config."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = ReconstructionLoss(build_autoencoder()).to(device)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    videos = torch.cat([render(scenes, device)[0] for scenes in _split_scenes(sample_scenes(bank_size, rng), 64)])
    log(f"rendered {bank_size} clips")
    divisor = 1 if device == "cuda" else 8  # smaller batches on a CPU
    compiled_loss = torch.compile(model, dynamic=False)  # twice as fast, after a minute of compilation per phase
    for steps, batch_size, frames in ((image_steps, 256 // divisor, 1), (clip_steps, 64 // divisor, CLIP_FRAMES)):
        optimizer = Muon(trained, weight_decay=1e-3)
        for step in range(steps):
            batch = to_vae_range(_sample_windows(videos, batch_size, frames)).to(memory_format=torch.channels_last_3d)
            noise = torch.randn(batch_size, LATENT_CHANNELS, (frames - 1) // 4 + 1, WINDOW_SIZE // 8, WINDOW_SIZE // 8)
            with torch.autocast(device, torch.bfloat16):
                loss, mse = compiled_loss(batch, noise.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if frames > 1 else 1.0
            optimizer.step(PEAK_RATE * min(1.0, (step + 1) / 100) * (decay + 0.005))
            if step % 100 == 0 or step == steps - 1:
                log(f"autoencoder, {frames} frames, step {step}: {10 * math.log10(4 / mse.item()):.1f} dB")
    vae = model.vae.eval().requires_grad_(False)
    measure_latents(vae, videos[:512])
    return vae


class DecodingLoss(nn.Module):
    """Loss of the decoder alone: L1 + 4 MSE of clips decoded from noisy latents of the frozen encoder.

    The noise imitates the small errors of latents that a transformer generates.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = enable_whole_clip(vae)

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean squared error; `noise` has the shape and scale of the latents."""
        with torch.no_grad():
            latents = encode_clip(self.vae, video)[0].float()
        error = decode_clip(self.vae, latents + noise).float() - video
        mse = error.square().mean()
        return error.abs().mean() + 4 * mse, mse.detach()


def train_decoder(vae: AutoencoderKLWan, steps: int, bank_size: int, device: str, log: Callable[[str], None]) -> None:
    """Train only the decoder, so that edges stay clean for latents that differ slightly from those of the encoder.

    The encoder is frozen, and with it the latents that the transformer learns.
    """
    torch.manual_seed(1)
    rng = np.random.default_rng(2)
    model = DecodingLoss(vae.to(device))
    named = [*vae.decoder.named_parameters(), *vae.post_quant_conv.named_parameters()]
    trained = [
        (name, parameter) for name, parameter in named if parameter.any()
    ]  # without the untrained attention, which is zero
    for _, parameter in trained:
        parameter.requires_grad_(True)
    videos = torch.cat([render(scenes, device)[0] for scenes in _split_scenes(sample_scenes(bank_size, rng), 64)])
    std = LATENT_NOISE * torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
    compiled_loss = torch.compile(model, dynamic=False)
    optimizer = Muon(trained, weight_decay=1e-3)
    batch_size = 64 if device == "cuda" else 8
    for step in range(steps):
        batch = to_vae_range(_sample_windows(videos, batch_size, CLIP_FRAMES)).to(memory_format=torch.channels_last_3d)
        shape = (batch_size, LATENT_CHANNELS, (CLIP_FRAMES - 1) // 4 + 1, WINDOW_SIZE // 8, WINDOW_SIZE // 8)
        noise = std * torch.rand(batch_size, 1, 1, 1, 1, device=device) * torch.randn(shape, device=device)
        with torch.autocast(device, torch.bfloat16):
            loss, mse = compiled_loss(batch, noise)
        loss.backward()
        nn.utils.clip_grad_norm_([parameter for _, parameter in trained], 1.0)
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step(DECODER_PEAK_RATE * min(1.0, (step + 1) / 100) * (decay + 0.005))
        if step % 100 == 0 or step == steps - 1:
            log(f"decoder, step {step}: {10 * math.log10(4 / mse.item()):.1f} dB")
    vae.eval().requires_grad_(False)


def _sample_windows(videos: Tensor, n: int, frames: int) -> Tensor:
    """Sample n windows at random positions of random clips, starting at a random frame."""
    clips = torch.randint(len(videos), (n,)).tolist()
    corners = torch.randint(CLIP_SIZE - WINDOW_SIZE + 1, (n, 2)).tolist()
    first = torch.randint(CLIP_FRAMES - frames + 1, (n,)).tolist()
    return torch.stack(
        [
            videos[clip, :, start : start + frames, top : top + WINDOW_SIZE, left : left + WINDOW_SIZE]
            for clip, (top, left), start in zip(clips, corners, first, strict=True)
        ]
    )


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, videos: Tensor) -> None:
    """Store the mean and standard deviation of each latent channel in the config of the autoencoder."""
    moments = [encode_clip(vae, to_vae_range(batch)) for batch in videos.split(64)]
    mean, log_variance = (torch.cat(parts).double() for parts in zip(*moments, strict=True))
    dims = (0, 2, 3, 4)
    std = (mean.var(dims) + log_variance.exp().mean(dims)).sqrt()
    vae.register_to_config(latents_mean=mean.mean(dims).tolist(), latents_std=std.tolist())


def _split_scenes(scenes: Scenes, size: int) -> list[Scenes]:
    return [scenes[start : start + size] for start in range(0, len(scenes), size)]
