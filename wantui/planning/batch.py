"""Planning of a batch: the recipes of all videos of a template under a config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from wantui.config import Config
from wantui.config.settings import Settings
from wantui.config.sweep import SweepAxis, resolve_sweep_axes
from wantui.config.sweep_syntax import SweepError
from wantui.models.catalogue import WanModel, find_model
from wantui.planning.batch_checks import find_duplicate_prompt_warnings
from wantui.planning.cells import PlannedCell, plan_cells
from wantui.planning.recipe import Recipe
from wantui.planning.recipe_builder import PlanError, parse_setting_path
from wantui.planning.sweep import SkippedCell, Sweep, merge_cell_texts
from wantui.planning.variations import expand_variations
from wantui.prompts import Variation, parse_template


@dataclass(frozen=True)
class PlannedVideo:
    """One video of a batch; `variation_index` counts variations from 0, and `seed_number` counts seeds from 1."""

    variation_index: int
    seed_number: int
    recipe: Recipe
    cell_index: int | None = None
    """Index of its cell in the sweep; None without a sweep."""


@dataclass(frozen=True)
class BatchPreview:
    """Summary of a batch without a recipe for every video, sufficient for showing content and cost."""

    template: str
    config: Config
    model: WanModel
    variations: tuple[Variation, ...]
    cells: tuple[PlannedCell, ...]
    """Cells of the sweep in order; without a sweep, one cell that is the whole batch."""
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]
    """Reasons why this version cannot run the batch, although it can be previewed."""
    sweep: Sweep | None = None

    @property
    def first_recipe(self) -> Recipe:
        """Recipe of the first video.

        Videos of a cell differ in prompt, marks, weighting and seed; cells differ in what the sweep changes.
        """
        return next(cell.first_recipe for cell in self.cells if cell.first_recipe is not None)

    @property
    def possible_cells(self) -> tuple[PlannedCell, ...]:
        """Return the cells that have a recipe."""
        return tuple(cell for cell in self.cells if cell.first_recipe is not None)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of each variation and cell."""
        return self.config.settings.seed_list

    @property
    def video_count(self) -> int:
        return len(self.variations) * len(self.cells) * len(self.seeds)


@dataclass(frozen=True)
class Batch(BatchPreview):
    """A batch with the recipes of all its videos, in the order of rendering."""

    videos: tuple[PlannedVideo, ...] = ()


def preview_batch(config: Config, template: str) -> BatchPreview:
    """Expand a template under a config and check the result, for every cell of its sweep.

    Raises:
        UserError: the template does not parse or has too many variations, the model is unknown, or a size or seed is
            invalid; with a sweep, a size only if no cell has a valid one.
    """
    settings = config.settings
    parsed_template = parse_template(template)
    try:
        axes = resolve_sweep_axes(settings)
    except SweepError as error:
        raise PlanError(f"sweeps: {error}") from None
    variations, schedule_warnings = expand_variations(parsed_template, settings, _count_cells(settings, axes))
    parse_setting_path("output_dir", settings.output_dir)
    model = find_model(settings.model_settings.model_id)
    cells = plan_cells(settings, model, parsed_template, variations, axes)
    cells, skipped_cells = _skip_impossible_cells(cells, settings)
    refusals = merge_cell_texts({cell.label: cell.refusals for cell in cells}, len(cells))
    if not any(cell.first_recipe is not None for cell in cells):
        separator = "\n  " if len(refusals) > 1 else " "
        raise PlanError("no cell of the sweep can be generated:" + separator + separator.join(refusals))
    warnings = [
        *map(str, config.warnings),
        *parsed_template.warnings,
        *schedule_warnings,
        *find_duplicate_prompt_warnings(variations),
        *merge_cell_texts({cell.label: cell.warnings for cell in cells}, len(cells)),
        *_format_skipped_cells(skipped_cells, len(cells) + len(skipped_cells)),
    ]
    sweep = None
    if axes:
        sweep = Sweep(axes, tuple(cell.cell for cell in cells if cell.cell is not None), tuple(skipped_cells))
    return BatchPreview(
        template,
        config,
        model,
        variations,
        tuple(cells),
        tuple(warnings),
        (*map(str, config.refusals), *refusals),
        sweep,
    )


def _count_cells(settings: Settings, axes: Sequence[SweepAxis]) -> int:
    return prod(len(axis.values) for axis in axes) + (1 if axes and settings.sweeps_baseline else 0)


def _skip_impossible_cells(
    cells: Sequence[PlannedCell], settings: Settings
) -> tuple[list[PlannedCell], list[SkippedCell]]:
    """Return the cells to generate, and the impossible cells that are left out at the request of the settings.

    A refusal that all cells share refuses the batch.
    """
    if not settings.sweeps_skip_impossible or all(cell.refusals for cell in cells):
        return list(cells), []
    kept_cells = [cell for cell in cells if not cell.refusals]
    skipped_cells = [
        SkippedCell(cell.cell, "; ".join(cell.refusals)) for cell in cells if cell.refusals and cell.cell is not None
    ]
    return kept_cells, skipped_cells


def plan_batch(config: Config, template: str) -> Batch:
    """Plan all videos of a template under a config, in the order of variations, cells, then seeds.

    Cells that need another loaded pipeline come after all videos of the cells before them, so that it is loaded once.
    Video k of every variation and cell has the same seed, hence the same initial noise.

    Raises:
        UserError: as for `preview_batch`, or a cell of the sweep cannot be planned.
    """
    preview = preview_batch(config, template)
    if len(preview.possible_cells) < len(preview.cells):
        raise PlanError("cannot generate this batch:\n  " + "\n  ".join(preview.refusals))
    values_by_cell = [dict(cell.recipe) for cell in preview.cells]
    videos = tuple(
        PlannedVideo(
            variation_index,
            seed_number,
            Recipe(**values_by_cell[cell_index] | variation_values | {"seed": seed}),
            None if cell.cell is None else cell_index,
        )
        for cells in _group_cells_by_pipeline(preview.cells)
        for variation_index in range(len(preview.variations))
        for cell_index, cell in cells
        for variation_values in (cell.build_variation_values(variation_index),)
        for seed_number, seed in enumerate(preview.seeds, 1)
    )
    return Batch(**{**vars(preview), "videos": videos})


def _group_cells_by_pipeline(cells: Sequence[PlannedCell]) -> list[list[tuple[int, PlannedCell]]]:
    """Return the cells with their indices, grouped by the loaded pipeline and memory plan that they need."""
    groups: dict[tuple[object, ...], list[tuple[int, PlannedCell]]] = {}
    for index, cell in enumerate(cells):
        recipe = cell.recipe
        key = recipe.source.identity, recipe.speed, recipe.width, recipe.height, recipe.frames
        groups.setdefault(key, []).append((index, cell))
    return list(groups.values())


def drop_cells(batch: Batch, reason_by_label: Mapping[str, str]) -> Batch:
    """Return a batch without some cells of its sweep, with a warning for each reason.

    Args:
        reason_by_label: why each cell is left out, by its label.
    """
    assert batch.sweep is not None
    kept_indices = [index for index, cell in enumerate(batch.cells) if cell.label not in reason_by_label]
    new_index_by_index = {index: new_index for new_index, index in enumerate(kept_indices)}
    skipped_cells = [
        SkippedCell(cell, reason_by_label[cell.label]) for cell in batch.sweep.cells if cell.label in reason_by_label
    ]
    return replace(
        batch,
        cells=tuple(batch.cells[index] for index in kept_indices),
        sweep=replace(
            batch.sweep,
            cells=tuple(batch.sweep.cells[index] for index in kept_indices),
            skipped_cells=(*batch.sweep.skipped_cells, *skipped_cells),
        ),
        videos=tuple(
            replace(video, cell_index=new_index_by_index[video.cell_index])
            for video in batch.videos
            if video.cell_index in new_index_by_index
        ),
        warnings=(*batch.warnings, *_format_skipped_cells(skipped_cells, len(batch.cells))),
    )


def _format_skipped_cells(skipped_cells: Sequence[SkippedCell], cell_count: int) -> list[str]:
    texts_by_label = {skipped.cell.label: (f"left out: {skipped.reason}",) for skipped in skipped_cells}
    return merge_cell_texts(texts_by_label, cell_count)
