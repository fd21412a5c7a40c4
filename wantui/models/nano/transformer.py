"""Nano's text encoder and transformer, trained together by flow matching on latents.

A video x becomes x_s = (1 - s) x + s e with noise e, and the transformer predicts e - x from x_s, 1000 s and the text.
The stock pipeline passes 512 text positions to the transformer: the embeddings of the prompt, then zeros. All zeros
give the same key and value, so one padding position can represent m of them in the softmax: log m is added to
its logit. Training therefore covers all 512 positions at the cost of `TRAINING_TEXT_POSITION_COUNT`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from wantui.models.nano.autoencoder import LATENT_CHANNEL_COUNT
from wantui.models.nano.graphed_function import GraphedFunction
from wantui.models.nano.latent_clips import CAPTIONS_PER_CLIP, TRAINING_TEXT_POSITION_COUNT, LatentClips
from wantui.models.nano.muon import Muon
from wantui.models.text_positions import TEXT_POSITION_COUNT

TRANSFORMER_PEAK_LEARNING_RATE, WARM_UP_STEP_COUNT = 7e-3, 300
CAPTION_DROPOUT_FRACTION = 0.1
"""Fraction of the clips that are trained without a caption."""
ATTENTION_LOSS_WEIGHT = 0.02
ADAM_PARAMETER_NAME_PARTS = ("condition_embedder", "proj_out", "patch_embedding", "shared", "relative")
"""Substrings of parameter names; AdamW instead of Muon trains the parameters whose names contain one."""


def build_text_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    """Build an untrained two-layer UMT5 encoder of width 128."""
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


def build_transformer() -> WanTransformer3DModel:
    """Build an untrained transformer of 8 blocks and width 192: Xavier initialisation, output layer at zero."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=LATENT_CHANNEL_COUNT,
        out_channels=LATENT_CHANNEL_COUNT,
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


def embed_text(text_encoder: UMT5EncoderModel, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return text embeddings [n, positions, 128], zero at the padding, and their logit biases [n, positions]."""
    mask = token_ids != 0
    hidden_states = text_encoder(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state
    padding_count = (~mask).sum(1, keepdim=True)
    merged_count = TEXT_POSITION_COUNT - TRAINING_TEXT_POSITION_COUNT + padding_count
    padding_multiplicity = merged_count / padding_count.clamp_min(1)
    return hidden_states * mask[..., None], torch.where(mask, 0.0, padding_multiplicity.log())


def run_block_with_logit_bias(
    block: WanTransformerBlock,
    hidden_states: Tensor,
    text: Tensor,
    modulation: Tensor,
    rope_cos: Tensor,
    rope_sin: Tensor,
    logit_bias: Tensor,
    word_masks: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run `WanTransformerBlock.forward` with a logit bias; also return the attention to each word.

    Args:
        hidden_states: hidden states [n, cells, width].
        text: projected text embeddings [n, positions, width].
        modulation: timestep modulation [n, 6, width].
        logit_bias: bias of the cross-attention logits [n, positions].
        word_masks: 1 at the token positions of each word [n, words, positions].

    Returns:
        The new hidden states, and the attention [n, words, cells]: mean over heads, sum over the tokens of a word.
    """
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (block.scale_shift_table + modulation.float()).chunk(6, dim=1)
    normalised_states = (block.norm1(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
    hidden_states = (
        hidden_states.float() + block.attn1(normalised_states, None, None, (rope_cos, rope_sin)) * gate
    ).type_as(hidden_states)

    attention = block.attn2
    normalised_states = block.norm2(hidden_states.float()).type_as(hidden_states)
    query = attention.norm_q(attention.to_q(normalised_states)).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    key = attention.norm_k(attention.to_k(text)).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    value = attention.to_v(text).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    logits = (query @ key.mT).float() * query.shape[-1] ** -0.5 + logit_bias[:, None, None]
    probabilities = logits.softmax(-1)
    attended_values = (probabilities.type_as(value) @ value).transpose(1, 2).flatten(2)
    hidden_states = hidden_states + attention.to_out[0](attended_values.type_as(normalised_states))

    normalised_states = (block.norm3(hidden_states.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden_states)
    hidden_states = (hidden_states.float() + block.ffn(normalised_states).float() * ffn_gate).type_as(hidden_states)
    return hidden_states, torch.einsum("bhcp,bwp->bwc", probabilities, word_masks) / attention.heads


def predict_velocity(
    transformer: WanTransformer3DModel,
    latents: Tensor,
    timestep: Tensor,
    text: Tensor,
    logit_bias: Tensor,
    word_masks: Tensor,
    block_forward: Callable[..., tuple[Tensor, Tensor]] = run_block_with_logit_bias,
) -> tuple[Tensor, Tensor]:
    """Run `WanTransformer3DModel.forward` on text with a logit bias.

    Return its output, and the word maps averaged over blocks.
    """
    n, _, frames, height, width = latents.shape
    rope = transformer.rope(latents)
    hidden_states = transformer.patch_embedding(latents).flatten(2).mT.contiguous()
    time_embedding, modulation, text, _ = transformer.condition_embedder(timestep, text)
    modulation = modulation.unflatten(1, (6, -1))
    block_maps = []
    for block in transformer.blocks:
        hidden_states, word_maps = block_forward(block, hidden_states, text, modulation, *rope, logit_bias, word_masks)
        block_maps.append(word_maps)
    shift, scale = (transformer.scale_shift_table + time_embedding[:, None]).chunk(2, dim=1)
    hidden_states = (transformer.norm_out(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
    patches = transformer.proj_out(hidden_states).reshape(n, frames, height // 2, width // 2, 1, 2, 2, -1)
    output = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return output, torch.stack(block_maps).mean(0)


def compute_attention_loss(word_maps: Tensor, coverage: Tensor, clip_weights: Tensor) -> Tensor:
    """Compute the cross-entropy between the attention to a word and the cells of its object, for visible objects.

    Args:
        word_maps: attention to the two shape words, then to the two phrases [n, 4, cells].
        coverage: covered fraction of each cell [n, 2, cells].
        clip_weights: weight of each clip [n].
    """
    coverage = torch.cat([coverage, coverage], dim=1)
    attention = word_maps / word_maps.sum(-1, keepdim=True).clamp_min(1e-8)
    covered_sum = coverage.sum(-1)
    cross_entropy = -(coverage / covered_sum.clamp_min(1e-3)[..., None] * (attention + 1e-6).log()).sum(-1)
    pair_weights = (covered_sum > 0.3) * (word_maps.sum(-1) > 0) * clip_weights[:, None]
    return (cross_entropy * pair_weights).sum() / pair_weights.sum().clamp_min(1)


@dataclass
class TransformerTraining:
    """Training state of text encoder and transformer; the running average of their weights is the result."""

    text_encoder: UMT5EncoderModel
    transformer: WanTransformer3DModel
    averaged_parameters: list[Tensor]
    optimizer: Muon
    step_number: int = 0
    seed: int = 1
    """Seed of the initial weights, and of the batches and noise."""

    def list_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the transformer, then of the text encoder."""
        return [*self.transformer.parameters(), *self.text_encoder.parameters()]

    def get_state(self) -> dict[str, Any]:
        """Return the state from which `load_state` resumes the training."""
        return {
            "step": self.step_number,
            "parameters": [p.detach().cpu() for p in self.list_parameters()],
            "averaged": [p.cpu() for p in self.averaged_parameters],
            "momentum": {size: [b.cpu() for b in group] for size, group in self.optimizer.momenta_by_size.items()},
            "adam": self.optimizer.adam_optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a state that `get_state` returned."""
        self.step_number = state["step"]
        momentum = self.optimizer.momenta_by_size.items()
        copies: list[tuple[list[Any], list[Tensor]]] = [
            (self.list_parameters(), state["parameters"]),
            (self.averaged_parameters, state["averaged"]),
            *((group, state["momentum"][size]) for size, group in momentum),
        ]
        for targets, sources in copies:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
        self.optimizer.adam_optimizer.load_state_dict(state["adam"])

    @torch.no_grad()
    def apply_average(self) -> None:
        """Replace the weights with their running average, after the last step."""
        for parameter, average in zip(self.list_parameters(), self.averaged_parameters, strict=True):
            parameter.copy_(average)


def create_training(vocabulary_size: int, device: str, seed: int = 1) -> TransformerTraining:
    """Return a training at step 0, whose initial weights and batches depend on a random seed only."""
    torch.manual_seed(seed)
    text_encoder, transformer = build_text_encoder(vocabulary_size).to(device), build_transformer().to(device)
    named_parameters = [*transformer.named_parameters(), *text_encoder.named_parameters()]
    optimizer = Muon(named_parameters, weight_decay=0.01, adam_name_parts=ADAM_PARAMETER_NAME_PARTS)
    averaged_parameters = [parameter.detach().clone() for _, parameter in named_parameters]
    return TransformerTraining(text_encoder, transformer, averaged_parameters, optimizer, seed=seed)


def draw_sigmas(sigma_count: int, device: str) -> Tensor:
    """Draw n noise levels: nine tenths from sigmoid(0.4 + 1.2 N(0, 1)), and a tenth from a uniform distribution.

    The draw is stratified: one noise level from each of n quantile intervals, in random order.
    """
    order = torch.rand(sigma_count, device=device).argsort()
    quantiles = (order + torch.rand(sigma_count, device=device)) / sigma_count
    sigmas = torch.sigmoid(0.4 + 1.2 * torch.special.ndtri(quantiles))
    is_uniform = torch.rand(sigma_count, device=device) < 0.1
    return torch.where(is_uniform, quantiles, sigmas)


def train_transformer(
    training: TransformerTraining,
    clips: LatentClips,
    stop_step: int,
    total_steps: int,
    batch_size: int,
    device: str,
    log_line: Callable[[str], None],
) -> None:
    """Train up to `stop_step` of a schedule of `total_steps`: warm-up, then cosine decay to zero.

    On a GPU, the steps replay a CUDA graph.
    """
    torch.manual_seed(1_000_000 * (training.seed - 1) + 1000 + training.step_number)
    learning_rate, loss_sum = torch.zeros((), device=device), torch.zeros((), device=device)
    block_forward = torch.compile(run_block_with_logit_bias)

    def train_step() -> None:
        loss_sum.add_(_compute_gradients(training, clips, batch_size, device, block_forward))
        nn.utils.clip_grad_norm_(training.list_parameters(), 1.0)
        training.optimizer.apply_update(learning_rate)

    run_step = GraphedFunction(train_step) if device == "cuda" else train_step
    first_step = training.step_number
    while training.step_number < stop_step:
        decay_factor = 0.5 * (1 + math.cos(math.pi * training.step_number / total_steps))
        warm_up_factor = min(1.0, (training.step_number + 1) / WARM_UP_STEP_COUNT)
        learning_rate.fill_(TRANSFORMER_PEAK_LEARNING_RATE * warm_up_factor * (decay_factor + 0.002))
        run_step()
        training.step_number += 1
        if training.step_number % 10 == 0:
            # The average covers about the last 300 steps, and at the start only about the last 20.
            update_rate = 0.03 if training.step_number > 500 else 0.5
            torch._foreach_lerp_(
                training.averaged_parameters, [p.detach() for p in training.list_parameters()], update_rate
            )
    mean_loss = loss_sum.item() / max(1, training.step_number - first_step)
    log_line(f"transformer, step {training.step_number}: flow loss {mean_loss:.4f}")


def _compute_gradients(
    training: TransformerTraining,
    clips: LatentClips,
    batch_size: int,
    device: str,
    block_forward: Callable[..., tuple[Tensor, Tensor]],
) -> Tensor:
    """Add the gradients of a random batch to the parameters, and return its flow loss.

    No value is read back from the device, so that a CUDA graph can capture the function.
    """
    empty_caption_ids = torch.zeros(TRAINING_TEXT_POSITION_COUNT, dtype=torch.long, device=device)
    empty_caption_ids[:1].fill_(1)  # only the end token
    clip_indices = torch.randint(len(clips.latents), (batch_size,), device=device)
    caption_indices = torch.randint(CAPTIONS_PER_CLIP, (batch_size,), device=device)
    is_dropped = torch.rand(batch_size, device=device) < CAPTION_DROPOUT_FRACTION
    token_ids = torch.where(is_dropped[:, None], empty_caption_ids, clips.ids[clip_indices, caption_indices].long())
    latents = clips.latents[clip_indices].float()
    sigmas = draw_sigmas(batch_size, device)
    noise = torch.randn_like(latents)
    noisy_latents = torch.lerp(latents, noise, sigmas.view(-1, 1, 1, 1, 1))
    with torch.autocast(device, torch.bfloat16):
        text, logit_bias = embed_text(training.text_encoder, token_ids)
        velocity, word_maps = predict_velocity(
            training.transformer,
            noisy_latents,
            1000 * sigmas,
            text,
            logit_bias,
            clips.words[clip_indices, caption_indices].float(),
            block_forward=block_forward,
        )
    loss = F.mse_loss(velocity.float(), noise - latents)
    attention_loss = compute_attention_loss(word_maps, clips.coverage[clip_indices].float(), (1 - sigmas) * ~is_dropped)
    (loss + ATTENTION_LOSS_WEIGHT * attention_loss).backward()
    return loss.detach()
