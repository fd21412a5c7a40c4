"""The fused decoder of the VAE, with torch's operations on the CPU: frames like those of diffusers, weights unchanged.

Its kernel is tested in test_kernels.py.
"""

from subprocess import CalledProcessError
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from wantui.generation import load_vae
from wantui.generation.bench import WAN_2_2_5B_VAE_CONFIG
from wantui.generation.decode import decode_chunks, decode_frames
from wantui.generation.errors import LoadError
from wantui.generation.fused_decoder import NormAndSilu, fuse_decoder, has_fused_decoder
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import WanModel

pytestmark = pytest.mark.torch

TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "wan2.1": {"base_dim": 8},
    "wan2.2-5b": {**WAN_2_2_5B_VAE_CONFIG, "base_dim": 8, "decoder_base_dim": 8},
}


def build_vae(form: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**TINY_CONFIGS[form]).eval()
    for name, parameter in vae.named_parameters():
        if "gamma" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return vae


def draw_latents(vae: AutoencoderKLWan, *shape: int) -> Tensor:
    return torch.randn(shape[0], vae.config.z_dim, *shape[1:], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", TINY_CONFIGS)
@pytest.mark.parametrize("shape", [(1, 1, 4, 6), (1, 4, 4, 6), (2, 3, 5, 4)], ids=["one frame", "4 frames", "2 videos"])
@torch.no_grad()
def test_fused_decoder_gives_the_frames_of_diffusers(form: str, shape: tuple[int, ...]) -> None:
    vae = build_vae(form)
    latents = draw_latents(vae, *shape)
    expected = vae.decode(latents).sample
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    fuse_decoder(vae)
    assert has_fused_decoder(vae)
    assert (vae.decode(latents).sample - expected).norm() < 1e-5 * expected.norm()
    assert expected.std() > 0.01
    assert weights.keys() == vae.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())


@torch.no_grad()
def test_fused_decoder_decodes_tiles_like_diffusers() -> None:
    vae = build_vae("wan2.1")
    latents = draw_latents(vae, 1, 3, 8, 6)
    vae.enable_tiling(32, 32, 24, 24)
    expected = vae.decode(latents).sample
    fuse_decoder(vae)
    assert (vae.decode(latents).sample - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_fusing_a_decoder_again_changes_nothing() -> None:
    vae = build_vae("wan2.1")
    latents = draw_latents(vae, 1, 2, 4, 4)
    fuse_decoder(vae)
    expected, norm = vae.decode(latents).sample, vae.decoder.norm_out
    fuse_decoder(vae)
    assert vae.decoder.norm_out is norm
    assert torch.equal(vae.decode(latents).sample, expected)


@torch.no_grad()
def test_encoder_is_not_fused() -> None:
    vae = build_vae("wan2.1")
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(2))
    expected = vae.encode(video).latent_dist.mean
    fuse_decoder(vae)
    assert torch.equal(vae.encode(video).latent_dist.mean, expected)
    assert not any(isinstance(module, NormAndSilu) for module in vae.encoder.modules())


@torch.no_grad()
def test_norm_and_silu_equals_the_formula_in_float64() -> None:
    norm = build_vae("wan2.1").decoder.norm_out
    values = torch.randn(2, norm.gamma.shape[0], 3, 4, 5, generator=torch.Generator().manual_seed(3))
    wide = values.double()
    expected = F.silu(wide / wide.norm(dim=1, keepdim=True) * norm.gamma.shape[0] ** 0.5 * norm.gamma.double())
    fused = NormAndSilu(norm)
    assert (fused(values).double() - expected).abs().max() < 1e-6
    padded = torch.full((2, norm.gamma.shape[0], 5, 4, 5), -7.0)
    fused(values, padded[:, :, 2:])
    assert (padded[:, :, 2:].double() - expected).abs().max() < 1e-6
    assert (padded[:, :, :2] == -7).all()


@torch.no_grad()
def test_chunks_of_a_fused_decoder_are_those_of_the_vae(tiny_models: dict[str, WanModel]) -> None:
    pipeline = load_pipeline(tiny_models["wan2.1"], None, "float32", torch.device("cpu"))
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    reference_frames = np.stack(list(decode_frames(pipeline, latents))).astype(int)
    fuse_decoder(pipeline.vae)
    config = pipeline.vae.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    whole = pipeline.vae.decode(latents / (1.0 / std) + mean).sample
    assert torch.equal(torch.cat(list(decode_chunks(pipeline, latents)), dim=2), whole)
    assert np.abs(np.stack(list(decode_frames(pipeline, latents))) - reference_frames).max() <= 1


def test_loading_a_vae_selects_its_device(monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, WanModel]) -> None:
    selected: list[torch.device] = []
    monkeypatch.setattr(load_vae, "select_gpu", selected.append)
    pipeline = load_vae.load_vae_pipeline(tiny_models["wan2.1"], None, torch.device("cpu"))
    assert selected == [torch.device("cpu")]
    assert not has_fused_decoder(pipeline.vae)


def test_fused_decoder_is_refused_where_its_kernel_cannot_be_compiled(
    monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, WanModel]
) -> None:
    model, cpu = tiny_models["wan2.1"], torch.device("cpu")
    monkeypatch.setattr(load_vae, "explain_missing_compiler", lambda: "triton is not installed")
    with pytest.raises(LoadError, match=r"but triton is not installed\. Install it, or use --device cpu"):
        load_vae.load_vae_pipeline(model, None, cpu, fuses_decoder=True)
    monkeypatch.setattr(load_vae, "explain_missing_compiler", lambda: None)

    def fail(*_: object) -> None:
        raise CalledProcessError(1, ["gcc"])

    monkeypatch.setattr(load_vae, "check_pipeline_works", fail)
    with pytest.raises(LoadError, match=r"does not work on cpu: .*gcc.*\(CalledProcessError\)\. Use --device cpu"):
        load_vae.load_vae_pipeline(model, None, cpu, fuses_decoder=True)
