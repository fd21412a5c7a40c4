"""List of a template's variations: ids, duplicates, prompts, and marked words with their tokens."""

from pathlib import Path

from rich.style import Style
from rich.text import Text

from wantui.models.tokenizer import find_token_texts
from wantui.planning import BatchPreview
from wantui.tui.content import make_content
from wantui.tui.widgets.virtual_list import VirtualList

TEMPLATE_HELP = """t: write a template

a [red|blue] circle      one variation for each option
a (circle)               a marked word: attention
a [big|small|] circle    an option may be empty"""
MAX_MEASURED_IDS = 500
"""Number of variations whose ids determine the width of the id column."""


class Variations(VirtualList):
    """List of any number of variations; only visible rows are tokenised."""

    def __init__(self) -> None:
        super().__init__(id="variations", classes="pane", empty_text=TEMPLATE_HELP)
        self.border_title = "Variations"
        self.preview: BatchPreview | None = None
        self.tokenizer_path: Path | None = None
        self._first_indices_with_prompt: list[int] = []
        self._id_width = 20

    def show_preview(
        self, preview: BatchPreview | None, tokenizer_path: Path | None, empty_text: str = TEMPLATE_HELP
    ) -> None:
        """Show the variations of a preview, or `empty_text` if it is None."""
        self.preview, self.tokenizer_path = preview, tokenizer_path
        if preview is None:
            self.empty_text = empty_text
            self.border_title = "Variations"
            self.fill_rows(0, self._draw_variation)
            return
        first_indices_by_prompt: dict[str, int] = {}
        self._first_indices_with_prompt = [
            first_indices_by_prompt.setdefault(v.prompt, index) for index, v in enumerate(preview.variations)
        ]
        self._id_width = min(28, max(len(variation.id) for variation in preview.variations[:MAX_MEASURED_IDS]) + 1)
        self.border_title = make_content(f"Variations: {len(preview.variations):,}")
        self.fill_rows(len(preview.variations), self._draw_variation)

    def _draw_variation(self, index: int, width: int) -> Text:
        assert self.preview is not None
        variation = self.preview.variations[index]
        line = Text.assemble(
            (f"{variation.id:<{self._id_width}.{self._id_width - 1}}", self.make_colour_style("primary"))
        )
        first_index = self._first_indices_with_prompt[index]
        if first_index != index:
            line.append(f"= {self.preview.variations[first_index].id} ", self.make_colour_style("warning"))
        prompt_start = len(line)
        line.append(variation.prompt)
        for mark in variation.marks:
            line.stylize(
                self.make_colour_style("success") + Style(bold=True), prompt_start + mark.start, prompt_start + mark.end
            )
        for mark in variation.marks:
            line.append(f"  {mark.text}", self.make_colour_style("success"))
            if mark.weight != 1:
                line.append(f" x{mark.weight:g}", self.make_colour_style("warning"))
            if self.tokenizer_path is not None:
                token_texts = find_token_texts(self.tokenizer_path, variation.prompt, mark.start, mark.end)
                line.append(f" = {'·'.join(token_texts)}", Style(dim=True))
        return line
