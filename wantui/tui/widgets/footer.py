"""Footer: the last line of every screen, with the keys that work there.

Textual's own footer creates a widget per key, about 36, and creates them again whenever the focus moves. That took a
quarter of the start-up time, and most of the bytes sent when the focus moves to another pane.
"""

from rich.style import Style
from rich.text import Text
from textual.binding import ActiveBinding, Binding
from textual.dom import DOMNode
from textual.events import Click, Resize
from textual.screen import Screen

from wantui.gpu.monitor import GpuSample
from wantui.tui.key_names import format_key_name
from wantui.tui.widgets.diff_text import DiffText

GAP = "  "
"""Text between two keys."""
MIN_WIDE_WIDTH = 120
"""Cells from which on a footer always shows how to quit."""


class KeyFooter(DiffText):
    """Footer with as many keys as fit; help and palette are always shown."""

    DEFAULT_CSS = """
    KeyFooter { height: 1; background: $panel; padding: 0 1; }
    """
    ALWAYS_SHOWN = ("help", "command_palette")
    """Actions whose keys are always shown."""
    SHOWN_IF_WIDE = ("quit", *ALWAYS_SHOWN)
    """Actions whose keys a wide footer always shows."""
    GPU_ACTIONS = ("gpu_enlarge",)
    """Actions whose keys are shown only on a machine with a GPU; they work everywhere."""
    _has_gpus = False
    idle_actions: frozenset[str] = frozenset()
    """Actions that have nothing to act on; their keys still work, and tell why."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._handle_bindings_changed)
        if (sample_signal := getattr(self.app, "sample_signal", None)) is not None:
            sample_signal.subscribe(self, self._handle_sample)
        if (history := getattr(self.app, "gpu_history", None)) is not None and history.latest_sample is not None:
            self._has_gpus = bool(history.latest_sample.gpus)

    def _handle_sample(self, sample: GpuSample) -> None:
        if bool(sample.gpus) != self._has_gpus:
            self._has_gpus = bool(sample.gpus)
            self.draw_keys()

    def _handle_bindings_changed(self, screen: Screen[object]) -> None:
        if self.screen.is_current:
            self.draw_keys()

    def on_resize(self, event: Resize) -> None:
        self.draw_keys()

    def draw_keys(self) -> None:
        width = self.content_size.width
        if not width:
            return
        bindings_by_action, nodes_by_action = {}, {}
        for active_binding in sorted(self.screen.active_bindings.values(), key=self._find_position):
            if (
                active_binding.binding.show
                and active_binding.enabled
                and (self._has_gpus or active_binding.binding.action not in self.GPU_ACTIONS)
                and active_binding.binding.action not in self.idle_actions
                and active_binding.binding.action not in bindings_by_action
            ):
                bindings_by_action[active_binding.binding.action] = active_binding.binding
                nodes_by_action[active_binding.binding.action] = active_binding.node
        names = self.SHOWN_IF_WIDE if width >= MIN_WIDE_WIDTH else self.ALWAYS_SHOWN
        always_shown = [bindings_by_action.pop(name) for name in names if name in bindings_by_action]
        free_width = width + len(GAP)  # no gap after the last key
        free_width -= sum(len(self._format_key(b)) + len(b.description) + 1 + len(GAP) for b in always_shown)
        line, self._key_spans = Text(no_wrap=True), []
        for binding in [*bindings_by_action.values(), *always_shown]:
            key = self._format_key(binding)
            key_width = len(key) + len(binding.description) + 1 + len(GAP)
            if binding not in always_shown:
                if key_width > free_width:
                    continue
                free_width -= key_width
            self._key_spans.append((len(line), len(line) + key_width, nodes_by_action[binding.action], binding.action))
            line.append(key, self.make_colour_style("accent") + Style(bold=True))
            line.append(f" {binding.description}{GAP}")
        line.right_crop(len(GAP))
        self.show_lines([line])

    def hide_idle_actions(self, idle_actions: frozenset[str]) -> None:
        """Omit the keys of actions that have nothing to act on."""
        if idle_actions != self.idle_actions:
            self.idle_actions = idle_actions
            self.draw_keys()

    def _find_position(self, active_binding: ActiveBinding) -> int:
        """Return the position of a key: first keys of the focused widget, then of the screen, then of the application.

        Textual lists keys that a focused text field also has before all other keys.
        """
        actions = [binding.action for binding in self.screen.BINDINGS if isinstance(binding, Binding)]
        if active_binding.binding.action in actions:
            return actions.index(active_binding.binding.action)
        return len(actions) if active_binding.node is self.app else -1

    def _format_key(self, binding: Binding) -> str:
        """Return the key of a binding as all texts show it, such as `ctrl+s` or `F5`."""
        return binding.key_display or format_key_name(binding.key)

    _key_spans: list[tuple[int, int, DOMNode, str]] = []
    """First and end column of each key, the node of its action, and the action."""

    async def on_click(self, event: Click) -> None:
        """Run the action of the clicked key. Pressing the key instead would type a letter into a focused text field."""
        for start, end, node, action in self._key_spans:
            if start <= event.x - self.gutter.left < end:
                await self.app.run_action(action, node)
                return
