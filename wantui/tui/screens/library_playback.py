"""Actions of the Library screen on clips: play, mark, compare, and show steps and recipes."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from wantui.formatting import format_count
from wantui.storage.batch_index import BatchSummary
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.video_selection import SelectedVideo
from wantui.tui.edit_copy import copy_videos_to_draft
from wantui.tui.messages import AnalyseBatch
from wantui.tui.plain_names import replace_names
from wantui.tui.player.clip_labels import label_clips
from wantui.tui.player.clips import ClipMarks, PlayerClip, find_marked_cells, list_batch_clips, make_player_clip
from wantui.tui.player.pixel_terminal import play_clips_in_pixels
from wantui.tui.player.recipe_table import list_video_fields
from wantui.tui.screens.forming import FormingScreen
from wantui.tui.screens.library_jobs import LibraryJobsMixin
from wantui.tui.screens.player import Player
from wantui.tui.screens.recipe_viewer import RecipeViewer

MAX_COMPARED_CLIPS = 9
"""Maximum number of clips that are played side by side."""


class LibraryPlayback(LibraryJobsMixin):
    """Base of the Library screen that plays, marks and compares clips."""

    shown_folder: Path | None = None
    """Folder of the batch shown in the matrix."""
    shown_manifest: Manifest | None = None
    batches: Sequence[BatchSummary] = ()
    """All batches of the folders."""

    def __init__(self) -> None:
        super().__init__()
        self.video_indices: dict[tuple[int, int], int] = {}
        """Index of each video in the manifest, by row and column of the matrix."""
        self.marked_clips: list[PlayerClip] = []
        """Clips to compare, which may belong to several batches."""

    def get_current_entry(self) -> VideoEntry | None:
        """Return the manifest entry of the video under the cursor, or None."""
        raise NotImplementedError

    def show_marked_cells(self, marked_cells: frozenset[tuple[int, int]]) -> None:
        """Show which cells of the matrix are marked."""
        raise NotImplementedError

    def select_cell(self, row: int, column: int) -> None:
        """Move the cursor of the matrix."""
        raise NotImplementedError

    def list_idle_actions(self) -> Iterator[str]:
        if self.shown_folder is None:
            yield from ("analyse", "trash")
        if not self.batches:
            yield from ("search", "filter")
        if self.get_current_entry() is None:
            yield from ("play", "mark", "recipe", "reject", "star", "compare", "note", "cell_size", "copy_path")

    def find_current_clip(self) -> PlayerClip | None:
        """Return the clip under the cursor; notify and return None if it is missing."""
        entry = self.get_current_entry()
        if entry is None or self.shown_folder is None or self.shown_manifest is None:
            self.notify("no video is selected")
            return None
        if "clip" not in entry.files:
            self.notify(
                f"this video has no clip: {entry.state}{f', {entry.error}' if entry.error else ''}", severity="warning"
            )
            return None
        clip = make_player_clip(self.shown_folder, self.shown_manifest, entry)
        if not clip.path.is_file():
            self.notify(
                f"cannot find the clip {clip.path}: it was moved or deleted. Press r to read the folders again",
                severity="error",
            )
            return None
        return clip

    def get_clip_marks(self) -> ClipMarks:
        """Return access to the clips' marks in the shown batch."""
        raise NotImplementedError

    def list_shown_clips(self) -> list[PlayerClip]:
        """Return the clips of the shown batch in the order of the matrix."""
        if self.shown_folder is None or self.shown_manifest is None:
            return []
        return list_batch_clips(self.shown_folder, self.shown_manifest)

    def update_marked_cells(self) -> None:
        """Show the marks of the shown batch in the matrix."""
        cells: frozenset[tuple[int, int]] = frozenset()
        if self.shown_folder is not None and self.shown_manifest is not None:
            cells = frozenset(
                find_marked_cells(self.marked_clips, self.shown_folder, self.shown_manifest, self.video_indices)
            )
        self.show_marked_cells(cells)

    def action_play(self) -> None:
        if (clip := self.find_current_clip()) is not None:
            self.app.push_screen(
                Player([clip], self.list_shown_clips(), self.get_clip_marks()), self._select_played_clip
            )

    def _select_played_clip(self, clip: PlayerClip | None) -> None:
        """Move the cursor of the matrix to the clip that was played last."""
        if clip is not None and self.shown_folder is not None and self.shown_manifest is not None:
            for cell in find_marked_cells([clip], self.shown_folder, self.shown_manifest, self.video_indices):
                self.select_cell(*cell)

    def action_play_pixels(self) -> None:
        if (clip := self.find_current_clip()) is not None:
            self._select_played_clip(play_clips_in_pixels(self.app, [clip], self.list_shown_clips()))

    def action_show_steps(self) -> None:
        """Show how the video under the cursor forms."""
        entry = self.get_current_entry()
        if entry is None or self.shown_folder is None or self.shown_manifest is None:
            self.notify("no video is selected")
            return
        self.app.push_screen(FormingScreen(SelectedVideo(self.shown_folder, self.shown_manifest, entry)))

    def action_analyse(self) -> None:
        """Show the trajectories of the batch, and select the video under the cursor there."""
        entry, folder, manifest = self.get_current_entry(), self.shown_folder, self.shown_manifest
        if folder is None or manifest is None:
            self.notify("no batch is selected")
            return
        indices_by_id = {video.id: index for index, video in enumerate(manifest.videos)}
        self.post_message(AnalyseBatch(folder, None if entry is None else indices_by_id[entry.id]))

    def action_mark(self) -> None:
        """Mark the clip under the cursor, or remove its mark."""
        if (clip := self.find_current_clip()) is None:
            return
        if clip in self.marked_clips:
            self.marked_clips.remove(clip)
        elif len(self.marked_clips) == MAX_COMPARED_CLIPS:
            self.notify(
                f"cannot select another video: {MAX_COMPARED_CLIPS} are selected. Deselect all with C",
                severity="warning",
            )
        else:
            self.marked_clips.append(clip)
        self.update_marked_cells()

    def action_clear_marks(self) -> None:
        if self.marked_clips:
            self.notify(f"{format_count(len(self.marked_clips), 'video')} deselected")
        self.marked_clips.clear()
        self.update_marked_cells()

    def action_edit_video(self) -> None:
        """Compose the marked videos of the shown batch again; with fewer than two marks, compose the current video."""
        entry, folder, manifest = self.get_current_entry(), self.shown_folder, self.shown_manifest
        if folder is None or manifest is None:
            return
        marked_paths = {clip.path for clip in self.marked_clips}
        entries = [
            video for video in manifest.videos if "clip" in video.files and folder / video.files["clip"] in marked_paths
        ]
        if len(entries) > 1:
            if other_count := len(marked_paths) - len(entries):
                text = f"{format_count(other_count, 'selected video')} of other batches left out"
                self.notify(text, severity="warning")
            copy_videos_to_draft(self, folder, manifest, entries)
        elif entry is not None:
            copy_videos_to_draft(self, folder, manifest, [entry])

    def list_clips_to_compare(self) -> list[PlayerClip]:
        """Return the marked clips, plus the current clip if only one is marked; notify if there are fewer than two.

        Clips of the shown batch come first, in the order of the matrix; the others follow as they were marked.
        """
        clips = list(self.marked_clips)
        if not clips:
            self.notify("cannot compare: select a video first (m)", severity="warning")
        elif len(clips) == 1:
            if (clip := self.find_current_clip()) is None:
                return []
            if clip in clips:
                text = "cannot compare a video with itself. Move to another video, or select one (m)"
                self.notify(text, severity="warning")
            else:
                clips.append(clip)
        positions = {clip.path: position for position, clip in enumerate(self.list_shown_clips())}
        clips.sort(key=lambda clip: positions.get(clip.path, len(positions)))
        return clips if len(clips) > 1 else []

    def action_compare(self) -> None:
        if clips := self.list_clips_to_compare():
            self._compare_clips(clips)

    def _compare_clips(self, clips: Sequence[PlayerClip]) -> None:
        """Play clips side by side."""
        marks = None if self.shown_manifest is None else self.get_clip_marks()
        self.app.push_screen(Player(clips, clip_marks=marks))

    def action_recipe(self) -> None:
        entry = self.get_current_entry()
        if entry is not None and self.shown_manifest is not None:
            title = replace_names(self.shown_manifest.make_video_title(entry))
            facts = list_video_fields(self.shown_manifest, entry)
            self.app.push_screen(RecipeViewer([(title, entry.recipe)], entry.model_dump(mode="json"), facts=facts))

    def action_diff_recipes(self) -> None:
        if clips := self.list_clips_to_compare():
            recipes = [clip.recipe for clip in clips]
            titled_recipes = list(zip(label_clips(clips), recipes, strict=True))
            self.app.push_screen(RecipeViewer(titled_recipes, clips=clips, play=partial(self._compare_clips, clips)))
