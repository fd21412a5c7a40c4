"""Template options with their word weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from wantui.prompts import TemplateError, parse_template
from wantui.prompts.parse import Alternatives, MarkedText, Nodes, Text


@dataclass(frozen=True)
class TemplateParts:
    """A template without its options, and its options, as written but for marks without a weight."""

    skeleton: str
    options: Mapping[tuple[int, int], str]
    """Texts of the options by number of the bracket and of the option, from 1."""

    def chosen(self, choices: Mapping[int, int]) -> dict[int, str]:
        """Return the option of each bracket of a variation as written, from the numbers of its options."""
        written = {bracket: self.options.get((bracket, option), "") for bracket, option in choices.items()}
        for bracket in sorted(written, reverse=True):  # nested brackets have higher numbers
            for inner in written:
                written[bracket] = written[bracket].replace(_place(inner), written[inner])
        return written


@lru_cache(maxsize=64)
def template_parts(source: str) -> TemplateParts:
    """Return the parts of a template; one that cannot be read is a skeleton without options."""
    try:
        nodes = parse_template(source).nodes
    except TemplateError:
        return TemplateParts(source, {})
    options: dict[tuple[int, int], str] = {}
    return TemplateParts(_written(nodes, options), options)


def _written(nodes: Nodes, options: dict[tuple[int, int], str]) -> str:
    parts = []
    for node in nodes:
        match node:
            case Text(text):
                parts.append(text)
            case MarkedText(content, weight):
                inside = _written(content, options)
                parts.append(inside if weight == 1 else f"({inside}:{weight:g})")
            case Alternatives(own, number):
                for index, option in enumerate(own, start=1):
                    options[number, index] = _written(option, options).strip()
                parts.append(_place(number))
    return "".join(parts)


def _place(bracket: int) -> str:
    """Return what marks the place of a bracket; no template holds such a character."""
    return f"\x1f{bracket}\x1f"
