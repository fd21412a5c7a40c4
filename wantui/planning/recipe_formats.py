"""Recipe formats: conversion from earlier formats, and the form of recipes from which digests are computed.

Format 2 renames two values of format 1: `speed` (plain, exact and fast became reference, fused and cached) and
`capture.attention.pieces` (now `per_token`).
"""

from typing import Any

from pydantic_core import PydanticCustomError

from wantui.config.speeds import SPEED_BY_FORMER_NAME

RECIPE_FORMAT = 2
READABLE_FORMATS = (1, 2)
PER_TOKEN_KEY, FORMER_PER_TOKEN_KEY = "per_token", "pieces"


def upgrade_recipe(recipe_values: dict[str, Any]) -> dict[str, Any]:
    """Convert the values of a recipe to the current format.

    Raises:
        PydanticCustomError: this version cannot read the format, or a value does not exist in it.
    """
    format_number = recipe_values.get("format", RECIPE_FORMAT)
    if type(format_number) is not int or format_number not in READABLE_FORMATS:
        known_formats = " and ".join(map(str, READABLE_FORMATS))
        raise PydanticCustomError(
            "format", escape_braces(f"it has format {format_number!r}; this version reads formats {known_formats}")
        )
    if format_number == RECIPE_FORMAT:
        return recipe_values
    former_speed, capture_values = recipe_values.get("speed", "plain"), recipe_values.get("capture")
    if not isinstance(former_speed, str) or former_speed not in SPEED_BY_FORMER_NAME:
        former_names = ", ".join(SPEED_BY_FORMER_NAME)
        raise PydanticCustomError(
            "speed", escape_braces(f"speed: {former_speed!r} does not exist in format 1, which has {former_names}")
        )
    upgraded_values = {**recipe_values, "format": RECIPE_FORMAT, "speed": SPEED_BY_FORMER_NAME[former_speed]}
    if isinstance(capture_values, dict) and isinstance(attention_values := capture_values.get("attention"), dict):
        if PER_TOKEN_KEY in attention_values:
            raise PydanticCustomError("attention", f"capture.attention: {PER_TOKEN_KEY} does not exist in format 1")
        upgraded_values["capture"] = {
            **capture_values,
            "attention": _rename_key(attention_values, FORMER_PER_TOKEN_KEY, PER_TOKEN_KEY),
        }
    return upgraded_values


def convert_to_digest_form(recipe_values: dict[str, Any]) -> dict[str, Any]:
    """Convert a serialised recipe to format 1, from which its digest is computed.

    Digests identify videos in batch folders, in the queue and in checkpoints. A new format must not change them, or a
    continued batch would not find its videos. Values that format 1 lacks stay unchanged.
    """
    former_name_by_slug = {slug: name for name, slug in SPEED_BY_FORMER_NAME.items()}
    capture_values = recipe_values["capture"]
    attention_values = capture_values["attention"]
    if attention_values is not None:
        attention_values = _rename_key(attention_values, PER_TOKEN_KEY, FORMER_PER_TOKEN_KEY)
    return {
        **recipe_values,
        "format": 1,
        "speed": former_name_by_slug.get(recipe_values["speed"], recipe_values["speed"]),
        "capture": {**capture_values, "attention": attention_values},
    }


def _rename_key(value_by_key: dict[str, Any], old_name: str, new_name: str) -> dict[str, Any]:
    return {new_name if key == old_name else key: value for key, value in value_by_key.items()}


def escape_braces(message: str) -> str:
    """Escape braces, which pydantic would format as fields."""
    return message.replace("{", "{{")
