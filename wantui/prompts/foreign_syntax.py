"""Find syntax of other programs in a text: it would reach the model as words, and change nothing that was meant."""

import re
from collections.abc import Iterator, Sequence

MAX_EXCERPT_LENGTH = 60
"""Longest stretch of a template that a warning repeats, in characters."""
_ESCAPED = re.compile(r"\\[\[\]|():\\]")
_NUMBER_PATTERN = r"[+-]?(?:\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})"
r"""Bounded, as \d+\.?\d* tries every division of a long row of digits."""
_WORD_PATTERN = r"[^\W\d](?:\w{0,40}[^\W\d])?"
_PROMPT_EDIT = re.compile(rf"\[[^\[\]|]*:\s*{_NUMBER_PATTERN}\s*\]")
"""`[to:when]` and `[from:to:when]`."""

COMMON_SYNTAX = (
    (re.compile(r"<\w+:[^<>\n]*>"), "is plain text: LoRAs, embeddings and wildcards are not read from a prompt"),
    (re.compile(r"\bembedding:\w[\w./-]*"), "is plain text: embeddings are not read from a prompt"),
    (re.compile(r"__[\w*/.-]+?__"), "is plain text, and no wildcard: write the options as [red|blue]"),
    (re.compile(r"[{}]"), "is plain text: options are written [red|blue], and weights (word:1.5)"),
    (re.compile(r"\b(?:BREAK|AND|ADDBASE|ADDCOMM|ADDCOL|ADDROW)\b"), "is a word like others, and divides nothing"),
    (re.compile(r"(?<!\S)--[a-z]+\b"), "is plain text: parameters are settings of the config, or options"),
    (re.compile(rf"::{_NUMBER_PATTERN}"), "is plain text: weights are written (word:1.5)"),
    (re.compile(r"[^\W\d]\w{0,40}[^\W\d](?:\+\+?|--)(?=[\s,.)\]|]|$)"), "is plain text: write (word:1.1)"),
    (re.compile(r"\.(?:blend|and|swap)\([^()]*\)"), "is read as text and marks: prompts are not blended"),
    (re.compile(r"</?s>|<pad>|<unk>|<extra_id_\d+>"), "is a control token of the tokenizer, and no text: leave it out"),
    (re.compile(r"<!--|-->|/\*|\*/|(?:^|(?<=\s))(?:#|//)\s"), "is plain text: a prompt has no comments"),
    (re.compile(r"^\s*/imagine\b"), "is plain text: commands of other programs are not read from a prompt"),
    (
        re.compile(
            r"^[ \t]*(?:Positive prompt|Prompt|Steps|Sampler|CFG scale|Seed|Size|Clip skip):.*"
            r"|\b[Nn]egative(?: [Pp]rompt)?:.*",
            re.MULTILINE,
        ),
        "is plain text: settings belong in the config, e.g. prompt_settings.negative_prompt",
    ),
)
"""Foreign syntax in templates and in negative prompts, with the warning for each."""
TEMPLATE_SYNTAX = (
    (
        re.compile(r"[（）［］｛｝【】〔〕〖〗⟦⟧⟮⟯❨❩❲❳⦅⦆﹙﹚﹝﹞]"),
        "is no ASCII bracket: only ASCII ( ) mark and only [ ] hold options",
    ),
    (re.compile(r"[｜¦│┃∣❘ǀ￨]"), "is no ASCII bar: only an ASCII | separates options"),
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
        "is plain text: every option makes its videos, and none is drawn by chance",
    ),
    (
        re.compile(rf"\)\s?\^?{_NUMBER_PATTERN}(?=[\s,]|$)|\)[+-]+(?=[\s,.]|$)"),
        "is plain text after the mark: write (word:1.5)",
    ),
)
NEGATIVE_PROMPT_SYNTAX = (
    (re.compile(r"\([^()]*\)|[\[\]|]"), "is plain text: a negative prompt has neither weights nor options"),
)


def template_syntax_warnings(template: str) -> Iterator[str]:
    """Yield a warning for each kind of foreign syntax in a template; escaped syntax is intended."""
    # Of the same length, so that nothing around it seems to touch.
    text = _ESCAPED.sub("\x00\x00", template)
    yield from _match_warnings(text, COMMON_SYNTAX + TEMPLATE_SYNTAX, "")


def negative_prompt_warnings(text: str) -> Iterator[str]:
    """Yield a warning for each kind of foreign syntax in a negative prompt, which has no grammar."""
    yield from _match_warnings(text, COMMON_SYNTAX + NEGATIVE_PROMPT_SYNTAX, "prompt_settings.negative_prompt: ")


def single_option_warnings(brackets: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield a warning for the brackets of a template that hold one option, and so vanish.

    Args:
        brackets: the start and the source of each.
    """
    if not brackets:
        return
    _, first = min(brackets)
    more = f" and {len(brackets) - 1} more" if len(brackets) > 1 else ""
    has, its, is_one = ("has", "its", "is one option") if not more else ("have", "their", "are single options")
    meaning = f"{has} one option, so that {its} brackets vanish: write (word:0.9) for less weight, \\[ \\] for brackets"
    if _PROMPT_EDIT.fullmatch(first):
        meaning = f"{is_one}, and {its} brackets vanish: a prompt does not change between steps"
    yield f"'{format_excerpt(first)}'{more} {meaning}"


def format_excerpt(text: str) -> str:
    """Return a stretch of a template as a warning repeats it."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_EXCERPT_LENGTH else f"{text[: MAX_EXCERPT_LENGTH - 3]}..."


def _match_warnings(text: str, kinds: tuple[tuple[re.Pattern[str], str], ...], before: str) -> Iterator[str]:
    for pattern, meaning in kinds:
        matches = list(dict.fromkeys(match[0].strip() for match in pattern.finditer(text)))
        if matches:
            more = f" and {len(matches) - 1} more" if len(matches) > 1 else ""
            yield f"{before}'{format_excerpt(matches[0])}'{more} {meaning}"
