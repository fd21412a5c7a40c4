"""Dialog with the recipe of a video as a table, or with the differences of several recipes."""

import json
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from wantui.formatting import escape_unprintable
from wantui.keyframes import KeyframeError
from wantui.planning import Recipe
from wantui.planning.step_table import build_step_table
from wantui.tui.actions import make_bindings
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import make_content
from wantui.tui.pane_titles import find_key
from wantui.tui.player.changed_fields import UNMARKED_FIELDS, find_changed_fields
from wantui.tui.player.clip_labels import describe_common_part, number_equal_labels
from wantui.tui.player.clips import PlayerClip
from wantui.tui.player.recipe_table import (
    GROUPS,
    VIDEO_GROUP,
    FieldDifference,
    RecipeComparison,
    RecipeField,
    compare_recipes,
    list_recipe_fields,
)
from wantui.tui.plots import draw_picture
from wantui.tui.settings_rows import format_label
from wantui.tui.widgets.counting_scroll import CountingScroll
from wantui.tui.widgets.diff_text import make_colour_style
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.wrapping import join_texts

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

DIALOG_BORDER_WIDTH = 8
"""Cells that border, padding and scroll bar of the dialog take."""
RECIPE_WIDTH = 92
"""Maximum width of one recipe's table, in cells; longer texts are wrapped."""
MIN_TWO_COLUMN_WIDTH, COLUMN_GAP = 130, 4
"""Width of the screen in cells from which a recipe has two columns, and the cells between them."""
MAX_PICTURE_HEIGHT, PICTURE_MARGIN = 18, 12
"""Maximum lines of the middle frames below a table of differences, and lines of the screen besides them."""
CELL_GAP, FIELD_GAP = 2, "   "
"""Cells between two columns, and text between two fields of a line."""
MAX_NAME_WIDTH = 26
"""Maximum width of the names of fields in cells; longer names are wrapped."""
SHOWN_GROUPS = (*GROUPS, VIDEO_GROUP)
"""Groups of fields in the table of one recipe."""
MAIN_FIELDS = UNMARKED_FIELDS | {"model_id", "sampler", "steps", "cfg_scale", "width", "height", "frames", "fps"}
"""Fields that come first even if they have their default."""
MAIN_FIELDS_HEADING, OTHER_FIELDS_HEADING = "bold: differs from the default", "at their defaults"
"""Headings above the main and changed fields, and above the others."""
SHORT_REVISION_LENGTH = 12
"""Maximum characters of a revision; hashes of commits and files differ in fewer."""
NAME_WIDTH, VALUE_WIDTH = 18, 38
"""Width of the names, and maximum width of each recipe's values, in a table of differences."""


class RecipeViewer(BackdropMixin, ModalScreen[None]):
    """Dialog with one recipe, or with the fields in which several recipes differ.

    Args:
        titled_recipes: title of each video, and its recipe; titles may be equal.
        document: JSON document to show instead of the recipes, such as the manifest entry of the video.
        clips: clips of the compared videos; the dialog shows their middle frames; empty without pictures.
        play: plays the compared clips, after the dialog is closed; None if nothing can play them.
        facts: facts about the only video that its recipe does not determine.
    """

    class PicturesRead(Message):
        """The middle frames of the compared clips are read; None for a clip that cannot be read."""

        def __init__(self, pictures: "list[Picture | None]") -> None:
            super().__init__()
            self.pictures = pictures

    BINDINGS = [*make_bindings("recipe")]
    scroll = getters.query_one(VerticalScroll)

    def __init__(
        self,
        titled_recipes: Sequence[tuple[str, Recipe]],
        document: Any = None,
        clips: Sequence[PlayerClip] = (),
        facts: Sequence[RecipeField] = (),
        play: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(name="recipe")
        self.clips, self.facts, self.play = list(clips), list(facts), play
        self.pictures: list[Picture | None] = []
        self.titles = number_equal_labels([title for title, _ in titled_recipes])
        self.recipes = [recipe for _, recipe in titled_recipes]
        self.document = document
        self.shows_json = self.shows_equal_fields = False

    @cached_property
    def comparison(self) -> RecipeComparison:
        """Return the comparison of several recipes."""
        return compare_recipes(self.recipes)

    def compose(self) -> ComposeResult:
        with CountingScroll(classes="dialog") as scroll:
            is_single = len(self.recipes) == 1
            scroll.border_title = make_content(f"Recipe: {self.titles[0]}" if is_single else "Recipe differences")
            yield Static()
        yield KeyFooter()

    def on_mount(self) -> None:
        self.set_focus(self.scroll)
        if self.clips:
            self.read_pictures()

    @work(thread=True, exit_on_error=False)
    def read_pictures(self) -> None:
        """Read the middle frames of the compared clips."""
        from wantui.storage.mp4 import read_middle_frame

        pictures: list[Picture | None] = []
        for clip in self.clips:
            try:
                pictures.append(read_middle_frame(clip.path, clip.recipe.frames))
            except Exception:  # decoders of damaged files can raise anything
                pictures.append(None)
        self.post_message(self.PicturesRead(pictures))

    @on(PicturesRead)
    def _show_pictures(self, message: PicturesRead) -> None:
        self.pictures = message.pictures
        self._show_content()

    def on_resize(self, event: Resize) -> None:
        self._show_content()

    def action_toggle_json(self) -> None:
        self.shows_json = not self.shows_json
        self.scroll.scroll_home(animate=False)
        self._show_content()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enable the equal fields only for several recipes, and playing only if the clips can be played."""
        is_enabled = {"toggle_equal": len(self.recipes) > 1, "play": self.play is not None}
        return is_enabled.get(action, True)

    def action_copy_json(self) -> None:
        self.app.copy_to_clipboard(self._format_json())
        name = "recipe" if len(self.recipes) == 1 else f"{len(self.recipes)} recipes"
        self.notify("If pasting fails in tmux: set -g set-clipboard on", title=f"{name} copied as JSON")

    def action_play(self) -> None:
        """Close the dialog and play the compared clips."""
        self.dismiss(None)
        if self.play is not None:
            self.app.call_later(self.play)

    def action_toggle_equal(self) -> None:
        self.shows_equal_fields, self.shows_json = not self.shows_equal_fields, False
        self.scroll.scroll_home(animate=False)
        self._show_content()

    def _show_content(self) -> None:
        recipe_count = len(self.recipes)
        recipe_width = 2 * RECIPE_WIDTH if self.size.width >= MIN_TWO_COLUMN_WIDTH else RECIPE_WIDTH
        wanted_width = recipe_width if recipe_count == 1 else NAME_WIDTH + VALUE_WIDTH * recipe_count
        width = max(40, min(wanted_width, self.size.width - DIALOG_BORDER_WIDTH))
        self.scroll.styles.width = width + DIALOG_BORDER_WIDTH
        self.query_one(Static).update(self.draw_content(width))

    def draw_content(self, width: int) -> RenderableType:
        """Return the JSON, the table of the recipe, or the table of differences, without interpreting markup."""
        if self.shows_json:
            return Text(escape_unprintable(self._format_json(), keep_lines=True))
        if len(self.recipes) > 1:
            return self.draw_differences(width)
        recipe = self.recipes[0]
        return Group(self.draw_recipe(recipe, width), *self.draw_steps(recipe, width))

    def draw_recipe(self, recipe: Recipe, width: int) -> RenderableType:
        """Return the main and the changed fields, and the others below; in a wide dialog, the others beside them."""
        default_by_name = find_changed_fields(recipe)
        fields = [*list_recipe_fields(recipe), *self.facts]
        main_fields = [
            field
            for field in fields
            if field.full_name in MAIN_FIELDS or field.full_name in default_by_name or field.group == VIDEO_GROUP
        ]
        other_fields = [field for field in fields if field not in main_fields]
        has_two_columns = width > RECIPE_WIDTH
        column_width = (width - COLUMN_GAP) // 2 if has_two_columns else width
        main_part = Group(
            Text(MAIN_FIELDS_HEADING, "dim"), self.draw_fields(main_fields, default_by_name, column_width)
        )
        if not has_two_columns:
            return Group(main_part, Text(OTHER_FIELDS_HEADING, "dim"), self.draw_field_texts(other_fields, width))
        other_part = Group(Text(OTHER_FIELDS_HEADING, "dim"), self.draw_fields(other_fields, {}, column_width))
        table = Table.grid(padding=(0, COLUMN_GAP, 0, 0), pad_edge=False)
        table.add_row(main_part, other_part)
        return table

    def _format_json(self) -> str:
        document = self.document
        if document is None:
            recipes = [recipe.model_dump(mode="json") for recipe in self.recipes]
            document = recipes[0] if len(recipes) == 1 else dict(zip(self.titles, recipes, strict=True))
        return json.dumps(document, indent=2, ensure_ascii=False)

    def draw_fields(self, fields: Sequence[RecipeField], default_by_name: Mapping[str, str], width: int) -> Table:
        """Return a table of fields by group, in each group the changed fields first, with their defaults.

        Args:
            default_by_name: default of each changed field, as `find_changed_fields` returns it.
        """
        table = self._make_table(width)
        name_width = min(MAX_NAME_WIDTH, max((len(format_label(field.name)) for field in fields), default=0))
        table.add_column("field", style="dim", width=name_width)
        table.add_column("value", overflow="fold", ratio=1)
        changed_style = make_colour_style(self.app, "found") + Style(bold=True)
        for label, group_fields in group_fields_by_label(fields).items():
            group_fields.sort(key=lambda field: field.full_name not in default_by_name)
            for number, field in enumerate(group_fields):
                is_changed = field.full_name in default_by_name
                value_style = changed_style if is_changed else "dim" if field.name not in UNMARKED_FIELDS else ""
                text = Text.assemble((escape_unprintable(shorten_revision(field)), value_style))
                if field.unit:
                    text.append(f" {field.unit}", "dim")
                if default := default_by_name.get(field.full_name):
                    text.append(f"  (default {escape_unprintable(default)})", "dim")
                name = Text(format_label(field.name), "not dim" if is_changed else "")
                table.add_row("" if number else label, name, text)
        return table

    def draw_field_texts(self, fields: Sequence[RecipeField], width: int) -> Table:
        """Return a table with one row for each group: its fields, one after another."""
        table, fields_by_label = self._make_table(width), group_fields_by_label(fields)
        table.add_column("fields", overflow="fold", ratio=1)
        fields_width = max(1, width - max(map(len, fields_by_label), default=0) - 2 * CELL_GAP)
        for label, group_fields in fields_by_label.items():
            parts = [
                Text.assemble(
                    (f"{format_label(field.name)} ", "dim"), f"{escape_unprintable(field.value)} {field.unit}"
                )
                for field in group_fields
            ]
            for part in parts:
                part.rstrip()
            table.add_row(label, Text("\n").join(join_texts(parts, fields_width, FIELD_GAP)))
        return table

    def _make_table(self, width: int) -> Table:
        """Return a table with a column of groups."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, CELL_GAP, 0, 0), width=width)
        table.add_column("group", style=make_colour_style(self.app, "text-muted") + Style(bold=True), no_wrap=True)
        return table

    def draw_steps(self, recipe: Recipe, width: int) -> list[RenderableType]:
        """Return a table of what changes between the evaluations of the denoising; empty if nothing changes."""
        try:
            step_table = build_step_table(recipe)
        except KeyframeError as error:  # the recipe was edited by hand
            return [Text(""), Text(f"cannot show the steps: {error}", make_colour_style(self.app, "error"))]
        if step_table is None:
            return []
        accent = make_colour_style(self.app, "accent") + Style(bold=True)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), width=width, header_style=accent)
        for header in step_table.headers:
            is_text = header == step_table.headers[-1] or header == "prompt"
            table.add_column(header, overflow="fold", ratio=1 if is_text else None, no_wrap=not is_text)
        for row in step_table.rows:
            table.add_row(*(Text(escape_unprintable(cell)) for cell in row))
        return [Text(""), Text("changes during the denoising", "bold"), table]

    def draw_differences(self, width: int) -> Group:
        """Return the fields in which the recipes differ, side by side."""
        common = describe_common_part(self.clips) if self.clips else ""
        common_text = f"  {'both' if len(self.recipes) == 2 else 'all'}: {common}" if common else ""
        summary = self.comparison.summary
        if not self.comparison.differences and not self.comparison.has_equal_digests:
            summary += f" ({find_key(self, 'recipe.json')})"
        lines: list[RenderableType] = [Text.assemble((summary, "bold"), (common_text, "dim")), Text("")]
        if self.comparison.differences:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), width=width, header_style="")
            table.add_column(Text("field", "dim"), style="dim", no_wrap=True)
            for index, title in enumerate(self.titles):
                header = Text(escape_unprintable(title), self._choose_title_style(index))
                table.add_column(header, overflow="fold", ratio=1)  # long values often differ only at their end
            for difference in self.comparison.differences:
                table.add_row(difference.field.label, *self._draw_values(difference))
            if self.clips and not self.shows_equal_fields:
                table.add_row("", *self._draw_pictures(width))
                table.add_row("", *[Text(self._label_pictures(), "dim")] * len(self.clips))
            lines.append(table)
            if not self.shows_equal_fields:
                lines.append(self._list_equal_fields(width))
        if self.shows_equal_fields:
            lines += [Text(""), Text("equal in all", "dim"), self._draw_equal_fields(width)]
        return Group(*lines)

    def _draw_equal_fields(self, width: int) -> Table:
        """Return a table of the fields that no recipe has with another value."""
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for field in self.comparison.equal_fields:
            table.add_row(field.label, Text(escape_unprintable(f"{field.value} {field.unit}".rstrip())))
        return table

    def _choose_title_style(self, index: int) -> Style:
        """Return the colour that the variation has on all screens; without clips, the colour of headings."""
        colour_name = self.clips[index].colour_name if self.clips else "accent"
        return make_colour_style(self.app, colour_name) + Style(bold=True)

    def _list_equal_fields(self, width: int) -> Text:
        """Return the first equal fields in one line, and the number of the others."""
        fields = [escape_unprintable(f"{field.label} {field.value}") for field in self.comparison.equal_fields]
        for count in range(len(fields), -1, -1):
            more = [f"{len(fields) - count} more with {find_key(self, 'recipe.equal')}"] if count < len(fields) else []
            line = f"equal: {' · '.join([*fields[:count], *more])}"
            if len(line) <= width:
                break
        return Text(line, "dim", no_wrap=True)

    def _label_pictures(self) -> str:
        """Return the number of the middle frame, if all clips have equally many frames."""
        frame_counts = {clip.recipe.frames for clip in self.clips}
        if len(frame_counts) > 1:
            return "middle frame"
        (frame_count,) = frame_counts
        return f"frame {frame_count // 2 + 1} of {frame_count}"

    def _draw_pictures(self, width: int) -> list[Text]:
        """Return the middle frames of the clips in block characters; blank lines until they are read."""
        column_width = max(4, (width - NAME_WIDTH) // len(self.clips) - 2)
        recipe = self.recipes[0]
        fitting_height = ceil(column_width * recipe.height / recipe.width / 2)
        height = max(4, min(MAX_PICTURE_HEIGHT, fitting_height, self.size.height - PICTURE_MARGIN))
        blank = Text("\n" * (height - 1))
        if not self.pictures:
            return [blank] * len(self.clips)
        return [
            Text("✗ unreadable", make_colour_style(self.app, "error"))
            if picture is None
            else Text("\n", no_wrap=True).join(draw_picture(picture, column_width, height))
            for picture in self.pictures
        ]

    def _draw_values(self, difference: FieldDifference) -> list[Text]:
        """Return the values of a field; in texts, words that the first recipe lacks have the title's colour."""
        field, values = difference.field, difference.values
        if field.name in ("prompt", "negative_prompt"):
            return [
                highlight_words(value, values[number == 0], self._choose_title_style(number))
                for number, value in enumerate(values)
            ]
        unit = f" {field.unit}" if field.unit else ""
        return [Text(escape_unprintable(value)).append(unit, "dim") for value in values]


def group_fields_by_label(fields: Sequence[RecipeField]) -> dict[str, list[RecipeField]]:
    """Return fields by the label of their group or part, in the order of the groups."""
    fields_by_label: dict[str, list[RecipeField]] = {}
    for field in sorted(fields, key=lambda field: (SHOWN_GROUPS.index(field.group), bool(field.part))):
        fields_by_label.setdefault(format_label(field.part) or field.group, []).append(field)
    return fields_by_label


def shorten_revision(field: RecipeField) -> str:
    """Return the value of a field; of a long revision the beginning, because the JSON has all of it."""
    is_long = field.name == "revision" and len(field.value) > SHORT_REVISION_LENGTH
    return f"{field.value[:SHORT_REVISION_LENGTH]}…" if is_long else field.value


def highlight_words(text: str, other_text: str, style: Style) -> Text:
    """Return a text in which the words that differ from another text are highlighted."""
    words, other_words = text.split(), other_text.split()
    highlighted = Text()
    for tag, start, stop, _, _ in SequenceMatcher(None, words, other_words, autojunk=False).get_opcodes():
        for word in words[start:stop]:
            if highlighted:
                highlighted.append(" ")
            highlighted.append(escape_unprintable(word), style if tag != "equal" else "")
    return highlighted
