"""Compose: a config, its settings, a template, what it expands to and what that costs; one key puts it on the queue."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult, SuspendNotSupported
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from wantui.config import Config, ConfigError, dump
from wantui.engine.costs import Cost, costs
from wantui.errors import UserError
from wantui.models.pieces import pieces, tokenizer_file
from wantui.planning import Outline, PastVideo, outline_batch, past_videos, plan_batch
from wantui.prompts import TemplateError
from wantui.queue.queue import Queue
from wantui.tui.actions import bindings
from wantui.tui.compose_draft import (
    Source,
    config_of,
    faults_of,
    find_sources,
    path_for,
    save_config,
)
from wantui.tui.feed import ENDS, QueueNews
from wantui.tui.screens.place import Place
from wantui.tui.widgets.cells import Cells
from wantui.tui.widgets.rows import Rows
from wantui.tui.widgets.settings_form import SettingsForm
from wantui.tui.widgets.template_editor import TemplateEditor

EMPTY = """t: write a template

a [red|blue] circle      one variation for each option
a (circle)               a marked word: attention
a [big|small|] circle    an option may be empty"""
REPEAT_SECONDS = 1.0
"""After a batch is queued, before another one is: a key that is held down queues once."""
DELAY_SECONDS = 0.05
"""After the last key, before the template is expanded."""


@dataclass
class Outlined(Message):
    """What the draft comes to, or why it comes to nothing."""

    outline: Outline | None
    costs: list[Cost]
    fault: str
    position: int | None
    tokenizer: Path | None


@dataclass
class SourcesFound(Message):
    """The configs that can be chosen."""

    sources: list[Source]


@dataclass
class Queued(Message):
    """The batch is on the queue, or `fault` says why it is not."""

    template: str
    batch: int
    videos: int
    folder: str
    fault: str
    is_demo: bool


class ComposeScreen(Place):
    """Left the config, right the template; what is typed is kept on every change."""

    NAME = "compose"
    BINDINGS = [*bindings("compose")]

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[Source] = []
        self.config: Config | None = None
        self.outline: Outline | None = None
        self.tokenizer: Path | None = None
        self.past: list[PastVideo] | None = None
        self.seen: tuple[Path, float] | None = None
        """File of the config and when it was changed, as it was read."""
        self._timer: Timer | None = None
        self._keeping: Timer | None = None

    def body(self) -> ComposeResult:
        drafts = self.wantui.drafts
        with Horizontal():
            with Vertical(id="left"):
                configs = Rows(id="configs", classes="pane")
                configs.border_title = "Config"
                yield configs
                with Vertical(id="settings", classes="pane") as settings:
                    settings.border_title = "Settings"
                    yield SettingsForm()
            with Vertical(id="right"):
                with Vertical(id="template", classes="pane") as template:
                    template.border_title = "Template"
                    yield TemplateEditor(drafts.template)
                    yield Static("", id="fault", markup=False)
                variations = Rows(id="variations", classes="pane", empty=EMPTY)
                variations.border_title = "Variations"
                yield variations
                with Vertical(id="cost", classes="pane") as cost:
                    cost.border_title = "Cost"
                    yield Cells()

    @property
    def editor(self) -> TemplateEditor:
        return self.query_one(TemplateEditor)

    @property
    def form(self) -> SettingsForm:
        return self.query_one(SettingsForm)

    def on_mount(self) -> None:
        super().on_mount()
        self.set_focus(self.query_one("#configs"))
        self._load()
        self.call_after_refresh(self.find_sources)

    def rest(self) -> None:
        """Escape: out of whatever is typed in."""
        self.form.leave()
        self.set_focus(self.query_one("#configs"))

    # The config

    @work(thread=True, exclusive=True, group="sources", exit_on_error=False)
    def find_sources(self) -> None:
        """Look for configs, off the thread that draws."""
        self.post_message(SourcesFound(find_sources()))

    @on(SourcesFound)
    def _sources_found(self, message: SourcesFound) -> None:
        self.sources = message.sources
        rows = self.query_one("#configs", Rows)
        rows.fill(len(self.sources), self._draw_source)
        names = [source.name for source in self.sources]
        self._name_width = min(24, max((len(Path(name).stem) for name in names), default=0))
        if self.wantui.drafts.config in names:
            rows.cursor = names.index(self.wantui.drafts.config)

    def _draw_source(self, index: int, width: int) -> Text:
        source, rows = self.sources[index], self.query_one("#configs", Rows)
        chosen = source.name == self.wantui.drafts.config
        line = Text.assemble(("● " if chosen else "  ", rows.colour("accent")))
        name = Path(source.name).stem if "/" in source.name else source.name
        line.append(f"{name:<{self._name_width}} ", Style(bold=chosen))
        line.append(source.summary, Style(dim=True) if source.is_valid else rows.colour("error"))
        return line

    @on(Rows.Chosen, "#configs")
    def _choose(self, message: Rows.Chosen) -> None:
        source, drafts = self.sources[message.index], self.wantui.drafts

        from wantui.tui.screens.dialogs import Confirm

        def take(sure: bool | None = True) -> None:
            if sure:
                drafts.config, drafts.text, drafts.changes = source.name, None, {}
                self._load()
                self._keep()

        if (drafts.changes or drafts.text is not None) and source.name != drafts.config:
            self.app.push_screen(Confirm(f"Drop the changes to {drafts.config}?", "Drop"), take)
        else:
            take()

    def _load(self) -> None:
        """Read the draft's config anew, and say what is wrong with it."""
        drafts = self.wantui.drafts
        try:
            self.config = config_of(drafts)
        except ConfigError as error:
            self.config = None
            if drafts.config != "nano" and any("no such file" in problem.message for problem in error.problems):
                self.notify(f"{drafts.config} is not there any more; nano takes its place", severity="warning")
                drafts.config, drafts.text, drafts.changes = "nano", None, {}
                self.config = config_of(drafts)
            else:
                self._say_fault(str(error), None)
                self.notify(f"{error}\nchoose another config, or mend the text: y", severity="error", timeout=15)
                return
        source = Path(self.config.source)
        self.seen = (source, source.stat().st_mtime) if drafts.text is None and source.is_file() else None
        self.form.show(self.config, set(drafts.changes))
        self.query_one("#configs").refresh()
        self._settings_title()
        self.call_after_refresh(self._expand_soon)

    def _settings_title(self) -> None:
        drafts = self.wantui.drafts
        changes = len(drafts.changes) + (drafts.text is not None)
        self.query_one("#settings").border_title = f"Settings{f' ({changes} changed)' if changes else ''}"

    @on(SettingsForm.Changed)
    def _setting_changed(self, message: SettingsForm.Changed) -> None:
        drafts = self.wantui.drafts
        try:
            config = config_of(drafts, {message.key: message.value})
        except ConfigError as error:
            self.form.refuse(faults_of(error, message.key))
            return
        self.form.refuse(None)
        if message.final:
            drafts.changes[message.key] = message.value
            self.config = config
            self.form.accept()
            self.form.show(config, set(drafts.changes))
            self._settings_title()
            self._keep()
            self._expand_soon()

    def _look_at_file(self) -> None:
        """A config file that was edited on disk is read again, unless that would lose something."""
        if self.seen is None:
            return
        path, then = self.seen
        try:
            now = path.stat().st_mtime
        except OSError:
            now = None
        if now == then:
            return
        if now is None:
            self.notify(f"{path} is gone; its settings are kept here: ctrl+s saves them", severity="warning")
            if self.config is not None:
                self.wantui.drafts.text, self.wantui.drafts.changes = dump(self.config.settings), {}
            self.seen = None
            return
        self.seen = (path, now)
        self.notify(f"{path.name} was changed on disk and is read again")
        self._load()

    def action_drop_changes(self) -> None:
        drafts = self.wantui.drafts
        drafts.text, drafts.changes = None, {}
        self._load()
        self._keep()

    def action_save_as(self) -> None:
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
            drafts = self.wantui.drafts
            drafts.config, drafts.text, drafts.changes = str(path), None, {}
            self.notify(f"saved as {path}")
            self._keep()
            self.find_sources()
            self._load()

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

    def action_edit_yaml(self) -> None:
        from wantui.tui.screens.yaml_editor import YamlEditor

        self._look_at_file()
        drafts = self.wantui.drafts
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
                self._keep()
                self._load()

        self.app.push_screen(YamlEditor(text, drafts.config), edited)

    # The template

    @on(TemplateEditor.Typed)
    def _typed(self) -> None:
        self.wantui.drafts.template = self.editor.text
        self._keep()
        self._expand_soon()

    def _expand_soon(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(DELAY_SECONDS, self._expand)

    def _expand(self) -> None:
        if self.config is not None:
            self.expand_draft(self.config, self.editor.text)

    @work(thread=True, exclusive=True, group="expand", exit_on_error=False)
    def expand_draft(self, config: Config, template: str) -> None:
        """Expand and cost the draft, off the thread that draws."""
        worker = get_current_worker()
        outline, found, fault, position, tokenizer = None, [], "", None, None
        try:
            outline = outline_batch(config, template)
            tokenizer = tokenizer_file(outline.model, outline.first.revision)
            if self.past is None:
                queue = Queue(self.wantui.place.directory)
                self.past = past_videos(queue.finished())
                queue.close()
            found = costs(outline, self.past, self.wantui.gpus.sample)
        except TemplateError as error:
            fault, position = error.message, error.position
        except UserError as error:
            fault = str(error)
        except Exception as error:  # a thread that ends over something must still say so
            fault = f"{type(error).__name__}: {error}"
        if not worker.is_cancelled:
            self.post_message(Outlined(outline, found, fault, position, tokenizer))

    @on(Outlined)
    def _outlined(self, message: Outlined) -> None:
        self.outline, self.tokenizer = message.outline, message.tokenizer
        empty = not self.editor.text.strip()
        self._say_fault("" if empty else message.fault, None if empty else message.position)
        rows = self.query_one("#variations", Rows)
        outline = self.outline
        if outline is None:
            rows.empty = EMPTY if empty else "none, until the template is mended" if message.fault else ""
            rows.fill(0, self._draw_variation)
            rows.border_title = "Variations"
            self.query_one("#cost Cells", Cells).show([Text("")])
            return
        seen: dict[str, int] = {}
        self._first_with_prompt = {}
        for index, variation in enumerate(outline.variations):
            self._first_with_prompt[index] = seen.setdefault(variation.prompt, index)
        rows.border_title = f"Variations: {len(outline.variations):,}"
        self._id_width = min(28, max(len(variation.id) for variation in outline.variations[:500]) + 1)
        rows.fill(len(outline.variations), self._draw_variation)
        self._show_costs(message.costs)

    _queueing, _queued_at = False, -REPEAT_SECONDS
    _first_with_prompt: dict[int, int]
    _name_width = 20
    _id_width = 20

    def _say_fault(self, fault: str, position: int | None) -> None:
        said = self.query_one("#fault", Static)
        said.display = bool(fault)
        if fault:
            said.update(f"✗ {fault}")
        self.editor.show_fault(position)

    def _draw_variation(self, index: int, width: int) -> Text:
        assert self.outline is not None
        variation, rows = self.outline.variations[index], self.query_one("#variations", Rows)
        line = Text.assemble((f"{variation.id:<{self._id_width}.{self._id_width - 1}}", rows.colour("primary")))
        first = self._first_with_prompt[index]
        if first != index:
            line.append(f"= {self.outline.variations[first].id} ", rows.colour("warning"))
        start = len(line)
        line.append(variation.prompt)
        for mark in variation.marks:
            line.stylize(rows.colour("success") + Style(bold=True), start + mark.start, start + mark.end)
        for mark in variation.marks:
            line.append(f"  {mark.text}", rows.colour("success"))
            if mark.weight != 1:
                line.append(f" x{mark.weight:g}", rows.colour("warning"))
            if self.tokenizer is not None:
                cut = pieces(self.tokenizer, variation.prompt, mark.start, mark.end)
                line.append(f" = {'·'.join(cut)}", Style(dim=True))
        return line

    def _show_costs(self, found: list[Cost]) -> None:
        cells = self.query_one("#cost Cells", Cells)
        lines = []
        for cost in found:
            line = Text.assemble((f"{cost.about:<7}", Style(bold=True)))
            line.append(f"{'' if cost.fits else '✗ '}{cost.text}", Style.null() if cost.fits else cells.colour("error"))
            line.append(f"  {cost.basis}", Style(dim=cost.fits))
            lines.append(line)
        assert self.outline is not None
        lines += [Text(f"✗ {refusal}", cells.colour("error")) for refusal in self.outline.refusals]
        lines += [Text(f"! {warning}", cells.colour("warning")) for warning in self.outline.warnings[:3]]
        cells.show(lines)

    def action_history(self) -> None:
        from wantui.tui.screens.history import History

        if not self.wantui.drafts.history:
            self.notify("no template was queued yet")
            return

        def chosen(template: str | None) -> None:
            if template is not None:
                if self.editor.text.strip():
                    self.wantui.drafts.remember(self.editor.text)
                self.editor.text = template

        self.app.push_screen(History(self.wantui.drafts.history), chosen)

    def action_external_editor(self) -> None:
        import click

        try:
            with self.wantui.lending_terminal():
                edited = click.edit(self.editor.text, extension=".txt")
        except SuspendNotSupported:
            self.notify("there is no editor here: in a browser, type into the template", severity="warning")
            return
        except (click.ClickException, UnicodeDecodeError, OSError) as error:
            self.notify(f"nothing was taken from the editor: {error}; EDITOR names another", severity="error")
            return
        if edited is not None:
            self.editor.text = edited.rstrip("\n")

    # The queue

    def action_enqueue(self) -> None:
        if self.outline is None or self.config is None:
            self.notify("there is nothing to queue: write a template first", severity="warning")
            self.set_focus(self.editor)
            return
        if self._queueing or time.monotonic() - self._queued_at < REPEAT_SECONDS:
            return
        self._queueing = True
        # As it stands: what is on the screen may be a key behind.
        self.put_on_queue(self.config, self.editor.text, is_demo=False)

    def take_draft(self, and_queue: bool) -> None:
        """Show what is in the drafts; the welcome's demo goes on the queue at once."""
        self.editor.text = self.wantui.drafts.template
        self._load()
        if and_queue and self.config is not None:
            self.put_on_queue(self.config, self.wantui.drafts.template, is_demo=True)

    @work(thread=True, group="enqueue", exit_on_error=False)
    def put_on_queue(self, config: Config, template: str, is_demo: bool) -> None:
        """Make the folder, queue the videos, and see that an engine runs."""
        from wantui.engine.enqueue import check_device, enqueue, new_batch  # with what workers are started by

        app, place = self.wantui, self.wantui.place
        try:
            batch = plan_batch(config, template)
            device = config.settings.model_settings.device
            check_device(place, device)
            folder, manifest = new_batch(batch)
            queue = Queue(place.directory)
            try:
                number, videos = enqueue(queue, folder, manifest, device, new=True)
            finally:
                queue.close()
            self.post_message(Queued(template, number, videos, str(folder.root), "", is_demo))
        except UserError as error:
            self.post_message(Queued(template, 0, 0, "", str(error), is_demo))
        except Exception as error:
            self.post_message(Queued(template, 0, 0, "", f"the queue cannot be used: {error}", is_demo))
        else:
            app.start_engine()

    @on(Queued)
    def _queued(self, message: Queued) -> None:
        self._queueing = False
        if message.fault:
            self.notify(message.fault, severity="error", title="not queued", timeout=20)
            return
        self._queued_at = time.monotonic()
        self.wantui.drafts.remember(message.template)
        self.wantui.keep_drafts()
        self.wantui.feed.hurry()
        self.notify(f"batch {message.batch}: {message.videos} videos in {message.folder}", title="queued")
        if message.is_demo:
            self.wantui.show_screen("monitor")

    # Keeping, and going round

    def _keep(self) -> None:
        if self._keeping is None:
            self._keeping = self.set_timer(0.3, self._keep_now)

    def _keep_now(self) -> None:
        self._keeping = None
        self.wantui.keep_drafts()

    def tell(self, news: QueueNews) -> None:
        self._look_at_file()
        if any(event.kind in ENDS for event in news.events):
            self.past = None
            self._expand_soon()

    def come_back(self) -> None:
        self._look_at_file()
        if self.is_mounted and self.past is not None:
            self.past = None  # videos may have been made since
            self._expand_soon()

    def action_focus_template(self) -> None:
        self.set_focus(self.editor)

    def action_focus_configs(self) -> None:
        self.set_focus(self.query_one("#configs", Widget))

    def action_focus_settings(self) -> None:
        self.set_focus(self.form.rows)

    def action_focus_variations(self) -> None:
        self.set_focus(self.query_one("#variations", Widget))
