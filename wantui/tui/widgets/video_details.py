"""Details of one video: prompt, state, sampling, times, memory, files, and its contact sheet in block characters."""

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

from wantui.formatting import format_bytes, format_count
from wantui.planning.guidance_plan import describe_guidance
from wantui.storage.manifest import VideoEntry
from wantui.tui.content import set_titles
from wantui.tui.facts import Fact, draw_facts
from wantui.tui.library.grid import MatrixCell
from wantui.tui.pictures import read_picture
from wantui.tui.plots import draw_picture
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.matrix_cells import NOTE, REJECT, STAR
from wantui.tui.worker_errors import WorkerErrorsMixin
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PROMPT_LINES = 3
"""Maximum number of lines of a prompt, an error or a note."""
UNFINISHED_HINTS = {
    "queued": "no picture yet: the video waits",
    "running": "the first step brings the first preview",
}
"""Text instead of a picture, by displayed state of a video that is not made yet."""
MIN_SHEET_LINES = 3
"""Minimum height of a contact sheet in lines; it is not drawn if there is less room."""


@dataclass
class SheetRead(Message):
    """A contact sheet was read, or could not be read."""

    sheet_path: Path
    picture: "NDArray[np.uint8] | None"
    """Contact sheet as uint8 [height, width, rgb]; None if unreadable."""


def list_video_facts(entry: VideoEntry) -> list[Fact]:
    """Return how a video was made, what it cost, and where it is."""
    recipe = entry.recipe
    facts = [
        Fact(
            "made",
            f"{recipe.model}, {recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')}, "
            f"{format_count(recipe.steps, 'step')} of "
            f"{recipe.sampler}, {describe_guidance(recipe)}",
        )
    ]
    if recipe.computation_note:
        facts.append(Fact("", Text(recipe.computation_note)))
    if entry.state != "done":
        return facts
    seconds = [f"{name} {value:.1f} s" for name, value in entry.seconds.items() if name != "step"]
    seconds += [f"{entry.seconds['step']:.2f} s a step"] if "step" in entry.seconds else []
    memory = f"{format_bytes(entry.peak_memory)} on the GPU" if entry.peak_memory else "on the CPU"
    memory += (
        f" (predicted: {format_bytes(entry.predicted['peak_memory'])})" if "peak_memory" in entry.predicted else ""
    )
    size = format_bytes(entry.bytes) if entry.bytes is not None else "?"
    size += f" (predicted: {format_bytes(entry.predicted['bytes'])})" if "bytes" in entry.predicted else ""
    other_names = ", ".join(name for name in entry.files if name != "clip")
    facts += [
        Fact("took", ", ".join(seconds)),
        Fact("memory", f"{memory}{f', plan {entry.memory_plan}' if entry.memory_plan else ''}"),
        Fact("on disk", size),
        Fact("files", f"{entry.files.get('clip', '')}{f' with {other_names}' if other_names else ''}"),
    ]
    return [fact for fact in facts if fact.value]


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

    def show_cell(self, cell: MatrixCell, batch_folder: Path, reads_preview: bool = True) -> None:
        """Show a video of the batch in `batch_folder`.

        Args:
            reads_preview: also read a preview that is shown, because it has changed.
        """
        entry, mark, make_style = cell.entry, cell.mark, self.details_text.make_colour_style
        state = get_state_style(cell.state)
        heading = Text.assemble((cell.name, "bold"), "  ")
        heading.append(f"{state.glyph} {state.state_word}", make_style(state.colour_name))
        for sign, word, colour in (
            (STAR, "starred" if mark.star else "", "warning"),
            (REJECT, "rejected" if mark.reject else "", "error"),
        ):
            if word:
                heading.append(f"  {sign} {word}", make_style(colour))
        width = max(20, self.details_text.size.width)
        lines = [heading, *wrap_text(entry.recipe.prompt, width)[:MAX_PROMPT_LINES]]
        if entry.error:
            lines += [
                Text(line.plain, make_style("error")) for line in wrap_text(entry.error, width)[:MAX_PROMPT_LINES]
            ]
        if mark.note:
            lines += wrap_text(f"{NOTE} {' '.join(mark.note.split())}", width, make_style("primary"))[:MAX_PROMPT_LINES]
        facts = [Fact("alike", Text(cell.similarity))] if cell.similarity else []
        if cell.running is not None:
            heading.append(f"  step {cell.running.step_number} of {cell.running.step_count}", "dim")
        self.details_text.show_lines([*lines, *draw_facts([*facts, *list_video_facts(entry)], width)])
        set_titles(self, f"Video {entry.id}")
        sheet_path, has_read = self._find_sheet(cell, batch_folder), self.sheet_path is not None
        if sheet_path is None or sheet_path != self.sheet_path:
            self.sheet_path, has_read = sheet_path, False
            is_started = cell.running is not None and cell.running.step_number
            hint = UNFINISHED_HINTS.get(cell.state, "") if self.draws_sheets and not (sheet_path or is_started) else ""
            self.sheet_text.show_lines([Text(hint, "dim")])
        if sheet_path is not None and (reads_preview or not has_read):
            self.call_after_refresh(self._request_sheet, sheet_path)

    def _find_sheet(self, cell: MatrixCell, batch_folder: Path) -> Path | None:
        """Return the contact sheet of a video, or the preview of a running one; None if there is none."""
        if not self.draws_sheets:
            return None
        if cell.running is not None:
            return cell.running.preview_path
        return batch_folder / cell.entry.files["sheet"] if "sheet" in cell.entry.files else None

    def _show_lines(self, lines: list[Text]) -> None:
        self.sheet_path = None
        self.details_text.show_lines(lines)
        self.sheet_text.show_lines([Text("")])

    def _request_sheet(self, sheet_path: Path) -> None:
        """Read a contact sheet if its video is still shown and the pane is high enough."""
        available_size = self.sheet_text.size
        if sheet_path == self.sheet_path and available_size.height >= MIN_SHEET_LINES:
            self.read_sheet(sheet_path, available_size)

    @work(thread=True, exclusive=True, group="sheet", exit_on_error=False)
    def read_sheet(self, sheet_path: Path, available_size: Size) -> None:
        """Read a contact sheet at the available size (in cells) in a thread."""
        picture = read_picture(sheet_path, max_size=(2 * available_size.width, 4 * available_size.height))
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
