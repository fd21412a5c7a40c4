"""Details of one video: prompt, state, sampling, times, memory, files, and its contact sheet in half blocks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.geometry import Size
from textual.message import Message
from textual.worker import get_current_worker

from wantui.formatting import format_bytes
from wantui.storage.manifest import VideoEntry
from wantui.tui.content import to_content
from wantui.tui.pictures import read_picture
from wantui.tui.plots import half_blocks
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.worker_errors import WorkerErrorsMixin
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class SheetRead(Message):
    """A contact sheet was read, or could not be read."""

    path: Path
    picture: "NDArray[np.uint8] | None"
    """Contact sheet as uint8 [height, width, rgb]; None if unreadable."""


class VideoDetails(WorkerErrorsMixin, Vertical):
    """Pane with the details of one video.

    Args:
        with_sheets: True to draw contact sheets, of about 20 kB each on the wire.
    """

    about = getters.query_one("#about", DiffText)
    sheet_cells = getters.query_one("#sheet", DiffText)

    def __init__(self, with_sheets: bool) -> None:
        super().__init__(id="cell", classes="pane")
        self.with_sheets = with_sheets
        self.border_title = "Video"
        self.sheet: Path | None = None
        """Path of the contact sheet of the current video; None if it has none."""

    def compose(self) -> ComposeResult:
        yield DiffText(id="about")
        yield DiffText(id="sheet")

    def show_message(self, text: str) -> None:
        """Show a text instead of a video, wrapped so that the end of an error stays readable."""
        width = max(20, self.about.size.width)
        self._show(wrap_text(text, width) or [Text("")])

    def show(self, variation: str, entry: VideoEntry, folder: Path) -> None:
        """Show a video of the batch in `folder`."""
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
        if recipe.computation_note:
            lines.append(Text(recipe.computation_note))
        if entry.state == "done":
            seconds = ", ".join(f"{name} {value:g} s" for name, value in entry.seconds.items())
            memory = format_bytes(entry.peak_memory) if entry.peak_memory else "on the CPU"
            predicted = ", ".join(f"{name} {format_bytes(int(value))}" for name, value in entry.predicted.items())
            size = format_bytes(entry.bytes) if entry.bytes is not None else "?"
            lines.append(Text(f"{seconds}; memory {memory}, {entry.memory_plan or ''}; {size}, predicted {predicted}"))
            lines.append(Text("  ".join(entry.files.values()), "dim"))
        self._show(lines)
        self.border_title = to_content(f"Video {entry.id}")
        if self.with_sheets and "sheet" in entry.files:
            self.sheet = folder / entry.files["sheet"]
            self.call_after_refresh(self._request_sheet, self.sheet)

    def _show(self, lines: list[Text]) -> None:
        self.sheet = None
        self.about.show(lines)
        self.sheet_cells.show([Text("")])

    def _request_sheet(self, path: Path) -> None:
        """Read a contact sheet if its video is still shown and the pane is high enough."""
        room = self.sheet_cells.size
        if path == self.sheet and room.height >= 2:
            self.read_sheet(path, room)

    @work(thread=True, exclusive=True, group="sheet", exit_on_error=False)
    def read_sheet(self, path: Path, room: Size) -> None:
        """Read a contact sheet at the available size (in cells) in a thread."""
        picture = read_picture(path, within=(room.width, 2 * room.height))
        if not get_current_worker().is_cancelled:
            self.post_message(SheetRead(path, picture))

    @on(SheetRead)
    def _sheet_read(self, message: SheetRead) -> None:
        if message.path != self.sheet:
            return
        cells = self.sheet_cells
        if message.picture is None:
            cells.show([Text(f"cannot show {message.path.name}", "dim")])
        else:
            cells.show(half_blocks(message.picture, cells.size.width, max(1, cells.size.height)))
