"""Warnings about prompt syntax of other programs, which would reach the model as plain words."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from wantui.formatting import escape_unprintable, shorten_text
from wantui.prompts.cleaning import clean_prompt_part

MAX_EXCERPT_LENGTH = 60
"""Maximum length of a quoted excerpt, in characters."""
_ESCAPED_PATTERN = re.compile(r"\\[\[\]|():\\]")
_NUMBER_PATTERN = r"[+-]?(?:\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})"
r"""Pattern of a number, with bounded repetitions: \d+\.?\d* would try every split of a long run of digits."""
_PROMPT_EDIT_PATTERN = re.compile(rf"\[[^\[\]|]*:\s*{_NUMBER_PATTERN}\s*\]")
"""Pattern of prompt editing: `[to:when]` and `[from:to:when]`."""

_PLURALS = (
    (re.compile(r"^is an ordinary word here; it separates"), "are ordinary words here; they separate"),
    (re.compile(r"^is a control token (.*) remove it$"), r"are control tokens \1 remove them"),
    (re.compile(r"^is not an ASCII (\w+):"), r"are not ASCII \1s:"),
    (re.compile(r"^is\b"), "are"),
    (re.compile(r"^has\b"), "have"),
)
"""Start of an explanation about one excerpt -> start of the same explanation about several."""
_INVISIBLE_PATTERN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0]"
)
"""Invisible character that splits or changes a word; joiners, which emoji and some scripts need, are not included."""

_DELETED_PATTERN = re.compile(r"(?<=\w)[\x00-\x08\x0e-\x1b\x7f]+(?=\w)")
"""Control characters that cleaning deletes, between letters or digits."""

COMMON_FOREIGN_SYNTAX = (
    (re.compile(r"<\w+:[^<>\n]*>"), "is plain text: LoRAs, embeddings and wildcards are not read from a prompt"),
    (re.compile(r"\bembedding:\w[\w./-]*"), "is plain text: embeddings are not read from a prompt"),
    (re.compile(r"__[\w*/.-]+?__"), "is plain text, not a wildcard: write options as [red|blue]"),
    (re.compile(r"[{}]"), "is plain text: options are written [red|blue], and weights (word:1.5)"),
    (re.compile(r"\b(?:BREAK|AND|ADDBASE|ADDCOMM|ADDCOL|ADDROW)\b"), "is an ordinary word here; it separates nothing"),
    (re.compile(r"(?<!\S)--[a-z]+\b"), "is plain text: set parameters in the config or by options"),
    (re.compile(rf"::{_NUMBER_PATTERN}"), "is plain text: weights are written (word:1.5)"),
    (re.compile(r"[^\W\d]\w{0,40}[^\W\d](?:\+\+?|--)(?=[\s,.)\]|]|$)"), "is plain text: write (word:1.1)"),
    (re.compile(r"\.(?:blend|and|swap)\([^()]*\)"), "is read as text and marks: blending is not supported"),
    (re.compile(r"</?s>|<pad>|<unk>|<extra_id_\d+>"), "is a control token of the tokenizer, not text: remove it"),
    (re.compile(r"<!--|-->|/\*|\*/|(?:^|(?<=\s))(?:#|//)\s"), "is plain text: a prompt has no comments"),
    (re.compile(r"^\s*/imagine\b"), "is plain text: commands of other programs are not read from a prompt"),
    (
        re.compile(
            r"^[ \t]*(?:Positive prompt|Prompt|Steps|Sampler|CFG scale|Seed|Size|Clip skip):.*"
            r"|\b[Nn]egative(?: [Pp]rompt)?:.*",
            re.MULTILINE,
        ),
        "is plain text: settings belong in the config, for example prompt_settings.negative_prompt",
    ),
)
"""Foreign syntax to find in templates and negative prompts, with the warning for each pattern."""
TEMPLATE_FOREIGN_SYNTAX = (
    (
        re.compile(r"[（）［］｛｝【】〔〕〖〗⟦⟧⟮⟯❨❩❲❳⦅⦆﹙﹚﹝﹞]"),
        "is not an ASCII bracket: only ASCII ( ) marks text, and only ASCII [ ] encloses options",
    ),
    (re.compile(r"[｜¦│┃∣❘ǀ￨]"), "is not an ASCII bar: only ASCII | separates options"),
    (
        re.compile(rf"[：∶꞉﹕︓ː]\s*{_NUMBER_PATTERN}"),
        "has no ASCII colon: only an ASCII : gives a weight, as in (word:1.5)",
    ),
    (
        re.compile(rf"[^\W\d](?:\w{{0,40}}[^\W\d])?\s?:{_NUMBER_PATTERN}(?=[\s,;|\]]|$)"),
        "is plain text outside of ( ): write (word:1.5)",
    ),
    (
        re.compile(rf"(?:^|[\[|])\s*{_NUMBER_PATTERN}::"),
        "is plain text: every option is generated, and options have no probabilities",
    ),
    (
        re.compile(rf"\)\s?\^?{_NUMBER_PATTERN}(?=[\s,]|$)|\)[+-]+(?=[\s,.]|$)"),
        "is plain text after the mark: write (word:1.5)",
    ),
)
NEGATIVE_PROMPT_FOREIGN_SYNTAX = (
    (re.compile(r"\([^()]*\)|[\[\]|]"), "is plain text: a negative prompt has neither weights nor options"),
)


def find_template_syntax_warnings(template: str) -> Iterator[str]:
    """Yield a warning for each kind of foreign syntax in a template, except escaped syntax."""
    # The replacement has the same length, so that the characters around an escape do not become neighbours.
    text = _ESCAPED_PATTERN.sub("\x00\x00", template)
    yield from _find_syntax_warnings(text, COMMON_FOREIGN_SYNTAX + TEMPLATE_FOREIGN_SYNTAX, "")
    yield from _find_invisible_characters(template, "")


def find_negative_prompt_warnings(text: str) -> Iterator[str]:
    """Yield a warning for each kind of foreign syntax in a negative prompt, including the template grammar."""
    message_prefix = "prompt_settings.negative_prompt: "
    yield from _find_syntax_warnings(text, COMMON_FOREIGN_SYNTAX + NEGATIVE_PROMPT_FOREIGN_SYNTAX, message_prefix)
    yield from _find_invisible_characters(text, message_prefix)


def find_single_option_warnings(brackets: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield a warning about brackets with only one option: the option stays, the brackets do not.

    Args:
        brackets: start and source of each such bracket.
    """
    if not brackets:
        return
    _, first_bracket = min(brackets)
    omitted_text = f" and {len(brackets) - 1} more" if len(brackets) > 1 else ""
    has, its = ("has", "its") if not omitted_text else ("have", "their")
    explanation = f"{has} only one option, so {its} brackets are dropped: "
    if _PROMPT_EDIT_PATTERN.fullmatch(first_bracket):
        explanation += "a prompt that changes between steps is written in prompt_schedule_settings"
    else:
        explanation += "write (word:0.9) for less weight, \\[ \\] for literal brackets"
    yield f"'{format_excerpt(first_bracket)}'{omitted_text} {explanation}"


def _find_invisible_characters(text: str, message_prefix: str) -> Iterator[str]:
    """Yield a warning about the first invisible character, such as web pages contain.

    Yield one about a character that cleaning keeps, and one about a deleted character, which can join words.
    """
    if (deleted := _DELETED_PATTERN.search(text)) is not None:
        yield (
            f"{message_prefix}the control character U+{ord(deleted[0][0]):04X} in "
            f"'{format_excerpt(_describe_surroundings(text, deleted))}' is deleted, which joins the text around it. "
            "Replace it with a space, or delete it"
        )
    text = clean_prompt_part(text)
    matches = list(_INVISIBLE_PATTERN.finditer(text))
    if not matches:
        return
    first = matches[0]
    excerpt = format_excerpt(text[max(0, first.start() - 20) : first.start()])
    place_text = f"after '{excerpt}'" if excerpt else "at the start"
    omitted_text = f" and {len(matches) - 1} more" if len(matches) > 1 else ""
    name = unicodedata.name(first[0], "unnamed").lower()
    reach, them = ("reach", "them") if omitted_text else ("reaches", "it")
    yield (
        f"{message_prefix}the invisible character U+{ord(first[0]):04X} ({name}) {place_text}{omitted_text} {reach} "
        f"the model, and can split words. Delete {them}"
    )


def _describe_surroundings(text: str, match: re.Match[str]) -> str:
    """Return the words around a character, with its escape."""
    before, after = re.search(r"\S{0,20}$", text[: match.start()]), re.match(r"\S{0,20}", text[match.end() :])
    return escape_unprintable(f"{before[0] if before else ''}{match[0]}{after[0] if after else ''}")


def format_excerpt(text: str) -> str:
    """Return text on one line, shortened for a message."""
    return shorten_text(" ".join(text.split()), MAX_EXCERPT_LENGTH)


def _find_syntax_warnings(
    searched_text: str, syntax_kinds: tuple[tuple[re.Pattern[str], str], ...], message_prefix: str
) -> Iterator[str]:
    for pattern, meaning in syntax_kinds:
        matches = list(dict.fromkeys(match[0].strip() for match in pattern.finditer(searched_text)))
        if matches:
            omitted_text = f" and {len(matches) - 1} more" if len(matches) > 1 else ""
            explanation = _make_plural(meaning) if omitted_text else meaning
            yield f"{message_prefix}'{format_excerpt(matches[0])}'{omitted_text} {explanation}"


def _make_plural(explanation: str) -> str:
    """Return an explanation about several excerpts; unchanged if it starts with no verb of `_PLURALS`."""
    plurals = (pattern.sub(plural, explanation) for pattern, plural in _PLURALS if pattern.search(explanation))
    return next(plurals, explanation)
