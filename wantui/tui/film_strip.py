"""Film strips: frames of a video side by side, with gaps, and the number of each frame below it."""

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.columns import append_at
from wantui.tui.plots import draw_picture

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

MIN_GAP, MAX_GAP = 1, 14
"""Limits of the cells between two frames."""
FIRST_LABEL = "frame "
"""Text before the number of the first frame, if it fits."""


def label_sheet_frames(frame_count: int) -> list[str]:
    """Return the frame numbers of a contact sheet, counted from 1."""
    from wantui.storage.contact_sheet import list_sheet_frames  # imports numpy

    return [str(index + 1) for index in list_sheet_frames(frame_count)]


def find_sheet_number(frame_count: int, frame_index: int) -> int:
    """Return the number, from 0, of the last frame on a contact sheet that is not after a frame of the clip."""
    from wantui.storage.contact_sheet import list_sheet_frames  # imports numpy

    return max(0, bisect_right(list_sheet_frames(frame_count), frame_index) - 1)


def draw_film_strip(
    frames: "Sequence[Picture]",
    labels: Sequence[str],
    width: int,
    height: int,
    marked_number: int | None = None,
    marked_style: Style | None = None,
) -> list[Text]:
    """Draw frames of equal size, as large as possible, spread over the width, with their labels in a dim line below.

    Args:
        labels: number of each frame; empty without labels, whose line the frames then use.
        width: width of the strip in cells.
        height: height in lines, with the line of the labels.
        marked_number: number, from 0, of the frame whose label is drawn in `marked_style`.
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
            append_at(line, number * (frame_width + gap), picture[row] if row < len(picture) else Text())
        lines.append(line)
    label_line = Text(no_wrap=True, end="")
    for number, label in enumerate(labels):
        text = f"{FIRST_LABEL}{label}" if not number and len(FIRST_LABEL + label) < frame_width + gap else label
        label, style = text.center(frame_width)[: frame_width + gap - 1].rstrip(), Style(dim=True)
        if number == marked_number and marked_style is not None:
            label, style = label.ljust(frame_width), marked_style
        append_at(label_line, number * (frame_width + gap), Text(label, style))
    return [*lines, label_line] if labels else lines
