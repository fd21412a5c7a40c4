"""Actions of the Library screen on marks: star, reject, and write notes."""

from collections.abc import Sequence
from pathlib import Path

from textual import on, work

from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
from wantui.storage.marks import BatchMarks, VideoMark, edit_mark
from wantui.tui.library_data import MarksChanged
from wantui.tui.library_grid import MatrixCell
from wantui.tui.screens.dialogs import InputDialog
from wantui.tui.screens.library_playback import LibraryPlayback

MarkEdit = tuple[Path, str, dict[str, bool | str]]
"""Batch folder, ID of a video, and the changed fields of its mark."""


class LibraryMarks(LibraryPlayback):
    """Base of the Library screen that changes marks; they are shown at once, and written on another thread in order."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting_edits: list[MarkEdit] = []
        self._is_writing_marks = False

    def get_current_cell(self) -> MatrixCell | None:
        """Return the cell under the cursor, or None."""
        raise NotImplementedError

    def show_mark(self, video_id: str, mark: VideoMark) -> None:
        """Show the mark of a video of the shown batch."""
        raise NotImplementedError

    def show_written_marks(self, folder: Path, marks: BatchMarks) -> None:
        """Show the marks of a batch as they are on disk."""
        raise NotImplementedError

    def reload_batch(self) -> None:
        """Read the shown batch again."""
        raise NotImplementedError

    def action_star(self) -> None:
        if (cell := self._require_cell()) is not None:
            self._change_mark(cell, {"star": not cell.mark.star, "reject": False})

    def action_reject(self) -> None:
        if (cell := self._require_cell()) is not None:
            self._change_mark(cell, {"reject": not cell.mark.reject, "star": False})

    def action_note(self) -> None:
        if (cell := self._require_cell()) is None:
            return

        def write_note(note: str | None) -> None:
            if note is not None and note.strip() != cell.mark.note:
                self._change_mark(cell, {"note": note.strip()})

        self.app.push_screen(InputDialog(f"Note on {cell.entry.recipe.prompt}", cell.mark.note), write_note)

    def _require_cell(self) -> MatrixCell | None:
        """Return the cell under the cursor; notify and return None if there is none."""
        if (cell := self.get_current_cell()) is None:
            self.notify("no video is selected")
        return cell

    def _change_mark(self, cell: MatrixCell, changes: dict[str, bool | str]) -> None:
        if self.shown_folder is None:
            return
        self.show_mark(cell.entry.id, cell.mark.model_copy(update=changes))
        self._waiting_edits.append((self.shown_folder, cell.entry.id, changes))
        self._write_waiting_edits()

    def _write_waiting_edits(self) -> None:
        if self._waiting_edits and not self._is_writing_marks:
            self._is_writing_marks = True
            edits, self._waiting_edits = self._waiting_edits, []
            self.write_marks(edits)

    @work(thread=True, group="marks", exit_on_error=False)
    def write_marks(self, edits: Sequence[MarkEdit]) -> None:
        """Write changed marks on a background thread."""
        message = MarksChanged(edits[-1][0], None)
        try:
            for folder, video_id, changes in edits:
                message = MarksChanged(folder, edit_mark(BatchFolder(folder), video_id, **changes))
        except UserError as error:
            message = MarksChanged(edits[-1][0], None, str(error))
        finally:
            self.post_message(message)

    @on(MarksChanged)
    def _show_written_marks(self, message: MarksChanged) -> None:
        self._is_writing_marks = False
        if message.error:
            self.notify(message.error, severity="error", timeout=12)
        if message.marks is None:
            self.reload_batch()
        elif not self._waiting_edits:
            self.show_written_marks(message.folder, message.marks)
        self._write_waiting_edits()
