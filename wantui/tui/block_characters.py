"""Pictures in block characters, each with the two colours on its four quadrants that fit the picture best."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.style import Style

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIXELS_PER_CELL = (2, 2)
"""Pixels of a character: across and down."""
BLOCKS = "▀▌▞▘▝▖▛"
"""Characters by their foreground quadrants; exchanged colours give the others."""
FOREGROUNDS = (
    (True, True, False, False),
    (True, False, True, False),
    (False, True, True, False),
    (True, False, False, False),
    (False, True, False, False),
    (False, False, True, False),
    (True, True, True, False),
)
"""Quadrants with the foreground colour of each character: upper left, upper right, lower left, lower right."""
PICTURE_STYLE = Style(meta={"is_picture": True})
"""Style of all cells of a picture, by which a filter tells them from frames and cursors of the same characters."""
MIN_GAIN = 600.0
"""Decrease of a cell's squared error, summed over its four pixels and three channels of 0 to 255, from which
another character replaces the half block: smaller differences are not seen, and make runs of equal cells rarer."""


def choose_blocks(
    pixels: "NDArray[np.uint8]",
) -> "tuple[NDArray[np.intp], NDArray[np.uint8], NDArray[np.uint8]]":
    """Choose a character and two colours for each cell.

    Args:
        pixels: picture [2 * rows, 2 * columns, rgb].

    Returns:
        Index into `BLOCKS` [rows, columns], foreground and background [rows, columns, rgb], for which the squared error
        is smallest.
    """
    import numpy as np

    rows, columns = pixels.shape[0] // 2, pixels.shape[1] // 2
    quadrants = pixels.reshape(rows, 2, columns, 2, 3).transpose(0, 2, 1, 3, 4).reshape(rows, columns, 4, 3)
    values = quadrants.astype(np.float32)
    total = values.sum(2)
    masks = np.array(FOREGROUNDS, np.float32)
    counts = masks.sum(1)[:, None]
    front_sums = np.einsum("mq,rcqk->rcmk", masks, values)
    back_sums = total[:, :, None] - front_sums
    # The squared error of two means is a constant minus this.
    fits = (front_sums**2 / counts + back_sums**2 / (4 - counts)).sum(-1)
    fits[..., 0] += MIN_GAIN
    chosen = fits.argmax(-1)
    fronts = np.take_along_axis(front_sums / counts, chosen[..., None, None], 2)[:, :, 0]
    backs = np.take_along_axis(back_sums / (4 - counts), chosen[..., None, None], 2)[:, :, 0]
    return chosen, np.rint(fronts).astype(np.uint8), np.rint(backs).astype(np.uint8)


def draw_blocks(pixels: "NDArray[np.uint8]") -> Iterator[list[tuple[str, Style]]]:
    """Draw the lines of a picture [2 * rows, 2 * columns, rgb]: a character and its style for each cell."""
    for indices, fronts, backs in zip(*(array.tolist() for array in choose_blocks(pixels)), strict=True):
        yield [
            (BLOCKS[index], PICTURE_STYLE + Style(color=name_colour(front), bgcolor=name_colour(back)))
            for index, front, back in zip(indices, fronts, backs, strict=True)
        ]


def name_colour(colour: Sequence[int]) -> str:
    """Return a colour [rgb] as "#rrggbb"."""
    return f"#{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"
