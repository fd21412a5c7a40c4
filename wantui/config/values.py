"""Parse the text of a setting by its declared type, in the same way for files, `--set` and the form."""

from typing import TYPE_CHECKING, Any

from wantui.config.document import YamlScalar, convert_to_plain_value
from wantui.config.flow_values import RULE_BY_KIND, parse_flow_text
from wantui.typed_text import EMPTY_WORDS, parse_flag, parse_number

if TYPE_CHECKING:
    from wantui.config.fields import FormField


def parse_setting_value(field: "FormField", text: str) -> Any:
    """Parse the text of a setting.

    Text is returned unchanged, numbers are decimal, mappings and lists are one line of YAML, and an empty text (or
    `null`) is None for an optional setting. The pydantic models check ranges and choices.

    Raises:
        ValueError: the text is not of the declared type; the message gives the expected one.
    """
    stripped_text = text.strip()
    if field.is_optional and stripped_text in EMPTY_WORDS:
        return None
    match field.kind:
        case "text":
            return text
        case "choice":
            return stripped_text
        case "flag":
            return parse_flag(text)
        case "number":
            return parse_number(stripped_text, field.is_integer)
        case "mapping":
            items = parse_flow_text(text, "mapping")
            return {key: _parse_flow_entry(field, key, value) for key, value in items.items()}
        case "list":
            return convert_to_plain_value(parse_flow_text(text, "list"))


def parse_mapping_item(field: "FormField", value: Any) -> Any:
    """Parse a value of a mapping from its YAML: numbers are decimal, and text is unchanged.

    Raises:
        ValueError: the value is not of the declared type.
    """
    if not isinstance(value, YamlScalar):
        raise ValueError(f"should be a single value; the setting {RULE_BY_KIND['mapping']}")
    if field.item_kind == "number":
        return parse_number(value.text.strip(), is_integer=False)
    if value.is_null:
        raise ValueError('has no value. Give one, or write "" for an empty text')
    return value.text


def _parse_flow_entry(field: "FormField", key: str, value: Any) -> Any:
    if field.item_kind == "number" and ":" in key and isinstance(value, YamlScalar) and not value.text:
        raise ValueError(f"{key} has no space after its colon. Write it as {': '.join(key.split(':', 1))}")
    try:
        return parse_mapping_item(field, value)
    except ValueError as error:
        raise ValueError(f"the value of {key} {error}") from None
