"""All actions of the application in one table: the source of bindings, footer, palette, help and key maps."""

from collections.abc import Iterator

from textual.binding import Binding

from wantui.tui.action import Action
from wantui.tui.dialog_actions import FORMING_ACTIONS, PLAYER_ACTIONS, RECIPE_ACTIONS
from wantui.tui.screen_purposes import SCREEN_PURPOSES

SCREEN_TITLES = {
    "compose": "Compose",
    "queue": "Queue",
    "monitor": "Monitor",
    "library": "Library",
    "analysis": "Analysis",
}
"""Screens in the order of their number keys."""

GROUP_TITLES = {**SCREEN_TITLES, "player": "Player", "forming": "How a video forms", "recipe": "Recipe"}
"""Title of each group of `ACTIONS_BY_SCREEN`, except the group of application-wide actions, which has none."""

KEYS_BY_SCREEN = {"compose": "1", "queue": "2,f2", "monitor": "3,f3", "library": "4,f4", "analysis": "5"}
"""Keys by screen. F keys also work in text fields, where digits are text; Alt+digit is a letter in many terminals."""

APP_ACTIONS = (
    *(
        Action(
            f"app.{name}",
            keys,
            f"go('{name}')",
            SCREEN_TITLES[name],
            f"{SCREEN_TITLES[name]}: {SCREEN_PURPOSES[name]}.",
            is_in_footer=False,
        )
        for name, keys in KEYS_BY_SCREEN.items()
    ),
    Action(
        "app.help",
        "question_mark,f1",
        "help",
        "Help",
        "Show the keys of this screen, and explain terms.",
        has_priority=False,
    ),
    Action("app.palette", "ctrl+p", "command_palette", "Commands", "Find an action by name.", has_priority=True),
    Action(
        "app.gpu_hide",
        "f8",
        "gpu_hide",
        "GPU panel",
        "Show or hide the GPU panel.",
        is_in_footer=False,
        has_priority=True,
    ),
    Action("app.gpu_enlarge", "f9", "gpu_enlarge", "GPU size", "Enlarge or shrink the GPU panel.", has_priority=True),
    Action("app.pause", "f7", "pause_queue", "Pause all", "Pause or resume the whole queue.", is_in_footer=False),
    Action(
        "app.engine",
        "f6",
        "start_engine",
        "Start engine",
        "Start the engine, which runs the queue.",
        is_in_footer=False,
    ),
    Action(
        "app.redraw",
        "ctrl+l",
        "redraw",
        "Redraw",
        "Draw a damaged screen again.",
        is_in_footer=False,
        has_priority=True,
    ),
    Action("app.leave", "escape", "leave_field", "Leave field", "Leave the text field.", is_in_footer=False),
    Action("app.quit", "q,ctrl+q", "quit", "Quit", "Quit; the engine keeps running the queue."),
)

COMPOSE_ACTIONS = (
    Action("compose.queue", "f5,ctrl+g", "enqueue", "Queue it", "Add the batch to the queue.", has_priority=True),
    Action(
        "compose.template",
        "t",
        "focus_template",
        "Edit template",
        "Write the prompts: [a|b] varies, (word) marks.",
        is_in_footer=False,
        opens_field=True,
    ),
    Action(
        "compose.configs",
        "c",
        "focus_configs",
        "Choose config",
        "Start from a preset or a config file.",
        is_in_footer=False,
    ),
    Action(
        "compose.settings",
        "s",
        "focus_settings",
        "Edit settings",
        "Change steps, size, guidance and all other settings.",
        is_in_footer=False,
    ),
    Action(
        "compose.filter",
        "slash",
        "filter_settings",
        "Find",
        "Find a setting; `changed` lists changed settings.",
        opens_field=True,
    ),
    Action(
        "compose.reset_setting",
        "r,backspace",
        "reset_setting",
        "Reset",
        "Restore the value of the config.",
        is_in_footer=False,
    ),
    Action(
        "compose.list", "v", "focus_variations", "See prompts", "See the prompts and their tokens.", is_in_footer=False
    ),
    Action(
        "compose.warnings",
        "w",
        "warnings",
        "Show costs",
        "Show all costs, warnings and errors.",
        is_in_footer=False,
    ),
    Action("compose.yaml", "y", "edit_yaml", "YAML", "Edit the config as YAML."),
    Action(
        "compose.editor", "ctrl+e", "external_editor", "Editor", "Edit the template in your editor.", has_priority=True
    ),
    Action("compose.save", "ctrl+s", "save_as", "Save as", "Save the config to a file.", has_priority=True),
    Action(
        "compose.reset", "ctrl+x", "drop_changes", "Discard", "Discard the changes to the config.", is_in_footer=False
    ),
    Action(
        "compose.empty",
        "ctrl+n",
        "empty_template",
        "Empty",
        "Empty the template; ctrl+z in it restores it.",
        is_in_footer=False,
        has_priority=True,
    ),
    Action("compose.history", "ctrl+r", "history", "History", "Choose an earlier template.", has_priority=True),
)

QUEUE_ACTIONS = (
    Action("queue.up", "K,shift+up", "move('up')", "Up", "Move the batch up.", is_in_footer=False),
    Action("queue.down", "J,shift+down", "move('down')", "Down", "Move the batch down.", is_in_footer=False),
    Action("queue.top", "T", "move('top')", "Top", "Move the batch to the top."),
    Action("queue.bottom", "B", "move('bottom')", "Bottom", "Move the batch to the bottom.", is_in_footer=False),
    Action("queue.mark", "m,space", "mark", "Select", "Select the batch; actions apply to all selected."),
    Action("queue.unmark", "minus", "unmark_all", "Deselect", "Deselect all batches.", is_in_footer=False),
    Action("queue.pause", "p", "pause_batch", "Pause", "Pause or resume the batch."),
    Action("queue.cancel", "c", "cancel", "Cancel", "Cancel the batch or video, or all selected batches."),
    Action("queue.retry", "r", "retry", "Retry", "Put failed and cancelled videos back into the queue."),
    Action("queue.edit", "e", "edit_copy", "Edit copy", "Compose a new batch from this batch."),
    Action("queue.remove", "delete,x", "remove", "Remove", "Remove the batch from the queue; its folder stays."),
    Action("queue.restore", "u", "restore", "Undo", "Restore the batches that you removed last.", is_in_footer=False),
    Action("queue.open", "o", "open_library", "Open", "Show the batch in the library."),
    Action("queue.analyse", "A", "analyse", "Analyse", "Show the trajectories of the batch.", is_in_footer=False),
    Action("queue.all", "a", "toggle_ended", "All", "Show or hide ended batches.", is_in_footer=False),
)

MONITOR_ACTIONS = (
    Action("monitor.preview", "v", "preview", "Preview", "Show the latest preview of the video."),
    Action("monitor.auto", "V", "auto_preview", "Auto", "Turn automatic previews on or off."),
    Action("monitor.cancel", "c", "cancel", "Cancel", "Cancel the selected video."),
    Action("monitor.earlier", "left,h", "pick_step(-1)", "Earlier", "Show the preview of an earlier step."),
    Action(
        "monitor.later", "right,l", "pick_step(1)", "Later", "Show the preview of a later step.", is_in_footer=False
    ),
    Action(
        "monitor.latest",
        "G,end",
        "follow_latest",
        "Latest",
        "Follow the latest preview again.",
        is_in_footer=False,
        has_priority=True,
    ),
    Action("monitor.open", "o", "open_finished", "Open", "Show the latest finished video in the library."),
    Action("monitor.log", "L", "toggle_log", "Log", "Enlarge or shrink the log."),
)

LIBRARY_ACTIONS = (
    Action("library.play", "p,space", "play", "Play", "Play the video in the terminal."),
    Action(
        "library.pixels", "P", "play_pixels", "Pixels", "Play in pixels (Kitty protocol or Sixel).", is_in_footer=False
    ),
    Action(
        "library.steps", "s", "show_steps", "Steps", "Show how the video forms: its stored steps.", is_in_footer=False
    ),
    Action("library.mark", "m", "mark", "Select", "Select the video for a comparison, or deselect it."),
    Action("library.analyse", "A", "analyse", "Analyse", "Show the trajectories of the batch and this video."),
    Action("library.recipe", "i", "recipe", "Recipe", "Show all parameters of the video."),
    Action("library.reject", "x", "reject", "Reject", "Reject the video, or accept it again."),
    Action("library.star", "asterisk", "star", "Star", "Star the video, or remove its star."),
    Action("library.compare", "c", "compare", "Compare", "Play the selected videos side by side."),
    Action(
        "library.diff",
        "d",
        "diff_recipes",
        "Diff",
        "Compare the recipes of the selected videos; compare a single selected video with the video under the cursor.",
        is_in_footer=False,
    ),
    Action(
        "library.unmark",
        "C",
        "clear_marks",
        "Deselect",
        "Deselect all videos; their stars are kept.",
        is_in_footer=False,
    ),
    Action("library.note", "N", "note", "Note", "Write a note on the video."),
    Action("library.search", "slash", "search", "Find", "Find batches, prompts, seeds and notes.", opens_field=True),
    Action(
        "library.state",
        "f",
        "filter",
        "Filter",
        "Show all batches, batches with failures, unfinished batches, starred videos, or videos that are not rejected.",
    ),
    Action(
        "library.size", "z", "cell_size", "Size", "Show small pictures, large pictures, or only symbols in the matrix."
    ),
    Action(
        "library.axes",
        "a",
        "next_layout",
        "Axes",
        "Choose which sweep axes are rows and columns: variations, swept settings, seeds.",
        is_in_footer=False,
    ),
    Action(
        "library.page_back",
        "left_square_bracket",
        "turn_page(-1)",
        "Previous page",
        "Show the previous values of the other axes.",
        is_in_footer=False,
    ),
    Action(
        "library.page",
        "right_square_bracket",
        "turn_page(1)",
        "Next page",
        "Show the next values of the other axes.",
        is_in_footer=False,
    ),
    Action(
        "library.sort",
        "S",
        "sort_rows",
        "Sort",
        "Sort the rows by similarity to a baseline, most similar first, or by the axes.",
        is_in_footer=False,
    ),
    Action("library.copy", "y", "copy_path", "Copy path", "Copy the path of the video to the clipboard."),
    Action(
        "library.rerun", "R", "rerun", "Rerun", "Generate the video again and compare bit by bit.", is_in_footer=False
    ),
    Action("library.edit", "e", "edit_copy", "Edit copy", "Compose a new batch from this batch.", is_in_footer=False),
    Action(
        "library.again",
        "E",
        "edit_video",
        "Again",
        "Compose this video, or the selected videos, again: the same prompts and seeds with different settings.",
        is_in_footer=False,
    ),
    Action("library.missing", "n", "resume", "Missing", "Queue the missing videos of the batch.", is_in_footer=False),
    Action("library.trash", "delete,X", "trash", "Trash", "Move the batch folder to the trash."),
    Action("library.refresh", "r", "reload", "Reload", "Read the folders again.", is_in_footer=False),
)

ANALYSIS_ACTIONS = (
    Action("analysis.view", "v", "next_view(1)", "View", "Show the next view: curves, means, attention, effects, ..."),
    Action("analysis.view_back", "V", "next_view(-1)", "Previous view", "Show the previous view.", is_in_footer=False),
    Action("analysis.groups", "c", "groups", "Compare", "Group by variation or bracket, and compare."),
    Action("analysis.sort", "s", "sort", "Sort", "Sort by the highlighted metric: ascending, descending, or unsorted."),
    Action("analysis.reverse", "S", "reverse", "Reverse", "Reverse the order.", is_in_footer=False),
    Action("analysis.filter", "slash", "search", "Find", "Find videos by name.", opens_field=True),
    Action(
        "analysis.attention", "a", "toggle_attention", "Attention", "Show the attention of the video's marked words."
    ),
    Action("analysis.enlarge", "z", "enlarge", "Enlarge", "Hide or show the table."),
    Action("analysis.batches", "b", "choose_batches", "Batches", "Choose the batches to analyse together."),
    Action("analysis.open", "o", "open_library", "Open", "Show the video, or the first batch, in the library."),
    Action("analysis.export", "ctrl+s,x", "export", "Export", "Write a table and a report to the batch folder."),
    Action(
        "analysis.left",
        "left,h",
        "move_across(-1)",
        "Previous metric",
        "Highlight the previous metric; with the focus on attention, show the previous step, block or head.",
        is_in_footer=False,
    ),
    Action(
        "analysis.right",
        "right,l",
        "move_across(1)",
        "Next metric",
        "Highlight the next metric; with the focus on attention, show the next step, block or head.",
        is_in_footer=False,
    ),
    Action(
        "analysis.curve",
        "n",
        "next_curve",
        "Curve",
        "Show the next mean curves, the next interaction, or the next metric over a setting.",
        is_in_footer=False,
    ),
    Action(
        "analysis.word", "w", "next_word", "Word", "Show the attention to the next marked word.", is_in_footer=False
    ),
    Action("analysis.axis", "A", "next_axis", "Axis", "Show the attention by step, block or head.", is_in_footer=False),
    Action(
        "analysis.frame_back",
        "comma",
        "move_frame(-1)",
        "Previous frame",
        "Show the attention over the previous frame.",
        is_in_footer=False,
    ),
    Action(
        "analysis.frame",
        "full_stop",
        "move_frame(1)",
        "Next frame",
        "Show the attention over the next frame.",
        is_in_footer=False,
    ),
)

ACTIONS_BY_SCREEN: dict[str, tuple[Action, ...]] = {
    "app": APP_ACTIONS,
    "compose": COMPOSE_ACTIONS,
    "queue": QUEUE_ACTIONS,
    "monitor": MONITOR_ACTIONS,
    "library": LIBRARY_ACTIONS,
    "analysis": ANALYSIS_ACTIONS,
    "player": PLAYER_ACTIONS,
    "forming": FORMING_ACTIONS,
    "recipe": RECIPE_ACTIONS,
}


def iterate_actions() -> Iterator[Action]:
    """Yield every action of every screen."""
    for actions in ACTIONS_BY_SCREEN.values():
        yield from actions


def make_bindings(group_name: str) -> list[Binding]:
    """Return the Textual bindings for one key in `ACTIONS_BY_SCREEN`."""
    return [
        Binding(
            a.key_names,
            a.textual_action,
            a.footer_label,
            show=a.is_in_footer,
            key_display=a.footer_keys or None,
            priority=a.has_priority or a.opens_field,
            tooltip=a.help_text,
            id=a.id,
        )
        for a in ACTIONS_BY_SCREEN[group_name]
    ]


FIELD_OPENING_ACTIONS = frozenset(action.textual_action for action in iterate_actions() if action.opens_field)
"""Textual actions that focus a text field."""
