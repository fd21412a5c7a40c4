"""Attention bending: the columns of words in the cross-attention are transformed before they are multiplied by the
values.

With a_j the column of token j after the softmax, and c_j the bent column, the output of the block becomes
out' = g out + sum_j (c_j - g a_j) v_j, where g divides every row by its sum after each renormalising bend. Without
renormalisation g is 1, and only the bent columns are needed. A renormalised row with little attention left would
amplify the rounding of `out`: with renormalisation, the output is recomputed from all columns instead.

If all tokens and the padding are bent by linear transforms, T(A) V = T(A V): the output itself is transformed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wantui.controls.attention_bending import BENT_MAP_BYTES, OUTPUT_CHUNK_BYTES, BendRequest
from wantui.generation import kernels
from wantui.generation.cross_attention_softmax import MAX_FUSED_COLUMNS, compute_softmax_rows
from wantui.generation.map_warps import MapWarp, build_warp

MIN_ROW_SUM = 0.05
"""Smallest divisor of a renormalised row: rows with a smaller sum are not scaled up further."""


@dataclass(frozen=True)
class ResolvedBend:
    """A bend of one pass, with the text positions of its words."""

    request: BendRequest
    tokens: tuple[int, ...]
    """Text positions of the words, rising, without padding."""
    bends_all: bool
    """True if every token and the padding are bent."""
    active_evaluations: tuple[bool, ...]

    def acts_on(self, block_index: int) -> bool:
        return self.request.blocks is None or block_index in self.request.blocks


@dataclass(frozen=True)
class TextColumns:
    """Layout of the text in the attention of one block."""

    column_count: int
    """Number of columns; the last one also represents all later positions."""
    token_count: int
    """Number of tokens including the end token; later columns are padding."""
    added_logits: Tensor | None = None
    """[columns] float32, logarithms of word weights."""


@dataclass(frozen=True)
class _BentHeads:
    """The bent columns of some heads."""

    heads: slice
    columns: Tensor
    """[columns] int64, indices of the columns."""
    original: Tensor
    """[columns, heads, positions] float32, a."""
    bent: Tensor
    """[columns, heads, positions] float32, c."""
    row_factor: Tensor | None
    """[heads, positions] float32, g; None without renormalisation."""


class BlockBender:
    """Bends the cross-attention of blocks whose positions form a grid.

    Args:
        position_grid: number of positions along frames, height and width.
    """

    def __init__(self, position_grid: tuple[int, int, int]) -> None:
        self.position_grid = position_grid
        self._warps: dict[tuple[object, ...], MapWarp] = {}
        self._index_tensors: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        """Indices on a device: a copy from the host at every block would wait for the GPU each time."""

    def bend_block(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        bends: Sequence[ResolvedBend],
        text: TextColumns,
        *,
        collects_maps: bool = False,
        keeps_heads: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the bent output of one block and, on request, the bent attention.

        Args:
            query: [1, positions, heads, dim]. key, value: [1, 512, heads, dim], as the kernel gets them.
            output: [1, positions, heads x dim], output of the kernel, with word weights applied.
            bends: bends in the order of application.
            collects_maps: also return the bent attention.
            keeps_heads: return it of every head instead of the mean.

        Returns:
            output like `output`; attention [heads | 1, positions, columns] float32 or None
        """
        warps_output = all(bend.bends_all and bend.request.transform.is_linear for bend in bends)
        bent_output = self._warp_output(output, bends) if warps_output else torch.empty_like(output)
        if warps_output and not collects_maps:
            return bent_output, None
        maps: list[Tensor] = []
        for bent_heads in self._bend_columns(query, key, bends, text):
            if not warps_output and bent_heads.row_factor is None:
                _correct_output(output, value, bent_heads, bent_output)
            elif not warps_output:
                _recompute_output(query, key, value, bent_heads, text, bent_output)
            if collects_maps:
                chunks = [p for _, p in _compute_bent_rows(query, key, bent_heads, text)]
                maps.append(torch.cat(chunks, 1) if keeps_heads else torch.cat([p.sum(0) for p in chunks])[None])
        if not collects_maps:
            return bent_output, None
        return bent_output, torch.cat(maps) if keeps_heads else torch.stack(maps).sum(0) / query.shape[2]

    def _bend_columns(
        self, query: Tensor, key: Tensor, bends: Sequence[ResolvedBend], text: TextColumns
    ) -> Iterator[_BentHeads]:
        """Yield the bent columns of consecutive groups of heads."""
        columns = tuple(sorted({column for bend in bends for column in _list_columns(bend, text)}))
        position_count, head_count = query.shape[1:3]
        group_size = max(1, BENT_MAP_BYTES // (4 * position_count * len(columns)))
        column_indices = self._find_index_tensor(columns, query.device)
        for first_head in range(0, head_count, group_size):
            heads = slice(first_head, min(first_head + group_size, head_count))
            original = _compute_columns(query[:, :, heads], key[:, :, heads], column_indices, text)
            bent, row_factor = self._bend_in_order(original, columns, bends, text)
            yield _BentHeads(heads, column_indices, original, bent, row_factor)

    def _bend_in_order(
        self, original: Tensor, columns: tuple[int, ...], bends: Sequence[ResolvedBend], text: TextColumns
    ) -> tuple[Tensor, Tensor | None]:
        """Return the columns [columns, heads, positions] after all bends, and the factor of the other columns."""
        bent, row_factor = original.clone(), None
        row_sum = torch.ones_like(original[0]) if any(bend.request.renormalise for bend in bends) else None
        index_by_column = {column: index for index, column in enumerate(columns)}
        for bend in bends:
            indices = self._find_index_tensor(
                tuple(index_by_column[column] for column in _list_columns(bend, text)), original.device
            )
            former = bent.index_select(0, indices)
            blended = self._blend(bend, former)
            bent.index_copy_(0, indices, blended)
            if row_sum is None:
                continue
            row_sum += (blended - former).sum(0)
            if bend.request.renormalise:
                divisor = row_sum.clamp_min(MIN_ROW_SUM)
                bent /= divisor
                row_sum /= divisor
                row_factor = 1 / divisor if row_factor is None else row_factor / divisor
        return bent, row_factor

    def _blend(self, bend: ResolvedBend, maps: Tensor) -> Tensor:
        """Return a + strength (T(a) - a) of maps [..., positions]."""
        warp = self._find_warp(bend.request, maps.device, maps.dtype)
        bent_maps = warp(maps.unflatten(-1, self.position_grid)).flatten(-3)
        strength = bend.request.strength
        return bent_maps if strength == 1 else maps + strength * (bent_maps - maps)

    def _warp_output(self, output: Tensor, bends: Sequence[ResolvedBend]) -> Tensor:
        """Return the output with every channel transformed like a map."""
        channels = output[0].T  # [heads x dim, positions]
        row_sum = torch.ones(1, output.shape[1], device=output.device, dtype=torch.float32)
        divisors: list[Tensor | None] = []
        for bend in bends:
            row_sum = self._blend(bend, row_sum)
            divisors.append(row_sum.clamp_min(MIN_ROW_SUM) if bend.request.renormalise else None)
            if (divisor := divisors[-1]) is not None:
                row_sum = row_sum / divisor
        bent_output = torch.empty_like(output)
        chunk_size = max(1, OUTPUT_CHUNK_BYTES // (4 * output.shape[1]))
        for chunk_index, chunk in enumerate(channels.split(chunk_size)):
            bent_chunk = chunk.float().contiguous()
            for bend, divisor in zip(bends, divisors, strict=True):
                bent_chunk = self._blend(bend, bent_chunk)
                if divisor is not None:
                    bent_chunk = bent_chunk / divisor
            first_channel = chunk_index * chunk_size
            bent_output[0, :, first_channel : first_channel + len(chunk)] = bent_chunk.T.to(output.dtype)
        return bent_output

    def _find_index_tensor(self, indices: tuple[int, ...], device: torch.device) -> Tensor:
        if (indices, device) not in self._index_tensors:
            self._index_tensors[indices, device] = torch.tensor(indices, device=device)
        return self._index_tensors[indices, device]

    def _find_warp(self, request: BendRequest, device: torch.device, dtype: torch.dtype) -> MapWarp:
        warp_key = (request.transform, request.border, device, dtype)
        if warp_key not in self._warps:
            _, height, width = self.position_grid
            self._warps[warp_key] = build_warp(request.transform, request.border, height, width, device, dtype)
        return self._warps[warp_key]


def _list_columns(bend: ResolvedBend, text: TextColumns) -> list[int]:
    """Return the columns of a bend in a block."""
    padding = range(text.token_count, text.column_count) if bend.request.padding else ()
    return [*bend.tokens, *padding]


def _can_use_kernels(query: Tensor, text: TextColumns) -> bool:
    return text.column_count <= MAX_FUSED_COLUMNS and kernels.can_use_kernels(query)


def _compute_columns(query: Tensor, key: Tensor, columns: Tensor, text: TextColumns) -> Tensor:
    """Return columns of the softmax, [columns, heads, positions] float32."""
    if _can_use_kernels(query, text):
        from wantui.generation.kernels.bending import run_softmax_columns_kernel

        return run_softmax_columns_kernel(query, key, text.column_count, columns, text.added_logits)
    position_count, head_count = query.shape[1:3]
    result = torch.empty(len(columns), head_count, position_count, device=query.device, dtype=torch.float32)
    for rows, p in compute_softmax_rows(query, key, text.column_count, text.added_logits):
        result[:, :, rows] = p.index_select(2, columns).permute(2, 0, 1)
    return result


def _compute_bent_rows(
    query: Tensor, key: Tensor, bent_heads: _BentHeads, text: TextColumns
) -> Iterator[tuple[slice, Tensor]]:
    """Yield consecutive positions and their bent attention [heads, positions, columns] float32."""
    heads = bent_heads.heads
    for rows, p in compute_softmax_rows(query[:, :, heads], key[:, :, heads], text.column_count, text.added_logits):
        if bent_heads.row_factor is not None:
            p *= bent_heads.row_factor[:, rows, None]
        p.index_copy_(2, bent_heads.columns, bent_heads.bent[:, :, rows].permute(1, 2, 0).contiguous())
        yield rows, p


def _recompute_output(
    query: Tensor, key: Tensor, value: Tensor, bent_heads: _BentHeads, text: TextColumns, bent_output: Tensor
) -> None:
    """Write the output of some heads, computed from all columns, into `bent_output`."""
    heads = bent_heads.heads
    if _can_use_kernels(query, text):
        from wantui.generation.kernels.bending import run_renormalised_output_kernel

        assert bent_heads.row_factor is not None
        run_renormalised_output_kernel(
            query[:, :, heads],
            key[:, :, heads],
            value[:, :, heads],
            text.column_count,
            bent_heads.columns,
            text.added_logits,
            bent_heads.bent.contiguous(),
            bent_heads.row_factor.contiguous(),
            bent_output,
            heads.start,
        )
        return
    value_columns = value[0, : text.column_count, heads].float().movedim(0, 1)
    output_by_head = bent_output[0].unflatten(1, (value.shape[2], -1))
    for rows, p in _compute_bent_rows(query, key, bent_heads, text):
        output_by_head[rows, heads] = torch.bmm(p, value_columns).movedim(0, 1).to(bent_output.dtype)


def _correct_output(output: Tensor, value: Tensor, bent_heads: _BentHeads, bent_output: Tensor) -> None:
    """Write out + sum_j (c_j - a_j) v_j of some heads into `bent_output`."""
    heads = bent_heads.heads
    change = bent_heads.bent - bent_heads.original
    values = value[0, :, heads].index_select(0, bent_heads.columns)  # [columns, heads, dim]
    if kernels.can_use_kernels(output):
        from wantui.generation.kernels.bending import run_output_correction_kernel

        run_output_correction_kernel(output.contiguous(), values.contiguous(), change, bent_output, heads.start)
        return
    values = values.float().movedim(0, 1)
    former_by_head, output_by_head = (each[0].unflatten(1, (value.shape[2], -1)) for each in (output, bent_output))
    chunk_rows = max(1, OUTPUT_CHUNK_BYTES // (4 * values.shape[0] * values.shape[2]))
    for first_row in range(0, bent_output.shape[1], chunk_rows):
        rows = slice(first_row, first_row + chunk_rows)
        output_chunk = former_by_head[rows, heads].float().movedim(1, 0)
        output_chunk = torch.baddbmm(output_chunk, change[:, :, rows].permute(1, 2, 0), values)
        output_by_head[rows, heads] = output_chunk.movedim(0, 1).to(bent_output.dtype)
