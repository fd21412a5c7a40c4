"""Convert the attention bending of configs of the older system to bends.

Its translations are mirrored and count half widths, and its rotations are clockwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wantui.typed_text import BOOLEAN_BY_FLAG_TEXT, parse_number

MODE_BY_LEGACY_MODE = {
    "amplify": "amplify",
    "scale": "scale",
    "rotate": "rotate",
    "translate": "translate",
    "translate_x": "translate",
    "translate_y": "translate",
    "flip": "flip",
    "blur": "blur",
    "sharpen": "sharpen",
    "regional_mask": "region",
    "frequency_filter": "frequency",
}
BORDER_BY_PADDING_MODE = {"border": "edge", "zeros": "zero", "reflection": "reflect"}
ALL_TOKEN_NAMES = ("ALL", "*", "ALLTOKENS")
PARAMETER_NAMES_BY_LEGACY_MODE = {
    "amplify": ("amplify_factor",),
    "scale": ("scale_factor",),
    "rotate": ("angle", "crop_rotated"),
    "translate": ("translate_x", "translate_y"),
    "translate_x": ("translate_x",),
    "translate_y": ("translate_y",),
    "flip": ("flip_horizontal", "flip_vertical"),
    "blur": ("sigma", "kernel_size"),
    "sharpen": ("sharpen_amount", "sigma", "kernel_size"),
    "regional_mask": ("region", "region_feather"),
    "frequency_filter": ("sigma", "kernel_size"),
}
BORDER_MODES = ("scale", "rotate", "translate", "blur", "sharpen")
UNUSED_LEGACY_KEYS = ("preserve_sparsity", "should_debug_visualize")
LEGACY_SECTION_KEYS = ("configs", "apply_to_output", "apply_before_softmax")
BEFORE_SOFTMAX_REASON = (
    "it changed the logits of words, not their attention. Remove it; to strengthen a word before the softmax, write "
    "(word:1.5) in the template"
)
FALSE_WORDS = ("", "0.0", "none", *(text for text, flag in BOOLEAN_BY_FLAG_TEXT.items() if not flag))


class LegacyBendError(ValueError):
    """Raised for a bend of the older system that cannot be converted; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class LegacyBend:
    """A converted bend, as a value of `attention_bending_settings.bends`, and notes on what the conversion changed."""

    values: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LegacySection:
    """A converted section `attention_bending_settings`, with messages and their keys."""

    values: dict[str, Any]
    warnings: tuple[tuple[str, str], ...]
    refusals: tuple[tuple[str, str], ...]


def is_false(value: Any) -> bool:
    """Return whether a value of the older system means false or is missing."""
    return str(value).strip().lower() in FALSE_WORDS


def convert_legacy_section(section: Mapping[str, Any]) -> LegacySection:
    """Convert a section of the older system; return a section that has only current keys unchanged.

    Args:
        section: keys and plain values, as from `convert_to_plain_value`.
    """
    values = {key: value for key, value in section.items() if key not in LEGACY_SECTION_KEYS}
    warnings: list[tuple[str, str]] = []
    refusals: list[tuple[str, str]] = []
    if not is_false(section.get("apply_before_softmax")):
        refusals.append(("apply_before_softmax", f"not supported: {BEFORE_SOFTMAX_REASON}"))
    configs = section.get("configs") or []
    if not configs:
        return LegacySection(values, (), tuple(refusals))
    if not isinstance(configs, list) or not all(isinstance(config, Mapping) for config in configs):
        refusals.append(("configs", "should be a list of bends, each with token and mode"))
        return LegacySection(values, (), tuple(refusals))
    if "bends" in values:
        refusals.append(("configs", "cannot be combined with bends. Remove one of the two"))
        return LegacySection(values, (), tuple(refusals))
    if "enabled" not in values:
        values["enabled"] = False
        message = "ignored, because diffusion_latent_exploration applied no bend without `enabled: true`"
        warnings.append(("configs", message))
    if is_false(section.get("apply_to_output")):
        message = "with this setting, diffusion_latent_exploration bent only stored maps; here bends change the video"
        warnings.append(("apply_to_output" if "apply_to_output" in section else "configs", message))
    bends: list[dict[str, Any]] = []
    for number, config in enumerate(configs, 1):
        try:
            bend = convert_legacy_bend(config)
        except LegacyBendError as error:
            refusals.append(("configs", f"bend {number}: {error}"))
        else:
            bends.append(bend.values)
            warnings += [("configs", f"bend {number}: {note}") for note in bend.notes]
    return LegacySection(values | {"bends": bends}, tuple(warnings), tuple(refusals))


def convert_legacy_bend(config: Mapping[str, Any]) -> LegacyBend:
    """Convert one of the older system's bends.

    A bend is an item of `attention_bending_settings.configs`, or one operation of a sweep with the keys of such an item
    (`token`, `mode`, and the parameters).

    Args:
        config: keys of the older system; numbers may be text.

    Raises:
        LegacyBendError: the bend has no counterpart here.
    """
    legacy_mode = str(config.get("mode", "")).lower()
    if legacy_mode not in MODE_BY_LEGACY_MODE:
        known_modes = ", ".join(MODE_BY_LEGACY_MODE)
        raise LegacyBendError(f"cannot convert the mode {config.get('mode')!r}. Use one of {known_modes}")
    if legacy_mode == "frequency_filter":
        raise LegacyBendError(
            "cannot convert frequency_filter: despite its name, it only blurred or sharpened. Write a bend with mode "
            "blur or sharpen; to keep a band of frequencies, use mode frequency with frequency_low and frequency_high"
        )
    if not is_false(config.get("apply_before_softmax")):
        raise LegacyBendError(f"cannot convert apply_before_softmax: {BEFORE_SOFTMAX_REASON}")
    mode = MODE_BY_LEGACY_MODE[legacy_mode]
    values: dict[str, Any] = {**_convert_words(str(config.get("token") or "").strip()), "mode": mode}
    notes = _convert_parameters(legacy_mode, config, values)
    for key in ("strength", "renormalize"):
        if config.get(key) is not None:
            values["renormalise" if key == "renormalize" else key] = config[key]
    if (padding_mode := config.get("padding_mode")) is not None and mode in BORDER_MODES:
        if padding_mode not in BORDER_BY_PADDING_MODE:
            known_modes = ", ".join(BORDER_BY_PADDING_MODE)
            raise LegacyBendError(f"padding_mode should be one of {known_modes}, but is {padding_mode!r}")
        values["border"] = BORDER_BY_PADDING_MODE[padding_mode]
    if (layers := _list_parts(config.get("apply_to_layers"))) is not None:
        values["blocks"] = ", ".join(layers)
    if (steps := _list_parts(config.get("apply_to_timesteps"))) is not None:
        if len(steps) > 2 or (len(steps) == 2 and any(".." in step for step in steps)):
            raise LegacyBendError("apply_to_timesteps should be [first, last] or `first-last`")
        values["steps"] = "..".join(steps)
    _reject_unknown_keys(config)
    return LegacyBend(values, tuple(notes))


def _convert_words(token: str) -> dict[str, Any]:
    if not token:
        raise LegacyBendError("the bend has no token. Add one, such as `token: flower`")
    if token.upper() in ALL_TOKEN_NAMES:
        return {"words": ["all"], "padding": True}
    words = [word.strip() for word in token.split(",") if word.strip()]
    return {"words": words} if len(words) == 1 else {"words": words, "if_missing": "skip"}


def _convert_parameters(legacy_mode: str, config: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """Add the parameters of a mode to the values; return the notes."""
    notes: list[str] = []
    mode = values["mode"]
    if mode == "translate":
        values |= {
            key: _read_negated_number(config, key, 2)
            for key in PARAMETER_NAMES_BY_LEGACY_MODE[legacy_mode]
            if config.get(key) is not None
        }
        notes.append(
            "in diffusion_latent_exploration, translate was mirrored and in units of half a width: values are halved "
            "and negated, so the map moves as before; here, positive x is right, and positive y is down"
        )
    elif mode == "rotate":
        if config.get("crop_rotated") is not None and is_false(config["crop_rotated"]):
            raise LegacyBendError("cannot convert crop_rotated: false. Add a bend with mode scale before the rotation")
        values["rotate_degrees"] = _read_negated_number(config, "angle", 1)
        notes.append("angles were clockwise: they are negated, so the map turns as before")
    elif mode in ("blur", "sharpen"):
        values[f"{mode}_sigma"] = config.get("sigma", 1.0)
        if mode == "sharpen":
            values["sharpen_amount"] = config.get("sharpen_amount", 1.0)
            notes.append("sharpen could produce negative attention; here negative values become 0")
        notes.append("kernel_size truncated the blur; here the kernel extends to four sigma")
    elif mode == "region":
        sides = _list_parts(config.get("region"))
        if sides is None or len(sides) != 4:
            raise LegacyBendError("regional_mask needs region: [x1, y1, x2, y2]")
        values |= dict(zip(("region_x1", "region_y1", "region_x2", "region_y2"), sides, strict=True))
        values["region_feather"] = config.get("region_feather", 0.1)
    else:
        names = PARAMETER_NAMES_BY_LEGACY_MODE[legacy_mode]
        default = {"amplify": 1.0, "scale": 1.0}.get(mode)
        values |= {name: config[name] for name in names if config.get(name) is not None}
        if default is not None:
            values.setdefault(names[0], default)
    return notes


def _read_negated_number(config: Mapping[str, Any], key: str, divisor: int) -> float:
    try:
        number = parse_number(str(config.get(key) or 0).strip(), is_integer=False)
    except ValueError as error:
        raise LegacyBendError(f"{key} {error}") from None
    return -number / divisor + 0.0  # + 0.0 turns -0.0 to 0.0


def _list_parts(value: Any) -> list[str] | None:
    """Return the items of a list or a text, with ranges such as `0-5` written `0..5`; None for all."""
    if value is None or (isinstance(value, str) and value.strip().upper() in ("", "ALL")):
        return None
    items = value if isinstance(value, list | tuple) else [value]
    if [str(item).upper() for item in items] == ["ALL"]:
        return None
    return [str(item).strip().replace("-", "..") for item in items]


def _reject_unknown_keys(config: Mapping[str, Any]) -> None:
    parameter_names = {name for names in PARAMETER_NAMES_BY_LEGACY_MODE.values() for name in names}
    known_keys = parameter_names | {"token", "mode", "strength", "renormalize", "padding_mode", "apply_to_layers"}
    known_keys |= {"apply_to_timesteps", "apply_before_softmax", *UNUSED_LEGACY_KEYS}
    if unknown_keys := sorted(set(config) - known_keys):
        raise LegacyBendError(f"cannot convert the key {unknown_keys[0]!r}. Remove it")
