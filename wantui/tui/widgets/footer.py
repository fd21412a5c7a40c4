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

    def __init__(self) -> None:
        super().__init__()
        self.idle_actions: frozenset[str] = frozenset()
        """Actions that have nothing to act on; their keys still work, and tell why."""
        self._has_gpus = False
        self._key_spans: list[tuple[int, int, DOMNode, str]] = []
        """First and end column of each key, the node of its action, and the action."""

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
        line, self._key_spans = Text(no_wrap=True), []
        for active_binding in self._choose_keys(width):
            binding, start = active_binding.binding, len(line)
            line.append(_format_key(binding), self.make_colour_style("accent") + Style(bold=True))
            line.append(f" {binding.description}{GAP}")
            self._key_spans.append((start, len(line), active_binding.node, binding.action))
        line.right_crop(len(GAP))
        self.show_lines([line])

    def _choose_keys(self, width: int) -> list[ActiveBinding]:
        """Return the keys that fit into a width, in their order; those that are always shown come last."""
        keys_by_action = self._list_keys()
        names = self.SHOWN_IF_WIDE if width >= MIN_WIDE_WIDTH else self.ALWAYS_SHOWN
        always_shown = [keys_by_action.pop(name) for name in names if name in keys_by_action]
        free_width = width + len(GAP) - sum(map(_measure_key, always_shown))  # no gap after the last key
        shown = []
        for active_binding in keys_by_action.values():
            if (key_width := _measure_key(active_binding)) <= free_width:
                free_width -= key_width
                shown.append(active_binding)
        return [*shown, *always_shown]

    def _list_keys(self) -> dict[str, ActiveBinding]:
        """Return the first key of each action: first keys of the focused widget, then of the screen, then of the app.

        Textual lists keys that a focused text field also has before all other keys.
        """
        screen_actions = [binding.action for binding in self.screen.BINDINGS if isinstance(binding, Binding)]

        def find_position(active_binding: ActiveBinding) -> int:
            if (action := active_binding.binding.action) in screen_actions:
                return screen_actions.index(action)
            return len(screen_actions) if active_binding.node is self.app else -1

        keys_by_action: dict[str, ActiveBinding] = {}
        for active_binding in sorted(self.screen.active_bindings.values(), key=find_position):
            binding = active_binding.binding
            has_effect = binding.action not in self.idle_actions
            has_effect = has_effect and (self._has_gpus or binding.action not in self.GPU_ACTIONS)
            if binding.show and active_binding.enabled and has_effect:
                keys_by_action.setdefault(binding.action, active_binding)
        return keys_by_action

    def hide_idle_actions(self, idle_actions: frozenset[str]) -> None:
        """Omit the keys of actions that have nothing to act on."""
        if idle_actions != self.idle_actions:
            self.idle_actions = idle_actions
            self.draw_keys()

    async def on_click(self, event: Click) -> None:
        """Run the action of the clicked key. Pressing the key instead would type a letter into a focused text field."""
        for start, end, node, action in self._key_spans:
            if start <= event.x - self.gutter.left < end:
                await self.app.run_action(action, node)
                return


def _format_key(binding: Binding) -> str:
    """Return the key of a binding as all texts show it, such as `ctrl+s` or `F5`."""
    return binding.key_display or format_key_name(binding.key)


def _measure_key(active_binding: ActiveBinding) -> int:
    """Return the width of a key with its description and the gap after it."""
    binding = active_binding.binding
    return len(f"{_format_key(binding)} {binding.description}{GAP}")
