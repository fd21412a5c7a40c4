"""Panel of one clip in the player: its picture, below a label where several clips are compared."""

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.formatting import escape_unprintable
from wantui.tui.player.clips import PlayerClip
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.picture_view import PictureView


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

    def show_label(self, clip: PlayerClip, name: str, signs: str) -> None:
        """Show the name of a clip in the colour of its variation, its marks and, if it fits, its prompt.

        Args:
            name: what differs between the clip and the compared ones.
            signs: signs of the marks.
        """
        line = Text.assemble(" " * self.view.picture_left, (name, Style(bold=True)), no_wrap=True)
        line.stylize(self.label.make_colour_style(clip.colour_name), 0, line.cell_len)
        if signs:
            line.append(f"  {signs}", self.label.make_colour_style("accent"))
        prompt = f"  {escape_unprintable(clip.recipe.prompt)}"
        if line.cell_len + cell_len(prompt) <= self.label.content_size.width:
            line.append(prompt, Style(dim=True))
        self.label.show_lines([line])
