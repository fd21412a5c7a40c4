"""Weights of marked words in cross-attention: a weight w multiplies the odds of a word, logits + ln w.

The model's kernel returns the output without weights, rounded to its dtype. If all weights are 1 or more, this output
is corrected: out' = (out + sum_j (w_j - 1) p_j v_j) / (1 + sum_j (w_j - 1) p_j). A weight below 1 would subtract from
a rounded value and divide by a small number: (word:0) in bfloat16 would have an error of 12 % of the output. In that
case the output is recomputed in float32, over the columns of the softmax.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from wantui.controls.word_weights import WordWeightsRequest
from wantui.generation.cross_attention_softmax import compute_softmax_rows
from wantui.generation.preparation import Preparation
from wantui.generation.token_spans import TokenizedPrompt, tokenize


def apply(request: WordWeightsRequest, preparation: Preparation) -> None:
    """Weight the marked words of a prompt: their embeddings, or their odds in cross-attention.

    Raises:
        MarkOutOfRangeError: the model does not read the text of a mark.
    """
    recipe = preparation.recipe
    prompt = tokenize(preparation.pipeline.tokenizer, recipe.prompt, recipe.marks)
    if request.weighting == "attention":
        for word in prompt.words:
            for token in word.tokens:
                preparation.token_weights[token] = preparation.token_weights.get(token, 1.0) * word.weight
    else:
        preparation.prompt_embeds = weigh_embeddings(preparation.prompt_embeds, prompt, request.weighting)


def weigh_embeddings(prompt_embeds: Tensor, prompt: TokenizedPrompt, weighting: str) -> Tensor:
    """Apply weights to the text encoder's output [1, 512, channels], with the methods of the older system.

    multiply: w e. interpolation: p + w (e - p), with p the embedding of the end token.
    """
    weighted = prompt_embeds.clone()
    methods: dict[str, Callable[[Tensor, float], Tensor]] = {
        "multiply": lambda e, w: w * e,
        "interpolation": lambda e, w: end + w * (e - end),
    }
    end = prompt_embeds[0, prompt.length - 1]
    for word in prompt.words:
        for token in word.tokens if word.weight != 1 else ():
            weighted[0, token] = methods[weighting](weighted[0, token], word.weight)
    return weighted


class WordWeights:
    """Weights by text position, except weights of 1."""

    def __init__(self, by_token: Mapping[int, float]) -> None:
        self.by_token = {token: weight for token, weight in by_token.items() if weight != 1.0}

    def __bool__(self) -> bool:
        return bool(self.by_token)

    def apply(
        self, query: Tensor, key: Tensor, value: Tensor, output: Tensor, columns: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield consecutive positions: their slice, the output with weights, and the softmax with weights.

        Args:
            query: [1, positions, heads, dim]. key, value: [1, 512, heads, dim], as the kernel gets them.
            output: [1, positions, heads x dim], output of the kernel.
            columns: number of text columns; the last column also represents all later positions.

        Yields:
            slice of the positions; output [positions, heads x dim] float32; softmax [heads, positions, columns] float32
        """
        method = self._recompute if min(self.by_token.values()) < 1 else self._correct
        for rows, out, p in method(query, key, value, output, columns):
            yield rows, out.movedim(0, 1).flatten(1), p

    def build_log_weights(self, positions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the logarithms of the weights, [positions], to be added to the logits; minus infinity for a weight
        of 0."""
        added = torch.zeros(positions, device=device, dtype=dtype)
        for token, weight in self.by_token.items():
            added[token] = math.log(weight) if weight > 0 else -math.inf
        return added

    def _recompute(
        self, query: Tensor, key: Tensor, value: Tensor, _: Tensor, columns: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Recompute the outputs, [heads, positions, dim]."""
        values = value[0, :columns].float().movedim(0, 1)
        for rows, p in compute_softmax_rows(
            query, key, columns, self.build_log_weights(columns, query.device, torch.float32)
        ):
            yield rows, torch.bmm(p, values), p

    def _correct(
        self, query: Tensor, key: Tensor, value: Tensor, output: Tensor, columns: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Correct the outputs, [heads, positions, dim]."""
        tokens = torch.tensor(list(self.by_token), device=query.device)
        weights_minus_one = torch.tensor([weight - 1 for weight in self.by_token.values()], device=query.device)
        values = value[0].index_select(0, tokens).float().movedim(0, 1)  # [heads, weighted, dim]
        for rows, p in compute_softmax_rows(query, key, columns):
            added = p.index_select(2, tokens) * weights_minus_one  # [heads, positions, weighted]
            divisor = 1 + added.sum(2, keepdim=True)
            out = output[0, rows].float().unflatten(1, (p.shape[0], -1)).movedim(1, 0)
            out = (out + torch.bmm(added, values)) / divisor
            p[:, :, tokens] += added
            yield rows, out, p.div_(divisor)
