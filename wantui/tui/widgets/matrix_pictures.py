"""Pictures of the matrix: requested for visible cells first, and kept as pixels and as drawn lines."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rich.segment import Segment

from wantui.tui.library.thumbnails import (
    MAX_CACHED_THUMBNAILS,
    ThumbnailReader,
    ThumbnailRequest,
    make_thumbnail_request,
)
from wantui.tui.library.video_matrix import MatrixCell, VideoMatrix
from wantui.tui.widgets.matrix_cells import draw_thumbnail

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

Colour = tuple[int, int, int]
MAX_DRAWN_PICTURES = 400
"""Maximum number of pictures that are kept as drawn lines."""


class MatrixPictures:
    """Pictures in the cells of one matrix.

    Args:
        publish: called on another thread with each picture that was read; None if it is unreadable.
    """

    def __init__(self, publish: "Callable[[ThumbnailRequest, Picture | None], object]") -> None:
        self.reader = ThumbnailReader(publish)
        self._pictures: OrderedDict[tuple[int, int], Picture | None] = OrderedDict()
        self._drawn_lines: OrderedDict[tuple[int, int], tuple[Colour | None, list[list[Segment]]]] = OrderedDict()
        """Background into which a picture is faded, and its lines, by cell."""

    def clear(self) -> None:
        """Forget all pictures, because the cells show different videos or have a new size."""
        self._pictures.clear()
        self._drawn_lines.clear()

    def request_cells(
        self, grid: VideoMatrix, places: Iterable[tuple[int, int]], size: tuple[int, int], reads_again: bool
    ) -> None:
        """Read the pictures of cells in this order; try unreadable pictures again.

        Args:
            reads_again: also read pictures that are known, because their files may have changed.
        """
        requests = []
        for place in places:
            cell = grid.cells.get(place)
            if cell is None or (self._pictures.get(place) is not None and not reads_again):
                continue
            request = _make_request(grid, cell, place, size)
            if request is not None:
                requests.append(request)
            elif reads_again and cell.running is None:  # the preview of a video that ended without a clip
                self._pictures.pop(place, None)
                self._drawn_lines.pop(place, None)
        self.reader.request(requests)

    def add_picture(self, grid: VideoMatrix, request: ThumbnailRequest, picture: "Picture | None") -> bool:
        """Store a picture if its cell still shows the same video; return whether the cell looks different now."""
        place = request.place
        cell = grid.cells.get(place)
        if cell is None or _make_request(grid, cell, place, request.size) != request:
            return False
        if place in self._pictures and self._pictures[place] is picture:
            return False
        self._pictures[place] = picture
        self._pictures.move_to_end(place)
        while len(self._pictures) > MAX_CACHED_THUMBNAILS:
            self._pictures.popitem(last=False)
        self._drawn_lines.pop(place, None)
        return True

    def is_unreadable(self, place: tuple[int, int]) -> bool:
        """Return whether a picture was requested, and cannot be read."""
        return place in self._pictures and self._pictures[place] is None

    def draw(self, place: tuple[int, int], background: Colour | None) -> list[list[Segment]] | None:
        """Return the lines of a picture, or None if it was not read yet or cannot be read.

        Args:
            background: colour into which the picture is faded; None draws it as it is.
        """
        picture = self._pictures.get(place)
        if picture is None:
            return None
        if place not in self._drawn_lines or self._drawn_lines[place][0] != background:
            self._drawn_lines[place] = background, draw_thumbnail(picture, background)
            while len(self._drawn_lines) > MAX_DRAWN_PICTURES:
                self._drawn_lines.popitem(last=False)
        self._drawn_lines.move_to_end(place)
        return self._drawn_lines[place][1]


def _make_request(
    grid: VideoMatrix, cell: MatrixCell, place: tuple[int, int], size: tuple[int, int]
) -> ThumbnailRequest | None:
    """Return the request for the picture of a cell: the preview of a running video, or a file of a finished video."""
    preview_path = None if cell.running is None else cell.running.preview_path
    return make_thumbnail_request(place, grid.folder, cell.entry, size, preview_path)
