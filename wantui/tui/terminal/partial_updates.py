"""Partial updates of the terminal that send only the changed cells.

Textual (8.2.8) sends a changed region from the left edge of its widget: a changed digit at the end of a line resends
the line.
"""

from rich.console import Console
from rich.control import Control
from textual import _compositor
from textual._compositor import ChopsUpdate


class CroppedUpdate(ChopsUpdate):
    """Update that starts at the first changed cell of each region."""

    def render_segments(self, console: Console) -> str:
        """Return the escape sequences and text of the changed cells."""
        parts: list[str] = []
        for y, first, end in self.spans:
            for strip_end, (strip_start, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                start, stop = max(first, strip_start), min(end, strip_end)
                if strip is not None and start < stop:
                    changed_strip = strip.crop(start - strip_start, stop - strip_start)
                    parts += [Control.move_to(start, y).segment.text, changed_strip.render(console)]
        return "".join(parts)


def patch_partial_updates() -> None:
    """Make Textual's compositor use `CroppedUpdate`."""
    _compositor.ChopsUpdate = CroppedUpdate  # type: ignore[misc]
