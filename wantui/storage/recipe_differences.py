"""The text about a file that was recorded with the recipe of another video."""

from pathlib import Path

from wantui.formatting import shorten_text
from wantui.planning import Recipe

MAX_NAMED_DIFFERENCES = 2


def describe_recipe_mismatch(path: Path, stored_recipe: Recipe, recipe: Recipe) -> str:
    """Describe how the recipe in a file differs from the recipe of its video: name the first settings that differ."""
    differences = [
        f"{name} {shorten_text(repr(stored_value))} instead of {shorten_text(repr(value))}"
        for name, value in recipe
        if (stored_value := getattr(stored_recipe, name)) != value and isinstance(value, (str, int, float))
    ]
    return (
        f"{path} belongs to another video ({', '.join(differences[:MAX_NAMED_DIFFERENCES]) or 'with other settings'}), "
        "or the manifest of its batch was changed. Copy the right one from the original batch folder"
    )
