"""Dialog that selects the batches to analyse together."""

from collections.abc import Sequence
from pathlib import Path

from textual import getters
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets.selection_list import Selection

from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import make_content
from wantui.tui.widgets.option_lists import PagedSelectionList


class BatchChooser(BackdropMixin, ModalScreen[list[Path] | None]):
    """Dialog that returns the marked folders, or None."""

    BINDINGS = [
        Binding("enter", "accept", "Accept", priority=True),
        Binding("escape,q", "dismiss(None)", "Cancel"),
    ]

    folder_list = getters.query_one(PagedSelectionList)

    def __init__(self, folders: Sequence[Path], initial_folders: Sequence[Path]) -> None:
        super().__init__()
        self.folders, self.initial_folders = list(folders), set(initial_folders)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Batches with stored trajectories"
            dialog.border_subtitle = "space mark   enter accept   esc close"
            yield PagedSelectionList(
                *(
                    Selection(make_content(path.name), i, path in self.initial_folders)
                    for i, path in enumerate(self.folders)
                )
            )

    def on_mount(self) -> None:
        self.set_focus(self.folder_list)

    def action_accept(self) -> None:
        marked_indices: list[int] = self.folder_list.selected
        self.dismiss([self.folders[index] for index in sorted(marked_indices)] or None)
