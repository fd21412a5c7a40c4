"""Left side of Compose: the list of configs, and the settings of the selected one."""

from dataclasses import dataclass
from pathlib import Path

from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message

from wantui.config import Config, ConfigError, dump_settings
from wantui.config.fields import get_setting_value
from wantui.config.presets import find_example_template
from wantui.errors import UserError
from wantui.tui.config_sources import (
    ConfigSource,
    DraftText,
    find_config_sources,
    find_effective_changes,
    find_replaced_changes,
    find_size_error,
    format_setting_errors,
    name_config,
    read_draft_text,
    resolve_save_path,
    save_config,
)
from wantui.tui.content import set_titles
from wantui.tui.drafts import DEFAULT_CONFIG, Drafts
from wantui.tui.pane_titles import KeyTitledPane, find_key
from wantui.tui.settings_rows import format_label, format_setting_value
from wantui.tui.widgets.config_list import ConfigList
from wantui.tui.widgets.settings_form import SettingsForm
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.worker_errors import WorkerErrorsMixin

MIN_WIDTH_WITH_ALL_KEYS = 38
"""Smallest width in cells at which the frame of the settings names all keys."""


@dataclass
class SourcesFound(Message):
    """The available configs were listed."""

    sources: list[ConfigSource]


@dataclass
class FileChecked(Message):
    """A config file was checked for changes."""

    previous: DraftText
    """Draft before the check."""
    current: DraftText | None
    """Draft after the check: the same object if the file is unchanged, None if it was deleted."""


class ConfigPane(WorkerErrorsMixin, Vertical):
    """Editor of the draft's config that posts `Changed`; `config` is None while the draft is invalid."""

    @dataclass
    class Chosen(Message):
        """The user chose a config."""

        previous_example: str | None
        """Example template of the previous config."""
        example: str | None

    @dataclass
    class Changed(Message):
        """The config or its settings changed."""

        error: str
        """Reason why the config is invalid; otherwise empty."""

    config_list = getters.query_one(ConfigList)
    settings_pane = getters.query_one("#settings", KeyTitledPane)
    settings_form = getters.query_one(SettingsForm)

    def __init__(self, drafts: Drafts) -> None:
        super().__init__(id="left")
        self.drafts = drafts
        self.sources: list[ConfigSource] = []
        self.config: Config | None = None
        self.draft_text: DraftText | None = None
        """YAML of the draft's config; changing a setting does not read the file again."""
        self.unchanged_config: Config | None = None
        """Config of `draft_text` without the form's changes; None if it is invalid without them."""
        self._is_checking_file = False
        self._opens_editor_after_check = False
        """True if the YAML editor opens after the current check of the file."""

    def compose(self) -> ComposeResult:
        yield ConfigList()
        with KeyTitledPane("settings", "compose.settings", "Settings"):
            yield SettingsForm()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._show_keys())

    def on_resize(self) -> None:
        self._show_keys()

    def on_descendant_focus(self) -> None:
        self._show_keys()

    def on_descendant_blur(self) -> None:
        self._show_keys()

    def _show_keys(self) -> None:
        """Show the keys of the settings, or of the text field that has the focus, on the frame."""
        if self.settings_form.filter_input.has_focus:
            keys = "enter choose   esc clear"
        elif self.settings_form.value_input.has_focus:
            keys = "enter save   esc discard"
        elif self.size.width >= MIN_WIDTH_WITH_ALL_KEYS:
            keys = f"enter edit   {self._describe_setting_keys()}"
        else:
            keys = self._describe_setting_keys()
        set_titles(self.settings_pane, subtitle=keys)

    def _describe_setting_keys(self) -> str:
        return f"{find_key(self, 'compose.reset_setting')} reset   {find_key(self, 'compose.filter')} find"

    @work(thread=True, exclusive=True, group="sources", exit_on_error=False)
    def find_config_sources(self) -> None:
        """List the available configs in a thread."""
        self.post_message(SourcesFound(find_config_sources()))

    @on(SourcesFound)
    def _show_sources(self, message: SourcesFound) -> None:
        self.sources = message.sources
        self.config_list.show_sources(self.sources, self.drafts)

    @on(VirtualList.Chosen, "#configs")
    def _choose_config(self, message: VirtualList.Chosen) -> None:
        from wantui.tui.screens.dialogs import Confirm

        source, drafts = self.sources[message.row_index], self.drafts

        def choose_if_confirmed(is_confirmed: bool | None = True) -> None:
            if is_confirmed:
                previous_example = self._find_example()
                drafts.choose_config(source.config_name)
                self.load_config()
                self.post_message(self.Chosen(previous_example, self._find_example()))

        if (drafts.changes or drafts.text is not None) and source.config_name != drafts.config:
            self.app.push_screen(Confirm(f"Discard the changes to {drafts.config}?", "Discard"), choose_if_confirmed)
        else:
            choose_if_confirmed()

    def _find_example(self) -> str | None:
        """Return the example template of the draft's config."""
        return None if self.draft_text is None else find_example_template(self.draft_text.yaml_text)

    def load_config(self, draft_text: DraftText | None = None) -> None:
        """Load the draft's config, and report its errors.

        Args:
            draft_text: text of the config; None reads its file.
        """
        drafts = self.drafts
        self.draft_text = draft_text
        try:
            self.draft_text = draft_text or read_draft_text(drafts)
            self.config = self.draft_text.parse_with_changes(drafts.changes)
        except ConfigError as error:
            self.config = self.unchanged_config = None
            if drafts.config != DEFAULT_CONFIG and any("no such file" in problem.message for problem in error.problems):
                self.notify(f"cannot find config {drafts.config}; using {DEFAULT_CONFIG} instead", severity="warning")
                drafts.choose_config(DEFAULT_CONFIG)
                self.draft_text = read_draft_text(drafts)
                self.config = self.draft_text.parse_with_changes({})
            else:
                self.post_message(self.Changed(str(error)))
                self.notify(
                    f"{error}\nChoose another config, or press y to edit this one.", severity="error", timeout=15
                )
                return
        self.unchanged_config = self.draft_text.parse_without_changes() if drafts.changes else self.config
        drafts.changes = find_effective_changes(drafts.changes, self.config, self.unchanged_config)
        self.settings_form.show_config(self.config, set(drafts.changes), self.unchanged_config)
        self.config_list.refresh()
        if not self.config_list.has_focus:
            self.config_list.move_to_chosen()
        self._update_settings_title()
        self.post_message(self.Changed(""))

    def list_changes(self) -> list[tuple[str, str]]:
        """Return the name of the config, then the name and value of each changed setting; empty if none is changed."""
        if self.config is None or not self.drafts.changes:
            return []
        keys = sorted(self.drafts.changes, key=lambda key: "." not in key)  # the cost says how many videos there are
        values = [format_setting_value(key, get_setting_value(self.config, key)) for key in keys]
        names = [format_label(key.rpartition(".")[2]) for key in keys]
        return [(name_config(self.drafts.config), ""), *zip(names, values, strict=True)]

    def _update_settings_title(self) -> None:
        drafts = self.drafts
        change_count = len(drafts.changes) + (drafts.text is not None)
        title = f"Settings ({change_count} changed)" if change_count else "Settings"
        self.settings_pane.set_key_title("compose.settings", title)

    @on(SettingsForm.Changed)
    def _handle_setting_changed(self, message: SettingsForm.Changed) -> None:
        drafts = self.drafts
        if self.draft_text is None:
            self.settings_form.show_error(f"cannot read {drafts.config}")
            return
        replaced_keys = find_replaced_changes(drafts.changes, message.key, message.value)
        changes = {key: text for key, text in drafts.changes.items() if key not in replaced_keys}
        changes[message.key] = message.value
        try:
            config = self.draft_text.parse_with_changes(changes)
        except ConfigError as error:
            self.settings_form.show_error(format_setting_errors(error, message.key), message.is_final)
            return
        size_error = find_size_error(config, message.key)
        self.settings_form.show_error(size_error, message.is_final)
        if size_error is not None:
            return
        if message.is_final:
            drafts.changes = find_effective_changes(changes, config, self.unchanged_config)
            if replaced_keys:
                names = " and ".join(format_label(key.rpartition(".")[2]) for key in replaced_keys)
                self.notify(f"seeds replaces your change of {names}")
            self.config = config
            self.settings_form.close_accepted_input()
            self.settings_form.show_config(config, set(drafts.changes), self.unchanged_config)
            self._update_settings_title()
            self.post_message(self.Changed(""))

    @on(SettingsForm.Reset)
    def _handle_reset(self, message: SettingsForm.Reset) -> None:
        """Restore the config's value of a setting, unless other changes need the current value."""
        drafts = self.drafts
        if self.draft_text is None or message.key not in drafts.changes:
            self.notify(f"{message.key.rpartition('.')[2]} has the config's value already")
            return
        changes = {key: text for key, text in drafts.changes.items() if key != message.key}
        try:
            self.config = self.draft_text.parse_with_changes(changes)
        except ConfigError as error:
            self.settings_form.show_error(format_setting_errors(error, message.key))
            return
        drafts.changes = changes
        self.settings_form.show_config(self.config, set(changes), self.unchanged_config)
        self._update_settings_title()
        self.post_message(self.Changed(""))

    def check_file(self) -> None:
        """Check the config file for changes, in a thread: network file systems are slow."""
        if self.draft_text is not None and self.draft_text.file_path is not None and not self._is_checking_file:
            self._is_checking_file = True
            self.reread_file(self.draft_text)

    @work(thread=True, group="check", exit_on_error=False)
    def reread_file(self, previous: DraftText) -> None:
        """Read a config file again if it changed."""
        current: DraftText | None = previous
        try:
            current = previous.reload_file()
        finally:  # without the message, no file would ever be checked again
            self.post_message(FileChecked(previous, current))

    @on(FileChecked)
    def _handle_file_checked(self, message: FileChecked) -> None:
        self._is_checking_file = False
        is_same_config = self.draft_text is message.previous
        if is_same_config and message.current is not message.previous:
            self._load_changed_file(message.previous, message.current)
        if self._opens_editor_after_check and self.screen.is_current:
            self._open_editor()
        self._opens_editor_after_check = False

    def _load_changed_file(self, previous: DraftText, current: DraftText | None) -> None:
        """Load a config file that was edited on disk; if the file was deleted, keep its settings as the draft."""
        if current is not None:
            self.notify(f"{Path(previous.source).name} changed on disk and was reloaded")
            self.load_config(current)
            return
        if previous.error is not None:  # its settings were never read
            self.load_config()
            return
        self.notify(f"{previous.source} was deleted; press ctrl+s to save its settings", severity="warning")
        drafts = self.drafts
        drafts.text = previous.yaml_text
        if self.config is not None:
            drafts.text, drafts.changes = dump_settings(self.config.settings), {}
        self.draft_text = read_draft_text(drafts)
        self.unchanged_config = self.draft_text.parse_without_changes()
        self.post_message(self.Changed(""))

    def discard_changes(self) -> None:
        self.drafts.choose_config(self.drafts.config)
        self.load_config()

    def save_as(self) -> None:
        if self.config is None:
            self.notify("cannot save the config: it is invalid", severity="error")
            return
        from wantui.tui.screens.dialogs import Confirm, InputDialog

        text = dump_settings(self.config.settings)

        def save(dialog: InputDialog, path: Path) -> None:
            try:
                save_config(path, text)
            except UserError as error:
                dialog.show_error(str(error))
                return
            dialog.dismiss(None)
            self.drafts.choose_config(str(path))
            self.notify(f"config saved as {path}")
            self.find_config_sources()
            self.load_config()

        def save_under_name(dialog: InputDialog, name: str) -> None:
            if not name.strip():
                dialog.dismiss(None)
                return
            try:
                path = resolve_save_path(name.strip())
            except UserError as error:
                dialog.show_error(str(error))
                return
            if path.exists():
                self.app.push_screen(
                    Confirm(f"{path} exists. Replace it?", "Replace"),
                    lambda confirmed: save(dialog, path) if confirmed else None,
                )
            else:
                save(dialog, path)

        self.app.push_screen(InputDialog("Save the config as (name or path):", submit=save_under_name))

    def edit_yaml(self) -> None:
        """Open the YAML editor after checking the config file for changes."""
        self._opens_editor_after_check = True
        self.check_file()
        if not self._is_checking_file:
            self._open_editor()

    def _open_editor(self) -> None:
        from wantui.tui.screens.yaml_editor import YamlEditor

        self._opens_editor_after_check = False
        drafts, draft_text = self.drafts, self.draft_text
        if self.config is not None and drafts.changes:
            text = dump_settings(self.config.settings)
        elif draft_text is not None and draft_text.error is None:
            text = draft_text.yaml_text
        else:
            reason = f": {draft_text.error}" if draft_text is not None else ""
            self.notify(f"cannot read {drafts.config}{reason}", severity="error")
            return

        def apply_edit(edited: str | None) -> None:
            if edited is not None and edited != text:
                drafts.choose_config(drafts.config, edited)
                self.load_config()

        self.app.push_screen(YamlEditor(text, drafts.config), apply_edit)
