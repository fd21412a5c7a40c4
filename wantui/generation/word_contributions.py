"""Exact contribution of words to the cross-attention of each block.

The output of a block's cross-attention at the video position i is sum_j sum_h p_ij^h W_O^h v_j^h + b, over the text
positions j and the heads h. The part of a word is the sum over its tokens, and its norm is exact:

    c_iw = |sum_{j in w} sum_h p_ij^h W_O^h v_j^h| = sqrt(p_iw' G_w p_iw)

with p_iw the attention of all heads to the tokens of the word, and G_w the inner products of the vectors W_O^h v_j^h
(after Kobayashi et al. 2020, arXiv 2004.10102, with the output projection and across heads). G_w depends on the text
only, so it is computed once for each block and text. This attributes the output to words; it does not measure
which word dominates the video.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wantui.captures.base import list_every_nth_index
from wantui.captures.contributions import CHUNK_BYTES, OUTPUT_NAME, ContributionRequest
from wantui.generation.attention_check import (
    MAX_OUTPUT_ERROR_BY_DTYPE,
    CaptureMismatchError,
    choose_checked_positions,
    compute_exact_logits,
    compute_relative_error,
    reject_unsupported_shapes,
)
from wantui.generation.attention_hooks import AttentionSite, add_observer
from wantui.generation.controls.word_weights import WordWeights
from wantui.generation.cross_attention_softmax import choose_column_count, compute_softmax_rows
from wantui.generation.guidance_split import find_transformer_name
from wantui.generation.observed_text import ObservedText, find_conditional_text
from wantui.generation.placement import find_device
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.token_spans import tokenize_prompts
from wantui.keyframes import EvaluationMoment

ContributionMaps = dict[str, Tensor]
"""Maps by word, and of the output: [blocks | 1, frames, height, width] float32 on the device."""


@dataclass(frozen=True)
class _BlockProducts:
    """Precomputed values for the contributions of a block, for one text."""

    column_count: int
    """Number of softmax columns; the last column also represents all later positions."""
    products_by_word: dict[str, Tensor]
    """[tokens x heads, tokens x heads] float64 inner products of W_O^h v_j^h, by name of the word."""
    bias: Tensor
    """[width] float32 bias of the output projection."""


@dataclass
class _RecordedPass:
    """The maps of one pass through a transformer."""

    text: ObservedText
    maps_by_name: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """[positions] float32 by name, then by index of the block; a step cache may skip blocks."""

    def add_map(self, name: str, block_index: int, values: Tensor) -> None:
        self.maps_by_name.setdefault(name, {})[block_index] = values


class ContributionObserver:
    """Observer that computes the contributions of the marked words to the cross-attention of one video.

    Each block is checked once for each text: at a few positions, the output of the block's projection must equal
    sum_j sum_h p_ij^h W_O^h v_j^h + b over all text positions in float64.
    """

    sites: tuple[AttentionSite, ...] = ("cross",)

    def __init__(self, preparation: DenoisingPreparation, request: ContributionRequest) -> None:
        pipeline, recipe = preparation.pipeline, preparation.recipe
        self.pipeline, self.request, self.prompt_sequence = pipeline, request, preparation.prompts
        self.prompts = tokenize_prompts(pipeline.tokenizer, recipe.prompts)
        self.words = {word.map_name: word for prompt in reversed(self.prompts) for word in prompt.words}
        self.evaluations = list_every_nth_index(preparation.evaluation_count, request.interval)
        self.position_grid = preparation.position_grid
        self.max_output_error = 0.0
        """Largest relative error of a block's output against float64 so far."""
        self._products: dict[tuple[str, int], _BlockProducts] = {}
        self._moment: EvaluationMoment | None = None
        self._transformer: Any = None
        self._transformer_name = ""
        self._word_weights = WordWeights({})
        self._pass: _RecordedPass | None = None
        self._finished_pass: _RecordedPass | None = None
        self._expected_outputs: tuple[Tensor, Tensor] | None = None
        """Checked positions, and the outputs [positions, width] float64 expected there, of the current block."""

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Return [blocks | 1, frames, height, width] of each map."""
        block_count = len(self.pipeline.transformer.blocks) if self.request.per_block else 1
        return block_count, *self.position_grid

    @contextmanager
    def observe_evaluation(self, context: str, evaluation_index: int, transformer: Any) -> Iterator[None]:
        """Observe one pass through a transformer inside the context; arguments as for `DenoisingHook`."""
        if context != "cond" or evaluation_index not in self.evaluations:
            yield
            return
        moment = self.prompt_sequence.find_moment(evaluation_index)
        if moment != self._moment:  # another text has other values
            self._products, self._moment = {}, moment
        self._word_weights = WordWeights(self.prompt_sequence.find_weights(evaluation_index))
        self._transformer = transformer
        self._transformer_name = find_transformer_name(self.pipeline, transformer)
        self._pass = _RecordedPass(find_conditional_text(self.prompts, self.prompt_sequence, evaluation_index))
        with ExitStack() as stack:
            for block_index, block in enumerate(transformer.blocks):
                handle = block.attn2.to_out[0].register_forward_hook(
                    lambda _module, _inputs, output, index=block_index: self._record_output(index, output)
                )
                stack.callback(handle.remove)
            stack.enter_context(add_observer(self, "cross"))
            try:
                yield
            finally:
                self._finished_pass, self._pass, self._expected_outputs = self._pass, None, None

    def pop_record(self) -> ContributionMaps | None:
        """Return the maps of the latest step, once; None if they are not stored."""
        finished_pass, self._finished_pass = self._finished_pass, None
        if finished_pass is None:
            return None
        missing_map = torch.full((math.prod(self.position_grid),), math.nan, device=find_device(self.pipeline))
        maps: ContributionMaps = {}
        for name in (*self.words, OUTPUT_NAME):
            block_maps = finished_pass.maps_by_name.pop(name, None) or {0: missing_map}  # this text may lack the word
            if self.request.per_block:
                stacked_maps = torch.stack([block_maps.get(block, missing_map) for block in range(self.map_shape[0])])
            else:
                stacked_maps = torch.stack(list(block_maps.values())).mean(0, keepdim=True)
            maps[name] = stacked_maps.unflatten(1, self.position_grid)
        return maps

    def observe_attention(self, block_index: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
        """Compute the contributions of the words in one block; return the output unchanged."""
        if self._pass is None:
            return output
        block_key = self._transformer_name, block_index
        if block_key not in self._products:
            self._products[block_key] = self._prepare_block(block_index, query, key, value)
        block = self._products[block_key]
        log_weights = (
            self._word_weights.build_log_weights(block.column_count, query.device, torch.float32)
            if self._word_weights
            else None
        )
        norms = {name: torch.empty(query.shape[1], device=query.device) for name in block.products_by_word}
        tokens_by_word = {word.map_name: list(word.token_positions) for word in self._pass.text.words}
        for rows, p in compute_softmax_rows(query, key, block.column_count, log_weights):
            for name, products in block.products_by_word.items():
                norms[name][rows] = compute_contribution_norms(p[:, :, tokens_by_word[name]], products)
        for name, values in norms.items():
            self._pass.add_map(name, block_index, values)
        return output

    def _prepare_block(self, block_index: int, query: Tensor, key: Tensor, value: Tensor) -> _BlockProducts:
        """Compute the inner products of a block for the current text, and the expected output of the block.

        Raises:
            CaptureMismatchError: the shapes or the form of the weights are not supported.
        """
        assert self._pass is not None
        reject_unsupported_shapes(query, key)
        projection = self._transformer.blocks[block_index].attn2.to_out[0]
        weight = read_dense_weight(projection).to(query.device, torch.float64).unflatten(1, value.shape[2:])
        column_count, _ = choose_column_count(key, value, self._pass.text.token_count)
        values = value[0].double()
        products_by_word = {}
        for word in self._pass.text.words:
            # [tokens x heads, width], in the order of `compute_contribution_norms`.
            vectors = torch.einsum("whd,thd->thw", weight, values[list(word.token_positions)]).flatten(0, 1)
            products_by_word[word.map_name] = vectors @ vectors.T
        bias = projection.bias
        bias = torch.zeros(len(weight), device=query.device) if bias is None else bias.to(query.device, torch.float32)
        self._expected_outputs = self._compute_expected_outputs(query, key, values, weight, bias)
        return _BlockProducts(column_count, products_by_word, bias)

    def _compute_expected_outputs(
        self, query: Tensor, key: Tensor, values: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return positions, and the outputs [positions, width] expected there, summed over all texts in float64."""
        positions = choose_checked_positions(query)
        logits = compute_exact_logits(query[:, positions], key)
        if self._word_weights:
            logits += self._word_weights.build_log_weights(logits.shape[2], logits.device, logits.dtype)
        head_outputs = torch.einsum("hnt,thd->nhd", logits.softmax(2), values)
        return positions, torch.einsum("nhd,whd->nw", head_outputs, weight) + bias.double()

    def _record_output(self, block_index: int, output: Tensor) -> None:
        """Record the norm of a block's output without the bias, and check the output at the first evaluation.

        Raises:
            CaptureMismatchError: the output is not the sum of the contributions of all text positions.
        """
        if self._pass is None:
            return
        if self._expected_outputs is not None:
            positions, expected = self._expected_outputs
            self._expected_outputs = None
            error = compute_relative_error(output[0, positions].double(), expected)
            self.max_output_error = max(self.max_output_error, error)
            tolerance = MAX_OUTPUT_ERROR_BY_DTYPE.get(output.dtype, 0.0)
            if not error <= tolerance:
                raise CaptureMismatchError(
                    f"the cross-attention of block {block_index} differs from the sum over all words by {error:.2g} of "
                    f"its norm, more than the rounding of {output.dtype} explains ({tolerance:g}): no contributions "
                    "are stored. Turn off contribution_settings.store_contributions"
                )
        bias = self._products[self._transformer_name, block_index].bias
        self._pass.add_map(OUTPUT_NAME, block_index, (output[0].float() - bias).norm(dim=1))


def compute_contribution_norms(attention: Tensor, products: Tensor) -> Tensor:
    """Return sqrt(p' G p) at each position, [positions] float32.

    Args:
        attention: [heads, positions, tokens] attention to the tokens of a word.
        products: [tokens x heads, tokens x heads] float64 inner products G, which vary by token first.
    """
    heads, position_count, token_count = attention.shape
    p = attention.permute(1, 2, 0).reshape(position_count, token_count * heads)
    chunk_rows = max(1, CHUNK_BYTES // (8 * 2 * p.shape[1]))
    squares = [((chunk := rows.double()) @ products * chunk).sum(1) for rows in p.split(chunk_rows)]
    return torch.cat(squares).clamp_min(0).sqrt().float()


def read_dense_weight(projection: Any) -> Tensor:
    """Return the weight [outputs, inputs] of a linear layer as a dense tensor, regardless of its storage format.

    Raises:
        CaptureMismatchError: the form is unknown.
    """
    weight = projection.weight
    if hasattr(weight, "quant_type"):  # a GGUF file, which diffusers widens in each pass
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        return torch.as_tensor(dequantize_gguf_tensor(weight))
    dense = weight.data if type(weight.data) is torch.Tensor else weight.dequantize()
    if not dense.is_floating_point():
        raise CaptureMismatchError(f"weights of {dense.dtype} are not supported: no contributions are stored")
    return torch.as_tensor(dense)
