"""What is known of one video: prompt, state, sampling, times, memory, files, and its contact sheet in half blocks."""

from pathlib import Path

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.formatting import format_bytes
from wantui.storage.manifest import VideoEntry
from wantui.tui.plots import half_blocks
from wantui.tui.widgets.cells import Cells


class VideoDetails(Vertical):
    """Shows one entry of a manifest.

    Args:
        with_sheets: whether contact sheets are drawn; each is some twenty kilobytes on the wire.
    """

    def __init__(self, with_sheets: bool) -> None:
        super().__init__(id="cell", classes="pane")
        self.with_sheets = with_sheets
        self.border_title = "Video"

    def compose(self) -> ComposeResult:
        yield Cells(id="about")
        yield Cells(id="sheet")

    def say(self, text: str) -> None:
        """Say something in place of a video."""
        self._show([Text(text)])

    def show(self, variation: str, entry: VideoEntry, folder: Path) -> None:
        """Show a video of the batch in a folder."""
        recipe = entry.recipe
        lines = [
            Text.assemble((f"{variation}, seed {entry.seed}", "bold")),
            Text(recipe.prompt),
            Text(f"{entry.state}{f': {entry.error}' if entry.error else ''}"),
            Text(
                f"{recipe.model}, {recipe.width}x{recipe.height}, {recipe.frames} frames, {recipe.steps} steps of "
                f"{recipe.sampler}, guidance {recipe.guidance_scale:g}"
            ),
        ]
        if recipe.unusual:
            lines.append(Text(recipe.unusual))
        if entry.state == "done":
            seconds = ", ".join(f"{name} {value:g} s" for name, value in entry.seconds.items())
            memory = format_bytes(entry.peak_memory) if entry.peak_memory else "on the CPU"
            predicted = ", ".join(f"{name} {format_bytes(int(value))}" for name, value in entry.predicted.items())
            size = format_bytes(entry.bytes) if entry.bytes is not None else "?"
            lines.append(Text(f"{seconds}; memory {memory}, {entry.memory_plan or ''}; {size}, predicted {predicted}"))
            lines.append(Text("  ".join(entry.files.values()), "dim"))
        self._show(lines)
        self.border_title = f"Video {entry.id}"
        if self.with_sheets and "sheet" in entry.files:
            self.call_after_refresh(self._show_sheet, folder / entry.files["sheet"])

    def _show(self, lines: list[Text]) -> None:
        self.query_one("#about", Cells).show(lines)
        self.query_one("#sheet", Cells).show([Text("")])

    def _show_sheet(self, path: Path) -> None:
        import numpy as np
        from PIL import Image

        cells = self.query_one("#sheet", Cells)
        room = cells.size
        if room.height < 2:
            return
        try:
            with Image.open(path) as image:
                image.thumbnail((room.width, 2 * room.height))
                picture = np.asarray(image.convert("RGB"))
        except (OSError, ValueError):
            cells.show([Text(f"{path.name} cannot be shown", "dim")])
            return
        cells.show(half_blocks(picture, room.width, room.height))
