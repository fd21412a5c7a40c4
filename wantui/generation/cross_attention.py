"""Cross-attention to marked words: exact maps, and weights.

A Wan block attends from every video position to 512 text positions: n real tokens, and padding with identical keys.
The map of a word is the sum of its tokens' columns of the softmax over all 512 positions. One column is computed for
each real token, and one column for all padding, with the logit of a pad plus ln(512 - n). This is exact if all padding
keys are equal bit for bit, which is checked; otherwise all 512 columns are computed. Products of bfloat16 numbers are
exact in float32, and are summed in float32.

Weights by `attention` multiply the odds of a word (`word_weights`).

The model's kernel runs unchanged on the same inputs: observing changes no bit.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.captures.attention import MASS_NAMES, AttentionRequest
from wantui.captures.base import list_every_nth_index
from wantui.generation.attention_check import BlockCheck, SelfCheck
from wantui.generation.attention_hooks import Site, add_observer
from wantui.generation.controls.word_weights import WordWeights
from wantui.generation.cross_attention_softmax import average_over_heads, compute_softmax_rows
from wantui.generation.placement import find_device
from wantui.generation.preparation import Preparation
from wantui.generation.token_spans import TokenizedPrompt, tokenize
from wantui.planning.flops import TEXT_POSITION_COUNT

CHECKED_ROWS = 256
"""Number of evenly spaced video positions at which each block is checked, once per video."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Largest relative error of the recomputed attention output against the kernel's, by the model's dtype."""
MAP_TOLERANCE = 1e-4
"""Largest relative error of stored maps against a softmax in float64."""


class CaptureMismatchError(RuntimeError):
    """Raised if the recomputed attention differs from the model's attention; no map is stored."""


@dataclass(frozen=True)
class StepMaps:
    """The maps of one step."""

    maps: dict[str, dict[str, Tensor]]
    """Maps by context (cond, uncond) and name: [blocks | 1, heads | 1, frames, height, width] float32, on the device;
    NaN if no block computed attention."""
    blocks: dict[str, tuple[bool, ...]]
    """Whether each block computed its attention, by context; a step cache may skip blocks."""


@dataclass
class _Evaluation:
    """One observed pass through a transformer."""

    context: str
    prompt: TokenizedPrompt
    is_stored: bool
    """True to store maps; False to apply weights only."""
    observed_blocks: list[bool]
    map_sum: Tensor | None = None
    """[heads | 1, positions, columns], summed over blocks."""
    block_maps: list[Tensor | None] = field(default_factory=list)
    """[heads | 1, names, positions] of every block."""


class CrossAttention:
    """Observer of one video's cross-attention, which collects maps if the recipe requests them, and applies weights."""

    sites: tuple[Site, ...] = ("cross",)

    def __init__(self, preparation: Preparation) -> None:
        pipeline, recipe = preparation.pipeline, preparation.recipe
        self.pipeline, self.capture = pipeline, recipe.capture.attention
        cond = tokenize(pipeline.tokenizer, recipe.prompt, recipe.marks)
        self.prompts = {"cond": cond}
        if self.capture is not None and self.capture.unconditional and recipe.guidance_scale > 1:
            self.prompts["uncond"] = tokenize(pipeline.tokenizer, recipe.negative_prompt, recipe.negative_marks)
        self.weights = WordWeights(preparation.token_weights)
        self.steps = (
            frozenset(list_every_nth_index(preparation.evaluations, self.capture.interval))
            if self.capture
            else frozenset()
        )
        patch_frames, patch_height, patch_width = pipeline.transformer.config.patch_size
        frames = (recipe.frames - 1) // pipeline.vae_scale_factor_temporal + 1
        self.grid = (
            frames // patch_frames,
            recipe.height // pipeline.vae_scale_factor_spatial // patch_height,
            recipe.width // pipeline.vae_scale_factor_spatial // patch_width,
        )
        self.check = SelfCheck()
        self.modes: dict[tuple[str, str, int], int] = {}
        """Number of text columns by transformer, context and block, decided at the block's first evaluation."""
        self.current_evaluation: _Evaluation | None = None
        self.transformer = ""
        self.finished_evaluations: dict[str, _Evaluation] = {}

    @contextmanager
    def observe_evaluation(self, context: str, index: int, transformer: Any) -> Iterator[None]:
        """Observe one pass through a transformer inside the context.

        Args:
            context: cond or uncond, the name of diffusers' cache context.
            index: index of the model evaluation, from 0.
        """
        stored = index in self.steps and context in self.prompts
        if not stored and not (self.weights and context == "cond"):
            yield
            return
        self.transformer = "transformer" if transformer is self.pipeline.transformer else "transformer_2"
        count = len(transformer.blocks)
        self.current_evaluation = _Evaluation(
            context, self.prompts[context], stored, [False] * count, block_maps=[None] * count
        )
        try:
            with add_observer(self, "cross"):
                yield
        finally:
            finished, self.current_evaluation = self.current_evaluation, None
        if stored:
            self.finished_evaluations[context] = finished

    def take_record(self) -> StepMaps | None:
        """Return the maps of the latest step, once; None if its maps are not stored."""
        if not self.finished_evaluations:
            return None
        finished_evaluations, self.finished_evaluations = self.finished_evaluations, {}
        maps = {context: self._build_maps(evaluation) for context, evaluation in finished_evaluations.items()}
        return StepMaps(
            maps, {context: tuple(evaluation.observed_blocks) for context, evaluation in finished_evaluations.items()}
        )

    def list_map_names(self, context: str = "cond") -> tuple[str, ...]:
        """Return the names of the maps: words, tokens if requested, and masses."""
        return tuple(name for name, _ in _list_columns(self.prompts[context], self.capture))

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Return [blocks | 1, heads | 1, frames, height, width] of each map."""
        assert self.capture is not None
        transformer, factor = self.pipeline.transformer, self.capture.downsample
        frames, height, width = self.grid
        return (
            len(transformer.blocks) if self.capture.per_block else 1,
            transformer.config.num_attention_heads if self.capture.per_head else 1,
            frames,
            -(-height // factor),
            -(-width // factor),
        )

    def attend(self, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
        """Return the output with weights applied, or unchanged without weights; collect the maps."""
        if self.weights:
            return self.apply_weights(block, query, key, value, output)
        self.observe(block, query, key, value, output)
        return output

    def observe(self, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None:
        """Add one block's attention to the maps of this evaluation.

        Args:
            query: [1, positions, heads, dim], input of the kernel.
            key, value: [1, 512, heads, dim], inputs of the kernel.
            output: [1, positions, heads x dim], output of the kernel.
        """
        evaluation = self.current_evaluation
        if evaluation is None or not evaluation.is_stored:
            return
        columns = self._find_column_count(evaluation, block, query, key, value, output)
        self._add_to_maps(evaluation, block, self._compute_attention(query, key, columns))

    def apply_weights(self, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
        """Return the attention output with word weights as a new tensor; add the weighted attention to the maps."""
        evaluation = self.current_evaluation
        if evaluation is None or evaluation.context != "cond":
            if evaluation is not None:
                self.observe(block, query, key, value, output)
            return output
        columns = self._find_column_count(evaluation, block, query, key, value, output)
        weighted = torch.empty_like(output)
        kept: list[Tensor] = []
        for rows, out, p in self.weights.apply(query, key, value, output, columns):
            weighted[0, rows] = out.to(output.dtype)
            if evaluation.is_stored:
                kept.append(self._average_heads(p))
        if evaluation.is_stored:
            self._add_to_maps(evaluation, block, torch.cat(kept, 1))
        return weighted

    def _compute_attention(self, query: Tensor, key: Tensor, columns: int) -> Tensor:
        """Return [heads | 1, positions, columns] of one block."""
        if self.capture is not None and self.capture.per_head:
            return torch.cat([p for _, p in compute_softmax_rows(query, key, columns)], 1)
        return average_over_heads(query, key, columns)

    def _average_heads(self, p: Tensor) -> Tensor:
        assert self.capture is not None
        return p if self.capture.per_head else p.mean(0, keepdim=True)

    def _add_to_maps(self, evaluation: _Evaluation, block: int, p: Tensor) -> None:
        """Add p, [heads | 1, positions, columns] of one block."""
        assert self.capture is not None
        evaluation.observed_blocks[block] = True
        if self.capture.per_block:
            evaluation.block_maps[block] = self._sum_columns(evaluation, p)
        elif evaluation.map_sum is None:
            evaluation.map_sum = p
        elif evaluation.map_sum.shape[2] == p.shape[2]:
            evaluation.map_sum += p
        else:  # padding was merged in some blocks only
            width = evaluation.prompt.length
            pads = [each[:, :, width:].sum(2, keepdim=True) for each in (evaluation.map_sum, p)]
            evaluation.map_sum = torch.cat([evaluation.map_sum[:, :, :width] + p[:, :, :width], pads[0] + pads[1]], 2)

    def _sum_columns(self, evaluation: _Evaluation, p: Tensor) -> Tensor:
        """Return [heads | 1, names, positions] from columns."""
        grouped = [p[:, :, tokens].sum(2) for _, tokens in _list_columns(evaluation.prompt, self.capture)]
        return torch.stack(grouped, 1)

    def _build_maps(self, evaluation: _Evaluation) -> dict[str, Tensor]:
        assert self.capture is not None
        count = sum(evaluation.observed_blocks)
        blocks, heads, *_ = self.map_shape
        names = [name for name, _ in _list_columns(evaluation.prompt, self.capture)]
        if evaluation.map_sum is not None:
            stacked = (self._sum_columns(evaluation, evaluation.map_sum) / count)[None]
        else:
            shape, device = (heads, len(names), math.prod(self.grid)), find_device(self.pipeline)
            missing = torch.full(shape, math.nan, device=device)
            block_maps = evaluation.block_maps if self.capture.per_block else [None]
            stacked = torch.stack([missing if block_map is None else block_map for block_map in block_maps])
        maps = stacked.unflatten(3, self.grid)
        factor = self.capture.downsample
        if factor > 1:
            flat = maps.reshape(-1, 1, *self.grid[1:])
            pooled = F.avg_pool2d(flat, factor, ceil_mode=True, count_include_pad=False)
            maps = pooled.reshape(*maps.shape[:4], *pooled.shape[2:])
        assert maps.shape[0] == blocks
        return {name: maps[:, :, index] for index, name in enumerate(names)}

    def _find_column_count(
        self, evaluation: _Evaluation, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> int:
        """Return the number of text columns of a block; at its first evaluation, check the recomputed attention."""
        key_of_block = self.transformer, evaluation.context, block
        if key_of_block not in self.modes:
            if query.shape[0] != 1 or key.shape[1] != TEXT_POSITION_COUNT:
                raise CaptureMismatchError(
                    f"attention of shape {tuple(query.shape)} to {tuple(key.shape)} is not supported"
                )
            self.modes[key_of_block] = self._check_recomputation(evaluation, block, query, key, value, output)
        return self.modes[key_of_block]

    def _check_recomputation(
        self, evaluation: _Evaluation, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> int:
        length = evaluation.prompt.length
        columns, are_pads_equal = min(TEXT_POSITION_COUNT, -(-(length + 1) // 8) * 8), True
        if not all(bool((pads == pads[:1]).all()) for pads in (key[0, length:], value[0, length:])):
            columns, are_pads_equal = TEXT_POSITION_COUNT, False
        rows = torch.linspace(0, query.shape[1] - 1, min(CHECKED_ROWS, query.shape[1])).round().long()
        few = query[:, rows.to(query.device)]
        logits = torch.einsum("nhd,thd->hnt", few[0].double(), key[0].double()) / math.sqrt(query.shape[3])
        full = logits.softmax(2)
        recomputed = torch.einsum("hnt,thd->nhd", full, value[0].double()).flatten(1)
        kernels = output[0, rows.to(output.device)].double()
        error = _compute_relative_error(recomputed, kernels)
        if (tolerance := TOLERANCE.get(output.dtype)) is None:
            raise CaptureMismatchError(
                f"attention in {output.dtype} is not supported: no maps are stored and no weights are applied"
            )
        if not error <= tolerance:
            raise CaptureMismatchError(
                f"the recomputed attention differs from the output of the model's kernel by {error:.2g} of its norm, "
                f"more than the rounding of {output.dtype} explains ({tolerance:g}): no maps are stored and no weights "
                "are applied. Another attention backend may be in use: use the default one"
            )
        weighted_error = 0.0
        if self.weights and evaluation.context == "cond":
            weighted_error = self._check_weights(few, key, value, output[:, rows.to(output.device)], logits, columns)
        # Compare the maps at these positions, computed like the stored ones.
        ours = self._compute_attention(few, key, columns).double()
        exact = full if len(ours) > 1 else full.mean(0, keepdim=True)
        gathered = [torch.cat([p[:, :, :length], p[:, :, length:].sum(2, keepdim=True)], 2) for p in (ours, exact)]
        if length == TEXT_POSITION_COUNT:
            gathered = [p[:, :, :length] for p in gathered]
        of_columns = (gathered[0] - gathered[1]).abs() / gathered[1].clamp_min(1e-30)
        map_error = float(of_columns.max())
        if not map_error <= MAP_TOLERANCE:
            raise CaptureMismatchError(
                f"the maps differ from a softmax over all text positions in float64 by {map_error:.2g}, "
                f"more than {MAP_TOLERANCE:g}: none are stored"
            )
        check = BlockCheck(
            output_error=error,
            weighted_error=weighted_error,
            map_error=map_error,
            padding_merged=are_pads_equal,
        )
        self.check.add(f"{self.transformer} {evaluation.context} {block}", check)
        return columns

    def _check_weights(
        self, query: Tensor, key: Tensor, value: Tensor, output: Tensor, logits: Tensor, columns: int
    ) -> float:
        """Return the error of the weighted output at a few positions against a float64 softmax over all positions.

        Args:
            logits: of these positions, [heads, positions, 512] float64.
        """
        exact = (logits + self.weights.build_log_weights(logits.shape[2], logits.device, logits.dtype)).softmax(2)
        expected = torch.einsum("hnt,thd->nhd", exact, value[0].double()).flatten(1)
        weighted = torch.cat([out for _, out, _ in self.weights.apply(query, key, value, output, columns)])
        error = _compute_relative_error(weighted.to(output.dtype).double(), expected)
        if not error <= TOLERANCE[output.dtype]:
            raise CaptureMismatchError(
                f"attention with word weights differs by {error:.2g} of its norm, more than the rounding of "
                f"{output.dtype} explains ({TOLERANCE[output.dtype]:g}): no weights are applied"
            )
        return error


def _compute_relative_error(computed: Tensor, expected: Tensor) -> float:
    return float((computed - expected).norm() / expected.norm().clamp_min(1e-30))


def _list_columns(prompt: TokenizedPrompt, capture: AttentionRequest | None) -> Sequence[tuple[str, slice | list[int]]]:
    """Return the name and the text positions of each map; the last map is the padding, in one or more columns."""
    assert capture is not None
    named: list[tuple[str, slice | list[int]]] = []
    for word in prompt.words:
        first, last = word.tokens[0], word.tokens[-1]
        # A special token, such as a literal </s>, may split a word; it does not belong to the word.
        is_unbroken = last - first + 1 == len(word.tokens)
        named.append((word.name, slice(first, last + 1) if is_unbroken else list(word.tokens)))
        if capture.per_token and len(word.tokens) > 1:
            named += [(f"{word.name}.{i}", slice(token, token + 1)) for i, token in enumerate(word.tokens)]
    end = prompt.length - 1
    spans = (slice(0, end), slice(end, end + 1), slice(end + 1, None))
    return [*named, *zip(MASS_NAMES, spans, strict=True)]
