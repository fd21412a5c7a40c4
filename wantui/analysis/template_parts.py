"""Brackets of templates: their options as written, with word weights, and the template without them."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from wantui.analysis.video import TemplateBracket, Video
from wantui.prompts import TemplateError, parse_template
from wantui.prompts.parse import Alternatives, LiteralText, MarkedText, TemplateNodes
from wantui.storage.manifest import VariationEntry

NO_OPTION_LABEL = "(nothing)"
"""Name of an empty option, and of a bracket that a video's template lacks."""


@dataclass(frozen=True)
class TemplateParts:
    """A template's skeleton and options, as written, except that marks without a weight are removed."""

    skeleton: str
    """Template text with a placeholder for each bracket."""
    options_by_bracket: Mapping[tuple[int, int], str]
    """Option texts by bracket number and option number, from 1."""
    enclosing_brackets: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Brackets that each bracket is nested in, from the outermost."""

    def select_options(self, choices_by_bracket: Mapping[int, int]) -> dict[int, str]:
        """Return the text of each bracket's option with placeholders for nested brackets, from option numbers."""
        return {
            bracket: self.options_by_bracket.get((bracket, option), "")
            for bracket, option in choices_by_bracket.items()
        }

    def fill_options(self, choices_by_bracket: Mapping[int, int]) -> dict[int, str]:
        """Return the text of each bracket's option, from option numbers by bracket number."""
        texts_by_bracket = self.select_options(choices_by_bracket)
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
    enclosing_brackets: dict[int, tuple[int, ...]] = {}
    skeleton = _build_skeleton(nodes, options_by_bracket, enclosing_brackets, ())
    return TemplateParts(skeleton, options_by_bracket, enclosing_brackets)


def _build_skeleton(
    nodes: TemplateNodes,
    options_by_bracket: dict[tuple[int, int], str],
    enclosing_brackets: dict[int, tuple[int, ...]],
    path: tuple[int, ...],
) -> str:
    """Return nodes as text with a placeholder for each bracket; add each bracket to both dictionaries.

    Args:
        path: brackets that the nodes are nested in, from the outermost.
    """
    parts = []
    for node in nodes:
        match node:
            case LiteralText(text):
                parts.append(text)
            case MarkedText(content, weight):
                marked_skeleton = _build_skeleton(content, options_by_bracket, enclosing_brackets, path)
                parts.append(marked_skeleton if weight == 1 else f"({marked_skeleton}:{weight:g})")
            case Alternatives(alternatives, number):
                enclosing_brackets[number] = path
                for index, option in enumerate(alternatives, start=1):
                    option_skeleton = _build_skeleton(option, options_by_bracket, enclosing_brackets, (*path, number))
                    options_by_bracket[number, index] = option_skeleton.strip()
                parts.append(_make_placeholder(number))
    return "".join(parts)


def _make_placeholder(bracket: int) -> str:
    """Return the placeholder of a bracket; templates do not contain this control character.

    It is not white space (as \\x1f is for `str.strip`), so that options can begin and end with a nested bracket.
    """
    return f"\x01{bracket}\x01"


def mask_brackets(text: str, brackets: Collection[int]) -> str:
    """Replace the placeholders of some brackets in a text with a common placeholder."""
    for bracket in brackets:
        text = text.replace(_make_placeholder(bracket), _make_placeholder(0))
    return text


def collect_template_brackets(
    variations: Sequence[VariationEntry], template_parts: TemplateParts
) -> dict[int, TemplateBracket]:
    """Return every bracket of a batch by its number: first the template's, then the prompt schedule's."""
    texts_by_bracket: dict[int, dict[str, None]] = {bracket: {} for bracket in template_parts.enclosing_brackets}
    for variation in variations:
        for choice in variation.choices:
            texts_by_bracket.setdefault(int(choice["bracket"]), {})[str(choice["text"])] = None
    return {
        bracket: TemplateBracket(tuple(texts_by_bracket[bracket]), template_parts.enclosing_brackets.get(bracket, ()))
        for bracket in sorted(texts_by_bracket)
    }


def label_scheduled_options(
    variations: Sequence[VariationEntry], template_parts: TemplateParts
) -> list[dict[int, str]]:
    """Return the options of each variation in the brackets that only the prompt schedule has, by bracket.

    Options of a bracket with equal text, which differ in their word weights, are named with their numbers. The weights
    themselves can be what a sweep of the schedule changes.
    """
    template_brackets = {bracket for bracket, _ in template_parts.options_by_bracket}
    choices_by_variation = [
        [
            (int(choice["bracket"]), str(choice["text"]), int(choice["option"]))
            for choice in variation.choices
            if int(choice["bracket"]) not in template_brackets
        ]
        for variation in variations
    ]
    numbers_by_text: dict[tuple[int, str], set[int]] = {}
    for bracket, text, option in itertools.chain.from_iterable(choices_by_variation):
        numbers_by_text.setdefault((bracket, text), set()).add(option)
    return [
        {
            bracket: f"{text} (option {option})" if len(numbers_by_text[bracket, text]) > 1 else text
            for bracket, text, option in choices
        }
        for choices in choices_by_variation
    ]


def list_template_brackets(videos: Sequence[Video]) -> list[int]:
    """Return the brackets in the videos' templates, by their keys in `Video.choices_by_bracket`.

    The stored templates decide, not the videos: bracket 4 is the same one whichever videos are finished or selected.
    """
    return sorted({bracket for video in videos for bracket in (*video.template_brackets, *video.choices_by_bracket)})


def list_bracket_options(videos: Sequence[Video], bracket: int) -> list[str]:
    """Return the options of a bracket in the templates of videos, whether or not a video has them.

    NO_OPTION_LABEL is an empty option, or the option of a video without the bracket.
    """
    options = [
        text or NO_OPTION_LABEL
        for video in videos
        for text in (
            *(video.template_brackets[bracket].option_texts if bracket in video.template_brackets else ()),
            video.choices_by_bracket.get(bracket, ""),
        )
    ]
    return list(dict.fromkeys(options))


def find_word_bracket(videos: Sequence[Video], word: str) -> int | None:
    """Return the number of the first bracket that has a word as an option; None if no bracket does."""
    for number, bracket in enumerate(list_template_brackets(videos), start=1):
        if word in list_bracket_options(videos, bracket):
            return number
    return None


def find_enclosing_brackets(video: Video, bracket: int) -> tuple[int, ...]:
    """Return the brackets of the template that a bracket is nested in, from the outermost."""
    return video.template_brackets[bracket].enclosing_brackets if bracket in video.template_brackets else ()


def find_option_text(video: Video, bracket: int) -> str:
    """Return the chosen option of a bracket with its weights, such as "(circle:6)"."""
    return video.options_by_bracket.get(bracket, "") or video.choices_by_bracket.get(bracket, "")
