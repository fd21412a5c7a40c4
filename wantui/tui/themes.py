"""Colour themes `wantui-dark` and `wantui-light`, the choice of the first theme, and colours derived from any theme.

Each colour has one meaning on all screens, and a sign or a word repeats it:

| colour | meaning |
|---|---|
| `accent` | what is chosen or happens now: focus, cursor, keys, running videos, changed settings, marks of the user |
| `success` | what is in order: done videos, costs that fit, meters below their limit, marked words |
| `success` | what is demonstrated to be equal within the margin: verdicts "alike" and "flat" |
| `warning` | what needs attention: a hold, an interruption, a meter near its limit, a figure to doubt |
| `error` | what failed or cannot be done |
| `found` | what differs: effects beyond chance, words in which two recipes differ; always in bold |
| `series-...` | variations and groups, each with the same colour everywhere (`series_colours`) |
| `text-muted` | labels, hints, and effects that may be chance |
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from textual.app import App
from textual.color import Color, ColorParseError
from textual.filter import Monochrome
from textual.reactive import Reactive
from textual.scrollbar import ScrollBar, ScrollBarRender
from textual.theme import BUILTIN_THEMES, Theme

from wantui.tui.colourless import ColourlessFilter
from wantui.tui.series_colours import make_series_variables
from wantui.tui.stylesheet import ThemeStylesheet

DEFAULT_THEME = "wantui-dark"
ANSI_THEME = "ansi-dark"
"""Theme for terminals with 16 colours: it uses the terminal's own colours."""


def _make_theme(
    name: str,
    *,
    is_dark: bool,
    accent: str,
    foreground: str,
    muted: str,
    background: str,
    surface: str,
    panel: str,
    line: str,
    cursor: str,
    success: str,
    warning: str,
    error: str,
) -> Theme:
    """Return a theme with one accent colour.

    Args:
        line: border colour of panes without focus.
        cursor: background of the selected row.
    """
    return Theme(
        name=name,
        dark=is_dark,
        primary=accent,
        secondary=accent,
        accent=accent,
        foreground=foreground,
        background=background,
        surface=surface,
        panel=panel,
        success=success,
        warning=warning,
        error=error,
        variables={
            "text": foreground,
            "text-muted": muted,
            "text-primary": accent,
            "text-accent": accent,
            "text-success": success,
            "text-warning": warning,
            "text-error": error,
            "border": accent,
            "border-blurred": line,
            "block-cursor-background": cursor,
            "block-cursor-foreground": foreground,
            "block-cursor-blurred-background": panel,
            "block-cursor-blurred-foreground": foreground,
            "cursor-background": cursor,
            "cursor-blurred-background": panel,
            "input-selection-background": f"{accent} 35%",
            "footer-key-foreground": accent,
            **_make_scrollbar_variables(background, (line, muted, accent)),
        },
    )


def _make_scrollbar_variables(background: str, colours: tuple[str, str, str]) -> dict[str, str]:
    """Return the variables of scroll bars, whose colours are: usual, under the mouse, and while dragged."""
    variables = dict(zip(("scrollbar", "scrollbar-hover", "scrollbar-active"), colours, strict=True))
    background_names = ("background", "background-hover", "background-active", "corner-color")
    return variables | {f"scrollbar-{name}": background for name in background_names}


WANTUI_DARK = _make_theme(
    DEFAULT_THEME,
    is_dark=True,
    accent="#8ea4ff",
    foreground="#cdd3de",
    muted="#848c9b",
    background="#11141a",
    surface="#161a22",
    panel="#1d222c",
    line="#353d4b",
    cursor="#283055",
    success="#7cc48f",
    warning="#e5b567",
    error="#f07a7a",
)
WANTUI_LIGHT = _make_theme(
    "wantui-light",
    is_dark=False,
    accent="#3f51c7",
    foreground="#272c36",
    muted="#656d7b",
    background="#f8f9fb",
    surface="#ffffff",
    panel="#eaedf3",
    line="#c3cad6",
    cursor="#d9dffb",
    success="#24783b",
    warning="#8f5b00",
    error="#b32833",
)
WANTUI_THEMES = (WANTUI_DARK, WANTUI_LIGHT)


def _adapt_ansi_theme(name: str, accent: str, warning: str) -> Theme:
    theme = BUILTIN_THEMES[name]
    variables = theme.variables | {"border": accent, "border-blurred": "ansi_bright_black"}
    return replace(theme, primary=accent, accent=accent, warning=warning, variables=variables)


ANSI_THEMES = (
    _adapt_ansi_theme(ANSI_THEME, accent="ansi_cyan", warning="ansi_yellow"),
    _adapt_ansi_theme("ansi-light", accent="ansi_blue", warning="ansi_magenta"),
)
"""Textual's themes with 16 colours; in the originals, a state has the colour of the accent, or borders are black."""

ADDED_THEMES_BY_NAME = {theme.name: theme for theme in (*WANTUI_THEMES, *ANSI_THEMES)}
"""Themes that wantui adds to Textual's themes, or changes."""


FINDING_COLOURS = {True: "#ffffff", False: "#000000"}
"""Colour of findings on a dark background (True) and on a light one."""


def choose_first_theme(chosen_name: str | None, color_system: str | None, is_colourless: bool) -> str:
    """Return the name of the theme at startup.

    Args:
        chosen_name: theme of tui.yaml or of the drafts; None if the user chose none.
        color_system: Rich's name of the terminal's colours, such as `standard` for 16.
        is_colourless: whether NO_COLOR is set.
    """
    if chosen_name is not None:
        return chosen_name
    return ANSI_THEME if is_colourless or color_system == "standard" else DEFAULT_THEME


def derive_colours(theme: Theme) -> Mapping[str, str]:
    """Return the colours of the application that a theme does not name.

    They are the colours of variations, and the background of the selected row.
    """
    series = make_series_variables(is_dark=theme.dark, is_ansi=bool(theme.ansi))
    series["found"] = (
        ("ansi_bright_white" if theme.dark else "ansi_black") if theme.ansi else FINDING_COLOURS[theme.dark]
    )
    if theme.ansi:
        return series | {"cursor-background": "ansi_default", "cursor-blurred-background": "ansi_default"}
    colours = theme.to_color_system().generate()
    try:
        primary, background = Color.parse(colours["primary"]), Color.parse(colours["background"])
    except ColorParseError:
        return series | {"cursor-background": colours["primary"], "cursor-blurred-background": colours["background"]}
    return series | {
        "cursor-background": background.blend(primary, 0.3).hex,
        "cursor-blurred-background": background.blend(primary, 0.12).hex,
    }


class CellScrollBarRender(ScrollBarRender):
    """Scroll bars of whole cells: the eighths of cells at the ends of Textual's bars look like a stray underscore."""

    VERTICAL_BARS: ClassVar[list[str]] = [ScrollBarRender.BLANK_GLYPH]


class ThemedApp(App[None]):
    """Application with wantui's themes in addition to Textual's."""

    theme: Reactive[str] = Reactive(DEFAULT_THEME)

    def __init__(self) -> None:
        super().__init__()
        ScrollBar.renderer = CellScrollBarRender
        self.stylesheet = ThemeStylesheet(variables=self.get_css_variables())

    @property
    def available_themes(self) -> dict[str, Theme]:
        """Return all themes by name, wantui's own first."""
        return ADDED_THEMES_BY_NAME | super().available_themes | ADDED_THEMES_BY_NAME

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict(derive_colours(self.current_theme))

    def show_first_theme(self, chosen_name: str | None) -> None:
        """Show the theme that the user chose, or else a theme that fits the terminal; report an unknown name."""
        if chosen_name is not None and chosen_name not in self.available_themes:
            self.notify(
                f"unknown theme {chosen_name!r}; the command palette (ctrl+p) lists all themes", severity="warning"
            )
            chosen_name = None
        color_system = "truecolor" if self.is_headless else self.console.color_system
        self.theme = choose_first_theme(chosen_name, color_system, self.no_color and not self.is_headless)
        if self.no_color and self.native_ansi_color:
            # Textual chose the filter for its default theme; greys would be colours, which NO_COLOR excludes.
            colourless_filter = ColourlessFilter(lambda: self.current_theme.dark)
            self._filters[:] = [colourless_filter if isinstance(each, Monochrome) else each for each in self._filters]
