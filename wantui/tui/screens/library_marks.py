"""Actions of the Library screen on marks: star, reject, and write notes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from textual import on, work

from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
from wantui.storage.marks import BatchMarks, VideoMark, edit_mark, read_marks
from wantui.tui.library.data import MarksChanged, MarksWritten
from wantui.tui.library.video_matrix import MatrixCell
from wantui.tui.player.clips import ClipMarks, MarkField, PlayerClip
from wantui.tui.screens.dialogs import InputDialog
from wantui.tui.screens.library_playback import LibraryPlayback

MarkEdit = tuple[Path, str, dict[str, bool | str]]
"""Batch folder, ID of a video, and the changed fields of its mark."""


class LibraryMarks(LibraryPlayback):
    """Base of the Library screen that changes marks: shows them at once, and writes them in order on another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.shown_marks = BatchMarks()
        """Marks of the shown batch, with those that are still being written."""
        self._pending_edits: list[MarkEdit] = []
        self._is_writing_marks = False
        self._note_dialog: InputDialog | None = None
        """Dialog whose note is being written to the marks in `_note_folder`."""
        self._note_folder: Path | None = None

    def get_current_cell(self) -> MatrixCell | None:
        """Return the cell under the cursor, or None."""
        raise NotImplementedError

    def show_mark(self, video_id: str, mark: VideoMark) -> None:
        """Show the mark of a video in the shown batch."""
        raise NotImplementedError

    def show_written_marks(self, folder: Path, marks: BatchMarks) -> None:
        """Show the marks of a batch as they are on disk."""
        raise NotImplementedError

    def reload_batch(self) -> None:
        """Read the shown batch again."""
        raise NotImplementedError

    def action_star(self) -> None:
        self._change_current_mark(lambda mark: {"star": not mark.star, "reject": False})

    def action_reject(self) -> None:
        self._change_current_mark(lambda mark: {"reject": not mark.reject, "star": False})

    def get_clip_marks(self) -> ClipMarks:
        folder = self.shown_folder
        assert folder is not None, "a clip of a batch is played"
        marks_by_folder = {folder: self.shown_marks}
        """Marks in the batches of the played clips; marks of batches that are not shown are read once."""

        def find_mark(clip: PlayerClip) -> VideoMark:
            if clip.batch_folder == self.shown_folder:  # during the playback, the Library may move to another batch
                marks_by_folder[clip.batch_folder] = self.shown_marks
            elif clip.batch_folder not in marks_by_folder:
                marks_by_folder[clip.batch_folder] = read_marks(BatchFolder(clip.batch_folder))
            return marks_by_folder[clip.batch_folder].get_mark(clip.video_id)

        def toggle(clip: PlayerClip, field: MarkField) -> None:
            mark = find_mark(clip)
            changes: dict[str, bool | str] = {"star": False, "reject": False, field: not getattr(mark, field)}
            marks_by_video = marks_by_folder[clip.batch_folder].marks_by_video
            changed_marks = {**marks_by_video, clip.video_id: mark.model_copy(update=changes)}
            marks_by_folder[clip.batch_folder] = BatchMarks(changed_marks)
            self._change_mark(clip.batch_folder, clip.video_id, changes)

        return ClipMarks(find_mark, toggle)

    def action_note(self) -> None:
        cell, folder = self._require_cell(), self.shown_folder
        if cell is None or folder is None:
            return
        video_id, first_note = cell.entry.id, cell.mark.note

        def write_note(dialog: InputDialog, note: str) -> None:
            # While the dialog was open, the Library may have moved to another batch, and marks may have changed.
            if note.strip() == first_note:
                dialog.dismiss(None)
                return
            self._note_dialog, self._note_folder = dialog, folder
            self._change_mark(folder, video_id, {"note": note.strip()})

        self.app.push_screen(InputDialog(f"Note on {cell.entry.recipe.prompt}", first_note, write_note))

    def _end_note(self, message: MarksChanged) -> bool:
        """Close the dialog of a written note, or show the error in it; return whether it shows the error."""
        dialog = self._note_dialog
        if dialog is None or message.folder != self._note_folder or self._pending_edits:
            return False
        self._note_dialog = None
        if not dialog.is_active:  # the user has closed it
            return False
        if message.error:
            dialog.show_error(message.error)
            return True
        dialog.dismiss(None)
        return False

    def _require_cell(self) -> MatrixCell | None:
        """Return the cell under the cursor; notify and return None if there is none."""
        if (cell := self.get_current_cell()) is None:
            self.notify("no video is selected")
        return cell

    def _change_current_mark(self, choose_changes: Callable[[VideoMark], dict[str, bool | str]]) -> None:
        cell = self._require_cell()
        if cell is not None and self.shown_folder is not None:
            self._change_mark(self.shown_folder, cell.entry.id, choose_changes(cell.mark))

    def _change_mark(self, folder: Path, video_id: str, changes: dict[str, bool | str]) -> None:
        """Change the mark of a video, even if its batch is no longer shown."""
        if folder == self.shown_folder:
            self.show_mark(video_id, self.shown_marks.get_mark(video_id).model_copy(update=changes))
        self._pending_edits.append((folder, video_id, changes))
        self._write_pending_edits()

    def _write_pending_edits(self) -> None:
        if self._pending_edits and not self._is_writing_marks:
            self._is_writing_marks = True
            edits, self._pending_edits = self._pending_edits, []
            self.write_marks(edits)

    @work(thread=True, group="marks", exit_on_error=False)
    def write_marks(self, edits: Sequence[MarkEdit]) -> None:
        """Write changed marks on a background thread; an edit that fails does not stop the others."""
        marks_by_folder: dict[Path, BatchMarks | None] = {folder: None for folder, _, _ in edits}
        errors_by_folder: dict[Path, list[str]] = {}
        try:
            for folder, video_id, changes in edits:
                try:
                    marks_by_folder[folder] = edit_mark(BatchFolder(folder), video_id, **changes)
                except UserError as error:
                    errors_by_folder.setdefault(folder, []).append(str(error))
        finally:
            for folder, marks in marks_by_folder.items():
                errors = dict.fromkeys(errors_by_folder.get(folder, ()))  # each once
                self.post_message(MarksChanged(folder, marks, "\n".join(errors)))
            self.post_message(MarksWritten())

    @on(MarksChanged)
    def _show_changed_marks(self, message: MarksChanged) -> None:
        is_error_shown = self._end_note(message)
        if message.error and not is_error_shown:
            self.notify(message.error, severity="error", timeout=12)
        if message.marks is None:
            self.reload_batch()
        elif not self._pending_edits:
            self.show_written_marks(message.folder, message.marks)

    @on(MarksWritten)
    def _finish_writing(self) -> None:
        self._is_writing_marks = False
        self._write_pending_edits()
