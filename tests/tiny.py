"""Tiny Wan pipelines of random weights, one for each form of the model, and the results of the stock pipeline."""

from types import MethodType
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from wantui.generation.denoise import denoise_latents
from wantui.generation.samplers import build_scheduler
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.planning import Recipe

FORMS = ("wan2.1", "a14b", "5b")

torch.set_num_threads(1)  # tiny models only lose by more


def tiny_transformer(channels: int, seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return transformer


def tiny_autoencoder(form: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    if form == "5b":
        return AutoencoderKLWan(
            base_dim=3,
            z_dim=48,
            in_channels=12,
            out_channels=12,
            is_residual=True,
            patch_size=2,
            latents_mean=[0.1] * 48,
            latents_std=[1.3] * 48,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            scale_factor_spatial=16,
            scale_factor_temporal=4,
            temperal_downsample=[False, True, True],
        )
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def tiny_pipeline(form: str) -> WanPipeline:
    """Random weights that respond to text, time and place, of the form of a published Wan model."""
    torch.manual_seed(0)
    tokenizer = build_nano_tokenizer()
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()
    channels = 48 if form == "5b" else 16
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=tiny_autoencoder(form),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        transformer=tiny_transformer(channels, 1),
        transformer_2=tiny_transformer(channels, 2) if form == "a14b" else None,
        boundary_ratio=0.875 if form == "a14b" else None,
        expand_timesteps=form == "5b",
    )


def remember_embeddings(pipeline: WanPipeline) -> WanPipeline:
    """Let a pipeline encode each text once, and then return copies: encoding takes a third of a tiny video's time."""
    embeddings_by_call: dict[str, tuple[torch.Tensor | None, ...]] = {}

    def encode_prompt(self: WanPipeline, *arguments: Any, **options: Any) -> tuple[torch.Tensor | None, ...]:
        if any(isinstance(value, torch.Tensor) for value in (*arguments, *options.values())):
            return WanPipeline.encode_prompt(self, *arguments, **options)  # type: ignore[no-any-return]
        call = repr((id(self.text_encoder), self.text_encoder.dtype, arguments, sorted(options.items())))
        if call not in embeddings_by_call:
            embeddings_by_call[call] = WanPipeline.encode_prompt(self, *arguments, **options)
        return tuple(embeds if embeds is None else embeds.clone() for embeds in embeddings_by_call[call])

    pipeline.encode_prompt = MethodType(encode_prompt, pipeline)
    return pipeline


def diffusers_output(
    pipeline: WanPipeline, recipe: Recipe, output_type: str, scheduler: Any = None, **options: Any
) -> Any:
    """What `WanPipeline.__call__` makes of a recipe."""
    pipeline.scheduler = scheduler or build_scheduler(recipe.sampler, recipe.flow_shift, recipe.seed)
    return pipeline(
        recipe.prompt,
        recipe.negative_prompt,
        height=recipe.height,
        width=recipe.width,
        num_frames=recipe.frames,
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        guidance_scale_2=recipe.guidance_scale_2,
        generator=torch.Generator("cpu").manual_seed(recipe.seed),
        output_type=output_type,
        **options,
    ).frames


def diffusers_latents_and_frames(pipeline: WanPipeline, recipe: Recipe) -> tuple[torch.Tensor, Any]:
    """What `WanPipeline.__call__` makes of a recipe: the latents after its last step, and the frames."""
    latents: list[torch.Tensor] = []

    def keep(pipeline: WanPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"])
        return tensors

    frames = diffusers_output(pipeline, recipe, "np", callback_on_step_end=keep)
    return latents[-1], frames[0]


def latents_of(pipeline: WanPipeline, recipe: Recipe) -> torch.Tensor:
    """The last ones of our loop."""
    *_, last = denoise_latents(pipeline, recipe)
    return last.latents
