"""Plan the cells of a batch: the recipe of each, and the reasons why some cannot be generated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from wantui.config.settings import Settings
from wantui.config.sweep import SweepAxis, resolve_sweep_axes
from wantui.controls.guidance_schedule import GUIDANCE_SCHEDULE
from wantui.controls.prompt_schedule import SECTION_KEY, SETTING_KEY, PromptScheduleSettings
from wantui.errors import UserError
from wantui.models.catalogue import WanModel
from wantui.planning.batch_checks import (
    describe_altered_trajectory,
    find_cell_refusals,
    find_control_warnings,
    find_settings_warnings,
    find_shared_refusals,
    find_size_warnings,
    list_control_words,
)
from wantui.planning.guidance_checks import check_guidance, find_guidance_warnings
from wantui.planning.guidance_plan import plan_guidance, uses_unconditional_pass
from wantui.planning.recipe import Recipe
from wantui.planning.recipe_builder import (
    PlanError,
    RecipeBuilder,
    build_variation_values,
    choose_weighting_method,
)
from wantui.planning.sizes import check_video_size, resolve_frame_count
from wantui.planning.sweep import CellSettingsBuilder, SweepCell, list_sweep_cells, merge_cell_texts
from wantui.planning.token_checks import TokenChecks, check_prompt_tokens
from wantui.planning.variations import expand_variations
from wantui.prompts import Template, Variation


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a batch; a batch without a sweep has a single cell, whose `cell` is None."""

    cell: SweepCell | None
    settings: Settings
    variations: tuple[Variation, ...]
    """Variations of the batch; variations of a cell with another prompt schedule have other prompts."""
    first_recipe: Recipe | None
    """Recipe of the cell's first video; None if the cell cannot be planned."""
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    """Reasons why the cell cannot be generated."""

    @property
    def label(self) -> str:
        return "" if self.cell is None else self.cell.label

    def build_variation_values(self, variation_index: int) -> dict[str, Any]:
        """Return the fields of the cell's recipes that differ between variations."""
        return build_variation_values(self.variations[variation_index], self.settings, self.recipe.controls)

    @property
    def recipe(self) -> Recipe:
        """Return the first recipe of a cell that can be planned."""
        assert self.first_recipe is not None
        return self.first_recipe


def plan_cells(
    settings: Settings,
    model: WanModel,
    parsed_template: Template,
    variations: Sequence[Variation],
    axes: tuple[SweepAxis, ...],
) -> list[PlannedCell]:
    """Plan all cells of a batch; record the reasons in each cell of a sweep that cannot be planned.

    Raises:
        UserError: without a sweep, a setting is invalid; with one, a setting that all cells share.
    """
    planner = _CellPlanner(settings, model, parsed_template, variations)
    if not axes:
        return [planner.plan_cell(None, settings)]
    planned_cells = []
    settings_builder = CellSettingsBuilder(settings, axes)
    for cell in list_sweep_cells(axes, settings.sweeps_baseline):
        try:
            planned_cells.append(planner.plan_cell(cell, settings_builder.build_settings(cell)))
        except UserError as error:
            planned_cells.append(PlannedCell(cell, settings, (), None, (), tuple(str(error).splitlines())))
    return _find_equal_cells(planned_cells)


@dataclass(frozen=True)
class SettingsProblems:
    """Problems of settings that do not depend on a template."""

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]


def find_settings_problems(settings: Settings, model: WanModel) -> SettingsProblems:
    """Find invalid sizes and values in all cells of the settings; the axes of their sweep must be valid."""
    axes = resolve_sweep_axes(settings)
    cells = list_sweep_cells(axes, settings.sweeps_baseline) if axes else [SweepCell({}, "", ())]
    refusals: dict[str, tuple[str, ...]] = {}
    warnings: dict[str, tuple[str, ...]] = {}
    settings_builder = CellSettingsBuilder(settings, axes)
    for cell in cells:
        try:
            video_settings = settings_builder.build_settings(cell).video_settings
            check_video_size(video_settings, model)
            warnings[cell.label] = tuple(resolve_frame_count(video_settings, model)[1])
        except UserError as error:
            refusals[cell.label] = tuple(str(error).splitlines())
    return SettingsProblems(
        tuple(merge_cell_texts(refusals, len(cells))), tuple(merge_cell_texts(warnings, len(cells)))
    )


def _find_equal_cells(cells: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Refuse cells that give the same videos as another cell.

    An additional baseline with equal cells is dropped instead. One of the cells becomes the baseline: that with the
    same recipe, if there is one.
    """
    indices_by_key: dict[tuple[object, ...], list[int]] = {}
    for index, planned in enumerate(cells):
        if planned.first_recipe is not None and planned.cell is not None:
            indices_by_key.setdefault(_make_videos_key(planned), []).append(index)
    result: dict[int, PlannedCell] = dict(enumerate(cells))
    for kept_index, *indices in indices_by_key.values():
        kept = cells[kept_index]
        assert kept.cell is not None
        if indices and not kept.cell.positions:
            del result[kept_index]
            kept_index = next((index for index in indices if cells[index].recipe == kept.recipe), indices[0])
            kept = cells[kept_index]
            assert kept.cell is not None
            result[kept_index] = replace(kept, cell=replace(kept.cell, is_baseline=True))
        reason = f"it gives the same videos as {kept.label}. Remove one of the values"
        for index in indices:
            if index != kept_index:
                result[index] = replace(cells[index], refusals=(*cells[index].refusals, reason))
    return list(result.values())


def _make_videos_key(planned: PlannedCell) -> tuple[object, ...]:
    """Return a key that cells share if they give the same videos, even if their recipes differ."""
    recipe = planned.recipe
    guidance = [
        (each.source, each.scale if each.source in ("guided", "reused") else None) for each in plan_guidance(recipe)
    ]
    controls = {name: each for name, each in recipe.controls.items() if name != GUIDANCE_SCHEDULE.name}
    update: dict[str, Any] = {"guidance_scale": 0.0, "guidance_scale_2": None, "controls": controls}
    if not uses_unconditional_pass(recipe):
        update["negative_prompt"] = ""
    methods = {choose_weighting_method(variation, planned.settings) for variation in planned.variations}
    return (
        recipe.model_copy(update=update).model_dump_json(),
        tuple((key, len(list(equal))) for key, equal in groupby(guidance)),
        frozenset(methods),
        planned.variations,
    )


class _CellPlanner:
    """Planner of cells that share a model and variations; repeats no check whose inputs are equal."""

    def __init__(
        self, settings: Settings, model: WanModel, parsed_template: Template, variations: Sequence[Variation]
    ) -> None:
        self.model, self.parsed_template, self.variations = model, parsed_template, tuple(variations)
        self.builder = RecipeBuilder(settings, model, variations)
        self._variations_by_schedule = {_format_schedule(settings): self.variations}
        self._token_checks: dict[tuple[str, bool, bool, tuple[str, ...], str], TokenChecks] = {}
        self._shared_checks: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}

    def plan_cell(self, cell: SweepCell | None, settings: Settings) -> PlannedCell:
        """Plan one cell.

        Raises:
            UserError: its size is invalid, or a control cannot be requested.
        """
        check_video_size(settings.video_settings, self.model)
        frame_count, frame_warnings = resolve_frame_count(settings.video_settings, self.model)
        variations = self._expand_variations(settings)
        recipe = self.builder.build_first_recipe(settings, frame_count, variations[0])
        check_guidance(recipe)
        settings_warnings, shared_refusals = self._check_shared_settings(settings, recipe, variations)
        token_checks = self._check_tokens(settings, recipe, variations)
        return PlannedCell(
            cell,
            settings,
            variations,
            recipe,
            (
                *settings_warnings,
                *find_guidance_warnings(settings, recipe),
                *find_control_warnings(recipe),
                *frame_warnings,
                *find_size_warnings(self.model, recipe),
                *token_checks.warnings,
            ),
            (*token_checks.refusals, *find_cell_refusals(settings, self.model, recipe, variations), *shared_refusals),
        )

    def _expand_variations(self, settings: Settings) -> tuple[Variation, ...]:
        """Return the variations with the prompts of the cell's prompt schedule.

        Raises:
            UserError: the schedule is invalid, or would give different variations.
        """
        key = _format_schedule(settings)
        if key not in self._variations_by_schedule:
            variations, _ = expand_variations(self.parsed_template, settings, 1)
            if [v.id for v in variations] != [v.id for v in self.variations]:
                raise PlanError(
                    f"{SETTING_KEY}: this schedule has different brackets from the batch's schedule, and would give "
                    "different variations. Use the same brackets in all schedules, or several batches"
                )
            self._variations_by_schedule[key] = variations
        return self._variations_by_schedule[key]

    def _check_shared_settings(
        self, settings: Settings, recipe: Recipe, variations: tuple[Variation, ...]
    ) -> tuple[list[str], list[str]]:
        """Return the warnings and refusals that many cells share.

        Of the settings that a sweep can change, they depend only on the negative prompt, the speed, the words of
        controls and the prompt schedule.
        """
        key = (
            settings.prompt_settings.negative_prompt,
            settings.model_settings.speed,
            describe_altered_trajectory(settings),
            list_control_words(recipe),
            _format_schedule(settings),
        )
        if key not in self._shared_checks:
            self._shared_checks[key] = (
                find_settings_warnings(settings, self.model, recipe, variations),
                find_shared_refusals(settings, self.model, recipe, variations),
            )
        return self._shared_checks[key]

    def _check_tokens(self, settings: Settings, recipe: Recipe, variations: tuple[Variation, ...]) -> TokenChecks:
        has_weights = any(choose_weighting_method(variation, settings) for variation in variations)
        uses_marks = recipe.capture.attention is not None or has_weights
        uses_negative_prompt, control_words = uses_unconditional_pass(recipe), list_control_words(recipe)
        key = recipe.negative_prompt, uses_marks, uses_negative_prompt, control_words, _format_schedule(settings)
        if key not in self._token_checks:
            self._token_checks[key] = check_prompt_tokens(
                self.model,
                recipe.revision,
                variations,
                recipe.negative_prompt,
                uses_marks=uses_marks,
                uses_negative_prompt=uses_negative_prompt,
                control_words=control_words,
            )
        return self._token_checks[key]


def _format_schedule(settings: Settings) -> str:
    """Return the prompt schedule of a cell as a key."""
    schedule_settings: PromptScheduleSettings = getattr(settings, SECTION_KEY)
    return repr(schedule_settings.active_schedule)
