"""The left side of Compose: the configs that can be chosen, and the settings of the one that is."""

from dataclasses import dataclass
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message

from wantui.config import Config, ConfigError, dump
from wantui.errors import UserError
from wantui.tui.compose_draft import Source, config_of, faults_of, find_sources, path_for, real_changes, save_config
from wantui.tui.drafts import Drafts
from wantui.tui.plain import plain
from wantui.tui.widgets.rows import Rows
from wantui.tui.widgets.settings_form import SettingsForm
from wantui.tui.worker_errors import ReportsWorkerErrors


@dataclass
class SourcesFound(Message):
    """The configs that can be chosen."""

    sources: list[Source]


@dataclass
class FileSeen(Message):
    """A config's file was looked at."""

    path: Path
    changed: float | None
    """Time of its last change; None where it is gone."""


def changed_at(path: Path) -> float | None:
    """Return when a file was changed; None where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


class ConfigPane(ReportsWorkerErrors, Vertical):
    """Changes the drafts, and says so by `Changed`; `config` is nothing while what is drafted cannot be used."""

    @dataclass
    class Changed(Message):
        """Another config, or other settings of it."""

        fault: str
        """Why it cannot be used."""

    def __init__(self, drafts: Drafts) -> None:
        super().__init__(id="left")
        self.drafts = drafts
        self.sources: list[Source] = []
        self.config: Config | None = None
        self.seen: tuple[Path, float] | None = None
        """File of the config and when it was changed, as it was read."""
        self._name_width = 20
        self._looking = False

    def compose(self) -> ComposeResult:
        configs = Rows(id="configs", classes="pane")
        configs.border_title = "Config"
        yield configs
        with Vertical(id="settings", classes="pane") as settings:
            settings.border_title = "Settings"
            yield SettingsForm()

    @property
    def rows(self) -> Rows:
        return self.query_one("#configs", Rows)

    @property
    def form(self) -> SettingsForm:
        return self.query_one(SettingsForm)

    @work(thread=True, exclusive=True, group="sources", exit_on_error=False)
    def find_sources(self) -> None:
        """Look for configs, off the thread that draws."""
        self.post_message(SourcesFound(find_sources()))

    @on(SourcesFound)
    def _sources_found(self, message: SourcesFound) -> None:
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

    @on(Rows.Chosen, "#configs")
    def _choose(self, message: Rows.Chosen) -> None:
        from wantui.tui.screens.dialogs import Confirm

        source, drafts = self.sources[message.index], self.drafts

        def take(sure: bool | None = True) -> None:
            if sure:
                drafts.config, drafts.text, drafts.changes = source.name, None, {}
                self.load()

        if (drafts.changes or drafts.text is not None) and source.name != drafts.config:
            self.app.push_screen(Confirm(f"Drop the changes to {drafts.config}?", "Drop"), take)
        else:
            take()

    def load(self) -> None:
        """Read the draft's config anew, and say what is wrong with it."""
        drafts = self.drafts
        try:
            self.config = config_of(drafts)
        except ConfigError as error:
            self.config = None
            if drafts.config != "nano" and any("no such file" in problem.message for problem in error.problems):
                self.notify(f"{drafts.config} is not there any more; nano takes its place", severity="warning")
                drafts.config, drafts.text, drafts.changes = "nano", None, {}
                self.config = config_of(drafts)
            else:
                self.post_message(self.Changed(str(error)))
                self.notify(f"{error}\nchoose another config, or mend the text: y", severity="error", timeout=15)
                return
        source = Path(self.config.source)
        self.seen = (source, source.stat().st_mtime) if drafts.text is None and source.is_file() else None
        drafts.changes = real_changes(drafts, self.config)
        self.form.show(self.config, set(drafts.changes))
        self.rows.refresh()
        self._settings_title()
        self.post_message(self.Changed(""))

    def _settings_title(self) -> None:
        drafts = self.drafts
        changes = len(drafts.changes) + (drafts.text is not None)
        title = f"Settings ({changes} changed)" if changes else "Settings"
        self.query_one("#settings").border_title = plain(title)

    @on(SettingsForm.Changed)
    def _setting_changed(self, message: SettingsForm.Changed) -> None:
        drafts = self.drafts
        try:
            config = config_of(drafts, {message.key: message.value})
        except ConfigError as error:
            self.form.refuse(faults_of(error, message.key))
            return
        self.form.refuse(None)
        if message.final:
            drafts.changes[message.key] = message.value
            drafts.changes = real_changes(drafts, config)
            self.config = config
            self.form.accept()
            self.form.show(config, set(drafts.changes))
            self._settings_title()
            self.post_message(self.Changed(""))

    def look_at_file(self) -> None:
        """Have the config's file looked at, by a thread: a network file system may take its time."""
        if self.seen is not None and not self._looking:
            self._looking = True
            self.stat_file(self.seen[0])

    @work(thread=True, group="stat", exit_on_error=False)
    def stat_file(self, path: Path) -> None:
        """Look when a file was changed."""
        self.post_message(FileSeen(path, changed_at(path)))

    @on(FileSeen)
    def _file_seen(self, message: FileSeen) -> None:
        self._looking = False
        self._take_file(message.path, message.changed)

    def _take_file(self, path: Path, now: float | None) -> None:
        """Read a config file again that was edited on disk, unless that would lose something."""
        if self.seen is None or self.seen[0] != path or self.seen[1] == now:
            return
        if now is None:
            self.notify(f"{path} is gone; its settings are kept here: ctrl+s saves them", severity="warning")
            if self.config is not None:
                self.drafts.text, self.drafts.changes = dump(self.config.settings), {}
            self.seen = None
            self.post_message(self.Changed(""))
            return
        self.seen = (path, now)
        self.notify(f"{path.name} was changed on disk and is read again")
        self.load()

    def drop_changes(self) -> None:
        drafts = self.drafts
        drafts.text, drafts.changes = None, {}
        self.load()

    def save_as(self) -> None:
        if self.config is None:
            self.notify("this config cannot be used, and is not saved", severity="error")
            return
        from wantui.tui.screens.dialogs import Ask, Confirm

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

        def named(name: str | None) -> None:
            if not name or not name.strip():
                return
            try:
                path = path_for(name.strip())
            except UserError as error:
                self.notify(str(error), severity="error")
                return
            if path.exists():
                self.app.push_screen(
                    Confirm(f"{path} exists. Replace it?", "Replace"), lambda sure: save(path) if sure else None
                )
            else:
                save(path)

        self.app.push_screen(Ask("Save the config as (a name, or a path):"), named)

    def edit_yaml(self) -> None:
        from wantui.tui.screens.yaml_editor import YamlEditor

        if self.seen is not None:
            self._take_file(self.seen[0], changed_at(self.seen[0]))
        drafts = self.drafts
        try:
            if drafts.text is not None and not drafts.changes:
                text = drafts.text
            elif self.config is not None and drafts.changes:
                text = dump(self.config.settings)
            elif self.config is not None:
                text = Path(self.config.source).read_text(encoding="utf-8")
            else:
                text = drafts.text or Path(drafts.config).read_text(encoding="utf-8", errors="replace")
        except (OSError, UnicodeDecodeError) as error:
            self.notify(f"{drafts.config} cannot be read: {error}", severity="error")
            return

        def edited(new: str | None) -> None:
            if new is not None and new != text:
                drafts.text, drafts.changes = new, {}
                self.load()

        self.app.push_screen(YamlEditor(text, drafts.config), edited)
