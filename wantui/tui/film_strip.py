"""Film strips: frames of a video side by side, with gaps, and the number of each frame below it."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.pictures import read_picture
from wantui.tui.plots import draw_picture

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

MIN_GAP, MAX_GAP = 1, 14
"""Limits of the cells between two frames."""
FIRST_LABEL = "frame "
"""Text before the number of the first frame, if it fits."""


def read_sheet_frames(path: Path, frame_count: int, max_size: tuple[int, int]) -> "list[Picture]":
    """Read the frames of a contact sheet; empty if it is missing, damaged or too large.

    Args:
        frame_count: number of frames of the video.
        max_size: maximum width and height of the sheet in pixels.
    """
    from wantui.storage.contact_sheet import list_sheet_frames  # imports numpy

    if (sheet := read_picture(path, max_size)) is None:
        return []
    count = len(list_sheet_frames(frame_count))
    edges = [round(index * sheet.shape[1] / count) for index in range(count + 1)]
    return [sheet[:, left : max(right, left + 1)] for left, right in pairwise(edges)]


def label_sheet_frames(frame_count: int) -> list[str]:
    """Return the numbers of the frames of a contact sheet, counted from 1."""
    from wantui.storage.contact_sheet import list_sheet_frames  # imports numpy

    return [str(index + 1) for index in list_sheet_frames(frame_count)]


def draw_film_strip(frames: "Sequence[Picture]", labels: Sequence[str], width: int, height: int) -> list[Text]:
    """Draw frames of equal size as large as fits, spread over the width, with their labels in a dim line below.

    Args:
        labels: number of each frame; empty without labels, whose line the frames then use.
        width: width of the strip in cells.
        height: height in lines, with the line of the labels.
    """
    count, aspect_ratio = len(frames), frames[0].shape[1] / frames[0].shape[0]
    free_height = max(1, height - bool(labels))
    frame_width = max(1, min((width - MIN_GAP * (count - 1)) // count, int(2 * free_height * aspect_ratio)))
    frame_height = max(1, min(free_height, ceil(frame_width / aspect_ratio / 2)))
    gap = min(MAX_GAP, max(MIN_GAP, (width - count * frame_width) // max(1, count - 1)))
    pictures = [draw_picture(frame, frame_width, frame_height) for frame in frames]
    lines = []
    for row in range(max(map(len, pictures))):
        line = Text(no_wrap=True, end="")
        for number, picture in enumerate(pictures):
            line.append(" " * (number * (frame_width + gap) - line.cell_len))
            line.append_text(picture[row] if row < len(picture) else Text())
        lines.append(line)
    label_line = Text(no_wrap=True, end="")
    for number, label in enumerate(labels):
        text = f"{FIRST_LABEL}{label}" if not number and len(FIRST_LABEL + label) < frame_width + gap else label
        label_line.append(" " * (number * (frame_width + gap) - label_line.cell_len))
        label_line.append(text.center(frame_width)[: frame_width + gap - 1].rstrip(), Style(dim=True))
    return [*lines, label_line] if labels else lines
