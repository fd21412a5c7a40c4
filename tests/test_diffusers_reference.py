"""The numbers that diffusers expects in its own tests of the Wan pipelines, as an anchor outside of this repository.

Source: tests/pipelines/wan/test_wan.py and test_wan_22.py of diffusers 0.42. The text encoder there gives embeddings
that are nearly zero; zeros stand for it here, which costs less than half of the tolerance.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import recipe_for
from decoded_frames import decode_float_frames
from diffusers import WanPipeline, WanTransformer3DModel
from tiny import tiny_autoencoder, tiny_pipeline

from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.prompt_sequence import EncodedPrompt, PromptSequence
from wantui.models.catalogue import NANO

pytestmark = pytest.mark.torch

# First and last eight values of the decoded video.
WAN_21_AND_A14B = (
    [0.4525, 0.4520, 0.4485, 0.4534, 0.4524, 0.4529, 0.4540, 0.4530],
    [0.5127, 0.5326, 0.5204, 0.5253, 0.5439, 0.5424, 0.5133, 0.5078],
)
WAN_5B = (
    [0.4814, 0.4298, 0.5094, 0.4289, 0.5061, 0.4301, 0.5043, 0.4284],
    [0.5375, 0.5965, 0.5527, 0.6014, 0.5228, 0.6076, 0.6644, 0.5651],
)


def upstream_transformer(channels: int) -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def upstream_pipeline(form: str) -> WanPipeline:
    pipeline = tiny_pipeline(form)
    channels = 48 if form == "5b" else 16
    vae = tiny_autoencoder(form)
    if form == "5b":
        vae.register_to_config(latents_mean=[0.0] * 48, latents_std=[1.0] * 48)
    pipeline.register_modules(
        vae=vae,
        transformer=upstream_transformer(channels),
        transformer_2=upstream_transformer(channels) if form == "a14b" else None,
    )
    return pipeline


@pytest.mark.parametrize(
    ("form", "settings", "expected"),
    [
        ("wan2.1", {"sampler": "euler", "flow_shift": 7.0, "width": 16, "height": 16}, WAN_21_AND_A14B),
        ("a14b", {"sampler": "unipc", "flow_shift": 3.0, "width": 16, "height": 16}, WAN_21_AND_A14B),
        ("5b", {"sampler": "unipc", "flow_shift": 3.0, "width": 32, "height": 32}, WAN_5B),
    ],
)
def test_diffusers_reference_videos_are_reproduced(
    form: str, settings: dict[str, Any], expected: tuple[list[float], list[float]]
) -> None:
    pipeline = upstream_pipeline(form)
    recipe = recipe_for(NANO, seed=0, steps=2, guidance_scale=6.0, frames=9, **settings)
    no_text = torch.zeros(1, 16, 32)
    prompts = PromptSequence([EncodedPrompt("", (), no_text)])
    start = replace(prepare_inputs(pipeline, recipe), prompts=prompts, negative_prompt_embeds=no_text)
    *_, last = denoise_latents(pipeline, recipe, start)
    video = decode_float_frames(pipeline, last.latents).transpose(0, 3, 1, 2)
    assert video.shape == (9, 3, recipe.height, recipe.width)
    assert np.abs(video.ravel()[:8] - expected[0]).max() < 1e-3
    assert np.abs(video.ravel()[-8:] - expected[1]).max() < 1e-3
