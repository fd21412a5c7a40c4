"""Panel of one clip in the player: its picture, below a label where several clips are compared."""

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.formatting import escape_unprintable
from wantui.tui.player.clip_labels import cut_prompt
from wantui.tui.player.clips import PlayerClip
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.picture_view import PictureView

MIN_PROMPT_WIDTH = 8
"""Minimum width of the prompt in a label, in cells."""


class ClipPanel(Vertical):
    """Label and picture of a clip.

    Args:
        is_compared: whether there are other clips, so that the picture is at the top, below its label.
    """

    DEFAULT_CSS = """
    ClipPanel .clip-label { height: 1; }
    """

    label = getters.query_one(DiffText)
    view = getters.query_one(PictureView)

    def __init__(self, *, is_compared: bool) -> None:
        super().__init__()
        self.is_compared = is_compared

    def compose(self) -> ComposeResult:
        yield DiffText(classes="clip-label")
        yield PictureView(is_at_top=self.is_compared)

    def show_label(self, clip: PlayerClip, name: str, signs: str, prompts: Sequence[str]) -> None:
        """Show the name of a clip in the colour of its variation, its marks and its prompt.

        Args:
            signs: signs of the marks.
            prompts: prompts of all compared clips; a word that differs between them stays visible.
        """
        line = Text.assemble(" " * self.view.picture_left, (name, Style(bold=True)), no_wrap=True)
        line.stylize(self.label.make_colour_style(clip.colour_name), 0, line.cell_len)
        if signs:
            line.append(f"  {signs}", self.label.make_colour_style("accent"))
        free_width = max(MIN_PROMPT_WIDTH, self.label.content_size.width - line.cell_len - 2)
        prompt = cut_prompt(escape_unprintable(clip.recipe.prompt), list(map(escape_unprintable, prompts)), free_width)
        self.label.show_lines([line.append(f"  {prompt}", Style(dim=True))])
