"""Prompt templates: the meaning of the grammar, and the errors for invalid templates."""

import contextlib
import itertools
import re

import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from wantui.errors import UserError
from wantui.prompts import (
    TemplateError,
    TooManyVariationsError,
    Variation,
    count_variations,
    expand_template,
    foreign_syntax,
    parse_template,
)
from wantui.prompts.cleaning import clean_prompt
from wantui.prompts.foreign_syntax import (
    COMMON_FOREIGN_SYNTAX,
    NEGATIVE_PROMPT_FOREIGN_SYNTAX,
    TEMPLATE_FOREIGN_SYNTAX,
    find_negative_prompt_warnings,
)

pytestmark = pytest.mark.torch


def variations(template: str) -> list[Variation]:
    return expand_template(parse_template(template))


def prompts(template: str) -> list[str]:
    return [variation.prompt for variation in variations(template)]


def template_error(template: str) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        variations(template)
    return caught.value


def character_at_caret(error: TemplateError) -> tuple[str, int]:
    """The character above the caret, and its column from 0."""
    _, line, caret = str(error).split("\n")
    column = caret.index("^")
    return line[column : column + 1], column - 2


def test_template_without_brackets_is_one_prompt() -> None:
    assert prompts("a red circle") == ["a red circle"]
    assert variations("a red circle")[0].id == "single"


def test_last_bracket_varies_fastest() -> None:
    expected = [f"{a} {b} {c}" for a, b, c in itertools.product("ab", "xyz", "12")]
    assert prompts("[a|b] [x|y|z] [1|2]") == expected


def test_brackets_nest_to_any_depth() -> None:
    assert prompts("[[a|b] cat|[c [d|e]|f] dog]") == ["a cat", "b cat", "c d dog", "c e dog", "f dog"]
    assert prompts("[" * 60 + "x" + "]" * 60) == ["x"]


def test_empty_option_leaves_no_double_space() -> None:
    assert prompts("a [|red|] circle") == ["a circle", "a red circle", "a circle"]


def test_prompts_are_cleaned_exactly_as_in_the_pipeline() -> None:
    for text in (
        "two   spaces\tand\na newline",
        "  ends  ",
        "schÃ¶n &amp; gut",
        "“quoted” … — ﬁne",
        "tom &amp;amp; jerry",
    ):
        assert prompts(text) == [prompt_clean(text)]


def test_variations_are_counted_without_expansion() -> None:
    template = "[a|b|[c|d]] and ([x|y]) [|z]"
    assert count_variations(parse_template(template)) == len(prompts(template)) == 4 * 2 * 2
    assert count_variations(parse_template("[0|1|2|3|4|5|6|7|8|9]" * 20)) == 10**20


def test_too_many_variations_are_refused_with_their_number() -> None:
    with pytest.raises(TooManyVariationsError, match="it has 1,000 variations, more than the limit of 999"):
        expand_template(parse_template("[0|1|2|3|4|5|6|7|8|9]" * 3), max_variations=999)
    assert len(expand_template(parse_template("[0|1|2|3|4|5|6|7|8|9]" * 3), max_variations=1000)) == 1000


def test_choices_name_bracket_and_option() -> None:
    first = variations("a [red|blue] [circle|[big|small] square]")[-1]
    assert [(c.bracket_number, c.option_number, c.text) for c in first.choices] == [
        (1, 2, "blue"),
        (2, 2, "small square"),
        (3, 2, "small"),
    ]


def test_ids_consist_of_choices_and_ignore_fixed_text() -> None:
    assert [v.id for v in variations("a [red|dark blue] [circle|]")] == [
        "red_circle",
        "red_none",
        "dark-blue_circle",
        "dark-blue_none",
    ]
    assert variations("the [red|dark blue] and [circle|]")[0].id == "red_circle"


def test_ids_are_unique_and_at_most_60_characters() -> None:
    assert [v.id for v in variations("[red|red|red 2]")] == ["red", "red.2", "red-2"]
    long = "word " * 30
    ids = [v.id for v in variations(f"[{long}a|{long}b|x!|x?|x_|y|y]")]
    assert len(set(ids)) == len(ids) == 7
    assert max(map(len, ids)) <= 60


def test_mark_spans_match_their_text_in_every_variation() -> None:
    for variation in variations("[|a  very] nice  ( kiss ) between (two [men|women|] people:2.5), \\(really\\)"):
        assert [variation.prompt[m.start : m.end] for m in variation.marks] == [m.text for m in variation.marks]
        assert variation.marks[0].text == "kiss"
        assert [m.weight for m in variation.marks] == [1.0, 2.5]


def test_brackets_and_marks_can_contain_each_other() -> None:
    marked = [[m.text for m in v.marks] for v in variations("a ([red|blue]) [(ring)|star]")]
    assert marked == [["red", "ring"], ["red"], ["blue", "ring"], ["blue"]]


def test_backslash_escapes_special_characters() -> None:
    assert prompts(r"\[a\|b\] \(c\) d\:e \\ f") == [r"[a|b] (c) d:e \ f"]
    assert prompts(r"c:\temp \n") == [r"c:\temp \n"]


@pytest.mark.parametrize("text", ["(16:9)", "(at 3:00)", "(2:1 format)"])
def test_times_and_ratios_in_parentheses_are_plain_text_with_a_warning(text: str) -> None:
    template = parse_template(f"a room {text} at night")
    assert expand_template(template)[0].prompt == f"a room {text} at night"
    assert expand_template(template)[0].marks == ()
    assert len(template.warnings) == 1
    assert text in template.warnings[0]


@pytest.mark.parametrize(
    ("template", "character", "column", "message"),
    [
        ("a [red|blue circle", "[", 2, "never closed"),
        ("a [red|[blue] circle", "[", 2, "never closed"),
        ("a red] circle", "]", 5, "has no opening bracket"),
        ("a (red circle", "(", 2, "never closed"),
        ("a red) circle", ")", 5, "has no opening bracket"),
        ("red|blue", "|", 3, "outside"),
        ("a (red [blue) x]", ")", 12, "expected ']' but found ')'"),
        ("a [red (blue] x)", "]", 12, "expected ')' but found ']'"),
        ("a (flower:11)", "1", 10, "not between 0 and 10"),
        ("a (flower:-1)", "-", 10, "not between 0 and 10"),
        ("a (flower:big)", "b", 10, "is not a number"),
        ("a (flower:nan)", "n", 10, "is not a number"),
        ("a (flower:)", ")", 10, "is not a number"),
        ("a ((b))", "(", 3, "marks cannot be nested"),
        ("a () b", "(", 2, "this mark has no text"),
    ],
)
def test_template_error_has_a_caret_under_the_fault(template: str, character: str, column: int, message: str) -> None:
    error = template_error(template)
    assert character_at_caret(error) == (character, column)
    assert message in str(error)


def test_template_error_shows_the_line_of_the_fault() -> None:
    error = template_error("a red circle\nover [a dark\nbackground")
    assert "line 2, column 6" in str(error)
    assert character_at_caret(error) == ("[", 5)


def test_template_error_in_a_long_line_shows_an_excerpt() -> None:
    error = template_error("word " * 100_000 + "(circle" + " word" * 100_000)
    assert len(str(error)) < 400
    assert "column 500001" in str(error)
    assert character_at_caret(error)[0] == "("


@pytest.mark.parametrize("weight", ["x" * 50_000, "1" * 50_000 + "x"])
def test_long_invalid_weight_is_shortened_in_the_message(weight: str) -> None:
    assert len(str(template_error(f"a (circle:{weight})"))) < 500


def test_spans_are_correct_with_thousands_of_brackets_and_marks() -> None:
    (variation,) = expand_template(parse_template("[one ] (two) [] " * 5000))
    assert variation.prompt == " ".join(["one two"] * 5000)
    assert len(variation.choices) == 10_000
    assert {variation.prompt[mark.start : mark.end] for mark in variation.marks} == {"two"}
    assert [mark.start for mark in variation.marks] == list(range(4, 8 * 5000, 8))


@pytest.mark.parametrize(
    "template",
    [
        "[a|b]" * 13 + "word " * 10_000,  # 8,192 long prompts
        "[a|b]" * 13 + "[x]" * 5000,  # short prompts with many choices each
        "[a|b]" * 12 + "[" * 90 + "word " * 100 + "]" * 90,  # choices that repeat their text
    ],
)
def test_expansion_that_would_exhaust_memory_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="Use shorter text or fewer options"):
        expand_template(parse_template(template))


@pytest.mark.parametrize("template", ["", "   ", "\n\t"])
def test_empty_template_is_refused(template: str) -> None:
    assert "the template is empty" in str(template_error(template))


@pytest.mark.parametrize(
    ("template", "description"),
    [
        (
            "a red\u200b [circle|\u2060star]",
            "U+200B (zero width space) after 'a red' and 1 more reach the model",
        ),
        ("\u202ea circle", "U+202E (right-to-left override) at the start reaches the model"),
        ("a cir\u00adcle", "U+00AD (soft hyphen) after 'a cir' reaches the model"),
        ("\ufeffa red\u200b circle", "U+200B (zero width space) after 'a red' reaches the model"),
        ("a cir&#8203;cle", "U+200B (zero width space) after 'a cir' reaches the model"),
    ],
)
def test_invisible_characters_cause_a_warning(template: str, description: str) -> None:
    (warning,) = parse_template(template).warnings
    assert description in warning


def test_invisible_characters_that_cleaning_removes_cause_no_warning() -> None:
    removed = [chr(code) for code in (0xFEFF, *range(0x206A, 0x2070))]
    for character in removed:
        assert clean_prompt(f"a {character}circle") == "a circle"
        assert parse_template(f"a {character}circle").warnings == ()
        assert list(find_negative_prompt_warnings(f"{character}dark")) == []


@pytest.mark.parametrize("character", "\x0b\x0c\x1c\x1d\x1e\x1f\u2028\u2029")
def test_control_characters_that_are_white_space_separate_words(character: str) -> None:  # A7
    assert character.isspace()
    for template in (f"a circle{character}red", f"一 circle{character}red"):
        assert clean_prompt(template).endswith("circle red")
    (variation,) = variations(f"a circle{character}red")
    assert variation.prompt == "a circle red"


@pytest.mark.parametrize("character", "\x00\x08\x0e\x1b\x7f")
def test_deleted_control_characters_inside_a_word_cause_a_warning(character: str) -> None:  # A7
    code = f"U+{ord(character):04X}"
    (warning,) = parse_template(f"a red circle{character}star x").warnings
    assert f"the control character {code} in 'circle\\x{ord(character):02x}star' is deleted, which joins" in warning
    (warning,) = find_negative_prompt_warnings(f"dark{character}ugly")
    assert code in warning
    assert parse_template(f"a red {character}star").warnings == ()


@pytest.mark.parametrize(
    "explanation",
    [meaning for _, meaning in COMMON_FOREIGN_SYNTAX + TEMPLATE_FOREIGN_SYNTAX + NEGATIVE_PROMPT_FOREIGN_SYNTAX],
)
def test_every_explanation_of_foreign_syntax_has_a_plural(explanation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_syntax, "COMMON_FOREIGN_SYNTAX", ((re.compile("[xy]"), explanation),))
    assert list(find_negative_prompt_warnings("x")) == [f"prompt_settings.negative_prompt: 'x' {explanation}"]
    (warning,) = find_negative_prompt_warnings("x y")
    prefix = "prompt_settings.negative_prompt: 'x' and 1 more "
    assert warning.startswith((f"{prefix}are ", f"{prefix}have "))


def test_explanation_without_a_plural_is_still_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_syntax, "COMMON_FOREIGN_SYNTAX", ((re.compile("[xy]"), "stays plain text"),))
    (warning,) = find_negative_prompt_warnings("x y")
    assert warning == "prompt_settings.negative_prompt: 'x' and 1 more stays plain text"


@pytest.mark.parametrize("template", ["👩\u200d🚀 flies", "می\u200cخواهم", "☂\ufe0f rain", "a\u00a0circle"])
def test_joiners_and_blanks_of_ordinary_text_cause_no_warning(template: str) -> None:
    assert parse_template(template).warnings == ()


def test_variation_without_text_is_refused() -> None:
    assert "no text" in str(template_error("[a|]"))


def test_brackets_deeper_than_a_hundred_are_refused_without_exhausting_the_stack() -> None:
    assert "more than 100 deep" in str(template_error("[" * 5000))


def test_any_text_gives_prompts_or_a_template_error() -> None:
    pieces = ["a", "[", "]", "|", "(", ")", ":", "\\", "2", " "]
    for template in map("".join, itertools.product(pieces, repeat=4)):
        with contextlib.suppress(TemplateError):
            for variation in variations(template):
                assert variation.prompt == variation.prompt.strip() != ""
                assert all(variation.prompt[m.start : m.end] == m.text for m in variation.marks)


@pytest.mark.parametrize(
    ("template", "shown", "meaning"),
    [
        ("a [low emphasis] x", "[low emphasis]", "has only one option"),
        ("a [[[very low]]] x", "[[[very low]]]", "and 2 more have only one option, so their brackets are dropped"),
        (
            "a [cat:dog:0.5] x",
            "[cat:dog:0.5]",
            "prompt_schedule_settings",
        ),
        ("a [dog:12] x", "[dog:12]", "prompt_schedule_settings"),
        ("a red AND blue BREAK x", "AND", "and 1 more are ordinary words here; they separate nothing"),
        ("a </s> x <pad>", "</s>", "and 1 more are control tokens of the tokenizer, not text: remove them"),
        ("a {red} circle", "{", "and 1 more are plain text: options are written"),
        ("一只（圆形：1.5）的圆", "（", "and 1 more are not ASCII brackets: only ASCII"),
        ("一只（圆形的圆", "（", "is not an ASCII bracket"),
        ("一只（圆形：1.5）的圆", "：1.5", "no ASCII colon"),
        ("［red｜blue］", "｜", "not an ASCII bar"),
        ("a [red:1.5|blue:0.5] x", "red:1.5", "outside of ( )"),
        ("a 圆形:1.5, x", "圆形:1.5", "outside of ( )"),
        ("a __color__ x", "__color__", "not a wildcard"),
        ("a __animals/*__ x", "__animals/*__", "not a wildcard"),
        ("a x <lora:style_v2:0.8>", "<lora:style_v2:0.8>", "plain text"),
        ("a <hypernet:x:1> b", "<hypernet:x:1>", "plain text"),
        ("a embedding:bad-hands x", "embedding:bad-hands", "plain text"),
        ("a {red} x", "{", "options are written [red|blue]"),
        ("[{red|blue}|green]", "{", "options are written [red|blue]"),
        ("a cat BREAK a dog", "BREAK", "separates nothing"),
        ("a cat AND a dog", "AND", "separates nothing"),
        ("a (cat)1.3 x", ")1.3", "after the mark"),
        ("a (cat)++ x", ")++", "after the mark"),
        ("a fluffy++ cat", "fluffy++", "plain text"),
        ("a cat --ar 16:9", "--ar", "plain text"),
        ("hot::2 dog::1", "::2", "plain text"),
        ("[a|b].blend(1, 0.5)", ".blend(1, 0.5)", "blending is not supported"),
        ("a cat\nNegative prompt: ugly", "Negative prompt: ugly", "plain text"),
        ("a red cat; negative: ugly", "negative: ugly", "plain text"),
        ("a cat\nSize: 512x512", "Size: 512x512", "plain text"),
        ("a cat <pad> dog", "<pad>", "control token"),
        ("a cat </s> dog", "</s>", "control token"),
        ("<extra_id_3> cat", "<extra_id_3>", "control token"),
        ("a cat # a note", "#", "a prompt has no comments"),
        ("a cat <!-- a note -->", "<!--", "a prompt has no comments"),
        ("/imagine a cat", "/imagine", "plain text"),
        ("[0.5::red|0.2::blue]", "[0.5::", "options have no probabilities"),
        ("a [red¦blue|green] cat", "¦", "not an ASCII bar"),
        ("a (red∶1.5) cat", "∶1.5", "no ASCII colon"),
        ("a ⟦red⟧ cat", "⟦", "not ASCII brackets"),
        ("a (red)^1.5 cat", ")^1.5", "after the mark"),
    ],
)
def test_syntax_of_other_programs_causes_a_specific_warning(template: str, shown: str, meaning: str) -> None:
    warnings = parse_template(template).warnings
    assert [one for one in warnings if one.startswith(f"'{shown}'") and meaning in one]  # A7


@pytest.mark.parametrize(
    "template",
    [
        "a (circle:1.5) and a [red|dark blue|] (ring) moving left",
        r"a \[low\] \(b\:1.5\) \| x",
        "a clock at 4:30, a frame of 16:9, psalm 23:4",
        "the band's C++ shirt -- and a well-known 3-in-1 tool: great!",
        "note: 3 cats",
        "一只红色的圆，向左移动：很快",
        "10_000 people, snake_case, __init",
        "a < b > c, I <3 you",
    ],
)
def test_plain_text_causes_no_syntax_warning(template: str) -> None:
    assert parse_template(template).warnings == ()  # A7


def test_full_width_parentheses_are_plain_text() -> None:
    (variation,) = variations("a （circle：1.5） x")
    assert variation.marks == ()
    assert "1.5" in variation.prompt


@pytest.mark.parametrize(
    "start", ["_", "__a", "\n", "a:1", "a:", "<a:", "a+", " --a", "::1", "[", "(", "{", "1" * 9, "（"]
)
def test_warnings_of_a_long_template_are_few_and_short(start: str) -> None:
    with contextlib.suppress(TemplateError):
        assert len("".join(parse_template(f"x {start * 30_000}").warnings)) < 2_000


def test_errors_for_braces_and_nested_marks_show_the_correct_syntax() -> None:
    assert "options are written [a|b], not {a|b}" in str(template_error("a {red|blue} circle"))
    assert "write one weight, as in (word:1.2)" in str(template_error("a ((red)) circle"))


@pytest.mark.parametrize(
    ("template", "spans"),
    [
        ("a [red|blue] red circle", [[(2, 5)], [(2, 6)]]),
        ("[ very | ]red", [[(0, 4)], [(0, 0)]]),
        ("a star [over [a dark|a grey] background|]", [[(7, 29), (12, 18)], [(7, 29), (12, 18)], [(6, 6)]]),
    ],
)
def test_choices_have_the_positions_of_their_words(template: str, spans: list[list[tuple[int, int]]]) -> None:
    variations = expand_template(parse_template(template))
    assert [[(choice.start, choice.end) for choice in variation.choices] for variation in variations] == spans
