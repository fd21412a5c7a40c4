"""Help while a sweep is typed: names that complete the one being typed, and the cells of the sweep so far."""

import re
from collections.abc import Sequence
from math import prod

from textual.suggester import Suggester

from wantui.config.setting_paths import find_sweepable_setting, list_sweepable_names
from wantui.config.settings import Settings
from wantui.config.sweep import SweepAxis, format_value_labels, make_axis_names, resolve_sweep_axes
from wantui.config.sweep_syntax import SweepError
from wantui.formatting import format_count, shorten_text

SWEEP_KEY = "sweeps"
"""Key of the setting that holds a sweep."""
MAX_NAMES_SHOWN = 12
MAX_VALUES_SHOWN = 8
_TYPED_NAME_PATTERN = re.compile(r"(?:^|[;+])\s*([\w.-]*)$")
"""Name of a setting at the end of a text, before its equals sign."""

_TYPED_SETTING_PATTERN = re.compile(r"(?:^|[;+])([^;+=]+)=\s*$")
"""Name of a setting at the end of a text, with its equals sign."""


class SweepSuggester(Suggester):
    """Suggester that completes the name being typed at the end of a sweep; the right arrow accepts the suggestion."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self.names = list_sweepable_names(settings)

    async def get_suggestion(self, value: str) -> str | None:
        typed_name = find_typed_name(value)
        if not typed_name:
            return None
        name = next((name for name in self.names if name.startswith(typed_name)), None)
        return None if name is None else f"{value}{name[len(typed_name) :]}="


def find_typed_name(text: str) -> str | None:
    """Return the beginning of a name at the end of a sweep; None if the sweep ends in a value."""
    match = _TYPED_NAME_PATTERN.search(text)
    return None if match is None else match[1]


def describe_typed_sweep(text: str, settings: Settings) -> str:
    """Return help on a sweep while it is typed; empty if the sweep cannot be read.

    The help is the names that complete the typed one, the values that may follow, or the cells of the sweep.
    """
    typed_name = find_typed_name(text)
    if typed_name is not None and (typed_name or not text.strip()):
        names = [name for name in list_sweepable_names(settings) if name.startswith(typed_name)]
        if not names:
            return f"no setting begins with {shorten_text(typed_name)}"
        more_text = ", ..." if len(names) > MAX_NAMES_SHOWN else ""
        return f"→ completes: {', '.join(names[:MAX_NAMES_SHOWN])}{more_text}"
    if (match := _TYPED_SETTING_PATTERN.search(text)) is not None:
        return _describe_values(match[1].strip(), settings)
    try:
        axes = resolve_sweep_axes(settings.model_copy(update={SWEEP_KEY: text}))
    except SweepError:
        return ""
    name_by_path = make_axis_names(axes)
    cells_text = format_count(prod(len(axis.values) for axis in axes), "cell")
    baseline_text = " and a baseline" if settings.sweeps_baseline else ""
    return f"{cells_text}{baseline_text}: {' x '.join(_describe_axis(axis, name_by_path) for axis in axes)}"


def _describe_values(name: str, settings: Settings) -> str:
    """Return the values that a setting can have; empty if there is no such setting."""
    try:
        field = find_sweepable_setting(settings, name).field
    except SweepError:
        return ""
    return "" if field is None else f"values of {name}: {field.valid_values}"


def _describe_axis(axis: SweepAxis, name_by_path: dict[str, str]) -> str:
    columns = zip(*axis.values, strict=True)
    return " + ".join(
        f"{name_by_path[path]} {_format_values(values)}" for path, values in zip(axis.paths, columns, strict=True)
    )


def _format_values(values: Sequence[object]) -> str:
    labels = format_value_labels(values)
    if len(labels) > MAX_VALUES_SHOWN:
        return f"{', '.join(labels[: MAX_VALUES_SHOWN - 1])}, ... {labels[-1]}"
    return ", ".join(labels)
