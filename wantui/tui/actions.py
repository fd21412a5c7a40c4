"""Every action of the application, in one table: bindings, footer, palette, help and key maps come from it."""

from collections.abc import Iterator
from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True)
class Action:
    """Something that a key does on a screen."""

    id: str
    """Screen and name, as in `queue.cancel`; key maps of users refer to it."""
    keys: str
    """Keys, separated by commas; the first is shown."""
    action: str
    """Textual's name of the action: `action_` precedes it in the method's name."""
    label: str
    """Text for the footer."""
    help: str
    show: bool = True
    """Label in the footer."""
    priority: bool = False
    """True if the key also works while the user types."""
    opens_field: bool = False
    """Leads to where something is typed: done before the next key is looked at, which would go astray otherwise."""


SCREENS = {
    "compose": "Compose",
    "queue": "Queue",
    "monitor": "Monitor",
    "library": "Library",
    "analysis": "Analysis",
}
"""Screens in the order of their number keys."""

SCREEN_KEYS = {"compose": "1", "queue": "2,f2", "monitor": "3,f3", "library": "4,f4", "analysis": "5"}
"""F keys where digits are text; alt and a digit is another letter in many terminals."""

APP = (
    *(
        Action(f"app.{name}", keys, f"go('{name}')", SCREENS[name], f"Go to {SCREENS[name]}.", show=False)
        for name, keys in SCREEN_KEYS.items()
    ),
    Action("app.help", "question_mark,f1", "help", "Help", "What can be done here.", priority=False),
    Action("app.palette", "ctrl+p", "command_palette", "Commands", "Find any action by its name.", priority=True),
    Action("app.gpu_hide", "f8", "gpu_hide", "GPU", "Hide the GPU panel, or show it.", show=False, priority=True),
    Action("app.gpu_enlarge", "f9", "gpu_enlarge", "GPU+", "Enlarge the GPU panel, or not.", priority=True),
    Action("app.pause", "f7", "pause_queue", "Pause all", "Pause or resume the whole queue.", show=False),
    Action("app.engine", "f6", "start_engine", "Engine", "Start the engine, if none runs.", show=False),
    Action("app.leave", "escape", "leave_field", "Leave", "Leave what is being typed in.", show=False),
    Action("app.quit", "q,ctrl+q", "quit", "Quit", "Leave; the engine keeps running the queue."),
)

COMPOSE = (
    Action("compose.queue", "f5,ctrl+g", "enqueue", "Queue it", "Put the batch on the queue.", priority=True),
    Action("compose.template", "t", "focus_template", "Template", "Write the template.", opens_field=True),
    Action("compose.configs", "c", "focus_configs", "Configs", "Choose a config."),
    Action("compose.settings", "s", "focus_settings", "Settings", "Change settings of the config."),
    Action("compose.list", "v", "focus_variations", "Variations", "Look through the variations.", show=False),
    Action("compose.warnings", "w", "warnings", "Warnings", "Show every warning and error of the draft.", show=False),
    Action("compose.yaml", "y", "edit_yaml", "YAML", "See and edit the config as text."),
    Action("compose.save", "ctrl+s", "save_as", "Save as", "Save the config under a name.", priority=True),
    Action("compose.reset", "ctrl+x", "drop_changes", "Undo", "Drop the changes to the config.", show=False),
    Action("compose.history", "ctrl+r", "history", "History", "Templates of before.", priority=True),
    Action(
        "compose.editor", "ctrl+e", "external_editor", "$EDITOR", "Edit the template in your editor.", priority=True
    ),
)

QUEUE = (
    Action("queue.up", "K,shift+up", "move('up')", "Up", "Make the batch earlier.", show=False),
    Action("queue.down", "J,shift+down", "move('down')", "Down", "Make the batch later.", show=False),
    Action("queue.top", "T", "move('top')", "First", "Make the batch the first one."),
    Action("queue.bottom", "B", "move('bottom')", "Last", "Make the batch the last one.", show=False),
    Action("queue.pause", "p", "pause_batch", "Pause", "Pause or resume the batch."),
    Action("queue.cancel", "c", "cancel", "Cancel", "Give up the batch, or the video under the cursor."),
    Action("queue.retry", "r", "retry", "Retry", "Queue failed and cancelled videos again."),
    Action("queue.edit", "e", "edit_copy", "Edit copy", "Compose a new batch from this one."),
    Action("queue.remove", "x,delete", "remove", "Remove", "Forget the batch; its folder stays."),
    Action("queue.open", "o", "open_library", "Open", "Show the batch in the library."),
    Action("queue.all", "a", "toggle_ended", "All", "Show batches that have ended too, or not.", show=False),
)

MONITOR = (
    Action("monitor.preview", "v", "preview", "Preview", "Show the newest preview of the video."),
    Action("monitor.auto", "V", "auto_preview", "Auto", "Show previews by themselves, or only when asked."),
    Action("monitor.cancel", "c", "cancel", "Cancel", "Give up the video under the cursor."),
    Action("monitor.log", "l", "toggle_log", "Log", "Give the log more room, or less."),
)

LIBRARY = (
    Action("library.search", "slash", "search", "Search", "Find batches by name, prompt or model.", opens_field=True),
    Action("library.state", "f", "filter", "Filter", "Show all batches, those with failures, or unfinished ones."),
    Action("library.play", "p,space", "play", "Play", "Play the video in the terminal."),
    Action("library.pixels", "P", "play_pixels", "Pixels", "Play in pixels: Kitty's protocol, or Sixel.", show=False),
    Action("library.mark", "m", "mark", "Mark", "Mark the video, to compare another with it."),
    Action("library.compare", "c", "compare", "Compare", "Play the marked video and this one side by side."),
    Action("library.recipe", "i", "recipe", "Recipe", "Show all that determines the video."),
    Action("library.copy", "y", "copy_path", "Copy path", "Copy the path of the video to the clipboard."),
    Action("library.rerun", "R", "rerun", "Rerun", "Make the video again and compare to the bit.", show=False),
    Action("library.edit", "e", "edit_copy", "Edit copy", "Compose a new batch from this one.", show=False),
    Action("library.missing", "n", "resume", "Missing", "Queue what is missing of the batch.", show=False),
    Action("library.trash", "delete,X", "trash", "Trash", "Move the batch folder to the trash."),
    Action("library.refresh", "r", "reload", "Reload", "Read the folders again.", show=False),
)

ANALYSIS = (
    Action("analysis.sort", "s", "sort", "Sort", "Sort by the next column."),
    Action("analysis.reverse", "S", "reverse", "Reverse", "Turn the order round.", show=False),
    Action("analysis.filter", "slash", "search", "Filter", "Videos whose name holds a word.", opens_field=True),
    Action("analysis.groups", "g", "groups", "Groups", "Group by variation or a bracket, with a verdict."),
    Action("analysis.attention", "a", "attention", "Attention", "Show the attention of the video's marked words."),
    Action("analysis.batches", "b", "choose_batches", "Batches", "Choose the batches that are analysed together."),
    Action("analysis.export", "x", "export", "Export", "Write a CSV, and a report on the groups, beside the batch."),
    Action("analysis.left", "left", "scroll_columns(-1)", "Columns", "Show the columns before these.", show=False),
    Action("analysis.right", "right", "scroll_columns(1)", "Columns", "Show the columns after these.", show=False),
)

ACTIONS_BY_SCREEN: dict[str, tuple[Action, ...]] = {
    "app": APP,
    "compose": COMPOSE,
    "queue": QUEUE,
    "monitor": MONITOR,
    "library": LIBRARY,
    "analysis": ANALYSIS,
}


def all_actions() -> Iterator[Action]:
    for actions in ACTIONS_BY_SCREEN.values():
        yield from actions


def bindings(where: str) -> list[Binding]:
    """Return Textual's bindings of the application or of one screen."""
    return [
        Binding(a.keys, a.action, a.label, show=a.show, priority=a.priority or a.opens_field, tooltip=a.help, id=a.id)
        for a in ACTIONS_BY_SCREEN[where]
    ]


FIELD_OPENING_ACTIONS = frozenset(action.action for action in all_actions() if action.opens_field)
