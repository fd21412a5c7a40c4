"""Joint expansion of a template and the templates of its prompt schedule.

Brackets with the same options vary together: the first [red|blue] of one prompt goes with the first [red|blue] of the
others, the second with the second. Brackets with other options are combined in every way.
Marks and weights in the options make no difference.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from wantui.prompts.expand import (
    MAX_EXPANSION_LENGTH,
    Choice,
    ExpansionTooLargeError,
    ScheduledPrompt,
    TooManyVariationsError,
    Variation,
    build_variation_ids,
    expand_template,
)
from wantui.prompts.parse import Alternatives, LiteralText, MarkedText, Template, TemplateNodes
from wantui.prompts.unparse import escape_special_characters

BracketKey = tuple[str, int]
"""Options of a bracket, and the number of its prompt's earlier brackets with the same options."""


@dataclass(frozen=True)
class _Bracket:
    options_text: str
    parent_number: int | None
    """Number of the enclosing bracket."""


@dataclass(frozen=True)
class _Expansion:
    """One expansion of one template; the numbers of its brackets are unique among the templates."""

    prompt: ScheduledPrompt
    choice_by_key: dict[BracketKey, Choice]
    parent_by_number: Mapping[int, int | None]
    """Enclosing bracket's number, by bracket number."""


@dataclass(frozen=True)
class _PartialVariation:
    """Expansions of the templates joined so far, which agree in the brackets that they share."""

    expansions: tuple[_Expansion, ...] = ()
    choice_by_key: dict[BracketKey, Choice] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    """Texts of the outermost choices."""

    def add_expansion(self, expansion: _Expansion) -> "_PartialVariation":
        """Return the variation with one more template's prompt, and with the choices that only this template has."""
        new_choices = [choice for key, choice in expansion.choice_by_key.items() if key not in self.choice_by_key]
        new_numbers = {choice.bracket_number for choice in new_choices}
        new_labels = [
            choice.text
            for choice in new_choices
            if expansion.parent_by_number[choice.bracket_number] not in new_numbers
        ]
        return _PartialVariation(
            (*self.expansions, expansion), expansion.choice_by_key | self.choice_by_key, (*self.labels, *new_labels)
        )


def expand_schedule(
    template: Template, scheduled_templates: Sequence[Template], max_variations: int, *, replaces_start: bool = False
) -> list[Variation]:
    """Return all variations of a template and the templates of its schedule; the last bracket varies fastest.

    Args:
        replaces_start: True if the first scheduled template is the prompt at the start; of the template itself, only
            the brackets count.

    Raises:
        TooManyVariationsError: there are more than `max_variations` variations.
        ExpansionTooLargeError, TemplateError: as for `expand_template`.
    """
    partial_variations, bracket_count = [_PartialVariation()], 0
    for each in (template, *scheduled_templates):
        expansions = _list_expansions(each, max_variations, bracket_count)
        partial_variations = _join_expansions(partial_variations, expansions, max_variations)
        bracket_count += len(_index_brackets(each.nodes))
    text_length = sum(
        len(expansion.prompt.prompt) for partial in partial_variations for expansion in partial.expansions
    )
    if text_length > MAX_EXPANSION_LENGTH:
        raise ExpansionTooLargeError(text_length)
    variation_ids = build_variation_ids([partial.labels for partial in partial_variations])
    return [
        _build_variation(variation_id, partial, partial.expansions[1 if replaces_start else 0 :])
        for variation_id, partial in zip(variation_ids, partial_variations, strict=True)
    ]


def _build_variation(variation_id: str, partial: _PartialVariation, prompts: Sequence[_Expansion]) -> Variation:
    """Return the variation that starts with the first of these prompts.

    Choices that this prompt lacks get an empty span.
    """
    start, *later_prompts = prompts
    choices = []
    for key, choice in sorted(partial.choice_by_key.items(), key=lambda item: item[1].bracket_number):
        choice_at_start = start.choice_by_key.get(key)
        span = (0, 0) if choice_at_start is None else (choice_at_start.start, choice_at_start.end)
        choices.append(replace(choice, start=span[0], end=span[1]))
    scheduled_prompts = tuple(expansion.prompt for expansion in later_prompts)
    return Variation(variation_id, start.prompt.prompt, tuple(choices), start.prompt.marks, scheduled_prompts)


def _list_expansions(template: Template, max_variations: int, bracket_offset: int) -> list[_Expansion]:
    """Return the expansions of one template in order.

    Args:
        bracket_offset: number of brackets in the templates before this one.
    """
    brackets = _index_brackets(template.nodes)
    parent_by_number = {
        number + bracket_offset: None if bracket.parent_number is None else bracket.parent_number + bracket_offset
        for number, bracket in brackets.items()
    }
    expansions = []
    for variation in expand_template(template, max_variations):
        use_counts: Counter[str] = Counter()
        choice_by_key: dict[BracketKey, Choice] = {}
        for choice in variation.choices:
            options_text = brackets[choice.bracket_number].options_text
            key = options_text, use_counts[options_text]
            choice_by_key[key] = replace(choice, bracket_number=choice.bracket_number + bracket_offset)
            use_counts[options_text] += 1
        prompt = ScheduledPrompt(variation.prompt, variation.choices, variation.marks)
        expansions.append(_Expansion(prompt, choice_by_key, parent_by_number))
    return expansions


def _join_expansions(
    partial_variations: Sequence[_PartialVariation], expansions: Sequence[_Expansion], max_variations: int
) -> list[_PartialVariation]:
    """Join each variation with each expansion that has the same options in the brackets that both have."""
    positions_by_keys: dict[frozenset[BracketKey], list[int]] = {}
    for position, expansion in enumerate(expansions):
        positions_by_keys.setdefault(frozenset(expansion.choice_by_key), []).append(position)

    @cache
    def index_positions(
        keys: frozenset[BracketKey], shared_keys: tuple[BracketKey, ...]
    ) -> dict[tuple[int, ...], list[int]]:
        """Return the positions of the expansions with these brackets, by their options in the shared brackets."""
        index: dict[tuple[int, ...], list[int]] = {}
        for position in positions_by_keys[keys]:
            index.setdefault(_list_options(expansions[position].choice_by_key, shared_keys), []).append(position)
        return index

    joined: list[_PartialVariation] = []
    for partial in partial_variations:
        matches: list[int] = []
        for keys in positions_by_keys:
            shared_keys = tuple(key for key in partial.choice_by_key if key in keys)
            options = _list_options(partial.choice_by_key, shared_keys)
            matches += index_positions(keys, shared_keys).get(options, ())
        joined += [partial.add_expansion(expansions[position]) for position in sorted(matches)]
        if len(joined) > max_variations:
            raise TooManyVariationsError(len(joined), max_variations, is_minimum=True)
    return joined


def _list_options(choice_by_key: Mapping[BracketKey, Choice], keys: Iterable[BracketKey]) -> tuple[int, ...]:
    return tuple(choice_by_key[key].option_number for key in keys)


def _index_brackets(nodes: TemplateNodes, parent_number: int | None = None) -> dict[int, _Bracket]:
    """Return the brackets of a template by number."""
    brackets: dict[int, _Bracket] = {}
    for node in nodes:
        match node:
            case Alternatives(options, bracket_number):
                brackets[bracket_number] = _Bracket(_format_bracket(node), parent_number)
                for option in options:
                    brackets |= _index_brackets(option, bracket_number)
            case MarkedText(content):
                brackets |= _index_brackets(content, parent_number)
    return brackets


def _format_bracket(bracket: Alternatives) -> str:
    """Return the options of a bracket as text, without marks and without white space around the options."""
    return f"[{'|'.join(' '.join(_format_nodes(option).split()) for option in bracket.options)}]"


def _format_nodes(nodes: TemplateNodes) -> str:
    parts = []
    for node in nodes:
        match node:
            case LiteralText(text):
                parts.append(escape_special_characters(text))
            case Alternatives():
                parts.append(_format_bracket(node))
            case MarkedText(content):
                parts.append(_format_nodes(content))
    return "".join(parts)
