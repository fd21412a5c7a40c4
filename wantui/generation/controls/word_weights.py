"""Weights of marked words in cross-attention: a weight w multiplies the odds of a word, logits + ln w.

The model's kernel returns the output without weights, rounded to its dtype. If all weights are 1 or more, this output
is corrected: out' = (out + sum_j (w_j - 1) p_j v_j) / (1 + sum_j (w_j - 1) p_j). A weight below 1 would subtract from
a rounded value and divide by a small number: (word:0) in bfloat16 would have an error of 12 % of the output. In that
case the output is recomputed in float32, over the columns of the softmax.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from wantui.controls.word_weights import WordWeightsRequest
from wantui.generation.cross_attention_softmax import compute_softmax_rows
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.token_spans import TokenizedPrompt, tokenize_prompt


def apply_control(request: WordWeightsRequest, preparation: DenoisingPreparation) -> None:
    """Weight the marked words of each prompt: their embeddings, or their odds in cross-attention.

    Raises:
        MarkOutOfRangeError: the model does not read the text of a mark.
    """
    for encoded_prompt in preparation.prompts.prompts:
        prompt = tokenize_prompt(preparation.pipeline.tokenizer, encoded_prompt.prompt, encoded_prompt.marks)
        if request.weighting == "attention":
            weights = encoded_prompt.weights_by_position
            for word in prompt.words:
                for token in word.token_positions:
                    weights[token] = weights.get(token, 1.0) * word.weight
        else:
            encoded_prompt.embeds = apply_weights_to_embeddings(encoded_prompt.embeds, prompt, request.weighting)


def apply_weights_to_embeddings(
    prompt_embeds: Tensor, prompt: TokenizedPrompt, method: Literal["multiply", "interpolation"]
) -> Tensor:
    """Apply weights to the text encoder's output [1, 512, channels], with the methods of the older system.

    multiply: w e. interpolation: p + w (e - p), with p the embedding of the end token.
    """
    weighted_embeds, end_embed = prompt_embeds.clone(), prompt_embeds[0, prompt.token_count - 1]
    for word in prompt.words:
        for token in word.token_positions if word.weight != 1 else ():
            embed = weighted_embeds[0, token]
            if method == "multiply":
                weighted_embeds[0, token] = word.weight * embed
            else:
                weighted_embeds[0, token] = end_embed + word.weight * (embed - end_embed)
    return weighted_embeds


class WordWeights:
    """Weights by text position, except weights of 1."""

    def __init__(self, weights_by_position: Mapping[int, float]) -> None:
        self.weights_by_position = {token: weight for token, weight in weights_by_position.items() if weight != 1.0}
        self._tensors: dict[tuple[tuple[float, ...], torch.device, torch.dtype], Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.weights_by_position)

    def apply_to_attention(
        self, query: Tensor, key: Tensor, value: Tensor, output: Tensor, column_count: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield, for each block of consecutive positions, its slice, its weighted output and its weighted softmax.

        Args:
            query: [1, positions, heads, dim]. key, value: [1, 512, heads, dim], as the kernel gets them.
            output: [1, positions, heads x dim], output of the kernel.
            column_count: number of text columns; the last column also represents all later positions.

        Yields:
            slice of the positions; output [positions, heads x dim] float32; softmax [heads, positions, columns] float32
        """
        method = self._recompute_outputs if min(self.weights_by_position.values()) < 1 else self._correct_outputs
        for rows, output_chunk, p in method(query, key, value, output, column_count):
            yield rows, output_chunk.movedim(0, 1).flatten(1), p

    def build_log_weights(self, position_count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the logarithms of the weights, [positions], to be added to the logits.

        A weight of 0 has the logarithm minus infinity.
        """
        log_weights = [0.0] * position_count
        for token, weight in self.weights_by_position.items():
            log_weights[token] = math.log(weight) if weight > 0 else -math.inf
        return self._copy_to_device(tuple(log_weights), device, dtype)

    def _copy_to_device(self, values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return values on a device, copied once: a copy at every block would wait for the GPU each time."""
        if (values, device, dtype) not in self._tensors:
            self._tensors[values, device, dtype] = torch.tensor(values, device=device, dtype=dtype)
        return self._tensors[values, device, dtype]

    def _recompute_outputs(
        self, query: Tensor, key: Tensor, value: Tensor, _: Tensor, column_count: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Recompute the outputs, [heads, positions, dim]."""
        value_columns = value[0, :column_count].float().movedim(0, 1)
        for rows, p in compute_softmax_rows(
            query, key, column_count, self.build_log_weights(column_count, query.device, torch.float32)
        ):
            yield rows, torch.bmm(p, value_columns), p

    def _correct_outputs(
        self, query: Tensor, key: Tensor, value: Tensor, output: Tensor, column_count: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Correct the outputs, [heads, positions, dim]."""
        weighted_positions = self._copy_to_device(tuple(self.weights_by_position), query.device, torch.int64)
        weights_minus_one = self._copy_to_device(
            tuple(weight - 1 for weight in self.weights_by_position.values()), query.device, torch.float32
        )
        values = value[0].index_select(0, weighted_positions).float().movedim(0, 1)  # [heads, weighted, dim]
        for rows, p in compute_softmax_rows(query, key, column_count):
            added_odds = p.index_select(2, weighted_positions) * weights_minus_one  # [heads, positions, weighted]
            divisor = 1 + added_odds.sum(2, keepdim=True)
            output_chunk = output[0, rows].float().unflatten(1, (p.shape[0], -1)).movedim(1, 0)
            output_chunk = (output_chunk + torch.bmm(added_odds, values)) / divisor
            p[:, :, weighted_positions] += added_odds
            yield rows, output_chunk, p.div_(divisor)
