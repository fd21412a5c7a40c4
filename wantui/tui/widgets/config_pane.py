"""The left side of Compose: the configs that can be chosen, and the settings of the one that is."""

from dataclasses import dataclass
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message

from wantui.config import Config, ConfigError, dump
from wantui.errors import UserError
from wantui.tui.config_sources import (
    ConfigSource,
    DraftText,
    effective_changes,
    find_sources,
    format_setting_errors,
    read_draft,
    resolve_save_path,
    save_config,
)
from wantui.tui.content import to_content
from wantui.tui.drafts import Drafts
from wantui.tui.widgets.settings_form import SettingsForm
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.worker_errors import WorkerErrorsMixin


@dataclass
class SourcesFound(Message):
    """The configs that can be chosen."""

    sources: list[ConfigSource]


@dataclass
class FileChecked(Message):
    """A config's file was looked at."""

    previous: DraftText
    """Draft before its file was read."""
    current: DraftText | None
    """The same draft if its file is unchanged; None if the file is deleted."""


class ConfigPane(WorkerErrorsMixin, Vertical):
    """Editor of the drafts that posts `Changed`; `config` is None while the draft is unusable."""

    @dataclass
    class Changed(Message):
        """Another config, or other settings of it."""

        error: str
        """Why it cannot be used."""

    rows = getters.query_one("#configs", VirtualList)
    form = getters.query_one(SettingsForm)

    def __init__(self, drafts: Drafts) -> None:
        super().__init__(id="left")
        self.drafts = drafts
        self.sources: list[ConfigSource] = []
        self.config: Config | None = None
        self.draft_text: DraftText | None = None
        """Text of the draft's config, of which settings are changed without reading it again."""
        self.unchanged_config: Config | None = None
        """Config of that text without changes; None where it can only be used with them."""
        self._name_width = 20
        self._is_checking_file = False
        self._opens_editor_after_check = False
        """True if the text is to be edited once its file was read."""

    def compose(self) -> ComposeResult:
        configs = VirtualList(id="configs", classes="pane")
        configs.border_title = "Config"
        yield configs
        with Vertical(id="settings", classes="pane") as settings:
            settings.border_title = "Settings"
            yield SettingsForm()

    @work(thread=True, exclusive=True, group="sources", exit_on_error=False)
    def find_sources(self) -> None:
        """Look for configs, off the thread that draws."""
        self.post_message(SourcesFound(find_sources()))

    @on(SourcesFound)
    def _show_sources(self, message: SourcesFound) -> None:
        self.sources = message.sources
        rows = self.rows
        rows.fill(len(self.sources), self._draw_source)
        names = [source.name for source in self.sources]
        self._name_width = min(24, max((len(Path(name).stem) for name in names), default=0))
        if self.drafts.config in names:
            rows.cursor = names.index(self.drafts.config)

    def _draw_source(self, index: int, width: int) -> Text:
        source, rows = self.sources[index], self.rows
        chosen = source.name == self.drafts.config
        line = Text.assemble(("● " if chosen else "  ", rows.colour("accent")))
        name = Path(source.name).stem if "/" in source.name else source.name
        line.append(f"{name:<{self._name_width}} ", Style(bold=chosen))
        line.append(source.summary, Style(dim=True) if source.is_valid else rows.colour("error"))
        return line

    @on(VirtualList.Chosen, "#configs")
    def _choose(self, message: VirtualList.Chosen) -> None:
        from wantui.tui.screens.dialogs import Confirm

        source, drafts = self.sources[message.index], self.drafts

        def choose(sure: bool | None = True) -> None:
            if sure:
                drafts.config, drafts.text, drafts.changes = source.name, None, {}
                self.load()

        if (drafts.changes or drafts.text is not None) and source.name != drafts.config:
            self.app.push_screen(Confirm(f"Drop the changes to {drafts.config}?", "Drop"), choose)
        else:
            choose()

    def load(self, text: DraftText | None = None) -> None:
        """Take the draft's config, and say what is wrong with it.

        Args:
            text: of the config, where it was read already.
        """
        drafts = self.drafts
        self.draft_text = text
        try:
            self.draft_text = text or read_draft(drafts)
            self.config = self.draft_text.config(drafts.changes)
        except ConfigError as error:
            self.config = self.unchanged_config = None
            if drafts.config != "nano" and any("no such file" in problem.message for problem in error.problems):
                self.notify(f"{drafts.config} is not there any more; nano takes its place", severity="warning")
                drafts.config, drafts.text, drafts.changes = "nano", None, {}
                self.draft_text = read_draft(drafts)
                self.config = self.draft_text.config({})
            else:
                self.post_message(self.Changed(str(error)))
                self.notify(f"{error}\nChoose another config, or correct the text: y", severity="error", timeout=15)
                return
        self.unchanged_config = self.draft_text.config_without_changes()
        drafts.changes = effective_changes(drafts.changes, self.config, self.unchanged_config)
        self.form.show(self.config, set(drafts.changes))
        self.rows.refresh()
        self._update_settings_title()
        self.post_message(self.Changed(""))

    def _update_settings_title(self) -> None:
        drafts = self.drafts
        changes = len(drafts.changes) + (drafts.text is not None)
        title = f"Settings ({changes} changed)" if changes else "Settings"
        self.query_one("#settings").border_title = to_content(title)

    @on(SettingsForm.Changed)
    def _setting_changed(self, message: SettingsForm.Changed) -> None:
        drafts = self.drafts
        if self.draft_text is None:
            self.form.show_error(f"{drafts.config} cannot be read")
            return
        try:
            config = self.draft_text.config({**drafts.changes, message.key: message.value})
        except ConfigError as error:
            self.form.show_error(format_setting_errors(error, message.key))
            return
        self.form.show_error(None)
        if message.is_final:
            drafts.changes = effective_changes(
                {**drafts.changes, message.key: message.value}, config, self.unchanged_config
            )
            self.config = config
            self.form.accept()
            self.form.show(config, set(drafts.changes))
            self._update_settings_title()
            self.post_message(self.Changed(""))

    def check_file(self) -> None:
        """Have the config's file looked at, by a thread: a network file system may take its time."""
        if self.draft_text is not None and self.draft_text.path is not None and not self._is_checking_file:
            self._is_checking_file = True
            self.reread_file(self.draft_text)

    @work(thread=True, group="check", exit_on_error=False)
    def reread_file(self, previous: DraftText) -> None:
        """Read a config's file again where it was changed."""
        current: DraftText | None = previous
        try:
            current = previous.reload()
        finally:  # without it no file would be looked at again
            self.post_message(FileChecked(previous, current))

    @on(FileChecked)
    def _handle_file_checked(self, message: FileChecked) -> None:
        self._is_checking_file = False
        if (
            self.draft_text is message.previous and message.current is not message.previous
        ):  # and no other config was chosen since
            self._apply_file_change(message.previous, message.current)
        if self._opens_editor_after_check and self.screen.is_current:
            self._open_editor()
        self._opens_editor_after_check = False

    def _apply_file_change(self, previous: DraftText, current: DraftText | None) -> None:
        """Take a config file that was edited on disk, unless that would lose something."""
        if current is not None:
            self.notify(f"{Path(previous.source).name} was changed on disk and is read again")
            self.load(current)
            return
        if previous.error is not None:  # nothing of it is known
            self.load()
            return
        self.notify(f"{previous.source} is gone; its settings are kept here: ctrl+s saves them", severity="warning")
        drafts = self.drafts
        drafts.text = previous.text
        if self.config is not None:
            drafts.text, drafts.changes = dump(self.config.settings), {}
        self.draft_text = read_draft(drafts)
        self.unchanged_config = self.draft_text.config_without_changes()
        self.post_message(self.Changed(""))

    def drop_changes(self) -> None:
        drafts = self.drafts
        drafts.text, drafts.changes = None, {}
        self.load()

    def save_as(self) -> None:
        if self.config is None:
            self.notify("this config cannot be used, and is not saved", severity="error")
            return
        from wantui.tui.screens.dialogs import Confirm, InputDialog

        text = dump(self.config.settings)

        def save(path: Path) -> None:
            try:
                save_config(path, text)
            except UserError as error:
                self.notify(str(error), severity="error")
                return
            drafts = self.drafts
            drafts.config, drafts.text, drafts.changes = str(path), None, {}
            self.notify(f"saved as {path}")
            self.find_sources()
            self.load()

        def save_under_name(name: str | None) -> None:
            if not name or not name.strip():
                return
            try:
                path = resolve_save_path(name.strip())
            except UserError as error:
                self.notify(str(error), severity="error")
                return
            if path.exists():
                self.app.push_screen(
                    Confirm(f"{path} exists. Replace it?", "Replace"), lambda sure: save(path) if sure else None
                )
            else:
                save(path)

        self.app.push_screen(InputDialog("Save the config as (a name, or a path):"), save_under_name)

    def edit_yaml(self) -> None:
        """Open the config as text, once the current content of its file is known."""
        self._opens_editor_after_check = True
        self.check_file()
        if not self._is_checking_file:
            self._open_editor()

    def _open_editor(self) -> None:
        from wantui.tui.screens.yaml_editor import YamlEditor

        self._opens_editor_after_check = False
        drafts, read = self.drafts, self.draft_text
        if self.config is not None and drafts.changes:
            text = dump(self.config.settings)
        elif read is not None and read.error is None:
            text = read.text
        else:
            reason = f": {read.error}" if read is not None else ""
            self.notify(f"{drafts.config} cannot be read{reason}", severity="error")
            return

        def apply_edit(new: str | None) -> None:
            if new is not None and new != text:
                drafts.text, drafts.changes = new, {}
                self.load()

        self.app.push_screen(YamlEditor(text, drafts.config), apply_edit)
