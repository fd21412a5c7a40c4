"""Nano's text encoder and transformer, trained together by flow matching on latents.

A video x becomes x_s = (1 - s) x + s e with noise e, and the transformer predicts e - x from x_s, 1000 s and the text.
The stock pipeline shows the transformer 512 text positions: the prompt's embeddings, then zeros. All those zeros become
the same key and value, so that their share of the softmax can be had from a few of them: a pad that stands for m pads
gets log m added to its logit. Training therefore sees all 512 positions at the price of `TEXT_LENGTH`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from wantui.atomic_files import atomic_write
from wantui.models.nano.autoencoder import LATENT_CHANNELS, encode_clip, whole_clip
from wantui.models.nano.muon import Muon
from wantui.models.nano.render import cell_coverage, render, to_signed
from wantui.models.nano.world import Caption, describe, sample_scenes

PIPELINE_TEXT_LENGTH = 512
TEXT_LENGTH = 32
CAPTIONS_PER_CLIP = 4
PEAK_RATE, WARM_UP_STEPS = 7e-3, 300
DROPPED_CAPTIONS = 0.1
ATTENTION_LOSS_WEIGHT = 0.02
NOT_MATRICES = ("condition_embedder", "proj_out", "patch_embedding", "shared", "relative")


def new_text_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    """Return a two-layer UMT5 encoder of width 128."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary_size,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )


def new_transformer() -> WanTransformer3DModel:
    """Return a WanTransformer3DModel of 8 blocks and width 192; Xavier initialisation, output layer at zero."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=128,
        freq_dim=128,
        ffn_dim=768,
        num_layers=8,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=256,
    )
    with torch.no_grad():
        for module in transformer.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in transformer.condition_embedder.time_embedder.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def text_embeddings(text_encoder: UMT5EncoderModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings [n, TEXT_LENGTH, 128], zero at the pads, and the logit bias [n, TEXT_LENGTH] of the
    positions."""
    mask = ids != 0
    hidden = text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    pads = (~mask).sum(1, keepdim=True)
    pads_for_each = (PIPELINE_TEXT_LENGTH - TEXT_LENGTH + pads) / pads.clamp_min(1)
    return hidden * mask[..., None], torch.where(mask, 0.0, pads_for_each.log())


def block_with_attention_map(
    block: WanTransformerBlock,
    hidden: Tensor,
    text: Tensor,
    modulation: Tensor,
    rope_cos: Tensor,
    rope_sin: Tensor,
    bias: Tensor,
    words: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run `WanTransformerBlock.forward` with the padding's logit bias; also return the attention to each word.

    Args:
        hidden: [n, cells, width]. text: [n, positions, width]. modulation: [n, 6, width].
        bias: added to the cross-attention logits, [n, positions].
        words: 1 at the token positions of each word, [n, words, positions].

    Returns:
        The new hidden states, and the attention [n, words, cells], mean over heads, sum over a word's tokens.
    """
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (block.scale_shift_table + modulation.float()).chunk(6, dim=1)
    normed = (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
    hidden = (hidden.float() + block.attn1(normed, None, None, (rope_cos, rope_sin)) * gate).type_as(hidden)

    attention = block.attn2
    normed = block.norm2(hidden.float()).type_as(hidden)
    query = attention.norm_q(attention.to_q(normed)).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    key = attention.norm_k(attention.to_k(text)).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    value = attention.to_v(text).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    logits = (query @ key.mT).float() * query.shape[-1] ** -0.5 + bias[:, None, None]
    probabilities = logits.softmax(-1)
    attended = (probabilities.type_as(value) @ value).transpose(1, 2).flatten(2)
    hidden = hidden + attention.to_out[0](attended.type_as(normed))

    normed = (block.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
    hidden = (hidden.float() + block.ffn(normed).float() * ffn_gate).type_as(hidden)
    return hidden, torch.einsum("bhcp,bwp->bwc", probabilities, words) / attention.heads


def predict(
    transformer: WanTransformer3DModel,
    latents: Tensor,
    timestep: Tensor,
    text: Tensor,
    bias: Tensor,
    words: Tensor,
    block_forward: Callable[..., tuple[Tensor, Tensor]] = block_with_attention_map,
) -> tuple[Tensor, Tensor]:
    """Run `WanTransformer3DModel.forward` on text that represents 512 positions; return output and mean word maps."""
    n, _, frames, height, width = latents.shape
    rope = transformer.rope(latents)
    hidden = transformer.patch_embedding(latents).flatten(2).mT.contiguous()
    time, modulation, text, _ = transformer.condition_embedder(timestep, text)
    modulation = modulation.unflatten(1, (6, -1))
    maps = []
    for block in transformer.blocks:
        hidden, word_maps = block_forward(block, hidden, text, modulation, *rope, bias, words)
        maps.append(word_maps)
    shift, scale = (transformer.scale_shift_table + time[:, None]).chunk(2, dim=1)
    hidden = (transformer.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
    patches = transformer.proj_out(hidden).reshape(n, frames, height // 2, width // 2, 1, 2, 2, -1)
    output = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return output, torch.stack(maps).mean(0)


@dataclass(frozen=True)
class LatentClips:
    """The training set on the device: n clips, each with `CAPTIONS_PER_CLIP` captions."""

    latents: Tensor  # bfloat16 [n, 16, 5, 16, 16], normalised
    coverage: Tensor  # float16 [n, 2, cells]
    ids: Tensor  # uint8 [n, captions, TEXT_LENGTH]
    words: Tensor  # bool [n, captions, 4, TEXT_LENGTH], tokens of each object's shape word, and of its phrase


@torch.no_grad()
def encode_clips(
    vae: AutoencoderKLWan,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    stored: Path,
    device: str,
    log: Callable[[str], None],
) -> LatentClips:
    """Draw n training scenes, and encode and caption them once; the result is kept in the file `stored`."""
    if stored.exists():
        log("clips read")
        return LatentClips(**torch.load(stored, map_location=device, weights_only=True))
    rng = np.random.default_rng(1)
    scenes = sample_scenes(n, rng)
    vae = whole_clip(vae)
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
    latents, coverage = [], []
    encode = torch.compile(encode_clip)
    batch_size = 64 if device == "cuda" else 8
    for start in range(0, n, batch_size):
        video, masks = render(scenes[start : start + batch_size], device)
        with torch.autocast(device, torch.bfloat16):
            clip_mean, _ = encode(vae, to_signed(video).to(memory_format=torch.channels_last_3d))
        latents.append(((clip_mean.float() - mean) / std).bfloat16())
        coverage.append(cell_coverage(masks).half())
        if start % 2048 == 0 or start + batch_size >= n:
            log(f"{start + len(video)} of {n} clips encoded")
    ids = torch.zeros(n, CAPTIONS_PER_CLIP, TEXT_LENGTH, dtype=torch.uint8)
    words = torch.zeros(n, CAPTIONS_PER_CLIP, 4, TEXT_LENGTH, dtype=torch.bool)
    for j in range(CAPTIONS_PER_CLIP):
        captions = describe(scenes, rng)
        encoded = tokenizer(
            [c.text for c in captions], padding="max_length", max_length=TEXT_LENGTH, return_offsets_mapping=True
        )
        ids[:, j] = torch.tensor(encoded["input_ids"], dtype=torch.uint8)
        offsets = torch.tensor(encoded["offset_mapping"])  # [n, positions, start and end]
        for k, spans in enumerate(torch.tensor([_spans(c) for c in captions]).unbind(1)):
            words[:, j, k] = (offsets[..., 0] < spans[:, 1:]) & (offsets[..., 1] > spans[:, :1])
    log("captions tokenised")
    clips = LatentClips(torch.cat(latents), torch.cat(coverage), ids.to(device), words.to(device))
    with atomic_write(stored) as partial:
        torch.save(vars(clips), partial)
    return clips


def _spans(caption: Caption) -> list[tuple[int, int]]:
    """Return the spans of two shape words, then of two phrases; empty ones for an object that is missing."""
    missing = [(0, 0)] * (2 - len(caption.shape_words))
    return [*caption.shape_words, *missing, *caption.phrases, *missing]


def attention_loss(maps: Tensor, coverage: Tensor, weight: Tensor) -> Tensor:
    """Return the cross-entropy between a word's attention and the cells of its object, for visible objects.

    maps: [n, 4, cells], of each object's shape word, then of its phrase. coverage: [n, 2, cells]. weight: [n], how
    much each clip counts.
    """
    coverage = torch.cat([coverage, coverage], dim=1)
    attention = maps / maps.sum(-1, keepdim=True).clamp_min(1e-8)
    total = coverage.sum(-1)
    entropy = -(coverage / total.clamp_min(1e-3)[..., None] * (attention + 1e-6).log()).sum(-1)
    counts = (total > 0.3) * (maps.sum(-1) > 0) * weight[:, None]
    return (entropy * counts).sum() / counts.sum().clamp_min(1)


@dataclass
class TransformerTraining:
    """Text encoder and transformer in training, with the running average that becomes the result."""

    text_encoder: UMT5EncoderModel
    transformer: WanTransformer3DModel
    averaged: list[Tensor]
    optimizer: Muon
    step: int = 0

    def parameters(self) -> list[nn.Parameter]:
        return [*self.transformer.parameters(), *self.text_encoder.parameters()]

    def state(self) -> dict[str, Any]:
        """Return everything that `load` needs to resume."""
        return {
            "step": self.step,
            "parameters": [p.detach().cpu() for p in self.parameters()],
            "averaged": [p.cpu() for p in self.averaged],
            "momentum": {size: [b.cpu() for b in group] for size, group in self.optimizer.buffers.items()},
            "adam": self.optimizer.adam.state_dict(),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        momentum = self.optimizer.buffers.items()
        copies: list[tuple[list[Any], list[Tensor]]] = [
            (self.parameters(), state["parameters"]),
            (self.averaged, state["averaged"]),
            *((group, state["momentum"][size]) for size, group in momentum),
        ]
        for targets, sources in copies:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
        self.optimizer.adam.load_state_dict(state["adam"])

    @torch.no_grad()
    def take_average(self) -> None:
        """Replace the weights by their running average, as the last act."""
        for parameter, average in zip(self.parameters(), self.averaged, strict=True):
            parameter.copy_(average)


def new_training(vocabulary_size: int, device: str) -> TransformerTraining:
    torch.manual_seed(1)
    text_encoder, transformer = new_text_encoder(vocabulary_size).to(device), new_transformer().to(device)
    named = [*transformer.named_parameters(), *text_encoder.named_parameters()]
    optimizer = Muon(named, weight_decay=0.01, adam=NOT_MATRICES)
    return TransformerTraining(text_encoder, transformer, [p.detach().clone() for _, p in named], optimizer)


def draw_sigmas(n: int, device: str) -> Tensor:
    """Return n noise levels: sigmoid(0.4 + 1.2 N(0, 1)), a tenth uniform; one from each n-th of the distribution,
    shuffled."""
    share = (torch.randperm(n, device=device) + torch.rand(n, device=device)) / n
    sigma = torch.sigmoid(0.4 + 1.2 * torch.special.ndtri(share))
    anywhere = torch.rand(n, device=device) < 0.1
    return torch.where(anywhere, share, sigma)


def train_transformer(
    training: TransformerTraining,
    clips: LatentClips,
    until_step: int,
    total_steps: int,
    batch_size: int,
    device: str,
    log: Callable[[str], None],
) -> None:
    """Go on training to `until_step` of a schedule of `total_steps`: warm-up, then cosine to zero."""
    torch.manual_seed(1000 + training.step)
    block_forward = torch.compile(block_with_attention_map)
    autocast = torch.autocast(device, torch.bfloat16)
    empty = torch.zeros(TEXT_LENGTH, dtype=torch.long, device=device)
    empty[0] = 1
    losses = []
    while training.step < until_step:
        done = training.step / total_steps
        chosen = torch.randint(len(clips.latents), (batch_size,), device=device)
        caption = torch.randint(CAPTIONS_PER_CLIP, (batch_size,), device=device)
        dropped = torch.rand(batch_size, device=device) < DROPPED_CAPTIONS
        ids = torch.where(dropped[:, None], empty, clips.ids[chosen, caption].long())
        latents = clips.latents[chosen].float()
        sigma = draw_sigmas(batch_size, device)
        noise = torch.randn_like(latents)
        noisy = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1, 1))
        with autocast:
            text, bias = text_embeddings(training.text_encoder, ids)
            words = clips.words[chosen, caption].float()
            velocity, maps = predict(
                training.transformer, noisy, 1000 * sigma, text, bias, words, block_forward=block_forward
            )
        loss = F.mse_loss(velocity.float(), noise - latents)
        losses.append(loss.detach())
        supervised = attention_loss(maps, clips.coverage[chosen].float(), (1 - sigma) * ~dropped)
        (loss + ATTENTION_LOSS_WEIGHT * supervised).backward()
        nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        decay = 0.5 * (1 + math.cos(math.pi * done))
        training.optimizer.step(PEAK_RATE * min(1.0, (training.step + 1) / WARM_UP_STEPS) * (decay + 0.002))
        training.step += 1
        if training.step % 10 == 0:
            # About the last 300 steps; at the start the average follows at once.
            horizon = 0.03 if training.step > 500 else 0.5
            torch._foreach_lerp_(training.averaged, [p.detach() for p in training.parameters()], horizon)
    log(f"transformer, step {training.step}: flow loss {torch.stack(losses).mean().item():.4f}")
