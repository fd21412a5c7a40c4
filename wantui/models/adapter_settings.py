"""Check the settings of peft that diffusers stores in the metadata of an adapter. Never imports torch."""

import math
import re
from collections.abc import Mapping
from typing import Any

from wantui.formatting import shorten_text
from wantui.models.adapter_header import METADATA_KEY
from wantui.models.adapters import AdapterError

PEFT_SETTING_NAMES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
"""Settings in the metadata of a file that change the scale of an adapter."""
DEFAULT_RANK = 8
"""Rank that peft assumes if the settings have no `r`."""
LAYER_PATTERN = re.compile(r"[\w.^$\\-]+")
"""Pattern for the keys of `rank_pattern` and `alpha_pattern`: names of layers, which peft uses as regular expressions.
Repetitions are refused, because matching them can take exponential time."""


def check_adapter_settings(settings: Mapping[str, Any], rank_by_layer: Mapping[str, int]) -> None:
    """Reject settings with which peft would fail, or multiply the change of a weight by NaN, 0 or a negative number.

    Args:
        settings: settings in the metadata, such as `transformer.lora_alpha`.
        rank_by_layer: rank of the factors in the file, by layer of the transformer.

    Raises:
        AdapterError: a setting has a wrong value, or differs from the rank of a layer.
    """
    values = {name: settings[f"transformer.{name}"] for name in PEFT_SETTING_NAMES if f"transformer.{name}" in settings}
    if not values:
        return
    if type(values.get("use_rslora", False)) is not bool:
        raise _make_setting_error("use_rslora", values["use_rslora"], "true or false")
    rank = values.get("r", DEFAULT_RANK)
    rank_pattern, alpha_pattern = values.get("rank_pattern", {}), values.get("alpha_pattern", {})
    _check_patterns("rank_pattern", rank_pattern)
    _check_patterns("alpha_pattern", alpha_pattern)
    for name, value in (("r", rank), *((f"rank_pattern.{key}", each) for key, each in rank_pattern.items())):
        if type(value) is not int or value < 1:
            raise _make_setting_error(name, value, "a positive integer")
    alphas = {"lora_alpha": values.get("lora_alpha", 1), **{f"alpha_pattern.{k}": v for k, v in alpha_pattern.items()}}
    for name, value in alphas.items():
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise _make_setting_error(name, value, "a positive number")
    for layer, stored_rank in rank_by_layer.items():
        matches = (value for key, value in rank_pattern.items() if re.match(rf"(.*\.)?({key})$", layer))
        if (layer_rank := next(matches, rank)) != stored_rank:
            raise AdapterError(
                f"its metadata ({METADATA_KEY}) gives {layer} rank {layer_rank}, but its tensors have rank "
                f"{stored_rank}. Save it again with diffusers' `save_lora_weights`"
            )


def _check_patterns(name: str, patterns: object) -> None:
    if not isinstance(patterns, dict):
        raise _make_setting_error(name, patterns, "an object")
    for key in patterns:
        try:
            re.compile(key)
        except re.error:
            is_valid = False
        else:
            is_valid = LAYER_PATTERN.fullmatch(key) is not None
        if not is_valid:
            raise _make_setting_error(name, key, "names of layers")


def _make_setting_error(name: str, value: object, expected: str) -> AdapterError:
    return AdapterError(
        f"its metadata ({METADATA_KEY}) has {shorten_text(name)} {shorten_text(repr(value))}, but needs {expected}. "
        "Save it again with diffusers' `save_lora_weights`"
    )
