"""Checks of a manifest beyond the types of its fields."""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from wantui.formatting import format_count, shorten_text
from wantui.paths import MAX_NAME_BYTES, MAX_PATH_BYTES

if TYPE_CHECKING:
    from wantui.storage.manifest import Manifest, VideoEntry


def check_manifest_consistency(manifest: "Manifest") -> None:
    """Reject a manifest whose parts are inconsistent.

    Raises:
        ValueError: names the inconsistent part.
    """
    if not isinstance(manifest.config.get("model_settings"), dict):
        raise ValueError("config has no model_settings")
    if not isinstance(manifest.config.get("memory_settings", {}), dict):
        raise ValueError("config.memory_settings is not a section")
    for index, variation in enumerate(manifest.variations):
        for choice in variation.choices:
            are_numbers = type(choice.get("bracket")) is int and type(choice.get("option")) is int
            if not are_numbers or not isinstance(choice.get("text"), str):
                raise ValueError(f"variations[{index}].choices contains a choice without bracket, option or text")
    if manifest.sweep is not None:
        manifest.sweep.check_consistency()
    first_indices_by_video: dict[tuple[int, int | None, int], int] = {}
    for index, video in enumerate(manifest.videos):
        if video.variation >= len(manifest.variations):
            raise ValueError(
                f"videos[{index}].variation is {video.variation}, but the batch has "
                f"{format_count(len(manifest.variations), 'variation')}"
            )
        if (video.cell is None) != (manifest.sweep is None):
            raise ValueError(f"videos[{index}].cell and sweep belong together, but one of them is missing")
        if manifest.sweep is not None and (video.cell or 0) >= len(manifest.sweep.cells):
            raise ValueError(
                f"videos[{index}].cell is {video.cell}, but the sweep has "
                f"{format_count(len(manifest.sweep.cells), 'cell')}"
            )
        if video.seed != video.recipe.seed:
            raise ValueError(f"videos[{index}].seed is {video.seed}, but its recipe has the seed {video.recipe.seed}")
        key = video.variation, video.cell, video.number
        if (first_index := first_indices_by_video.setdefault(key, index)) != index:
            raise ValueError(
                f"videos[{first_index}] and videos[{index}] have the same "
                f"variation{', cell' if manifest.sweep else ''} and number, and therefore the same clip"
            )
        check_file_paths(f"videos[{index}]", video)


def check_file_paths(entry_name: str, entry: "VideoEntry") -> None:
    """Reject files that are outside the batch folder or have an impossible name.

    Raises:
        ValueError: names the file.
    """
    for kind, relative_path in entry.files.items():
        path = PurePosixPath(relative_path)
        is_inside = not path.is_absolute() and ".." not in path.parts and bool(path.parts)
        is_name = "\0" not in relative_path and all(len(part.encode()) <= MAX_NAME_BYTES for part in path.parts)
        if not is_inside or not is_name or len(relative_path.encode()) > MAX_PATH_BYTES:
            raise ValueError(
                f"{entry_name}.files.{kind} is not a path inside the batch folder: {shorten_text(relative_path)!r}"
            )
