"""Style sheet whose sources are parsed once for each set of variables.

Textual (8.2.8) parses all sources again when a screen is first shown, although no variable has changed. This takes
longer than drawing the screen.
"""

from functools import lru_cache
from typing import Any

from textual.cache import LRUCache
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet

MAX_THEMES, MAX_SOURCES = 4, 1024
"""Maximum number of variable sets, and of sources per set, whose rules are kept."""


@lru_cache(maxsize=MAX_THEMES)
def _make_parse_cache(variables: frozenset[tuple[str, str]]) -> LRUCache[tuple[Any, ...], list[RuleSet]]:
    """Return the cache of rules that were parsed with these variables."""
    return LRUCache(MAX_SOURCES)


class ThemeStylesheet(Stylesheet):
    """Style sheet that keeps the parsed rules of a theme for all applications until another theme is shown."""

    def __init__(self, *, variables: dict[str, str] | None = None) -> None:
        super().__init__(variables=variables)
        self._parse_cache = _make_parse_cache(frozenset(self._variables.items()))

    def set_variables(self, variables: dict[str, str]) -> None:
        if variables == self._variables:
            return
        self._parse_cache = LRUCache(1)  # Textual clears the cache, which serves other style sheets
        super().set_variables(variables)
        self._parse_cache = _make_parse_cache(frozenset(variables.items()))

    def reparse(self) -> None:
        """Parse the sources that were not parsed with these variables.

        Raises:
            StylesheetError: a source is invalid; the rules stay as they were.
        """
        self.parse()
