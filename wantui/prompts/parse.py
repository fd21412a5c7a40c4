r"""Parser of the template grammar: template text to a tree with source spans.

    [a|b]        one variation per option; options may be empty and may nest
    (text)       marks text, so that its attention can be captured
    (text:2.5)   marks text and weights it
    \[ \] \| \( \) \: \\    the character itself

Parentheses around a time or a ratio, `(16:9)` or `(at 3:00)`, are plain text.
"""

import re
from dataclasses import dataclass, field

from wantui.errors import UserError
from wantui.formatting import escape_unprintable
from wantui.prompts.foreign_syntax import find_single_option_warnings, find_template_syntax_warnings, format_excerpt

ERROR_CONTEXT_CHARACTERS = 60
"""Number of characters that an error shows on each side of its position."""
SPECIAL_CHARACTERS = frozenset("[]|():\\")
MIN_MARK_WEIGHT, MAX_MARK_WEIGHT = 0.0, 10.0
MAX_NESTING_DEPTH = 100
_PLAIN_TEXT_PATTERN = re.compile(r"[^\[\]|():\\]+")
_NUMBER_PATTERN = re.compile(r" *[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+) *")
r"""Pattern of a number. Not \d+\.?\d*, which would try every split of a long run of digits."""
_TIME_OR_RATIO_PATTERN = re.compile(r"(.*\s)?\d+:\d+(\s.*)?", re.DOTALL)


class TemplateError(UserError):
    """Raised for a template that cannot be parsed; the message shows the line with a caret at the error."""

    def __init__(self, message: str, template: str, position: int) -> None:
        self.message, self.template, self.position = message, template, position
        line_start = template.rfind("\n", 0, position) + 1
        line_end = template.find("\n", line_start)
        line, column = _format_excerpt_around(
            template[line_start : line_end if line_end >= 0 else None], position - line_start
        )
        caret = " " * len(escape_unprintable(line[:column])) + "^"
        location = f"column {position - line_start + 1}"
        if "\n" in template:
            location = f"line {template.count(chr(10), 0, position) + 1}, {location}"
        super().__init__(f"{message} ({location})\n  {escape_unprintable(line)}\n  {caret}")


def _format_excerpt_around(line: str, column: int) -> tuple[str, int]:
    """Return an excerpt of a line that fits a terminal, and the position of the column in that excerpt."""
    start = max(0, column - ERROR_CONTEXT_CHARACTERS) if len(line) > 2 * ERROR_CONTEXT_CHARACTERS else 0
    end = max(start + 2 * ERROR_CONTEXT_CHARACTERS, column + ERROR_CONTEXT_CHARACTERS)
    prefix, suffix = "..." if start else "", "..." if end < len(line) else ""
    return f"{prefix}{line[start:end]}{suffix}", column - start + len(prefix)


@dataclass(frozen=True, slots=True)
class LiteralText:
    """Literal text with escapes resolved."""

    text: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Alternatives:
    """A bracket, `[a|b]`; `bracket_number` counts opening brackets from 1."""

    options: tuple["TemplateNodes", ...]
    bracket_number: int
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A mark, `(text)` or `(text:weight)`."""

    content: "TemplateNodes"
    weight: float
    span: tuple[int, int]


TemplateNodes = tuple[LiteralText | Alternatives | MarkedText, ...]


@dataclass(frozen=True)
class Template:
    """A parsed template, with warnings about text that resembles syntax."""

    source: str
    nodes: TemplateNodes
    warnings: tuple[str, ...]


def parse_template(source: str) -> Template:
    """Parse a template.

    Raises:
        TemplateError: the template is empty, a bracket is unmatched or nested too deeply, or a weight is invalid.
    """
    if not source.strip():
        raise TemplateError("the template is empty", source, 0)
    parser = _TemplateParser(source)
    nodes = parser.parse_nodes(opening_bracket=None)
    warnings = [
        *parser.warnings,
        *find_single_option_warnings(parser.single_option_brackets),
        *find_template_syntax_warnings(source),
    ]
    return Template(source, nodes, tuple(warnings))


@dataclass
class _TemplateParser:
    """Recursive-descent parser of `source`; `position` is the index of the next character."""

    source: str
    position: int = 0
    bracket_count: int = 0
    is_inside_mark: bool = False
    depth: int = 0
    warnings: list[str] = field(default_factory=list)
    single_option_brackets: list[tuple[int, str]] = field(default_factory=list)
    """Start and source of each bracket with one option."""

    def make_error(self, message: str, position: int) -> TemplateError:
        return TemplateError(message, self.source, position)

    def parse_nodes(self, opening_bracket: str | None) -> TemplateNodes:
        """Parse nodes up to the end of the enclosing construct, given as "[", "(", or None for the template itself."""
        nodes: list[LiteralText | Alternatives | MarkedText] = []
        # A list, because appending characters to a long string copies it each time.
        text_parts: list[str] = []
        text_start = self.position
        while self.position < len(self.source):
            if plain_match := _PLAIN_TEXT_PATTERN.match(self.source, self.position):
                text_parts.append(plain_match[0])
                self.position = plain_match.end()
                continue
            character = self.source[self.position]
            if character in "[(":
                if text_parts:
                    nodes.append(LiteralText("".join(text_parts), (text_start, self.position)))
                literal_text = self.parse_time_or_ratio() if character == "(" else None
                if literal_text:
                    nodes.append(literal_text)
                else:
                    nodes.append(self.parse_alternatives() if character == "[" else self.parse_mark())
                text_parts, text_start = [], self.position
                continue
            if (opening_bracket == "[" and character in "|]") or (opening_bracket == "(" and character in ":)"):
                break
            if character in "])|":
                raise self.make_error(
                    self.explain_stray_character(character, opening_bracket, "{" in self.source[: self.position]),
                    self.position,
                )
            next_character = self.source[self.position + 1 : self.position + 2]
            if character == "\\" and next_character and next_character in SPECIAL_CHARACTERS:
                character = next_character
                self.position += 1
            text_parts.append(character)
            self.position += 1
        if text_parts:
            nodes.append(LiteralText("".join(text_parts), (text_start, self.position)))
        return tuple(nodes)

    @staticmethod
    def explain_stray_character(character: str, opening_bracket: str | None, has_braces: bool) -> str:
        advice = f"write \\{character} for the character itself"
        if character == "|":
            options_hint = "options are written [a|b], not {a|b}; " if opening_bracket is None and has_braces else ""
            return f"'|' separates options, but this one is outside [ ]; {options_hint}{advice}"
        if opening_bracket:
            closing_bracket = {"[": "]", "(": ")"}[opening_bracket]
            return f"expected '{closing_bracket}' but found '{character}'; {advice}"
        return f"'{character}' has no opening bracket; {advice}"

    def enter_bracket(self, start: int) -> None:
        self.depth += 1
        if self.depth > MAX_NESTING_DEPTH:
            raise self.make_error(f"brackets are nested more than {MAX_NESTING_DEPTH} deep", start)

    def parse_alternatives(self) -> Alternatives:
        bracket_start = self.position
        self.enter_bracket(bracket_start)
        self.bracket_count += 1
        bracket_number = self.bracket_count
        options = []
        while True:
            self.position += 1  # over "[" or "|"
            options.append(self.parse_nodes(opening_bracket="["))
            if self.position == len(self.source):
                raise self.make_error("'[' is never closed; write \\[ for the character itself", bracket_start)
            if self.source[self.position] == "]":
                break
        self.position += 1
        self.depth -= 1
        if len(options) == 1:
            self.single_option_brackets.append((bracket_start, self.source[bracket_start : self.position]))
        return Alternatives(tuple(options), bracket_number, (bracket_start, self.position))

    def parse_time_or_ratio(self) -> LiteralText | None:
        """Return the parentheses at the current position as plain text if they enclose a time or a ratio."""
        opening_position = self.position
        closing_position = self.source.find(")", opening_position)
        enclosed_text = self.source[opening_position + 1 : closing_position] if closing_position > 0 else ""
        if not _TIME_OR_RATIO_PATTERN.fullmatch(enclosed_text) or SPECIAL_CHARACTERS.intersection(
            enclosed_text.replace(":", "", 1)
        ):
            return None
        self.position = closing_position + 1
        text = self.source[opening_position : self.position]
        self.warnings.append(f"{format_excerpt(text)} is read as plain text (a time or a ratio), not as a mark")
        return LiteralText(text, (opening_position, self.position))

    def parse_mark(self) -> MarkedText:
        mark_start = self.position
        if self.is_inside_mark:
            advice = "write one weight, as in (word:1.2), or \\( \\) for literal parentheses"
            raise self.make_error(f"marks cannot be nested; {advice}", mark_start)
        self.enter_bracket(mark_start)
        self.is_inside_mark = True
        self.position += 1
        content = self.parse_nodes(opening_bracket="(")
        if self.position == len(self.source):
            raise self.make_error("'(' is never closed; write \\( for the character itself", mark_start)
        weight = self.parse_weight() if self.source[self.position] == ":" else 1.0
        if not any(not isinstance(node, LiteralText) or node.text.strip() for node in content):
            raise self.make_error("this mark has no text; write \\( \\) for literal parentheses", mark_start)
        self.position += 1
        self.is_inside_mark = False
        self.depth -= 1
        return MarkedText(content, weight, (mark_start, self.position))

    def parse_weight(self) -> float:
        """Parse the number between the colon at the current position and the closing parenthesis."""
        weight_start = self.position + 1
        weight_end = self.source.find(")", weight_start)
        if weight_end < 0:
            raise self.make_error("missing ')' after this weight", self.position)
        weight_text = self.source[weight_start:weight_end]
        if not _NUMBER_PATTERN.fullmatch(weight_text):
            raise self.make_error(
                f"the weight {format_excerpt(weight_text)!r} is not a number; write \\: for a colon in marked text, "
                "or \\( \\) for literal parentheses",
                weight_start,
            )
        weight = float(weight_text)
        if not MIN_MARK_WEIGHT <= weight <= MAX_MARK_WEIGHT:
            excerpt = format_excerpt(weight_text)  # a rounded number could be one of the two limits
            raise self.make_error(
                f"the weight {excerpt} is not between {MIN_MARK_WEIGHT:g} and {MAX_MARK_WEIGHT:g}", weight_start
            )
        self.position = weight_end
        return weight
