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
    options: Mapping[tuple[int, int], str]
    """Option texts by bracket number and option number, from 1."""

    def fill_options(self, choices: Mapping[int, int]) -> dict[int, str]:
        """Return the text of each bracket's option, from option numbers by bracket number."""
        written = {bracket: self.options.get((bracket, option), "") for bracket, option in choices.items()}
        for bracket in sorted(written, reverse=True):  # nested brackets have higher numbers
            for inner in written:
                written[bracket] = written[bracket].replace(_make_placeholder(inner), written[inner])
        return written


@lru_cache(maxsize=64)
def split_template(source: str) -> TemplateParts:
    """Split a template into its parts; a template that does not parse is a skeleton without options."""
    try:
        nodes = parse_template(source).nodes
    except TemplateError:
        return TemplateParts(source, {})
    options: dict[tuple[int, int], str] = {}
    return TemplateParts(_collect_options(nodes, options), options)


def _collect_options(nodes: TemplateNodes, options: dict[tuple[int, int], str]) -> str:
    parts = []
    for node in nodes:
        match node:
            case LiteralText(text):
                parts.append(text)
            case MarkedText(content, weight):
                inside = _collect_options(content, options)
                parts.append(inside if weight == 1 else f"({inside}:{weight:g})")
            case Alternatives(alternatives, number):
                for index, option in enumerate(alternatives, start=1):
                    options[number, index] = _collect_options(option, options).strip()
                parts.append(_make_placeholder(number))
    return "".join(parts)


def _make_placeholder(bracket: int) -> str:
    """Return the placeholder of a bracket; templates do not contain this control character."""
    return f"\x1f{bracket}\x1f"
