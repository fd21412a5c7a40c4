"""Convert the older system's sweep of bends, `attention_bending_variations`, to an axis of a sweep."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from wantui.config.legacy_bending import ALL_TOKEN_NAMES, LegacyBendError, convert_legacy_bend, is_false
from wantui.config.sweep_syntax import format_sweep_value
from wantui.formatting import shorten_text
from wantui.typed_text import parse_flag, parse_number

LEGACY_SWEEP_SECTION = "attention_bending_variations"
BENDS_KEY = "attention_bending_settings.bends"
DEFAULT_STEP_COUNT = 5
MAX_STEP_COUNT = 1000
PARAMETER_AND_RANGE_BY_OPERATION: dict[str, tuple[str, tuple[str, str] | None]] = {
    "scale": ("scale_factor", ("0.75", "1.25")),
    "rotate": ("angle", ("0", "180")),
    "translate_x": ("translate_x", ("-0.3", "0.3")),
    "translate_y": ("translate_y", ("-0.3", "0.3")),
    "translate": ("translate_x", None),
    "amplify": ("amplify_factor", ("0.5", "2")),
    "blur": ("sigma", ("1", "5")),
    "sharpen": ("sharpen_amount", None),
    "flip": ("flip_horizontal", None),
    "regional_mask": ("region_feather", None),
}
"""Parameter that an operation sweeps, and its range if the operation has none."""
OPERATION_KEYS = (
    "operation",
    "parameter_name",
    "range",
    "steps",
    "values",
    "target_token",
    "apply_to_timesteps",
    "apply_to_layers",
    "strength",
    "padding_mode",
    "renormalize",
    "extra_params",
)


@dataclass(frozen=True)
class LegacySweep:
    """A converted sweep, with messages."""

    axis_text: str
    """Axis of the sweep, in which each value is a list with one bend; empty if nothing could be converted."""
    has_baseline: bool
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]


def convert_legacy_sweep(section: Mapping[str, Any]) -> LegacySweep:
    """Convert the section, whose operations are the values of one axis.

    There is a bend for every value and every item of `apply_to_layers`.

    Args:
        section: keys and plain values, as from `convert_to_plain_value`.
    """
    warnings: list[str] = []
    refusals: list[str] = []
    bends: list[dict[str, Any]] = []
    operations = section.get("operations")
    if not isinstance(operations, list) or not operations:
        refusals.append("operations should be a list of operations, each with operation and target_token")
        operations = []
    for number, operation in enumerate(operations, 1):
        try:
            if not isinstance(operation, Mapping):
                raise LegacyBendError(f"should be a mapping, not {shorten_text(repr(operation))}")
            for bend, notes in _convert_operation(operation, section.get("renormalize")):
                bends.append(bend)
                warnings += [f"operation {number}: {note}" for note in notes]
        except LegacyBendError as error:
            refusals.append(f"operation {number}: {error}")
    has_baseline = not is_false(section.get("generate_baseline", True))
    axis_text = f"{BENDS_KEY}={','.join(format_sweep_value([bend]) for bend in bends)}" if bends else ""
    return LegacySweep(axis_text, has_baseline, tuple(dict.fromkeys(warnings)), tuple(refusals))


def _convert_operation(
    operation: Mapping[str, Any], renormalises: Any
) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Yield the bend of each value and each item of `apply_to_layers`, with the notes on its conversion."""
    name = str(operation.get("operation", "")).lower()
    if name not in PARAMETER_AND_RANGE_BY_OPERATION:
        known_names = ", ".join(PARAMETER_AND_RANGE_BY_OPERATION)
        raise LegacyBendError(f"cannot convert the operation {operation.get('operation')!r}. Use one of {known_names}")
    if unknown_keys := sorted(set(operation) - set(OPERATION_KEYS)):
        raise LegacyBendError(f"cannot convert the key {unknown_keys[0]!r}. Remove it")
    parameter = str(operation.get("parameter_name") or PARAMETER_AND_RANGE_BY_OPERATION[name][0])
    tokens = operation.get("target_token", "ALL")
    token_text = ", ".join(str(token or "") for token in (tokens if isinstance(tokens, list) else [tokens]))
    layers = operation.get("apply_to_layers")
    extra_parameters = operation.get("extra_params") or {}
    if not isinstance(extra_parameters, Mapping):
        raise LegacyBendError("extra_params should be a mapping of parameters to values")
    for layer_item in layers if isinstance(layers, list) and layers else [layers]:
        for value in _list_values(name, operation):
            config = {
                "token": token_text,
                "mode": name,
                parameter: value,
                **extra_parameters,
                "strength": operation.get("strength"),
                "renormalize": operation.get("renormalize", renormalises),
                "padding_mode": operation.get("padding_mode"),
                "apply_to_layers": layer_item,
                "apply_to_timesteps": operation.get("apply_to_timesteps"),
            }
            bend = convert_legacy_bend({key: item for key, item in config.items() if item is not None})
            yield {"name": _name_legacy_bend(name, value, token_text, operation, layer_item), **bend.values}, bend.notes


def _list_values(name: str, operation: Mapping[str, Any]) -> list[Any]:
    """Return the values of an operation: its list, or evenly spaced values in its range, including both ends."""
    values = operation.get("values")
    if values is not None:
        value_list = values if isinstance(values, list) else [values]
        try:
            return [parse_flag(str(value)) for value in value_list] if name == "flip" else value_list
        except ValueError as error:
            raise LegacyBendError(f"values {error}") from None
    bounds = operation.get("range") or PARAMETER_AND_RANGE_BY_OPERATION[name][1]
    if bounds is None and name == "flip":
        return [True]
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise LegacyBendError(f"{name} needs `range: [first, last]` or `values`")
    try:
        for bound in bounds:
            parse_number(str(bound), is_integer=False)
        count = int(parse_number(str(operation.get("steps", DEFAULT_STEP_COUNT)), is_integer=True))
    except ValueError as error:
        raise LegacyBendError(f"range or steps {error}") from None
    if not 1 <= count <= MAX_STEP_COUNT:
        raise LegacyBendError(f"steps should be 1 to {MAX_STEP_COUNT}, not {count}")
    first, last = (Fraction(str(bound)) for bound in bounds)
    return [float(first + (last - first) * index / max(1, count - 1)) for index in range(count)]


def _name_legacy_bend(name: str, value: Any, token: str, operation: Mapping[str, Any], layer_item: Any) -> str:
    """Return the older system's name of a bend, such as scale_0.75_rose_t0-10_l14,15."""
    token_text = "ALL" if token.upper() in ALL_TOKEN_NAMES else token.replace(", ", "+")
    value_text = f"{value:.4g}" if isinstance(value, float) else str(value)
    steps = operation.get("apply_to_timesteps")
    steps_text = "-".join(map(str, steps)) if isinstance(steps, list) else str(steps or "ALL")
    layers_text = ",".join(map(str, layer_item)) if isinstance(layer_item, list) else str(layer_item or "ALL")
    layers_text = "ALL" if layer_item is None else layers_text
    return f"{name}_{value_text}_{token_text}_t{steps_text}_l{layers_text}"[:100]
