"""Line wrapping for widgets that draw lines."""

from textwrap import wrap

from rich.style import Style
from rich.text import Text

from wantui.formatting import join_units, split_units


def wrap_text(text: str, width: int, style: Style | None = None, indent: str = "  ") -> list[Text]:
    """Wrap a text into lines of at most `width` characters; all lines but the first are indented."""
    lines = wrap(join_units(text), width, subsequent_indent=indent, break_on_hyphens=False)
    return [Text(split_units(line), style or Style.null()) for line in lines]
