"""Observation of the cross-attention: exact maps of marked words, word weights, and bends.

A Wan block attends from every video position to 512 text positions: n real tokens, and padding with identical keys.
The map of a word is the sum of its tokens' columns of the softmax over all 512 positions. One column is computed for
each real token, and one column for all padding, with the logit of a pad plus ln(512 - n). This is exact if all padding
keys are equal bit for bit, which is checked; otherwise all 512 columns are computed. Products of bfloat16 numbers are
exact in float32, and are summed in float32.

Weights by `attention` multiply the odds of a word (`word_weights`); then bends transform the columns of words
(`bent_attention`). The maps show the attention after both.

The model's kernel runs unchanged on the same inputs: observing changes no bit.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.captures.base import list_every_nth_index
from wantui.generation import kernels
from wantui.generation.attention_check import (
    MAX_OUTPUT_ERROR_BY_DTYPE,
    AttentionCheckResults,
    BlockCheckResult,
    CaptureMismatchError,
    check_word_weights,
    choose_checked_positions,
    compute_exact_logits,
    compute_relative_error,
    reject_unsupported_shapes,
)
from wantui.generation.attention_hooks import AttentionSite, add_observer
from wantui.generation.bent_attention import BlockBender, ResolvedBend, TextColumns
from wantui.generation.controls.word_weights import WordWeights
from wantui.generation.cross_attention_softmax import (
    average_softmax_over_heads,
    choose_column_count,
    compute_softmax_rows,
)
from wantui.generation.guidance_split import find_transformer_name
from wantui.generation.observed_text import ObservedText, find_conditional_text, list_map_columns, list_map_names
from wantui.generation.placement import find_device
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.token_spans import tokenize_prompt, tokenize_prompts
from wantui.models.text_positions import TEXT_POSITION_COUNT

MAX_MAP_ERROR = 1e-4
"""Largest relative error of stored maps against a softmax in float64."""


@dataclass(frozen=True)
class StepMaps:
    """The maps of one step."""

    maps_by_context: dict[str, dict[str, Tensor]]
    """Maps by context (cond, uncond) and name: [blocks | 1, heads | 1, frames, height, width] float32, on the device;
    NaN if no block computed attention."""
    computed_blocks_by_context: dict[str, tuple[bool, ...]]
    """Whether each block computed its attention, by context; a step cache may skip blocks."""


@dataclass
class _ObservedPass:
    """One observed pass through a transformer."""

    context: str
    transformer_name: str
    text: ObservedText
    word_weights: WordWeights
    """Weights of this pass; empty in the unconditional pass."""
    stores_maps: bool
    """True to store maps; False to apply weights and bends only."""
    observed_blocks: list[bool]
    bends: tuple[ResolvedBend, ...] = ()
    """Bends that are active in this pass."""
    map_sum: Tensor | None = None
    """[heads | 1, positions, columns], summed over blocks."""
    block_maps: Tensor | None = None
    """[blocks, heads | 1, names, positions]; NaN for blocks that computed no attention."""


@dataclass(frozen=True)
class _PassObserver:
    """Observer of one pass, which delegates to the video's observer."""

    observer: "CrossAttentionObserver"
    observed_pass: _ObservedPass

    def observe_attention(self, block_index: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
        return self.observer.collect_and_bend_maps(self.observed_pass, block_index, query, key, value, output)


class CrossAttentionObserver:
    """Observer that applies weights and bends to the cross-attention of one video, and collects maps on request."""

    sites: tuple[AttentionSite, ...] = ("cross",)

    def __init__(self, preparation: DenoisingPreparation) -> None:
        pipeline, recipe = preparation.pipeline, preparation.recipe
        kernels.check_attention_kernels_can_be_built(find_device(pipeline), pipeline.transformer.dtype)
        self.pipeline, self.request = pipeline, recipe.capture.attention
        self.prompt_sequence = preparation.prompts
        self.prompts_by_context = {"cond": tokenize_prompts(pipeline.tokenizer, recipe.prompts)}
        if self.request is not None and self.request.unconditional and preparation.negative_prompt_embeds is not None:
            self.prompts_by_context["uncond"] = [
                tokenize_prompt(pipeline.tokenizer, recipe.negative_prompt, recipe.negative_marks)
            ]
        self._stores_tokens = self.request is not None and self.request.per_token
        self.bends_by_context = preparation.bends_by_context
        self.stored_evaluations = (
            frozenset(list_every_nth_index(preparation.evaluation_count, self.request.interval))
            if self.request
            else frozenset()
        )
        self.position_grid = preparation.position_grid
        self.negative_prompt = recipe.negative_prompt
        self.block_bender = BlockBender(self.position_grid)
        self.check_results = AttentionCheckResults()
        self.column_counts_by_block: dict[tuple[str, str, int, str], int] = {}
        """Number of text columns by transformer, context, block and text, decided at the first evaluation of each."""
        self.finished_passes_by_context: dict[str, _ObservedPass] = {}

    @contextmanager
    def observe_evaluation(self, context: str, evaluation_index: int, transformer: Any) -> Iterator[None]:
        """Observe one pass through a transformer inside the context.

        Args:
            context: cond or uncond, the name of diffusers' cache context.
            evaluation_index: index of the model evaluation, from 0.
        """
        stores_maps = evaluation_index in self.stored_evaluations and context in self.prompts_by_context
        bends = tuple(
            bend for bend in self.bends_by_context.get(context, ()) if bend.active_evaluations[evaluation_index]
        )
        word_weights = WordWeights(self.prompt_sequence.find_weights(evaluation_index) if context == "cond" else {})
        if not stores_maps and not bends and not word_weights:
            yield
            return
        block_count = len(transformer.blocks)
        observed_pass = _ObservedPass(
            context,
            find_transformer_name(self.pipeline, transformer),
            self._find_text(context, evaluation_index),
            word_weights,
            stores_maps,
            [False] * block_count,
            bends,
        )
        with add_observer(_PassObserver(self, observed_pass), "cross"):
            yield
        if stores_maps:
            self.finished_passes_by_context[context] = observed_pass

    def pop_record(self) -> StepMaps | None:
        """Return the maps of the latest step, once; None if its maps are not stored."""
        if not self.finished_passes_by_context:
            return None
        finished_passes, self.finished_passes_by_context = self.finished_passes_by_context, {}
        maps_by_context = {
            context: self._build_maps(observed_pass) for context, observed_pass in finished_passes.items()
        }
        return StepMaps(
            maps_by_context,
            {context: tuple(observed_pass.observed_blocks) for context, observed_pass in finished_passes.items()},
        )

    def list_map_names(self, context: str = "cond") -> tuple[str, ...]:
        """Return the names of the maps: words, tokens if requested, and masses."""
        return list_map_names(self.prompts_by_context[context], self._stores_tokens)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Return [blocks | 1, heads | 1, frames, height, width] of each map."""
        assert self.request is not None
        transformer, downsample_factor = self.pipeline.transformer, self.request.downsample
        frames, height, width = self.position_grid
        return (
            len(transformer.blocks) if self.request.per_block else 1,
            transformer.config.num_attention_heads if self.request.per_head else 1,
            frames,
            -(-height // downsample_factor),
            -(-width // downsample_factor),
        )

    def collect_and_bend_maps(
        self, observed_pass: _ObservedPass, block_index: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> Tensor:
        """Apply the word weights and bends of a pass to the output of a block, collect its maps, and return the output.

        Two passes may run at the same time, in threads of their own.
        """
        has_weights = bool(observed_pass.word_weights)
        bends = [bend for bend in observed_pass.bends if bend.acts_on(block_index)]
        if not has_weights and not bends and not observed_pass.stores_maps:
            return output
        column_count = self._find_column_count(observed_pass, block_index, query, key, value, output)
        attention: Tensor | None = None
        if has_weights:
            stores_weighted_maps = observed_pass.stores_maps and not bends
            output, attention = self._apply_word_weights(
                observed_pass.word_weights, query, key, value, output, column_count, stores_weighted_maps
            )
        if bends:
            log_weights = (
                observed_pass.word_weights.build_log_weights(column_count, query.device, torch.float32)
                if has_weights
                else None
            )
            output, attention = self.block_bender.bend_block(
                query,
                key,
                value,
                output,
                bends,
                TextColumns(column_count, observed_pass.text.token_count, log_weights),
                collects_maps=observed_pass.stores_maps,
                keeps_heads=self.request is not None and self.request.per_head,
            )
        if observed_pass.stores_maps:
            if attention is None:
                attention = self._compute_attention(query, key, column_count)
            self._add_to_maps(observed_pass, block_index, attention)
        return output

    def _find_text(self, context: str, evaluation_index: int) -> ObservedText:
        """Return the text that one pass of an evaluation reads, even if its maps are not stored."""
        if context == "cond":
            return find_conditional_text(self.prompts_by_context["cond"], self.prompt_sequence, evaluation_index)
        if context in self.prompts_by_context:
            prompt = self.prompts_by_context[context][0]
        else:
            prompt = tokenize_prompt(self.pipeline.tokenizer, self.negative_prompt, ())
        return ObservedText(prompt.words, prompt.token_count)

    def _apply_word_weights(
        self,
        word_weights: WordWeights,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        column_count: int,
        stores_maps: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output with weights as a new tensor and, if maps are stored, the weighted attention."""
        weighted_output = torch.empty_like(output)
        attention = self._allocate_attention(query, column_count) if stores_maps else None
        for rows, output_chunk, p in word_weights.apply_to_attention(query, key, value, output, column_count):
            weighted_output[0, rows] = output_chunk.to(output.dtype)
            if attention is not None:
                attention[:, rows] = p if len(attention) > 1 else p.mean(0, keepdim=True)
        return weighted_output, attention

    def _compute_attention(self, query: Tensor, key: Tensor, column_count: int) -> Tensor:
        """Return [heads | 1, positions, columns] of one block."""
        if self.request is not None and self.request.per_head:
            attention = self._allocate_attention(query, column_count)
            for rows, p in compute_softmax_rows(query, key, column_count):
                attention[:, rows] = p
            return attention
        return average_softmax_over_heads(query, key, column_count)

    def _allocate_attention(self, query: Tensor, column_count: int) -> Tensor:
        """Return an empty tensor [heads | 1, positions, columns]: a list of chunks would take its memory twice."""
        assert self.request is not None
        head_count = query.shape[2] if self.request.per_head else 1
        return torch.empty(head_count, query.shape[1], column_count, device=query.device)

    def _add_to_maps(self, observed_pass: _ObservedPass, block_index: int, p: Tensor) -> None:
        """Add p, [heads | 1, positions, columns] of one block."""
        assert self.request is not None
        observed_pass.observed_blocks[block_index] = True
        if self.request.per_block:
            maps = self._sum_columns_by_name(observed_pass, p)
            if observed_pass.block_maps is None:
                observed_pass.block_maps = maps.new_full((len(observed_pass.observed_blocks), *maps.shape), math.nan)
            observed_pass.block_maps[block_index] = maps
        elif observed_pass.map_sum is None:
            observed_pass.map_sum = p
        elif observed_pass.map_sum.shape[2] == p.shape[2]:
            observed_pass.map_sum += p
        else:  # padding was merged in some blocks only
            token_count = observed_pass.text.token_count
            padding_sums = [each[:, :, token_count:].sum(2, keepdim=True) for each in (observed_pass.map_sum, p)]
            observed_pass.map_sum = torch.cat(
                [observed_pass.map_sum[:, :, :token_count] + p[:, :, :token_count], padding_sums[0] + padding_sums[1]],
                2,
            )

    def _sum_columns_by_name(self, observed_pass: _ObservedPass, p: Tensor) -> Tensor:
        """Return [heads | 1, names, positions] from columns."""
        columns = list_map_columns(observed_pass.text, self._stores_tokens)
        if not columns:
            return p.new_zeros(p.shape[0], 0, p.shape[1])
        return torch.stack([p[:, :, tokens].sum(2) for _, tokens in columns], 1)

    def _build_maps(self, observed_pass: _ObservedPass) -> dict[str, Tensor]:
        assert self.request is not None
        computed_count = sum(observed_pass.observed_blocks)
        block_count, head_count, *_ = self.map_shape
        map_names = [name for name, _ in list_map_columns(observed_pass.text, self._stores_tokens)]
        if observed_pass.map_sum is not None:
            stacked_maps = (self._sum_columns_by_name(observed_pass, observed_pass.map_sum) / computed_count)[None]
        elif observed_pass.block_maps is not None:
            stacked_maps = observed_pass.block_maps
        else:
            shape = (block_count, head_count, len(map_names), math.prod(self.position_grid))
            stacked_maps = torch.full(shape, math.nan, device=find_device(self.pipeline))
        maps = stacked_maps.unflatten(3, self.position_grid)
        downsample_factor = self.request.downsample
        if downsample_factor > 1:
            flat_maps = maps.reshape(-1, 1, *self.position_grid[1:])
            pooled_maps = F.avg_pool2d(flat_maps, downsample_factor, ceil_mode=True, count_include_pad=False)
            maps = pooled_maps.reshape(*maps.shape[:4], *pooled_maps.shape[2:])
        assert maps.shape[0] == block_count
        maps_by_name = {name: maps[:, :, index] for index, name in enumerate(map_names)}
        missing_map = maps.new_full(self.map_shape, math.nan)
        return {name: maps_by_name.get(name, missing_map) for name in self.list_map_names(observed_pass.context)}

    def _find_column_count(
        self, observed_pass: _ObservedPass, block_index: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> int:
        """Return the number of text columns in a block; at the first evaluation, check the recomputed attention."""
        block_key = observed_pass.transformer_name, observed_pass.context, block_index, observed_pass.text.name
        if block_key not in self.column_counts_by_block:
            reject_unsupported_shapes(query, key)
            self.column_counts_by_block[block_key] = self._check_recomputed_attention(
                observed_pass, block_index, query, key, value, output
            )
        return self.column_counts_by_block[block_key]

    def _check_recomputed_attention(
        self, observed_pass: _ObservedPass, block_index: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> int:
        token_count = observed_pass.text.token_count
        column_count, are_pads_equal = choose_column_count(key, value, token_count)
        checked_positions = choose_checked_positions(query)
        checked_query, checked_output = query[:, checked_positions], output[:, checked_positions]
        logits = compute_exact_logits(checked_query, key)
        full_softmax = logits.softmax(2)
        recomputed_output = torch.einsum("hnt,thd->nhd", full_softmax, value[0].double()).flatten(1)
        output_error = compute_relative_error(recomputed_output, checked_output[0].double())
        if (tolerance := MAX_OUTPUT_ERROR_BY_DTYPE.get(output.dtype)) is None:
            raise CaptureMismatchError(
                f"attention in {output.dtype} is not supported: the attention cannot be observed or changed"
            )
        if not output_error <= tolerance:
            raise CaptureMismatchError(
                f"the recomputed attention differs from the output of the model's kernel by {output_error:.2g} of its "
                f"norm, more than the rounding of {output.dtype} explains ({tolerance:g}): the attention cannot be "
                "observed or changed. Another attention backend may be in use: use the default backend"
            )
        weighted_error = 0.0
        if observed_pass.word_weights:
            weighted_error = check_word_weights(
                observed_pass.word_weights, checked_query, key, value, checked_output, logits, column_count
            )
        # Compare the maps at these positions, computed like the stored ones.
        recomputed_columns = self._compute_attention(checked_query, key, column_count).double()
        exact_columns = full_softmax if len(recomputed_columns) > 1 else full_softmax.mean(0, keepdim=True)
        merged_columns = [
            torch.cat([p[:, :, :token_count], p[:, :, token_count:].sum(2, keepdim=True)], 2)
            for p in (recomputed_columns, exact_columns)
        ]
        if token_count == TEXT_POSITION_COUNT:
            merged_columns = [p[:, :, :token_count] for p in merged_columns]
        relative_errors = (merged_columns[0] - merged_columns[1]).abs() / merged_columns[1].clamp_min(1e-30)
        map_error = float(relative_errors.max())
        if not map_error <= MAX_MAP_ERROR:
            raise CaptureMismatchError(
                f"the maps differ from a softmax over all text positions in float64 by {map_error:.2g}, "
                f"more than {MAX_MAP_ERROR:g}: none are stored"
            )
        result = BlockCheckResult(
            output_error=output_error,
            weighted_error=weighted_error,
            map_error=map_error,
            padding_merged=are_pads_equal,
        )
        check_name = f"{observed_pass.transformer_name} {observed_pass.context} {block_index} {observed_pass.text.name}"
        self.check_results.add_result(check_name.rstrip(), result)
        return column_count
