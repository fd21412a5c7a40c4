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
from wantui.tui.content import make_content
from wantui.tui.pictures import read_picture
from wantui.tui.plots import draw_picture
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.worker_errors import WorkerErrorsMixin
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class SheetRead(Message):
    """A contact sheet was read, or could not be read."""

    sheet_path: Path
    picture: "NDArray[np.uint8] | None"
    """Contact sheet as uint8 [height, width, rgb]; None if unreadable."""


class VideoDetails(WorkerErrorsMixin, Vertical):
    """Pane with the details of one video.

    Args:
        draws_sheets: True to draw contact sheets, of about 20 kB each on the wire.
    """

    details_text = getters.query_one("#about", DiffText)
    sheet_text = getters.query_one("#sheet", DiffText)

    def __init__(self, draws_sheets: bool) -> None:
        super().__init__(id="cell", classes="pane")
        self.draws_sheets = draws_sheets
        self.border_title = "Video"
        self.sheet_path: Path | None = None
        """Path of the contact sheet of the current video; None if it has none."""

    def compose(self) -> ComposeResult:
        yield DiffText(id="about")
        yield DiffText(id="sheet")

    def show_message(self, text: str) -> None:
        """Show a text instead of a video, wrapped so that the end of an error stays readable."""
        width = max(20, self.details_text.size.width)
        self._show_lines(wrap_text(text, width) or [Text("")])

    def show_entry(self, variation_id: str, entry: VideoEntry, batch_folder: Path) -> None:
        """Show a video of the batch in `batch_folder`."""
        recipe = entry.recipe
        lines = [
            Text.assemble((f"{variation_id}, seed {entry.seed}", "bold")),
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
            size_text = format_bytes(entry.bytes) if entry.bytes is not None else "?"
            lines.append(
                Text(f"{seconds}; memory {memory}, {entry.memory_plan or ''}; {size_text}, predicted {predicted}")
            )
            lines.append(Text("  ".join(entry.files.values()), "dim"))
        self._show_lines(lines)
        self.border_title = make_content(f"Video {entry.id}")
        if self.draws_sheets and "sheet" in entry.files:
            self.sheet_path = batch_folder / entry.files["sheet"]
            self.call_after_refresh(self._request_sheet, self.sheet_path)

    def _show_lines(self, lines: list[Text]) -> None:
        self.sheet_path = None
        self.details_text.show_lines(lines)
        self.sheet_text.show_lines([Text("")])

    def _request_sheet(self, sheet_path: Path) -> None:
        """Read a contact sheet if its video is still shown and the pane is high enough."""
        available_size = self.sheet_text.size
        if sheet_path == self.sheet_path and available_size.height >= 2:
            self.read_sheet(sheet_path, available_size)

    @work(thread=True, exclusive=True, group="sheet", exit_on_error=False)
    def read_sheet(self, sheet_path: Path, available_size: Size) -> None:
        """Read a contact sheet at the available size (in cells) in a thread."""
        picture = read_picture(sheet_path, max_size=(available_size.width, 2 * available_size.height))
        if not get_current_worker().is_cancelled:
            self.post_message(SheetRead(sheet_path, picture))

    @on(SheetRead)
    def _show_sheet(self, message: SheetRead) -> None:
        if message.sheet_path != self.sheet_path:
            return
        sheet_text = self.sheet_text
        if message.picture is None:
            sheet_text.show_lines([Text(f"cannot show {message.sheet_path.name}", "dim")])
        else:
            sheet_text.show_lines(draw_picture(message.picture, sheet_text.size.width, max(1, sheet_text.size.height)))
