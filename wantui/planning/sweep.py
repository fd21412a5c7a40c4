"""Cells of a sweep: every combination of the values of its axes, with the settings of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from pydantic import ValidationError

from wantui.config.setting_paths import SettingPath, find_sweepable_setting
from wantui.config.settings import Settings
from wantui.config.sweep import (
    SweepAxis,
    apply_swept_values,
    format_value_labels,
    make_axis_names,
    remove_swept_items,
    replace_section_values,
    resolve_sweep_axes,
)
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.json_files import describe_first_validation_error
from wantui.section import ConfigSection

BASELINE_LABEL = "baseline"
"""Label of an additional baseline row."""


@dataclass(frozen=True)
class SweepCell:
    """One combination of values."""

    values: Mapping[str, Any]
    """Value of each swept setting by its path, in the order of the axes; empty for an additional baseline row."""
    label: str
    """Short text for people, such as "cfg_scale 4, steps 20"; distinct within the sweep."""
    positions: tuple[int, ...]
    """Index into the values of each axis; empty for an additional baseline row."""
    is_baseline: bool = False
    """True if the sweep requests a baseline, and the cell has the config's own values or gives the same videos."""


@dataclass(frozen=True)
class SkippedCell:
    """A combination that is left out, and why."""

    cell: SweepCell
    reason: str


@dataclass(frozen=True)
class Sweep:
    """A sweep: the third axis of a batch, besides variations and seeds."""

    axes: tuple[SweepAxis, ...]
    cells: tuple[SweepCell, ...]
    """Cells in order: the baseline, then the product of the axes; the last axis changes fastest."""
    skipped_cells: tuple[SkippedCell, ...] = ()

    @property
    def name_by_path(self) -> dict[str, str]:
        """Return the short name of each swept setting, distinct within the sweep."""
        return make_axis_names(self.axes)


class CellError(UserError):
    """Raised for a cell whose values its settings do not accept; the message names the setting."""


@dataclass
class CellSettingsBuilder:
    """Builder of the cells' settings; equal sections are validated once and shared."""

    settings: Settings
    axes: tuple[SweepAxis, ...]
    _section_by_key: dict[tuple[str, tuple[int, ...]], ConfigSection | str] = field(default_factory=dict)

    def build_settings(self, cell: SweepCell) -> Settings:
        """Return the settings of a cell.

        Raises:
            CellError: a section does not accept the values.
        """
        if not cell.positions:
            try:
                return remove_swept_items(self.settings, self.axes)
            except ValidationError as error:
                raise CellError(describe_first_validation_error(error)) from None
        changes_by_section: dict[str, list[tuple[int, int, SettingPath]]] = {}
        for axis_index, (axis, position) in enumerate(zip(self.axes, cell.positions, strict=True)):
            for setting in axis.settings:
                changes_by_section.setdefault(setting.section, []).append((axis_index, position, setting))
        update: dict[str, ConfigSection] = {}
        for name, changes in changes_by_section.items():
            key = name, tuple(position for _, position, _ in changes)
            if key not in self._section_by_key:
                self._section_by_key[key] = self._validate_section(name, [setting for *_, setting in changes], cell)
            section = self._section_by_key[key]
            if isinstance(section, str):
                raise CellError(section)
            update[name] = section
        return self.settings.model_copy(update=update)

    def _validate_section(
        self, name: str, swept_settings: Sequence[SettingPath], cell: SweepCell
    ) -> ConfigSection | str:
        """Return a section with the values of a cell, or the reason why it does not accept them."""
        values = [(setting, cell.values[setting.path]) for setting in swept_settings]
        try:
            return replace_section_values(getattr(self.settings, name), values)
        except ValidationError as error:
            return f"{name}.{describe_first_validation_error(error)}"


def list_sweep_cells(axes: tuple[SweepAxis, ...], has_baseline: bool) -> list[SweepCell]:
    """Return all cells of a sweep in order."""
    name_by_path = make_axis_names(axes)
    texts = [_label_positions(axis, name_by_path) for axis in axes]
    cells = [SweepCell({}, BASELINE_LABEL, (), is_baseline=True)] if has_baseline else []
    for positions in product(*(range(len(axis.values)) for axis in axes)):
        values = {
            path: value
            for axis, position in zip(axes, positions, strict=True)
            for path, value in zip(axis.paths, axis.values[position], strict=True)
        }
        label = ", ".join(texts[index][position] for index, position in enumerate(positions))
        cells.append(SweepCell(values, label, positions))
    counts = Counter(cell.label for cell in cells)
    return [  # long texts may be shortened to the same label
        cell if counts[cell.label] == 1 else replace(cell, label=f"{cell.label} #{number}")
        for number, cell in enumerate(cells)
    ]


def _label_positions(axis: SweepAxis, name_by_path: Mapping[str, str]) -> list[str]:
    """Return the text of each position on an axis, such as "width 64, height 64"."""
    columns = [
        [f"{name_by_path[path]} {label}" for label in format_value_labels(values)]
        for path, values in zip(axis.paths, zip(*axis.values, strict=True), strict=True)
    ]
    return [", ".join(texts) for texts in zip(*columns, strict=True)]


def merge_cell_texts(texts_by_label: Mapping[str, Sequence[str]], cell_count: int) -> list[str]:
    """Return the distinct texts of cells, each after the label of its cells, unless all `cell_count` cells share it."""
    labels_by_text: dict[str, list[str]] = {}
    for label, texts in texts_by_label.items():
        for text in dict.fromkeys(texts):
            labels_by_text.setdefault(text, []).append(label)
    return [
        text if len(labels) == cell_count else f"{_format_labels(labels)}: {text}"
        for text, labels in labels_by_text.items()
    ]


def _format_labels(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return labels[0]
    return f"{labels[0]} and {format_count(len(labels) - 1, 'more cell')}"


def extract_cell_settings(settings: Settings, cell_values: Mapping[str, Any], seed: int) -> Settings:
    """Return the settings of a batch with only one cell and one seed, without the sweep.

    Args:
        cell_values: value of each swept setting by its path; empty for a batch without a sweep, and for the additional
            baseline row.

    Raises:
        SweepError: a path is not a setting.
        ValidationError: the settings do not accept the values.
    """
    axes = resolve_sweep_axes(settings)
    if cell_values:
        values = [(find_sweepable_setting(settings, path), value) for path, value in cell_values.items()]
        settings = apply_swept_values(settings, values)
    else:
        settings = remove_swept_items(settings, axes)
    return settings.model_copy(
        update={
            "seeds": None,
            "sweeps": None,
            "sweeps_baseline": False,
            "sweeps_skip_impossible": False,
            "videos_per_variation": 1,
            "model_settings": settings.model_settings.model_copy(update={"seed": seed}),
        }
    )
