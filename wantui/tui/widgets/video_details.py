"""Details of one video: prompt, state, facts, and its contact sheet in block characters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Resize
from textual.geometry import Size
from textual.message import Message
from textual.worker import get_current_worker

from wantui.tui.content import set_titles
from wantui.tui.facts import draw_facts
from wantui.tui.film_strip import draw_film_strip, label_sheet_frames
from wantui.tui.library.video_matrix import MatrixCell
from wantui.tui.pictures import read_sheet_frames, read_strip_frames
from wantui.tui.state_style import get_video_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.matrix_cells import NOTE, REJECT, STAR
from wantui.tui.widgets.video_facts import draw_video_facts, list_video_facts
from wantui.tui.worker_errors import WorkerErrorsMixin
from wantui.tui.wrapping import cut_lines, wrap_text

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

MAX_PROMPT_LINES = 3
"""Maximum number of lines for a prompt, an error or a note."""
UNFINISHED_HINTS = {
    "queued": "no picture yet: the video waits",
    "running": "a preview follows after the first step",
}
"""Text instead of a picture, by displayed state of a video that is not made yet."""
NO_FACTS = "times and files follow once it is generated"
"""Text instead of the facts about a video that is not generated."""
MIN_SHEET_LINES, MIN_LABELLED_LINES = 3, 4
"""Minimum height of a contact sheet in lines, below which it is not drawn, and of one with numbers below its frames."""


@dataclass
class SheetRead(Message):
    """The frames of a contact sheet, if it can be read."""

    sheet_path: Path
    frames: "Sequence[Picture]"
    """Frames of the sheet; empty if it is unreadable."""
    labels: Sequence[str]
    """Numbers of the frames; empty for a preview."""


class VideoFacts(DiffText):
    """Pane with the cost and the location of one video; only a wide, high terminal has it."""

    def __init__(self) -> None:
        super().__init__(id="video-facts", classes="pane")
        self.border_title = "Video"
        self.redraw: Callable[[], object] = lambda: None
        """Function called when the pane appears, or has a new width."""

    def on_resize(self, event: Resize) -> None:
        self.redraw()

    def show_cell(self, cell: MatrixCell | None) -> None:
        """Show a video; None clears the pane."""
        set_titles(self, "Video" if cell is None else cell.name)
        facts = [] if cell is None else list_video_facts(cell)
        self.show_lines(draw_facts(facts, max(20, self.size.width)) or [Text("" if cell is None else NO_FACTS, "dim")])


class VideoDetails(WorkerErrorsMixin, Vertical):
    """Pane with the details of one video.

    Args:
        facts_pane: pane that shows the facts if it is displayed.
        draws_sheets: True to draw contact sheets, of about 20 kB each on the wire.
    """

    details_text = getters.query_one("#about", DiffText)
    sheet_text = getters.query_one("#sheet", DiffText)

    def __init__(self, facts_pane: VideoFacts, draws_sheets: bool) -> None:
        super().__init__(id="cell", classes="pane")
        self.facts_pane = facts_pane
        facts_pane.redraw = self.on_resize
        self.draws_sheets = draws_sheets
        self.border_title = "Video"
        self.sheet_path: Path | None = None
        """Path of the contact sheet of the current video; None if it has none."""
        self._shown: tuple[MatrixCell, Path] | None = None
        """Current video, and the folder of its batch."""

    def compose(self) -> ComposeResult:
        yield DiffText(id="about")
        yield DiffText(id="sheet")

    def on_resize(self) -> None:
        if self._shown is not None:
            self.call_after_refresh(self._draw_again)

    def _draw_again(self) -> None:
        """Draw the current video at a new size."""
        if self._shown is not None:
            self.show_cell(*self._shown)

    def show_message(self, text: str) -> None:
        """Show a text instead of a video, wrapped so that the end of an error stays readable."""
        self._shown = None
        width = max(20, self.details_text.size.width)
        self._show_lines(wrap_text(text, width) or [Text("")])

    def show_cell(self, cell: MatrixCell, batch_folder: Path, reads_preview: bool = True) -> None:
        """Show a video of the batch in `batch_folder`.

        Args:
            reads_preview: also read a preview that is shown, because it has changed.
        """
        self._shown = cell, batch_folder
        self.facts_pane.show_cell(cell)
        width = max(20, self.details_text.size.width)
        self.details_text.show_lines(self._draw_details(cell, width))
        sheet_path, has_read = self._find_sheet(cell, batch_folder), self.sheet_path is not None
        if sheet_path is None or sheet_path != self.sheet_path:
            self.sheet_path, has_read = sheet_path, False
            is_started = cell.running is not None and cell.running.step_number
            hint = UNFINISHED_HINTS.get(cell.state, "") if self.draws_sheets and not (sheet_path or is_started) else ""
            self.sheet_text.show_lines([Text(hint, "dim")])
        if sheet_path is not None and (reads_preview or not has_read):
            self.call_after_refresh(self._request_sheet, sheet_path)

    def _draw_details(self, cell: MatrixCell, width: int) -> list[Text]:
        """Return the heading, the prompt and the messages; also the facts, unless the contact sheet needs the lines."""
        entry, mark, make_style = cell.entry, cell.mark, self.details_text.make_colour_style
        is_brief = self.screen.has_class("-low") and self.draws_sheets and "sheet" in entry.files
        heading = self._draw_heading(cell)
        lines = [heading if heading.cell_len <= width else self._draw_heading(cell, is_short=True)]
        prompt_lines = wrap_text(entry.recipe.prompt, width)
        lines += cut_lines(prompt_lines, 1 if is_brief else MAX_PROMPT_LINES, width)
        if entry.error:
            lines += cut_lines(wrap_text(entry.error, width, make_style("error")), MAX_PROMPT_LINES, width)
        if mark.note:
            note_lines = wrap_text(f"{NOTE} {' '.join(mark.note.split())}", width, make_style("accent"))
            lines += cut_lines(note_lines, 1 if is_brief else MAX_PROMPT_LINES, width)
        if self.facts_pane.display:
            return lines
        if not is_brief:
            return [*lines, *draw_video_facts(cell, width)]
        return [*lines, Text(f"alike  {cell.similarity}")] if cell.similarity else lines

    def _draw_heading(self, cell: MatrixCell, *, is_short: bool = False) -> Text:
        """Return the name, the state and the marks of a video, and how long it took or how far it is.

        Args:
            is_short: of a done video, show only the sign and the seconds.
        """
        entry, mark, make_style = cell.entry, cell.mark, self.details_text.make_colour_style
        running = cell.running
        state = get_video_style(cell.state, *((running.step_number, running.step_count) if running else (0, 0)))
        heading = Text.assemble((cell.name, "bold"), "  ")
        has_duration = entry.state == "done" and bool(entry.generation_seconds)
        word = "" if is_short and has_duration else f" {state.state_word}"
        heading.append(f"{state.glyph}{word}", make_style(state.colour_name))
        if has_duration:
            heading.append(f"{' ' if is_short else ', generated in '}{entry.generation_seconds:.1f} s", "dim")
        for sign, word, colour in (
            (STAR, "starred" if mark.star else "", "accent"),
            (REJECT, "rejected" if mark.reject else "", "error"),
        ):
            if word:
                heading.append(f"  {sign} {word}", make_style(colour))
        if cell.running is not None:
            heading.append(f"  {cell.running.step_number} of {cell.running.step_count} steps", "dim")
        return heading

    def _find_sheet(self, cell: MatrixCell, batch_folder: Path) -> Path | None:
        """Return the contact sheet of a video, or the preview of a running video; None without such a picture."""
        if not self.draws_sheets:
            return None
        if cell.running is not None:
            return cell.running.preview_path
        return batch_folder / cell.entry.files["sheet"] if "sheet" in cell.entry.files else None

    def _show_lines(self, lines: list[Text]) -> None:
        self.facts_pane.show_cell(None)
        self.sheet_path = None
        self.details_text.show_lines(lines)
        self.sheet_text.show_lines([Text("")])

    def _request_sheet(self, sheet_path: Path) -> None:
        """Read a contact sheet if its video is still shown and the pane is high enough."""
        available_size = self.sheet_text.size
        if sheet_path == self.sheet_path and available_size.height >= MIN_SHEET_LINES:
            assert self._shown is not None, "a sheet belongs to a video"
            cell = self._shown[0]
            self.read_sheet(sheet_path, available_size, 0 if cell.running is not None else cell.entry.recipe.frames)

    @work(thread=True, exclusive=True, group="sheet", exit_on_error=False)
    def read_sheet(self, sheet_path: Path, available_size: Size, frame_count: int) -> None:
        """Read a contact sheet at the available size (in cells) in a thread.

        Args:
            frame_count: number of frames in the video; 0 for a preview.
        """
        if frame_count:
            max_size = (2 * available_size.width, 4 * available_size.height)
            frames, labels = read_sheet_frames(sheet_path, frame_count, max_size), label_sheet_frames(frame_count)
        else:
            frames, labels = read_strip_frames(sheet_path), []
        if not get_current_worker().is_cancelled:
            self.post_message(SheetRead(sheet_path, frames, labels))

    @on(SheetRead)
    def _show_sheet(self, message: SheetRead) -> None:
        if message.sheet_path != self.sheet_path:
            return
        sheet_text = self.sheet_text
        if not message.frames:
            sheet_text.show_lines([Text(f"cannot show {message.sheet_path.name}", "dim")])
        else:
            width, height = sheet_text.size
            labels = message.labels if height >= MIN_LABELLED_LINES else []
            sheet_text.show_lines(draw_film_strip(message.frames, labels, width, max(2, height)))
