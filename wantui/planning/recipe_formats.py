"""Recipe formats: conversion from earlier formats, and the form of recipes from which digests are computed.

Format 2 renames two values of format 1: `speed` (plain, exact and fast became reference, fused and cached) and
`capture.attention.pieces` (now `per_token`).
"""

from typing import Any

from pydantic_core import PydanticCustomError

from wantui.config.speeds import FORMER_SPEEDS

RECIPE_FORMAT = 2
READABLE_FORMATS = (1, 2)
PER_TOKEN, FORMER_PER_TOKEN = "per_token", "pieces"


def upgrade_recipe(value: dict[str, Any]) -> dict[str, Any]:
    """Convert the values of a recipe to the current format.

    Raises:
        PydanticCustomError: this version cannot read the format, or a value does not exist in it.
    """
    number = value.get("format", RECIPE_FORMAT)
    if type(number) is not int or number not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise PydanticCustomError(
            "format", _escape_braces(f"it has format {number!r}; this version reads formats {known}")
        )
    if number == RECIPE_FORMAT:
        return value
    speed, capture = value.get("speed", "plain"), value.get("capture")
    if not isinstance(speed, str) or speed not in FORMER_SPEEDS:
        names = ", ".join(FORMER_SPEEDS)
        raise PydanticCustomError(
            "speed", _escape_braces(f"speed: {speed!r} does not exist in format 1, which has {names}")
        )
    upgraded = {**value, "format": RECIPE_FORMAT, "speed": FORMER_SPEEDS[speed]}
    if isinstance(capture, dict) and isinstance(attention := capture.get("attention"), dict):
        if PER_TOKEN in attention:
            raise PydanticCustomError("attention", f"capture.attention: {PER_TOKEN} does not exist in format 1")
        upgraded["capture"] = {**capture, "attention": _rename_key(attention, FORMER_PER_TOKEN, PER_TOKEN)}
    return upgraded


def to_digest_form(recipe: dict[str, Any]) -> dict[str, Any]:
    """Convert a serialised recipe to format 1, from which its digest is computed.

    Digests identify videos in batch folders, on the queue and in checkpoints. A new format must not change them, or a
    continued batch would not find its videos. Values that format 1 lacks stay unchanged.
    """
    former = {slug: name for name, slug in FORMER_SPEEDS.items()}
    capture = recipe["capture"]
    attention = capture["attention"]
    if attention is not None:
        attention = _rename_key(attention, PER_TOKEN, FORMER_PER_TOKEN)
    return {**recipe, "format": 1, "speed": former[recipe["speed"]], "capture": {**capture, "attention": attention}}


def _rename_key(values: dict[str, Any], name: str, new_name: str) -> dict[str, Any]:
    return {new_name if key == name else key: value for key, value in values.items()}


def _escape_braces(message: str) -> str:
    """Escape braces, which pydantic would format as fields."""
    return message.replace("{", "{{")
