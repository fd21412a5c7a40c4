"""Options of a template as written, with word weights, and the template without them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from wantui.prompts import TemplateError, parse_template
from wantui.prompts.parse import Alternatives, LiteralText, MarkedText, TemplateNodes


@dataclass(frozen=True)
class TemplateParts:
    """A template's skeleton and options, as written, except that marks without a weight are removed."""

    skeleton: str
    """Template text with a placeholder for each bracket."""
    options_by_bracket: Mapping[tuple[int, int], str]
    """Option texts by bracket number and option number, from 1."""

    def fill_options(self, choices_by_bracket: Mapping[int, int]) -> dict[int, str]:
        """Return the text of each bracket's option, from option numbers by bracket number."""
        texts_by_bracket = {
            bracket: self.options_by_bracket.get((bracket, option), "")
            for bracket, option in choices_by_bracket.items()
        }
        for bracket in sorted(texts_by_bracket, reverse=True):  # nested brackets have higher numbers
            for nested_bracket in texts_by_bracket:
                texts_by_bracket[bracket] = texts_by_bracket[bracket].replace(
                    _make_placeholder(nested_bracket), texts_by_bracket[nested_bracket]
                )
        return texts_by_bracket


@lru_cache(maxsize=64)
def split_template(source: str) -> TemplateParts:
    """Split a template into its parts; a template that does not parse is a skeleton without options."""
    try:
        nodes = parse_template(source).nodes
    except TemplateError:
        return TemplateParts(source, {})
    options_by_bracket: dict[tuple[int, int], str] = {}
    return TemplateParts(_build_skeleton(nodes, options_by_bracket), options_by_bracket)


def _build_skeleton(nodes: TemplateNodes, options_by_bracket: dict[tuple[int, int], str]) -> str:
    parts = []
    for node in nodes:
        match node:
            case LiteralText(text):
                parts.append(text)
            case MarkedText(content, weight):
                marked_skeleton = _build_skeleton(content, options_by_bracket)
                parts.append(marked_skeleton if weight == 1 else f"({marked_skeleton}:{weight:g})")
            case Alternatives(alternatives, number):
                for index, option in enumerate(alternatives, start=1):
                    options_by_bracket[number, index] = _build_skeleton(option, options_by_bracket).strip()
                parts.append(_make_placeholder(number))
    return "".join(parts)


def _make_placeholder(bracket: int) -> str:
    """Return the placeholder of a bracket; templates do not contain this control character."""
    return f"\x1f{bracket}\x1f"
