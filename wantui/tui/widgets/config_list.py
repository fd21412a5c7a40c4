"""List of the available configs: the chosen one is marked, and columns that do not fit are left out."""

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from wantui.tui.config_sources import SOURCE_COLUMNS, ConfigSource, name_config
from wantui.tui.content import set_titles
from wantui.tui.drafts import Drafts
from wantui.tui.pane_titles import KeyTitleMixin
from wantui.tui.widgets.virtual_list import VirtualList

MAX_NAME_WIDTH = 32
"""Maximum width of config names, in cells."""
MIN_HEIGHT_WITH_HEADER = 6
"""Minimum height of the list, in lines, at which it has a header."""


class ConfigList(KeyTitleMixin, VirtualList):
    """List of configs; in a low terminal it shows only the chosen config while it lacks the focus."""

    def __init__(self) -> None:
        super().__init__(id="configs", classes="pane", empty_text="no configs found")
        self.set_key_title("compose.configs", "Config")
        self.sources: Sequence[ConfigSource] = ()
        self.drafts: Drafts | None = None
        self._name_width = 0
        self._column_widths: list[int] = []

    def show_sources(self, sources: Sequence[ConfigSource], drafts: Drafts) -> None:
        """Show the available configs, with the cursor on the draft's config."""
        self.sources, self.drafts = sources, drafts
        names = [name_config(source.config_name) for source in sources]
        self._name_width = min(MAX_NAME_WIDTH, max(map(len, names), default=0))
        self._column_widths = [
            max(len(title), *(len(source.columns[index]) for source in sources if source.columns), 0)
            for index, title in enumerate(SOURCE_COLUMNS)
        ]
        self._choose_header()
        self.fill_rows(len(sources), self._draw_source)
        self.move_to_chosen()

    def move_to_chosen(self) -> None:
        """Put the cursor on the chosen config."""
        config_names = [source.config_name for source in self.sources]
        if self.drafts is not None and self.drafts.config in config_names:
            self.cursor = config_names.index(self.drafts.config)

    def on_resize(self) -> None:
        """Show the header if there is room, and keep the cursor visible."""
        self._choose_header()
        self.call_after_refresh(self.show_row, self.cursor)

    def on_virtual_list_highlighted(self) -> None:
        self._show_columns_in_frame()

    def _show_columns_in_frame(self) -> None:
        """Show the values of the config under the cursor in the frame, if the list lacks some columns."""
        source = self.sources[self.cursor] if self.cursor < len(self.sources) else None
        has_columns = self._count_columns(self.row_width) > 0
        if source is None or has_columns or not source.columns:
            set_titles(self, subtitle="")
            return
        model, size, frames, steps = source.columns
        set_titles(self, subtitle=f"{model}, {size}, {frames} frames, {steps} steps")

    def _choose_header(self) -> None:
        """Show the header if it fits, and a column besides the names."""
        self._show_columns_in_frame()
        has_header = self.size.height >= MIN_HEIGHT_WITH_HEADER and self._count_columns(self.row_width) > 0
        self.header_renderer = self._draw_header if has_header else None

    def on_blur(self) -> None:
        """Show the chosen config if only one row is visible."""
        self.move_to_chosen()

    def _count_columns(self, width: int) -> int:
        """Return the number of columns that fit beside the names."""
        free_width = width - 2 - self._name_width
        count = 0
        for column_width in self._column_widths:
            free_width -= 2 + column_width
            count += free_width >= 0
        return count

    def _draw_header(self, width: int) -> Text:
        return Text(f"  {'name':<{self._name_width}}{self._format_columns(SOURCE_COLUMNS, width)}")

    def _draw_source(self, index: int, width: int) -> Text:
        source = self.sources[index]
        is_chosen = self.drafts is not None and source.config_name == self.drafts.config
        line = Text.assemble(("● " if is_chosen else "  ", self.make_colour_style("accent")))
        line.append(f"{name_config(source.config_name):<{self._name_width}}", Style(bold=is_chosen))
        if source.is_valid:
            line.append(self._format_columns(source.columns, width), Style(dim=True))
        else:
            line.append(f"  ✗ {source.summary}", self.make_colour_style("text-error"))
        line.rstrip()  # otherwise an ellipsis would stand for the padding of the names
        return line

    def _format_columns(self, values: Sequence[str], width: int) -> str:
        """Return the values of the columns that fit: the model at the left, numbers at the right of their columns."""
        parts = [
            f"  {value:<{column_width}}" if index == 0 else f"  {value:>{column_width}}"
            for index, (value, column_width) in enumerate(zip(values, self._column_widths, strict=True))
        ]
        return "".join(parts[: self._count_columns(width)])
