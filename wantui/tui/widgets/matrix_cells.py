"""Drawing of the matrix cells: picture, signs, caption, and the frame of the cursor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style

from wantui.storage.marks import VideoMark
from wantui.tui.block_characters import draw_blocks
from wantui.tui.library.video_matrix import MatrixCell
from wantui.tui.state_style import get_state_style, get_video_style
from wantui.tui.widgets.matrix_geometry import CellGeometry

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

STAR, REJECT, NOTE, COMPARED = "★", "⊘", "✎", "◆"
"""Signs of marks; `COMPARED` is the sign of a video chosen for a comparison."""
REJECTED_BRIGHTNESS = 0.3
"""Share of a rejected video's picture; the rest is the background."""


@dataclass(frozen=True)
class CursorFrameLine:
    """One line of the frame around the cell under the cursor."""

    left: str
    edge: str
    """Character between left and right where the cell has nothing else."""
    right: str
    style: Style | None


def choose_edge(style: Style | None, style_below: Style | None) -> CursorFrameLine:
    """Return the frame in the line between a cell and the cell below.

    It is the lower edge of the first cell's frame, or the upper edge of the second cell's frame.

    Args:
        style: frame style of the cell; None without a frame.
        style_below: frame style of the cell below; None without a frame.
    """
    if style is not None:
        return CursorFrameLine("╰", "─", "╯", style)
    return CursorFrameLine(" ", " ", " ", None) if style_below is None else CursorFrameLine("╭", "─", "╮", style_below)


def choose_sides(style: Style | None) -> CursorFrameLine:
    """Return the frame beside a line of a picture.

    Args:
        style: frame style of the cell; None without a frame.
    """
    side = " " if style is None else "│"
    return CursorFrameLine(side, " ", side, style)


def draw_thumbnail(picture: "Picture", background: tuple[int, int, int] | None = None) -> list[list[Segment]]:
    """Draw a picture [2 * rows, 2 * columns, rgb] in block characters.

    Args:
        background: colour into which the picture is faded; None draws it as it is.
    """
    if background is not None:
        picture = (picture * REJECTED_BRIGHTNESS + [(1 - REJECTED_BRIGHTNESS) * part for part in background]).astype(
            "uint8"
        )
    return [[Segment(block, style) for block, style in line] for line in draw_blocks(picture)]


def list_mark_symbols(mark: VideoMark, is_compared: bool) -> list[tuple[str, str]]:
    """Return the symbols of a video's marks, each with the name of its theme colour."""
    signs = [(STAR, "accent")] if mark.star else []
    signs += [(REJECT, "error")] if mark.reject else []
    signs += [(NOTE, "accent")] if mark.note else []
    return [*signs, (COMPARED, "accent")] if is_compared else signs


def draw_symbol_cell(
    cell: MatrixCell | None, is_compared: bool, cursor_style: Style | None, make_style: Callable[[str], Style]
) -> list[Segment]:
    """Draw a cell without picture: its state, and its first mark.

    Args:
        cursor_style: style of the brackets around the cell under the cursor; None for other cells.
    """
    base = cursor_style or Style.null()
    left, right = ("[", "]") if cursor_style is not None else (" ", " ")
    if cell is None:
        return [Segment(f"{left}  {right}", base)]
    state, signs = get_state_style(cell.state), list_mark_symbols(cell.mark, is_compared)
    sign, colour = signs[0] if signs else (" ", "")
    return [
        Segment(left, base),
        Segment(state.glyph, base + make_style(state.colour_name)),
        Segment(sign, base + (make_style(colour) if colour else Style.null())),
        Segment(right, base),
    ]


def draw_placeholder(
    cell: MatrixCell, geometry: CellGeometry, line: int, is_unreadable: bool, make_style: Callable[[str], Style]
) -> Segment:
    """Draw a line of a cell without picture, with the state in the centre of the cell.

    While the video waits or its picture is read, a dot replaces the state.
    """
    width = geometry.picture_width
    if line != (geometry.picture_height - 1) // 2:
        return Segment(" " * width)
    if cell.state == "queued" or (cell.state == "done" and not is_unreadable):
        return Segment("·".center(width), Style(dim=True))
    state = get_state_style(cell.state)
    text = f"{state.glyph} {state.state_word}"
    return Segment((text if len(text) <= width else state.glyph).center(width), make_style(state.colour_name))


def draw_caption(
    cell: MatrixCell,
    geometry: CellGeometry,
    is_compared: bool,
    frame: CursorFrameLine,
    make_style: Callable[[str], Style],
) -> list[Segment]:
    """Draw the line under a picture: its marks, steps of a running video, and an edge of the cursor's frame."""
    width = geometry.picture_width
    gap = " " if 2 * len(signs := list_mark_symbols(cell.mark, is_compared)[:width]) <= width else ""
    segments = [Segment(f"{sign}{gap}", make_style(colour)) for sign, colour in signs]
    rest = width - len(signs) * (1 + len(gap))
    if cell.running is not None:
        running = cell.running
        state = get_video_style(cell.state, running.step_number, running.step_count)
        is_decoding = state.state_word != get_state_style(cell.state).state_word
        progress = state.state_word if is_decoding else running.steps_text
        texts = (f"{state.glyph} {progress} ", f"{progress} ", progress, state.glyph)
        text = next((text for text in texts if len(text) <= rest), "")
        segments.append(Segment(text, make_style(state.colour_name)))
        rest -= len(text)
    return [*segments, Segment(frame.edge * rest, frame.style)]
