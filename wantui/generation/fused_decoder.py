"""The VAE's decoder with fewer passes through memory, equal to diffusers' up to rounding.

In diffusers' residual blocks, RMSNorm and SiLU read and write all values eight times, and the causal padding of a
convolution three more times. Here, one kernel normalises and activates them and writes them behind the cached frames,
and the convolution pads the borders of the frames itself. The weights, and the values in the residual blocks, are in
channels_last format, which cuDNN's kernels read without converting it.
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResidualBlock, WanRMS_norm
from torch import Tensor, nn

from wantui.generation import kernels

CACHED_FRAME_COUNT = 2
"""Number of preceding frames that a causal convolution reads, of 3 in all."""


class NormAndSilu(nn.Module):
    """RMSNorm over channels, then SiLU.

    Args:
        norm: diffusers' norm, whose weights are used.
    """

    def __init__(self, norm: WanRMS_norm) -> None:
        super().__init__()
        self.scale = norm.scale
        self.gamma = norm.gamma

    def forward(self, values: Tensor, output: Tensor | None = None) -> Tensor:
        """Write the result to `output` and return it; without `output`, return a new tensor.

        Args:
            values: [batch, channels, frames, height, width].
            output: tensor like values, or a slice along the frames of a longer one.
        """
        if output is None:
            output = torch.empty(
                values.shape, dtype=values.dtype, device=values.device, memory_format=torch.channels_last_3d
            )
        if kernels.can_use_float32_kernels(values):
            from wantui.generation.kernels.decoder_norm import run_norm_and_silu_kernel

            run_norm_and_silu_kernel(values, self.gamma, self.scale, output)
            return output
        return output.copy_(F.silu(F.normalize(values, dim=1) * self.scale * self.gamma))


def fuse_decoder(vae: AutoencoderKLWan) -> None:
    """Replace parts of a VAE's decoder with fused parts, once. The encoder stays unchanged."""
    if has_fused_decoder(vae):
        return
    decoder = vae.decoder
    for module in (vae.post_quant_conv, *decoder.modules()):
        if isinstance(module, WanCausalConv3d):
            module.forward = MethodType(_forward_causal_convolution, module)
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        elif isinstance(module, WanResidualBlock):
            module.norm1, module.norm2 = NormAndSilu(module.norm1), NormAndSilu(module.norm2)
            module.forward = MethodType(_forward_residual_block, module)
    decoder.norm_out, decoder.nonlinearity = NormAndSilu(decoder.norm_out), nn.Identity()


def has_fused_decoder(vae: AutoencoderKLWan) -> bool:
    """Return whether `fuse_decoder` was applied."""
    return isinstance(vae.decoder.norm_out, NormAndSilu)


def _forward_causal_convolution(
    convolution: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None
) -> Tensor:  # names of diffusers
    """Convolve x behind the cached frames, or behind zeros where there are none."""
    missing_frames = convolution._padding[4]
    if cache_x is not None and missing_frames > 0:
        x = torch.cat([cache_x.to(x.device), x], dim=2)
        missing_frames -= cache_x.shape[2]
    if missing_frames > 0:
        x = F.pad(x, (0, 0, 0, 0, missing_frames, 0))
    return _convolve(convolution, x)


def _convolve(convolution: WanCausalConv3d, values: Tensor) -> Tensor:
    """Convolve values that have all preceding frames; the convolution pads only the borders of the frames."""
    border = (0, convolution._padding[2], convolution._padding[0])
    return F.conv3d(values, convolution.weight, convolution.bias, convolution.stride, border)


def _forward_residual_block(block: Any, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
    """Return the output of a residual block. diffusers' decoding always passes the cache."""
    shortcut = block.conv_shortcut(x)
    hidden = _normalise_and_convolve(x, block.norm1, block.conv1, feat_cache, feat_idx)
    hidden = _normalise_and_convolve(hidden, block.norm2, block.conv2, feat_cache, feat_idx)
    return hidden.add_(shortcut)


def _normalise_and_convolve(
    values: Tensor, norm: NormAndSilu, convolution: WanCausalConv3d, feature_cache: list[Any], feature_index: list[int]
) -> Tensor:
    """Normalise, activate and convolve values; replace the cached frames of this convolution with the last frames."""
    index = feature_index[0]
    batch, channels, frames, height, width = values.shape
    padded = torch.empty(
        (batch, channels, CACHED_FRAME_COUNT + frames, height, width),
        dtype=values.dtype,
        device=values.device,
        memory_format=torch.channels_last_3d,
    )
    cached_frames = padded[:, :, :CACHED_FRAME_COUNT]
    if feature_cache[index] is None:
        cached_frames.zero_()
    else:
        cached_frames.copy_(feature_cache[index])
    norm(values, padded[:, :, CACHED_FRAME_COUNT:])
    feature_cache[index] = padded[:, :, -CACHED_FRAME_COUNT:].clone()
    feature_index[0] += 1
    return _convolve(convolution, padded)
