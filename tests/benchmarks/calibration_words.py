"""Measures of the word of a shape in models of the frequency calibration.

Its share of the cross-attention, the change of the velocity without it, and how early a video keeps the shape.

The definitions are those of `wantui analyze --contributions`, `wantui ablate` and `wantui commitment`; here, all videos
of a model are evaluated in batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from numpy.typing import NDArray
from torch import Tensor

from wantui.analysis.arrays import FloatArray
from wantui.analysis.commitment import compute_kept_ranges
from wantui.generation.token_spans import tokenize_prompt
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning import PromptMark

SWITCH_STEP_SHARES = (0.04, 0.1, 0.2, 0.3, 0.4, 0.6)
"""Shares of the steps after which the prompt switches to the generic one."""
OBSERVED_STATE_COUNT = 10
"""Number of equally spaced steps of a path at which the word is observed."""


@dataclass
class _WordSums:
    """Sums over the blocks of a transformer, each [n]."""

    word: Tensor | float = 0.0
    """Mean over positions of the norm of what the word adds."""
    output: Tensor | float = 0.0
    """Mean over positions of the norm of the output without its bias."""


class WordProcessor(WanAttnProcessor):  # type: ignore[misc]
    """Cross-attention that observes a word, or gives it no attention.

    Args:
        is_word: bool [n, text positions], True at the tokens of the word.
        sums: where the contribution is added; None to give the word no attention.
    """

    def __init__(self, is_word: Tensor, sums: _WordSums | None) -> None:
        super().__init__()
        self.is_word, self.sums = is_word, sums

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Return the output [n, positions, width] of the cross-attention."""
        mask = attention_mask if self.sums else ~self.is_word[:, None, None, :]
        output: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, mask, rotary_emb)
        if self.sums:
            self.sums.word += self._attend_word(attn, hidden_states, encoder_hidden_states).norm(dim=2).mean(1)
            self.sums.output += (output - attn.to_out[0].bias).norm(dim=2).mean(1)
        return output

    def _attend_word(self, attn: Any, hidden_states: Tensor, text: Any) -> Tensor:
        """Return sum_{j in word} sum_h p_ij^h W_O^h v_j^h, [n, positions, width]."""
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key = attn.norm_k(attn.to_k(text)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = (attn.to_v(text) * self.is_word[:, :, None]).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return F.linear(attended, attn.to_out[0].weight)


@contextmanager
def replace_cross_attention(transformer: Any, processor: WanAttnProcessor) -> Iterator[None]:
    """Use a processor in every cross-attention inside the context."""
    earlier = [block.attn2.processor for block in transformer.blocks]
    for block in transformer.blocks:
        block.attn2.set_processor(processor)
    try:
        yield
    finally:
        for block, each in zip(transformer.blocks, earlier, strict=True):
            block.attn2.set_processor(each)


def find_word_positions(tokenizer: Any, prompts: Sequence[str], words: Sequence[str]) -> Tensor:
    """Return True at the tokens of the word of each prompt, bool [prompts, 512]."""
    is_word = torch.zeros(len(prompts), TEXT_POSITION_COUNT, dtype=torch.bool)
    for row, prompt, word in zip(is_word, prompts, words, strict=True):
        start = prompt.index(word)
        mark = PromptMark(text=word, start=start, end=start + len(word))
        row[list(tokenize_prompt(tokenizer, prompt, (mark,)).words[0].token_positions)] = True
    return is_word


def choose_observed_steps(step_count: int) -> list[int]:
    """Return the steps of a path at which the word is observed, from 0."""
    count = min(OBSERVED_STATE_COUNT, step_count)
    return sorted({round(step) for step in np.linspace(0, step_count - 1, count).tolist()})


def choose_switch_steps(step_count: int) -> list[int]:
    """Return the steps, from 1, from which on the prompt is the generic one."""
    return sorted({max(1, round(share * step_count)) for share in SWITCH_STEP_SHARES})


@torch.no_grad()
def measure_word(
    model: Any, states: Tensor, timesteps: Tensor, text: Tensor, is_word: Tensor
) -> dict[str, NDArray[np.float64]]:
    """Return the word's share of the cross-attention and the change without it, each [n], averaged over steps.

    `contribution share` is the mean norm of what the word adds to the outputs of all blocks, divided by the mean norm
    of these outputs; `ablation share` is |c - c_w| / |c| of the velocities with and without the word.

    Args:
        model: `calibration_measurements.Model`.
        states: float32 [steps + 1, n, values] of a path.
        timesteps: [steps] as the transformer reads them.
        text: [n, 512, width] embeddings.
        is_word: bool [n, 512], True at the tokens of the word.
    """
    transformer, contributions, ablations = model.pipeline.transformer, [], []
    is_word = is_word.to(states.device)
    for step in choose_observed_steps(len(timesteps)):
        latents = model.shape_latents(states[step])
        sums = _WordSums()
        with replace_cross_attention(transformer, WordProcessor(is_word, sums)):
            velocity = model.predict(latents, timesteps[step], text).flatten(1)
        with replace_cross_attention(transformer, WordProcessor(is_word, None)):
            ablated = model.predict(latents, timesteps[step], text).flatten(1)
        contributions.append(torch.as_tensor(sums.word) / sums.output)
        ablations.append((velocity - ablated).norm(dim=1) / velocity.norm(dim=1))
    measures = {"contribution share": contributions, "ablation share": ablations}
    return {name: torch.stack(values).mean(0).double().cpu().numpy() for name, values in measures.items()}


def compute_kept_range_of_shapes(
    sigmas: FloatArray, seen_shapes: NDArray[np.integer], shape_of_video: NDArray[np.integer]
) -> FloatArray:
    """Return the kept range [n] of videos: up to which noise level each one keeps its shape without its word.

    Args:
        sigmas: [switches] noise levels from which the generic prompt holds.
        seen_shapes: [switches, n] index of the shape that each final video shows.
        shape_of_video: [n] index of the shape of which the prompt spoke first.
    """
    order = np.argsort(sigmas)
    stays = (seen_shapes == shape_of_video)[order].T
    return compute_kept_ranges(np.asarray(sigmas)[order].tolist(), stays)
