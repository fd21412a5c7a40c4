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
            "format", _escape_braces(f"it has format {format_number!r}; this version reads formats {known_formats}")
        )
    if format_number == RECIPE_FORMAT:
        return recipe_values
    speed, capture = recipe_values.get("speed", "plain"), recipe_values.get("capture")
    if not isinstance(speed, str) or speed not in SPEED_BY_FORMER_NAME:
        former_names = ", ".join(SPEED_BY_FORMER_NAME)
        raise PydanticCustomError(
            "speed", _escape_braces(f"speed: {speed!r} does not exist in format 1, which has {former_names}")
        )
    upgraded = {**recipe_values, "format": RECIPE_FORMAT, "speed": SPEED_BY_FORMER_NAME[speed]}
    if isinstance(capture, dict) and isinstance(attention := capture.get("attention"), dict):
        if PER_TOKEN_KEY in attention:
            raise PydanticCustomError("attention", f"capture.attention: {PER_TOKEN_KEY} does not exist in format 1")
        upgraded["capture"] = {**capture, "attention": _rename_key(attention, FORMER_PER_TOKEN_KEY, PER_TOKEN_KEY)}
    return upgraded


def convert_to_digest_form(recipe: dict[str, Any]) -> dict[str, Any]:
    """Convert a serialised recipe to format 1, from which its digest is computed.

    Digests identify videos in batch folders, on the queue and in checkpoints. A new format must not change them, or a
    continued batch would not find its videos. Values that format 1 lacks stay unchanged.
    """
    former_name_by_slug = {slug: name for name, slug in SPEED_BY_FORMER_NAME.items()}
    capture = recipe["capture"]
    attention = capture["attention"]
    if attention is not None:
        attention = _rename_key(attention, PER_TOKEN_KEY, FORMER_PER_TOKEN_KEY)
    return {
        **recipe,
        "format": 1,
        "speed": former_name_by_slug[recipe["speed"]],
        "capture": {**capture, "attention": attention},
    }


def _rename_key(values: dict[str, Any], old_name: str, new_name: str) -> dict[str, Any]:
    return {new_name if key == old_name else key: value for key, value in values.items()}


def _escape_braces(message: str) -> str:
    """Escape braces, which pydantic would format as fields."""
    return message.replace("{", "{{")
