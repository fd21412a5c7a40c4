"""Compose: a config, its settings, a template, what it expands to and what that costs; one key puts it on the queue."""

import time
from dataclasses import dataclass
from pathlib import Path

from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static
from textual.worker import get_current_worker

from wantui.batches.batch_cost import CostLine, estimate_costs, warn_if_slow_on_cpu
from wantui.config import Config
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.models.tokenizer import find_tokenizer_file
from wantui.planning import BatchPreview, TimedVideo, parse_timed_videos, plan_batch, preview_batch
from wantui.prompts import TemplateError
from wantui.queue.queue import Queue
from wantui.tui.actions import bindings
from wantui.tui.lent_terminal import TerminalNotLentError, lend_terminal
from wantui.tui.plain import plain
from wantui.tui.queue_errors import describe_queue_error
from wantui.tui.queue_watcher import END_EVENTS, QueueSnapshot
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm, TextViewer
from wantui.tui.widgets.config_pane import ConfigPane
from wantui.tui.widgets.cost_pane import CostPane
from wantui.tui.widgets.template_editor import TemplateEditor
from wantui.tui.widgets.variations import EMPTY, Variations

REPEAT_SECONDS = 1.0
"""Seconds after a batch is queued before another can be: a key that is held down queues once."""
MAX_TEMPLATE = 200_000
"""Characters of the longest template that is expanded for every key; a million takes seconds, and leaving waits."""
DELAY_SECONDS = 0.05
"""Seconds from the last key to the expansion of the template."""


@dataclass
class BatchPreviewed(Message):
    """Preview of the draft's batch, or the reason why there is none."""

    outline: BatchPreview | None
    costs: list[CostLine]
    fault: str
    position: int | None
    tokenizer: Path | None


@dataclass
class Queued(Message):
    """The batch is on the queue, or `fault` gives the reason why it is not."""

    template: str
    batch: int
    videos: int
    folder: str
    fault: str
    is_demo: bool


class ComposeScreen(BaseScreen):
    """Config on the left, template on the right; input is stored on every change."""

    NAME = "compose"
    BINDINGS = [*bindings("compose")]

    editor = getters.query_one(TemplateEditor)
    pane = getters.query_one(ConfigPane)
    variations = getters.query_one(Variations)
    cost_pane = getters.query_one(CostPane)
    fault_line = getters.query_one("#fault", Static)

    def __init__(self) -> None:
        super().__init__()
        self.outline: BatchPreview | None = None
        self.fault = ""
        """Error in the input, in words."""
        self.costs: list[CostLine] = []
        self.past: list[TimedVideo] | None = None
        self._timer: Timer | None = None
        self._keeping: Timer | None = None
        self._queueing, self._queued_at = False, -REPEAT_SECONDS

    def compose_body(self) -> ComposeResult:
        drafts = self.wantui_app.drafts
        with Horizontal():
            yield ConfigPane(drafts)
            with Vertical(id="right"):
                with Vertical(id="template", classes="pane") as template:
                    template.border_title = "Template"
                    yield TemplateEditor(drafts.template)
                    yield Static("", id="fault", markup=False)
                yield Variations()
                yield CostPane()

    @property
    def config(self) -> Config | None:
        """Return the config, or None while the draft is unusable."""
        return self.pane.config

    def on_mount(self) -> None:
        self.set_focus(self.pane.rows)
        self.pane.load()
        self.call_after_refresh(self.pane.find_sources)

    def focus_default(self) -> None:
        """Leave an input: a value for its list of settings, everything else for the configs."""
        if not self.pane.form.leave():
            self.set_focus(self.pane.rows)

    # The config

    @on(ConfigPane.Changed)
    def _config_changed(self, message: ConfigPane.Changed) -> None:
        self._keep()
        if message.fault:
            self._show_outline(None, message.fault, None, "none, until the config is corrected")
        else:
            self._expand_soon()

    def action_drop_changes(self) -> None:
        self.pane.drop_changes()

    def action_save_as(self) -> None:
        self.pane.save_as()

    def action_edit_yaml(self) -> None:
        self.pane.edit_yaml()

    # The template

    @on(TemplateEditor.Typed)
    def _typed(self) -> None:
        self.wantui_app.drafts.template = self.editor.text
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
        outline, lines, fault, position, tokenizer = None, [], "", None, None
        try:
            if len(template) > MAX_TEMPLATE:
                raise UserError(
                    f"cannot expand the template: it has {len(template):,} characters, and at most {MAX_TEMPLATE:,} "
                    "are expanded while one types. Shorten it, or save it as a file for wantui run."
                )
            outline = preview_batch(config, template)
            tokenizer = find_tokenizer_file(outline.model, outline.first.revision)
            if self.past is None:
                with Queue(self.wantui_app.state_dir.directory) as queue:
                    self.past = parse_timed_videos(queue.finished())
            lines = estimate_costs(
                outline, self.past, self.wantui_app.gpu_history.sample, self.wantui_app.state_dir.directory
            )
        except TemplateError as error:
            fault, position = error.message, error.position
        except UserError as error:
            fault = str(error)
        except Exception as error:  # a thread that ends over something must still say so
            fault = f"{type(error).__name__}: {error}"
        if not worker.is_cancelled:
            self.post_message(BatchPreviewed(outline, lines, fault, position, tokenizer))

    @on(BatchPreviewed)
    def _outlined(self, message: BatchPreviewed) -> None:
        if self.config is None:  # it has become one that cannot be used; its fault is shown
            return
        if not self.editor.text.strip():
            self._show_outline(None, "", None, EMPTY)
            return
        self.costs = message.costs
        instead = "none, until the template is corrected"
        self._show_outline(message.outline, message.fault, message.position, instead, message.tokenizer)

    def _show_outline(
        self,
        outline: BatchPreview | None,
        fault: str,
        position: int | None,
        instead: str,
        tokenizer: Path | None = None,
    ) -> None:
        """Show the preview of the draft's batch, or the reason why there is none.

        Args:
            position: index of the character of the template that is wrong.
            instead: text in place of the list of variations.
        """
        self.outline, self.fault = outline, fault
        self._say_fault(fault, position)
        self.variations.show(outline, tokenizer, instead)
        self.cost_pane.show(outline, self.costs)

    def _say_fault(self, fault: str, position: int | None) -> None:
        self.fault_line.display = bool(fault)
        if fault:
            self.fault_line.update(plain(f"✗ {fault}", keep_lines=True))
        self.editor.show_fault(position)

    def action_warnings(self) -> None:
        """Show every warning and error of the draft, however many there are."""
        messages = [*self.outline.refusals, *self.outline.warnings] if self.outline is not None else []
        if self.fault:
            messages.insert(0, self.fault)
        if not messages:
            self.notify("there is no warning")
            return
        title = format_count(len(messages), "warning") if not self.fault else "What is wrong"
        self.app.push_screen(TextViewer(title, "\n\n".join(messages)))

    def action_history(self) -> None:
        from wantui.tui.screens.history import History

        if not self.wantui_app.drafts.history:
            self.notify("no template was queued yet")
            return

        def chosen(template: str | None) -> None:
            if template is not None:
                if self.editor.text.strip():
                    self.wantui_app.drafts.add_to_history(self.editor.text)
                self.editor.text = template

        self.app.push_screen(History(self.wantui_app.drafts.history), chosen)

    def action_external_editor(self) -> None:
        import click

        try:
            with lend_terminal(self.app):
                edited = click.edit(self.editor.text, extension=".txt")
        except TerminalNotLentError:
            self.notify("there is no editor here: in a browser, type into the template", severity="warning")
            return
        except (click.ClickException, UnicodeError, OSError) as error:
            reason = error.message if isinstance(error, click.ClickException) else str(error)
            self.notify(
                f"cannot take the template from the editor: {reason}. Set EDITOR to another one.",
                severity="error",
                timeout=12,
            )
            return
        if edited is not None:
            self.editor.text = edited.rstrip("\n")

    # The queue

    def action_enqueue(self) -> None:
        if self.outline is None or self.config is None:
            if self.editor.text.strip():
                reason = self.fault or "the config has a fault, which is shown beside it"
                self.notify(f"this cannot be queued: {reason}", severity="error")
                return
            self.notify("there is nothing to queue: write a template first", severity="warning")
            self.set_focus(self.editor)
            return
        if self._queueing or time.monotonic() - self._queued_at < REPEAT_SECONDS:
            return
        # As it is now: what is on the screen may be a key behind.
        config, template = self.config, self.editor.text

        def queue(sure: bool | None = True) -> None:
            if sure:
                self._queueing = True
                self.cost_pane.border_subtitle = "queueing ..."  # a queue that others hold takes seconds
                self.queue_batch(config, template, is_demo=False)

        sample = self.wantui_app.gpu_history.sample
        on_gpu = sample is not None and bool(sample.gpus) and config.settings.model_settings.device != "cpu"
        warning = None if on_gpu else warn_if_slow_on_cpu(self.outline.first, self.outline.videos)
        if warning is None:
            queue()
        else:
            self.app.push_screen(Confirm(f"{warning}.\n\nQueue it all the same?", "Queue it"), queue)

    def take_draft(self, and_queue: bool) -> None:
        """Show the drafts; the welcome's demo is queued at once."""
        self.editor.text = self.wantui_app.drafts.template
        self.pane.load()
        if and_queue and self.config is not None:
            self.queue_batch(self.config, self.wantui_app.drafts.template, is_demo=True)

    @work(thread=True, group="enqueue", exit_on_error=False)
    def queue_batch(self, config: Config, template: str, is_demo: bool) -> None:
        """Make the folder, queue the videos, and see that an engine runs."""
        from wantui.batches.enqueue import enqueue_new_batch  # with what workers are started by

        app = self.wantui_app
        try:
            made = enqueue_new_batch(app.state_dir, plan_batch(config, template))
            self.post_message(Queued(template, made.number, made.videos, str(made.folder), "", is_demo))
        except UserError as error:
            self.post_message(Queued(template, 0, 0, "", str(error), is_demo))
        except Exception as error:
            self.post_message(Queued(template, 0, 0, "", describe_queue_error(error), is_demo))
        else:
            app.start_engine()

    @on(Queued)
    def _queued(self, message: Queued) -> None:
        self._queueing = False
        self.cost_pane.say_what_is_cut()
        if message.fault:
            self.notify(message.fault, severity="error", title="not queued", timeout=20)
            return
        self._queued_at = time.monotonic()
        self.wantui_app.drafts.add_to_history(message.template)
        self.wantui_app.save_drafts_or_notify()
        self.wantui_app.queue_watcher.poll_now()
        self.notify(
            f"batch {message.batch}: {format_count(message.videos, 'video')} in {message.folder}", title="queued"
        )
        if message.is_demo:
            self.wantui_app.show_screen("monitor")

    # Keeping, and going round

    def _keep(self) -> None:
        if self._keeping is None:
            self._keeping = self.set_timer(0.3, self._keep_now)

    def _keep_now(self) -> None:
        self._keeping = None
        self.wantui_app.save_drafts_or_notify()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        self.pane.look_at_file()
        if any(isinstance(event.payload, END_EVENTS) for event in snapshot.events):
            self.past = None
            self._expand_soon()

    def on_shown(self) -> None:
        self.pane.look_at_file()
        if self.is_mounted and self.past is not None:
            self.past = None  # videos may have been made since
            self._expand_soon()

    def action_focus_template(self) -> None:
        self.set_focus(self.editor)

    def action_focus_configs(self) -> None:
        self.set_focus(self.pane.rows)

    def action_focus_settings(self) -> None:
        self.set_focus(self.pane.form.rows)

    def action_focus_variations(self) -> None:
        self.set_focus(self.variations)
