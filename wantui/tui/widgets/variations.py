"""List of a template's variations: ids, duplicates, prompts, and marked words with their tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import on

from wantui.tui.pane_titles import KeyTitleMixin
from wantui.tui.series_colours import assign_variation_colours
from wantui.tui.widgets.virtual_list import VirtualList

if TYPE_CHECKING:
    from wantui.planning import BatchPreview
    from wantui.prompts import Mark, Variation  # slow to import, like the functions below

TEMPLATE_HELP = """write a template, for example:
a [red|blue] circle  varies
a [big|] circle      may be empty
a (circle)           marks a word"""
MAX_MEASURED_ROWS = 500
"""Number of variations whose ids and prompts determine the widths of the columns."""
MAX_ID_WIDTH = 28
"""Maximum cells of an id."""
MIN_WIDTH_WITH_IDS = 60
"""Cells of a list that shows ids in any case; a narrower one leaves them out if the prompts need their cells."""
MAX_UNVARIED_START = 12
"""Characters before the first varying word, if the start of a long prompt is left out."""
ARROW = " → "
"""Text between a prompt and the next prompt of its schedule."""
BORDER_HEIGHT = 2


class Variations(KeyTitleMixin, VirtualList):
    """List of any number of variations; only visible rows are tokenised. Enter shows the whole prompt."""

    def __init__(self) -> None:
        super().__init__(id="variations", classes="pane", empty_text=TEMPLATE_HELP)
        self.set_key_title("compose.list", "Variations")
        self.preview: BatchPreview | None = None
        self.tokenizer_path: Path | None = None
        self._first_indices_with_prompts: list[int] = []
        self._id_width = 20
        self._colours_by_id: dict[str, str] = {}
        """Theme colour of each variation, if there are several."""
        self._prompt_width = 40

    def show_preview(
        self, preview: "BatchPreview | None", tokenizer_path: Path | None, empty_text: str = TEMPLATE_HELP
    ) -> None:
        """Show the variations of a preview; without a preview, show `empty_text`."""
        self.preview, self.tokenizer_path = preview, tokenizer_path
        if preview is None:
            self.empty_text = empty_text
            self.set_key_title("compose.list", "Variations")
            self.border_subtitle = ""
            self.fill_rows(0, self._draw_variation)
            if empty_text == TEMPLATE_HELP:
                self.styles.height = len(TEMPLATE_HELP.splitlines()) + BORDER_HEIGHT
            return
        from wantui.prompts import list_prompts

        first_indices_by_prompts: dict[tuple[str, ...], int] = {}
        self._first_indices_with_prompts = [
            first_indices_by_prompts.setdefault(list_prompts(v), index) for index, v in enumerate(preview.variations)
        ]
        self._colours_by_id = assign_variation_colours(preview.variations)
        measured = preview.variations[:MAX_MEASURED_ROWS]
        self._id_width = min(MAX_ID_WIDTH, max(len(variation.id) for variation in measured))
        self._prompt_width = max(len(ARROW.join(list_prompts(variation))) for variation in measured)
        self.set_key_title("compose.list", f"Variations: {len(preview.variations):,}")
        self.fill_rows(len(preview.variations), self._draw_variation)
        # As high as its rows, within the limits of the style sheet: the cost gets the other lines.
        self.styles.height = len(preview.variations) + self.header_height + BORDER_HEIGHT

    def _draw_variation(self, index: int, width: int) -> Text:
        from wantui.prompts import list_marks

        assert self.preview is not None
        variation = self.preview.variations[index]
        line = Text()
        if width >= MIN_WIDTH_WITH_IDS or self._id_width + 2 + self._prompt_width <= width:
            id_text = variation.id
            if len(id_text) > self._id_width:
                id_text = f"{id_text[: self._id_width - 1]}…"
            colour_name = self._colours_by_id.get(variation.id)
            style = Style(dim=True) if colour_name is None else self.make_colour_style(colour_name)
            line.append(f"{id_text:<{self._id_width}}  ", style)
        first_index = self._first_indices_with_prompts[index]
        if first_index != index:
            line.append(f"= {self.preview.variations[first_index].id} ", self.make_colour_style("warning"))
        prompt = self._draw_prompt(variation)
        if len(line) + len(prompt) > width and variation.choices:
            prompt = _omit_start(prompt, min(choice.start for choice in variation.choices), width - len(line))
            prompt = _omit_end(prompt, width - len(line))
        line.append_text(prompt)
        if list_marks(variation) and len(line) < width:
            marks = Text(" " * max(0, self._prompt_width - len(prompt)))
            self._append_marks(marks, variation)
            if len(line) + len(marks) <= width:
                line.append_text(marks)
        return line

    def _draw_prompt(self, variation: "Variation") -> Text:
        """Return a prompt with highlighted words, followed by the prompts of a schedule.

        Marked words have the colour of marks, and varying words the colour of brackets; scheduled prompts are dim.
        """
        prompt = Text(variation.prompt)
        mark_style = self.make_colour_style("success") + Style(underline=True)
        colour_name = self._colours_by_id.get(variation.id, "accent")
        choice_style = self.make_colour_style(colour_name) + Style(bold=True)
        for mark in variation.marks:
            prompt.stylize(mark_style, mark.start, mark.end)
        for choice in variation.choices:
            prompt.stylize(choice_style, choice.start, choice.end)
        for scheduled in variation.scheduled_prompts:
            prompt.append(f"{ARROW}{scheduled.prompt}", Style(dim=True))
        return prompt

    def _append_marks(self, line: Text, variation: "Variation") -> None:
        """Append the marked words of a variation with their weights and tokens.

        Equal marks of its prompts are listed once.
        """
        mark_texts: list[Text] = []
        marked_prompts = [(variation.prompt, variation.marks)]
        marked_prompts += [(scheduled.prompt, scheduled.marks) for scheduled in variation.scheduled_prompts]
        for prompt, marks in marked_prompts:
            for mark in marks:
                mark_text = self._draw_mark(prompt, mark)
                if mark_text not in mark_texts:
                    mark_texts.append(mark_text)
        line.append_text(Text().join(mark_texts))

    def _draw_mark(self, prompt: str, mark: "Mark") -> Text:
        text = Text()
        text.append(f"  ({mark.text})", self.make_colour_style("success"))
        if mark.weight != 1:
            text.append(f" x{mark.weight:g}", self.make_colour_style("success"))
        if self.tokenizer_path is not None:
            from wantui.models.tokenizer import find_token_texts

            token_texts = find_token_texts(self.tokenizer_path, prompt, mark.start, mark.end)
            text.append(f" = {'·'.join(token_texts)}", Style(dim=True))
        return text

    @on(VirtualList.Chosen)
    def _show_whole_variation(self, message: VirtualList.Chosen) -> None:
        """Show the prompt, the choices and the marked words of the selected variation."""
        from wantui.tui.screens.dialogs import TextViewer

        message.stop()
        if self.preview is None:
            return
        variation = self.preview.variations[message.row_index]
        lines = [variation.prompt]
        from wantui.planning.variations import list_scheduled_moments

        moment_names = list_scheduled_moments(self.preview.config.settings)
        lines += [
            f"at {moment_name}: {scheduled.prompt}"
            for moment_name, scheduled in zip(moment_names, variation.scheduled_prompts, strict=True)
        ]
        lines.append("")
        lines += [
            f"bracket {choice.bracket_number}, option {choice.option_number}: {choice.text or '(nothing)'}"
            for choice in variation.choices
        ]
        marks = Text()
        self._append_marks(marks, variation)
        if marks.plain:
            lines.append(f"marked:{marks.plain}")
        self.app.push_screen(TextViewer(variation.id, "\n".join(lines)))


def _omit_start(prompt: Text, first_choice: int, width: int) -> Text:
    """Return a prompt without its start, so that the first varying word is within `width` cells."""
    start = first_choice - MAX_UNVARIED_START
    if start <= 0 or first_choice < width // 2:
        return prompt
    return Text.assemble(("…", Style(dim=True)), prompt[start:])


def _omit_end(prompt: Text, width: int) -> Text:
    """Return a prompt in at most `width` cells, cut after a word."""
    if prompt.cell_len <= width:
        return prompt
    end = prompt.plain.rfind(" ", 0, width - 1)
    return Text.assemble(prompt[: end + 1 if end > 0 else width - 1], ("…", Style(dim=True)))
