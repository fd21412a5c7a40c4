"""The template grammar against an independent expander, over generated templates."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wantui.prompts import TemplateError, count_variations, expand_template, parse_template

SPECIAL = "[]|():\\"
quick = settings(max_examples=300, derandomize=True, deadline=None, database=None)


@dataclass(frozen=True)
class Bracket:
    options: tuple["Nodes", ...]


@dataclass(frozen=True)
class Marked:
    content: "Nodes"
    weight: float


Nodes = tuple[str | Bracket | Marked, ...]
Mark = tuple[int, float]
"""Number and weight."""
Letters = tuple[tuple[str, Mark | None], ...]
"""Characters, each with the mark that it belongs to."""
Choices = tuple[tuple[int, int, str], ...]
"""Bracket, option and text of each choice."""

text = st.text("ab .\t\n" + SPECIAL, max_size=6)
weights = st.sampled_from([0.0, 0.5, 1.0, 2.25, 10.0])


def nodes(depth: int, may_mark: bool) -> st.SearchStrategy[Nodes]:
    kinds: list[st.SearchStrategy[str | Bracket | Marked]] = [text]
    if depth:
        options = st.lists(nodes(depth - 1, may_mark), min_size=1, max_size=3)
        kinds.append(options.map(lambda result: Bracket(tuple(result))))
    if depth and may_mark:
        inside = st.tuples(text.map(lambda word: f"{word}c"), nodes(depth - 1, False))
        kinds.append(st.builds(lambda pair, weight: Marked((pair[0], *pair[1]), weight), inside, weights))
    return st.lists(st.one_of(kinds), max_size=3).map(tuple)


def written(tree: Nodes) -> str:
    """Write a tree as a template, with every special character of its text escaped."""
    parts = []
    for node in tree:
        match node:
            case str():
                parts.append("".join(f"\\{letter}" if letter in SPECIAL else letter for letter in node))
            case Bracket(options):
                parts.append(f"[{'|'.join(map(written, options))}]")
            case Marked(content, weight):
                parts.append(f"({written(content)}{'' if weight == 1.0 else f':{weight}'})")
    return "".join(parts)


def number_of_forms(tree: Nodes) -> int:
    number = 1
    for node in tree:
        match node:
            case Bracket(options):
                number *= sum(map(number_of_forms, options))
            case Marked(content):
                number *= number_of_forms(content)
    return number


def numbered(tree: Nodes, brackets: Iterator[int], marks: Iterator[int]) -> list[object]:
    """Number brackets and marks in the order of their opening."""
    result: list[object] = []
    for node in tree:
        match node:
            case str():
                result.append(node)
            case Bracket(options):
                result.append((next(brackets), [numbered(option, brackets, marks) for option in options]))
            case Marked(content, weight):
                mark = (next(marks), weight)
                result.append({mark: numbered(content, brackets, marks)})
    return result


def forms(tree: list[object]) -> list[tuple[Letters, Choices]]:
    """All forms of a numbered tree: letters with their marks, and the choices; the last bracket turns fastest."""
    per_node: list[list[tuple[Letters, Choices]]] = []
    for node in tree:
        match node:
            case str():
                per_node.append([(tuple((letter, None) for letter in node), ())])
            case (int(number), list(options)):
                per_node.append(
                    [
                        (letters, ((number, index, spaced(letters)), *chosen))
                        for index, option in enumerate(options, start=1)
                        for letters, chosen in forms(option)
                    ]
                )
            case dict():
                ((mark, content),) = node.items()
                per_node.append(
                    [(tuple((letter, mark) for letter, _ in letters), chosen) for letters, chosen in forms(content)]
                )
    return [
        (sum((letters for letters, _ in one), ()), sum((chosen for _, chosen in one), ()))
        for one in itertools.product(*per_node)
    ]


def spaced(letters: Letters) -> str:
    return " ".join("".join(letter for letter, _ in letters).split())


def expected_marks(letters: Letters) -> list[tuple[str, float, int]]:
    """Text, weight and start of each mark in the prompt that letters become."""
    kept: list[tuple[str, Mark | None]] = []
    for letter, mark in letters:
        if not letter.isspace():
            kept.append((letter, mark))
        elif kept and kept[-1][0] != " ":
            kept.append((" ", mark))
    result = []
    for mark in dict.fromkeys(mark for _, mark in kept if mark is not None):
        places = [place for place, (letter, own) in enumerate(kept) if own == mark and letter != " "]
        if places:
            start, end = places[0], places[-1] + 1
            result.append(("".join(letter for letter, _ in kept[start:end]), mark[1], start))
    return result


@pytest.mark.slow
@quick
@given(nodes(2, may_mark=True).filter(lambda tree: number_of_forms(tree) <= 200))
def test_expansion_equals_an_independent_reference(tree: Nodes) -> None:
    expected = forms(numbered(tree, itertools.count(1), itertools.count(1)))
    source = written(tree)
    if not all(spaced(letters) for letters, _ in expected):
        with pytest.raises(TemplateError, match=r"no text|template is empty"):
            expand_template(parse_template(source))
        return
    result = expand_template(parse_template(source))
    assert count_variations(parse_template(source)) == len(expected)
    assert [variation.prompt for variation in result] == [spaced(letters) for letters, _ in expected]
    assert [tuple((c.bracket_number, c.option_number, c.text) for c in variation.choices) for variation in result] == [
        chosen for _, chosen in expected
    ]
    for variation in result:
        assert all(variation.prompt[c.start : c.end] == c.text for c in variation.choices)
    assert [[(m.text, m.weight, m.start) for m in variation.marks] for variation in result] == [
        expected_marks(letters) for letters, _ in expected
    ]
    assert len({variation.id for variation in result}) == len(result)


@pytest.mark.slow
@quick
@given(st.lists(st.sampled_from([*"ab [|]():\\2.é（\u202e\0", "(a)", "[a|b]"]), max_size=20).map("".join))
def test_any_text_expands_or_is_refused_at_a_valid_position(source: str) -> None:
    refused, result = None, []
    try:
        result = expand_template(parse_template(source))
    except TemplateError as error:
        refused = error.position
    assert refused is None or 0 <= refused <= len(source)
    for variation in result:
        assert variation.prompt == variation.prompt.strip() != ""
        assert all(variation.prompt[mark.start : mark.end] == mark.text for mark in variation.marks)
        assert all(variation.prompt[choice.start : choice.end] == choice.text for choice in variation.choices)
