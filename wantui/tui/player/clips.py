"""Clips to play and compare: a file with its recipe and the options of its template."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wantui.planning import Recipe
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.marks import VideoMark
from wantui.tui.plain_names import replace_names
from wantui.tui.player.recipe_table import RecipeField, list_video_fields
from wantui.tui.series_colours import assign_variation_colours

MarkField = Literal["star", "reject"]
"""Field of a mark that a key changes."""


@dataclass(frozen=True)
class PlayerClip:
    """A clip of a batch, and how it differs from other clips."""

    path: Path
    recipe: Recipe
    variation_id: str
    choice_texts: tuple[str, ...]
    """Options of the template's brackets, in the order of the brackets."""
    batch_folder: Path
    video_id: str
    """ID of the video in its batch."""
    cell_label: str = ""
    """Values of swept settings; empty without a sweep."""
    colour_name: str = "foreground"
    """Theme colour of the variation."""
    sheet_path: Path | None = None
    """Contact sheet; None if the video has none."""
    seconds: float = 0.0
    """Seconds that the generation took; 0 if unknown."""
    byte_count: int | None = None
    """Bytes of all the video's files; None if unknown."""
    video_fields: tuple[RecipeField, ...] = ()
    """Facts about the video that its recipe does not determine."""

    @property
    def batch_name(self) -> str:
        return self.batch_folder.name

    @property
    def title(self) -> str:
        """Return the variation, the seed, and the values of swept settings."""
        return " · ".join(filter(None, (self.variation_id, f"seed {self.recipe.seed}", self.cell_label)))


@dataclass(frozen=True)
class ClipMarks:
    """Access to the marks of the played clips."""

    find: Callable[[PlayerClip], VideoMark]
    toggle: Callable[[PlayerClip, MarkField], None]


def make_player_clip(folder: Path, manifest: Manifest, entry: VideoEntry) -> PlayerClip:
    """Return the clip of a done video of the batch in `folder`."""
    return _make_clip(folder, manifest, entry, assign_variation_colours(manifest.variations))


def _make_clip(folder: Path, manifest: Manifest, entry: VideoEntry, colour_names: Mapping[str, str]) -> PlayerClip:
    """Return the clip of a done video, in the colour of its variation."""
    variation = manifest.variations[entry.variation]
    choices = sorted(variation.choices, key=lambda choice: str(choice.get("bracket", "")).zfill(9))
    return PlayerClip(
        folder / entry.files["clip"],
        entry.recipe,
        variation.id,
        tuple(str(choice.get("text", "")) for choice in choices),
        folder,
        entry.id,
        "" if (cell := manifest.find_cell(entry)) is None else replace_names(cell.label),
        colour_names.get(variation.id, "foreground"),
        folder / entry.files["sheet"] if "sheet" in entry.files else None,
        entry.generation_seconds,
        entry.bytes,
        tuple(list_video_fields(manifest, entry)),
    )


def list_batch_clips(folder: Path, manifest: Manifest) -> list[PlayerClip]:
    """Return the clips of a batch in the order of the matrix: by variation, cell of the sweep, number."""
    entries = sorted(manifest.videos, key=lambda entry: (entry.variation, entry.cell or 0, entry.number))
    colour_names = assign_variation_colours(manifest.variations)
    return [_make_clip(folder, manifest, entry, colour_names) for entry in entries if "clip" in entry.files]


def find_marked_cells(
    marked_clips: Iterable[PlayerClip], folder: Path, manifest: Manifest, index_by_cell: dict[tuple[int, int], int]
) -> Iterator[tuple[int, int]]:
    """Yield the cells (row, column) of a batch's matrix whose clips are marked."""
    marked_paths = {clip.path for clip in marked_clips}
    for cell, index in index_by_cell.items():
        clip_name = manifest.videos[index].files.get("clip")
        if clip_name is not None and folder / clip_name in marked_paths:
            yield cell
