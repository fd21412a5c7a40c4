"""Axes of a sweep: settings, and the values that they take in the cells of a batch."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from pydantic import ValidationError

from wantui.config.setting_paths import SettingPath, find_sweepable_setting, parse_swept_values
from wantui.config.settings import Settings
from wantui.config.sweep_syntax import SweepError, UnresolvedSetting, parse_sweep_text
from wantui.formatting import format_count, shorten_text
from wantui.section import ConfigSection
from wantui.typed_text import parse_number

MAX_SWEEP_CELLS = 10_000
"""Maximum number of cells in a sweep."""
NO_VALUE_LABEL, EMPTY_TEXT_LABEL = "none", "empty"
"""Labels of a missing value (or an empty list or schedule), and of an empty text."""


@dataclass(frozen=True)
class SweepAxis:
    """Settings that change together, and their values."""

    settings: tuple[SettingPath, ...]
    values: tuple[tuple[Any, ...], ...]
    """For each position on the axis, the value of each setting."""

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(setting.path for setting in self.settings)


def format_axis(names: Sequence[str], values: Iterable[Iterable[Any]]) -> str:
    """Return the settings of an axis, by name, and their values: "cfg_scale+steps 1+10, 4+20".

    Args:
        values: for each position on the axis, the value of each setting.
    """
    return f"{'+'.join(names)} {', '.join('+'.join(map(format_value_label, position)) for position in values)}"


def resolve_sweep_axes(settings: Settings) -> tuple[SweepAxis, ...]:
    """Return the axes of the sweep that the settings request; values have the types of their settings.

    Raises:
        SweepError: a setting is unknown or cannot be swept, a value cannot be read or occurs twice, or there are too
            many cells.
    """
    if settings.sweeps is None:
        if settings.sweeps_baseline:
            raise SweepError("sweeps_baseline adds a row to a sweep, but sweeps is empty. Add a sweep")
        return ()
    axes: list[SweepAxis] = []
    for written_axis in parse_sweep_text(settings.sweeps):
        axes.append(_resolve_axis(settings, written_axis))
        cell_count = prod(len(axis.values) for axis in axes)
        if cell_count > MAX_SWEEP_CELLS:
            raise SweepError(
                f"the sweep has {cell_count:,} cells or more; at most {MAX_SWEEP_CELLS:,} are allowed. Use fewer "
                "values, or join settings with + so that they change together"
            )
    paths = [path for axis in axes for path in axis.paths]
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise SweepError(f"cannot sweep {path} twice. Write all its values in one place")
    return tuple(axes)


def _resolve_axis(settings: Settings, written_axis: Sequence[UnresolvedSetting]) -> SweepAxis:
    swept_settings = tuple(find_sweepable_setting(settings, written.name) for written in written_axis)
    columns: list[list[Any]] = []
    for setting, written in zip(swept_settings, written_axis, strict=True):
        column: list[Any] = []
        for value in written.values:
            column += parse_swept_values(setting, value)
            if len(column) > MAX_SWEEP_CELLS:
                raise SweepError(f"cannot sweep {setting.path}: more than {MAX_SWEEP_CELLS:,} values")
        columns.append([_normalise_value(settings, setting, value) for value in column])
    for setting, column in zip(swept_settings[1:], columns[1:], strict=True):
        if len(column) != len(columns[0]):
            raise SweepError(
                f"cannot join {swept_settings[0].path} and {setting.path}: they have {len(columns[0])} and "
                f"{format_count(len(column), 'value')}. Give both the same number of values, or separate them with a "
                f"semicolon"
            )
    positions = tuple(zip(*columns, strict=True))
    seen_positions: set[str] = set()
    for position in positions:
        key = json.dumps(position, sort_keys=True, default=str)
        if key in seen_positions:
            values_text = ", ".join(format_value_label(value) for value in position)
            raise SweepError(f"cannot sweep {swept_settings[0].path}: {values_text} occurs twice. Remove one")
        seen_positions.add(key)
    return SweepAxis(swept_settings, positions)


def _normalise_value(settings: Settings, setting: SettingPath, value: Any) -> Any:
    """Return a value as the settings store it; leave an invalid value unchanged, so that only its cells are refused."""
    try:
        return get_json_value(apply_swept_values(settings, ((setting, value),)), setting)
    except ValidationError:
        return value


def get_json_value(settings: Settings, setting: SettingPath) -> Any:
    """Return the value of a setting as JSON."""
    section = getattr(settings, setting.section)
    value: Any = section.model_dump(mode="json")
    first_key = str(setting.keys[1])
    if first_key not in value:  # a section may omit a default from its JSON
        return getattr(section, first_key)
    for key in setting.keys[1:]:
        value = value[key]
    return value


def apply_swept_values(settings: Settings, values: Sequence[tuple[SettingPath, Any]]) -> Settings:
    """Return the settings with some values replaced.

    Raises:
        ValidationError: a section does not accept its values.
    """
    values_by_section: dict[str, list[tuple[SettingPath, Any]]] = {}
    for setting, value in values:
        values_by_section.setdefault(setting.section, []).append((setting, value))
    return settings.model_copy(
        update={
            name: replace_section_values(getattr(settings, name), section_values)
            for name, section_values in values_by_section.items()
        }
    )


def replace_section_values(section: ConfigSection, values: Sequence[tuple[SettingPath, Any]]) -> ConfigSection:
    """Return a section with some values replaced, validated as a whole.

    Raises:
        ValidationError: the section does not accept the values.
    """
    document = section.model_dump(mode="json")
    for setting, value in values:
        container: Any = document
        for key in setting.keys[1:-1]:
            container = container[key]
        container[setting.keys[-1]] = value
    return type(section).model_validate(document)


def remove_swept_items(settings: Settings, axes: Sequence[SweepAxis]) -> Settings:
    """Return the settings without the list items that a sweep changes, such as a bend, for its baseline."""
    item_keys = {setting.item_keys for axis in axes for setting in axis.settings if setting.item_keys is not None}
    documents: dict[str, Any] = {}
    for keys in sorted(item_keys, key=lambda keys: int(keys[-1]), reverse=True):  # last first: indices stay valid
        section_name = str(keys[0])
        container = documents.setdefault(section_name, getattr(settings, section_name).model_dump(mode="json"))
        for key in keys[1:-1]:
            container = container[key]
        del container[keys[-1]]
    return settings.model_copy(
        update={name: type(getattr(settings, name)).model_validate(document) for name, document in documents.items()}
    )


def describe_cell_count(count: int, setting_names: Sequence[str], *, has_baseline: bool) -> str:
    """Return the number of sweep cells: "3 values of cfg_scale", or "7 combinations of settings"."""
    if len(setting_names) == 1 and not has_baseline:
        return f"{format_count(count, 'value')} of {setting_names[0]}"
    return format_count(count, "combination of settings", "combinations of settings")


def format_value_label(value: Any) -> str:
    """Return the short text of a value for labels: "none" for a missing value, an empty list or an empty schedule."""
    if value is None:
        return NO_VALUE_LABEL
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return shorten_text(value) or EMPTY_TEXT_LABEL
    if isinstance(value, list):
        names = [str(item["name"]) if isinstance(item, dict) and "name" in item else None for item in value]
        if None not in names:
            return shorten_text(" + ".join(filter(None, names))) or NO_VALUE_LABEL
    if isinstance(value, dict) and not any(isinstance(item, dict | list) for item in value.values()):
        texts = [f"{key}: {format_value_label(item)}" for key, item in value.items()]
        return shorten_text(", ".join(texts)) or NO_VALUE_LABEL
    return shorten_text(json.dumps(value, ensure_ascii=False))


def format_value_labels(values: Sequence[Any]) -> list[str]:
    """Return short texts of one setting's values; for mappings, only what distinguishes them.

    Schedules of one prompt at several moments are named by the moments, and schedules of several prompts at one moment
    by the prompts. Other mappings have their complete text.
    """
    labels = [format_value_label(value) for value in values]
    mappings = [value for value in values if isinstance(value, dict) and value]
    if len(mappings) < 2 or any(not isinstance(value, dict) for value in values if value is not None):
        return labels
    if len({json.dumps(list(value.values())) for value in mappings}) == 1:
        short_labels = [
            ", ".join(map(str, value)) if value else label for value, label in zip(values, labels, strict=True)
        ]
    elif len({tuple(value) for value in mappings}) == 1:
        differing_keys = [key for key in mappings[0] if len({json.dumps(value[key]) for value in mappings}) > 1]
        short_labels = [
            ", ".join(format_value_label(value[key]) for key in differing_keys) if value else label
            for value, label in zip(values, labels, strict=True)
        ]
    else:
        return labels
    # A label must name one value: the text of one schedule can be that of another one's moment.
    return short_labels if len(set(short_labels)) == len(set(labels)) else labels


def split_alternatives(text: str, is_known: Callable[[str], object]) -> list[str]:
    """Return the values that a condition names: its comma-separated parts, or the whole text.

    The whole text is one value if it is known, or if none of its parts is.
    """
    parts = [part.strip() for part in text.split(",")]
    return [text] if is_known(text) or not any(map(is_known, parts)) else parts


def find_matching_value_indices(values: Sequence[Any], text: str) -> list[int]:
    """Return the indices of the values that match a text: by label, or as an equal number (4.0 for 4).

    `empty` also means no value, if there is no empty text.
    """
    indices = [
        index
        for index, (value, label) in enumerate(zip(values, format_value_labels(values), strict=True))
        if text in (label, format_value_label(value)) or _is_written_number(value, text)
    ]
    return indices if indices or text != EMPTY_TEXT_LABEL else find_matching_value_indices(values, NO_VALUE_LABEL)


def _is_written_number(value: Any, text: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return parse_number(text, is_integer=False) == value
    except ValueError:
        return False


def make_axis_names(axes: Sequence[SweepAxis]) -> dict[str, str]:
    """Return the shortest distinct name of each swept path: its last key, after the names of list items."""
    paths = {setting.path: setting for axis in axes for setting in axis.settings}
    names = {path: path.split(".")[1 if setting.item_keys is None else 2 :] for path, setting in paths.items()}
    shortest = {path: [parts[-1]] if paths[path].item_keys is None else parts for path, parts in names.items()}
    all_names = [".".join(parts) for parts in shortest.values()]
    return {path: name if all_names.count(name) == 1 else path for path, name in zip(shortest, all_names, strict=True)}
