"""Compose a new batch from chosen videos of a batch: their variations, cells and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from wantui.config.settings import Settings
from wantui.config.sweep import resolve_sweep_axes
from wantui.config.sweep_syntax import format_seeds, format_sweep_value
from wantui.controls.marked_prompt import MarkedPrompt
from wantui.controls.prompt_schedule import PROMPT_SCHEDULE, SECTION_KEY, PromptScheduleSettings, split_schedule
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.planning.recipe import Recipe
from wantui.planning.recipe_builder import convert_to_prompt_marks
from wantui.planning.sweep import extract_cell_settings
from wantui.planning.variations import expand_variations
from wantui.prompts import ScheduledPrompt, TemplateError, Variation, parse_template
from wantui.prompts.unparse import MarkSpan, format_prompts_as_template
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.manifest_sweep import CellEntry, SweepEntry

Prompts = tuple[MarkedPrompt, ...]
"""Initial prompt, then the prompts of the prompt schedule."""


@dataclass(frozen=True)
class RecomposedBatch:
    """Settings and template of a new batch that contains the chosen videos."""

    settings: Settings
    template: str
    note: str
    """Note on videos that the batch generates in addition to the chosen videos, and why; empty without such videos."""


def recompose_batch(settings: Settings, manifest: Manifest, entries: Sequence[VideoEntry]) -> RecomposedBatch:
    """Return a batch with only the variations, cells and seeds of some videos.

    Args:
        settings: settings of these videos' batch.

    Raises:
        UserError: a prompt schedule or a swept value cannot be written for these videos alone.
    """
    seeds = sorted({entry.seed: entry.number for entry in entries}.items(), key=lambda item: item[1])
    cells = [] if manifest.sweep is None else [manifest.sweep.cells[i] for i in sorted(_list_cell_indices(entries))]
    first_seed = seeds[0][0]
    if len(cells) > 1:
        assert manifest.sweep is not None
        new_settings = _restrict_sweep_to_cells(settings, manifest.sweep, cells)
    else:
        new_settings = extract_cell_settings(settings, cells[0].values if cells else {}, first_seed)
    new_settings = new_settings.model_copy(
        update={
            "seeds": format_seeds([seed for seed, _ in seeds]) if len(seeds) > 1 else None,
            "videos_per_variation": len(seeds),
            "model_settings": new_settings.model_settings.model_copy(update={"seed": first_seed}),
        }
    )
    template, new_settings, variation_count = _restrict_to_variations(new_settings, manifest, entries)
    counts = [variation_count, max(1, len(cells)), len(seeds)]
    return RecomposedBatch(new_settings, template, _describe_added_videos(counts, entries))


def _list_cell_indices(entries: Sequence[VideoEntry]) -> set[int]:
    return {entry.cell for entry in entries if entry.cell is not None}


def _describe_added_videos(counts: Sequence[int], entries: Sequence[VideoEntry]) -> str:
    """Return how many videos the product of the variations, cells and seeds adds."""
    added_count = prod(counts) - len({entry.recipe.digest for entry in entries})
    if added_count <= 0:
        return ""
    nouns = ("variation", "cell of the sweep", "seed")
    kinds = [noun for noun, count in zip(nouns, counts, strict=True) if count > 1]
    return (
        f"The new batch has {prod(counts)} videos, {added_count} more than the {len(entries)} selected videos, because "
        f"it combines every {', every '.join(kinds)}."
    )


# Cells


def _restrict_sweep_to_cells(settings: Settings, sweep: SweepEntry, cells: Sequence[CellEntry]) -> Settings:
    """Return the settings with a sweep that has only these cells.

    Axes stay separate if the cells are a complete grid; otherwise all settings change together.
    """
    swept_cells = [cell for cell in cells if cell.positions]
    used_positions = [
        list(dict.fromkeys(sorted(cell.positions[axis] for cell in swept_cells))) for axis in range(len(sweep.axes))
    ]
    if prod(map(len, used_positions)) == len(swept_cells):
        axis_texts = [
            "+".join(
                _format_axis_setting(path, [axis.values[position][index] for position in positions])
                for index, path in enumerate(axis.paths)
            )
            for axis, positions in zip(sweep.axes, used_positions, strict=True)
        ]
    else:
        paths = [path for axis in sweep.axes for path in axis.paths]
        axis_texts = [
            "+".join(_format_axis_setting(path, [cell.values[path] for cell in swept_cells]) for path in paths)
        ]
    update = {"sweeps": "; ".join(axis_texts), "sweeps_baseline": any(cell.baseline for cell in cells)}
    new_settings = settings.model_copy(update=update)
    read_values = {
        path: column
        for axis in resolve_sweep_axes(new_settings)
        for path, column in zip(axis.paths, zip(*axis.values, strict=True), strict=True)
    }
    for cell in swept_cells:
        for path, value in cell.values.items():
            if value not in read_values.get(path, ()):
                raise UserError(f"{path} {value!r} cannot be written in a sweep. Select only videos of one cell")
    return new_settings


def _format_axis_setting(path: str, values: Sequence[Any]) -> str:
    return f"{path}={','.join(map(format_sweep_value, values))}"


# Variations


def _restrict_to_variations(
    settings: Settings, manifest: Manifest, entries: Sequence[VideoEntry]
) -> tuple[str, Settings, int]:
    """Return the template and settings that expand to the variations of some videos, and the number of variations.

    Raises:
        UserError: the prompt schedule cannot be written for these variations.
    """
    entry_by_variation = {entry.variation: entry for entry in sorted(entries, key=lambda entry: entry.variation)}
    wanted = [_list_prompts(entry.recipe) for entry in entry_by_variation.values()]
    schedule_settings: PromptScheduleSettings = getattr(settings, SECTION_KEY)
    if len(entry_by_variation) == len(manifest.variations) > 1 and (
        _is_schedule_swept(manifest, entries) or _expand_prompts(settings, manifest.template) == wanted
    ):
        return manifest.template, settings, len(wanted)
    if _is_schedule_swept(manifest, entries):
        raise UserError(
            f"{SECTION_KEY} differs between their cells. Select only videos of one cell, or videos of all variations"
        )
    wanted = list(dict.fromkeys(wanted))
    template, *later_templates = [
        format_prompts_as_template([(marked.prompt, _list_spans(marked)) for marked in column])
        for column in zip(*wanted, strict=True)
    ]
    if schedule_settings.active_schedule:
        moments = split_schedule({moment: moment for moment in schedule_settings.schedule})[2]
        schedule = dict(zip(moments, later_templates, strict=True))
        schedule_settings = schedule_settings.model_copy(update={"schedule": schedule})
        settings = settings.model_copy(update={SECTION_KEY: schedule_settings})
    if _expand_prompts(settings, template) != wanted:
        remedy = "Select only videos of one variation, or videos of all variations"
        reason = "brackets of their prompt schedule vary separately" if later_templates else "cleaning changes them"
        raise UserError(
            f"no template has these {format_count(len(wanted), 'prompt')} and no others, because {reason}. {remedy}"
        )
    return template, settings, len(wanted)


def _is_schedule_swept(manifest: Manifest, entries: Sequence[VideoEntry]) -> bool:
    """Return whether the videos belong to cells with different prompts."""
    if manifest.sweep is None or len(_list_cell_indices(entries)) < 2:
        return False
    paths = [path for axis in manifest.sweep.axes for path in axis.paths]
    return any(path.startswith(f"{SECTION_KEY}.") and not path.endswith(".interpolation") for path in paths)


def _list_prompts(recipe: Recipe) -> Prompts:
    request = recipe.find_control_request(PROMPT_SCHEDULE.name)
    later_prompts = () if request is None else PROMPT_SCHEDULE.list_prompts(request)
    return MarkedPrompt(prompt=recipe.prompt, marks=recipe.marks), *later_prompts


def _list_spans(marked_prompt: MarkedPrompt) -> list[MarkSpan]:
    return [(mark.start, mark.end, mark.weight) for mark in marked_prompt.marks]


def _expand_prompts(settings: Settings, template: str) -> list[Prompts] | None:
    """Return the prompts of each of a template's variations; None if the template cannot be expanded."""
    try:
        variations, _ = expand_variations(parse_template(template), settings, cell_count=1)
    except TemplateError:
        return None
    return [_collect_marked_prompts(variation) for variation in variations]


def _collect_marked_prompts(variation: Variation) -> Prompts:
    parts: list[Variation | ScheduledPrompt] = [variation, *variation.scheduled_prompts]
    return tuple(MarkedPrompt(prompt=part.prompt, marks=convert_to_prompt_marks(part)) for part in parts)
