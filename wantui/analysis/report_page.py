"""Page of a report: style, colours of figures, and elements of HTML. Nothing on the page is loaded from elsewhere."""

import html
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

GROUP_COLOURS = ("#2a6f97", "#c1551f", "#4f7942", "#7b4b94", "#a8802c", "#9c3848", "#4a8c8c", "#5c5c5c")
"""Colours of the groups on white paper."""
DARK_GROUP_COLOURS = ("#6db3dc", "#ee9160", "#8fc47f", "#bd93d6", "#d9b866", "#e07f8c", "#7fc4c4", "#b4b4b4")
"""Colours of the groups on a dark screen."""
GROUP_LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
"""Line styles of the groups, so that they differ in black and white too."""
TEXT_COLOUR, MUTED_COLOUR, PAPER_COLOUR = "#010203", "#8c8c8b", "#fefefd"
"""Colours of text and axes, of secondary lines, and of the page, in figures. They stand for colours of the page, which
depend on the reader's screen; no group has one of them."""
MAX_FIGURE_LABEL_LENGTH = 40
"""Maximum length of a group name in a figure, in characters; tables show the complete name."""
CLASS_BY_KIND = {"differs": "differs", "rises": "differs", "falls": "differs", "alike": "alike", "flat": "alike"}
"""CSS class of a verdict by its kind; other kinds have none."""
MATPLOTLIB_SETTINGS = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "wantui",
    "text.color": TEXT_COLOUR,
    "axes.edgecolor": TEXT_COLOUR,
    "axes.labelcolor": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
"""matplotlib settings: group names with $ are not parsed as formulas, labels stay text in the SVG, the page shows
through, and equal figures are equal files."""
_VARIABLES_BY_COLOUR = {TEXT_COLOUR: "--text", MUTED_COLOUR: "--muted", PAPER_COLOUR: "--paper"} | {
    colour: f"--group{index}" for index, colour in enumerate(GROUP_COLOURS)
}
_LIGHT = "--text: #1d1d1b; --muted: #62645f; --paper: #fff; --panel: #f4f4f1; --rule: #c9c9c4;" + "".join(
    f" --group{index}: {colour};" for index, colour in enumerate(GROUP_COLOURS)
)
_DARK = "--text: #e7e6e2; --muted: #a5a7a3; --paper: #17191b; --panel: #222527; --rule: #4a4d4f;" + "".join(
    f" --group{index}: {colour};" for index, colour in enumerate(DARK_GROUP_COLOURS)
)
PAGE_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--paper); }}
h1 {{ font-size: 1.5rem; line-height: 1.25; }} h2 {{ font-size: 1.2rem; margin-top: 2.4rem; }} h3 {{ font-size: 1rem; }}
nav {{ font-size: .85rem; }} nav a {{ margin-right: .9rem; }} a {{ color: inherit; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .9rem .2rem 0; text-align: right; vertical-align: top; }}
th:first-child, td:first-child, .text th, .text td {{ text-align: left; overflow-wrap: anywhere; }}
.text td:first-child {{ white-space: nowrap; color: var(--muted); }}
thead th {{ border-bottom: 1px solid var(--rule); }}
.wide {{ overflow-x: auto; }}
.verdict {{ padding: .5rem .8rem; border-left: 4px solid var(--muted); background: var(--panel); margin: .4rem 0; }}
.verdict span {{ color: var(--muted); }} .verdict b {{ display: inline-block; min-width: 3.2rem; }}
.differs {{ border-color: var(--group1); }} .alike {{ border-color: var(--group2); }}
.note, figcaption {{ color: var(--muted); font-size: .85rem; }} code {{ font-size: .85rem; overflow-wrap: anywhere; }}
.picture {{ display: inline-block; max-width: 120px; font-size: .7rem; color: var(--muted); line-height: 1.3;
  vertical-align: top; overflow-wrap: anywhere; }}
figure {{ margin: 1rem 0; }} svg, img {{ max-width: 100%; height: auto; }} svg text {{ fill: currentColor; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .4rem 1.2rem; }}
@media print {{ :root {{ font-size: 10.5px; }} body {{ max-width: none; margin: 0; }} nav {{ display: none; }}
  figure, tr, .verdict, img {{ break-inside: avoid; }} h2, h3 {{ break-after: avoid; }}
  .wide {{ overflow: visible; }} }}
"""


def render_page(title: str, parts: Iterable[str]) -> str:
    """Return a page with links to its sections.

    Args:
        parts: pieces of HTML; each `<h2>` starts a section.
    """
    body = "\n".join(parts)
    headings = re.findall(r"<h2>(.*?)</h2>", body)
    numbers = iter(range(1, len(headings) + 1))
    body = re.sub("<h2>", lambda _: f'<h2 id="section{next(numbers)}">', body)
    links = "".join(f'<a href="#section{number}">{heading}</a>' for number, heading in enumerate(headings, 1))
    body = body.replace("</header>", f"</header>\n<nav>{links}</nav>", 1)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{PAGE_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def render_note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def render_verdict(text: str, kind: str = "", question: str = "", details: str = "") -> str:
    """Return a verdict as a paragraph: the question in bold, the details, and the colour for the kind of verdict."""
    css_class = f"verdict {CLASS_BY_KIND.get(kind, '')}".rstrip()
    question_text = f"<b>{html.escape(question)}</b> " if question else ""
    details_text = f". <span>{html.escape(details)}</span>" if details else ""
    return f'<p class="{css_class}">{question_text}{html.escape(text)}{details_text}</p>'


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]], css_class: str = "") -> str:
    """Return a table; cells are HTML, and the header is text."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    class_text = f' class="{css_class}"' if css_class else ""
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="wide"><table{class_text}>{head}<tbody>{body}</tbody></table></div>'


def render_figure(figure: Figure, caption: str) -> str:
    """Return a figure with its caption."""
    return f"<figure>{render_svg(figure)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def render_svg(figure: Figure) -> str:
    """Return a figure as SVG in the colours of the page, which depend on the reader's screen."""
    svg_buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The font is used for layout only: the browser draws the text with its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(svg_buffer, format="svg", bbox_inches="tight", metadata=metadata)
    text = svg_buffer.getvalue()
    for colour, variable in _VARIABLES_BY_COLOUR.items():
        text = text.replace(colour, f"var({variable})")
    return text[text.index("<svg") :].replace("<svg ", '<svg role="img" ', 1)


def format_figure_label(name: str) -> str:
    """Return the name of a group for a figure: one short line without a leading underscore.

    A leading underscore would hide the name from a matplotlib legend.
    """
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split()) or "?"
    text = text if len(text) <= MAX_FIGURE_LABEL_LENGTH else f"{text[: MAX_FIGURE_LABEL_LENGTH - 13]}...{text[-10:]}"
    return f" {text}" if text.startswith("_") else text


def simplify_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def choose_group_styles(group_count: int) -> list[tuple[str, Any]]:
    """Return colour and line style of each group."""
    return [
        (GROUP_COLOURS[index % len(GROUP_COLOURS)], GROUP_LINES[index % len(GROUP_LINES)])
        for index in range(group_count)
    ]


def format_number_or_dash(value: float) -> str:
    return f"{value:.4g}" if abs(value) < float("inf") else "–"
