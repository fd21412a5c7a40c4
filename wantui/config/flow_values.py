"""Mappings and lists as one line of text: `0: 7.5, 50%: 3`, as the settings form and `--set` write them.

The line is YAML's flow style; the outer braces or brackets may be omitted.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from wantui.config.document import NULL_WORDS, parse_yaml_document
from wantui.config.problems import ConfigError
from wantui.section import ConfigSection
from wantui.typed_text import BOOLEAN_BY_WORD

FlowKind = Literal["mapping", "list"]
BRACKETS_BY_KIND: dict[FlowKind, tuple[str, str]] = {"mapping": ("{", "}"), "list": ("[", "]")}
RULE_BY_KIND: dict[FlowKind, str] = {
    "mapping": "should be pairs of a key and a value, such as `0: 7.5, 50%: 3`",
    "list": "should be a list, such as `[a, b]` or `[{name: a, strength: 1}]`",
}
RULE_BY_ERROR_TYPE = {
    "dict_type": RULE_BY_KIND["mapping"],
    "list_type": RULE_BY_KIND["list"],
    "tuple_type": RULE_BY_KIND["list"],
}
"""Rule for a mapping or list, by the type of pydantic's error."""
_PLAIN_PATTERN = re.compile(r"(?:\w|[-+.]\w)(?:[\w%./+-]| (?=[\w+-]))*")
"""Text that YAML's flow style reads back unchanged without quotes."""


def parse_flow_text(text: str, kind: FlowKind) -> Any:
    """Parse a line to a mapping or a list of unconverted scalars; an empty text is empty.

    Raises:
        ValueError: the text is not such a line, or a key occurs twice; the message gives the expected form.
    """
    opening, closing = BRACKETS_BY_KIND[kind]
    stripped_text = text.strip()
    if not stripped_text.startswith(opening) or (kind == "list" and not stripped_text.endswith(closing)):
        stripped_text = f"{opening}{stripped_text}\n {closing}"  # after a line break, a comment cannot contain it
    try:
        document = parse_yaml_document(f"value: {stripped_text}", "")
    except ConfigError as error:
        reason = error.problems[0].message.removeprefix("not valid YAML: ")
        raise ValueError(f'{RULE_BY_KIND[kind]}; text with , : [ ] {{ }} needs "quotes" ({reason})') from None
    value = document.values.get("value")
    if document.values.keys() != {"value"} or not isinstance(value, dict if kind == "mapping" else list):
        raise ValueError(RULE_BY_KIND[kind])
    for key, _ in document.duplicate_keys:
        raise ValueError(f"the key {key[-1]} occurs twice. Remove one")
    return value


def format_flow_text(value: Mapping[Any, Any] | Sequence[Any]) -> str:
    """Return a mapping or list as one line that `parse_flow_text` parses back; a mapping has no outer braces."""
    if isinstance(value, Mapping):
        return _format_items(value)
    return f"[{', '.join(map(_format_value, value))}]" if value else ""


def _format_items(value: Mapping[Any, Any]) -> str:
    return ", ".join(f"{_format_value(key)}: {_format_value(item)}" for key, item in value.items())


def _format_value(value: Any) -> str:
    match value:
        case ConfigSection() if (short_text := value.format_short()) is not None:
            return _format_value(short_text)
        case BaseModel():
            return _format_value(value.model_dump(mode="json", exclude_defaults=True))
        case Mapping():
            return f"{{{_format_items(value)}}}"
        case list() | tuple():
            return f"[{', '.join(map(_format_value, value))}]"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float() if math.isfinite(value) and float(f"{value:.15g}") == value:
            return f"{value:.15g}"
        case int() | float():
            return repr(value)
    text = str(value)
    is_word = text in NULL_WORDS or text.lower() in BOOLEAN_BY_WORD
    return text if _PLAIN_PATTERN.fullmatch(text) and not is_word else json.dumps(text, ensure_ascii=False)
