"""Fields of the settings form: name, description and valid values, derived from the pydantic models."""

from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from wantui.config.settings import NOT_BLANK_PATTERN, PATTERN_RULES, Settings
from wantui.section import ConfigSection

if TYPE_CHECKING:
    from wantui.config.load import Config


@dataclass(frozen=True)
class FormField:
    """A setting as the form shows it."""

    key: str
    """Dotted key: section.key."""
    help: str
    """Description, with the unit."""
    kind: Literal["flag", "choice", "number", "text"]
    choices: tuple[str, ...]
    valid_values: str
    """Valid values, in words."""
    is_optional: bool
    """True if the field may be empty."""
    is_integer: bool = False
    """True if the value must be a whole number."""

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


@cache
def list_form_fields() -> tuple[FormField, ...]:
    """Return the fields of all settings, in the order of the config file."""
    fields: list[FormField] = []
    for setting_name, field in Settings.model_fields.items():
        section_type = field.annotation
        if isinstance(section_type, type) and issubclass(section_type, ConfigSection):
            fields += [
                _make_form_field(f"{setting_name}.{key}", field_info)
                for key, field_info in section_type.model_fields.items()
            ]
        else:
            fields.append(_make_form_field(setting_name, field))
    return tuple(fields)


def find_form_field(key: str) -> FormField | None:
    """Return the field of a dotted key; None if no setting has this key."""
    return _index_form_fields_by_key().get(key)


@cache
def _index_form_fields_by_key() -> dict[str, FormField]:
    return {field.key: field for field in list_form_fields()}


def get_setting_value(config: "Config", key: str) -> Any:
    """Return the value of the setting with a dotted key."""
    value: Any = config.settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _make_form_field(key: str, field_info: Any) -> FormField:
    annotation, metadata = field_info.annotation, list(field_info.metadata)
    is_optional = False
    if get_origin(annotation) in (Union, UnionType):
        member_types = [part for part in get_args(annotation) if part is not NoneType]
        is_optional, annotation = True, member_types[0]
    if get_origin(annotation) is Annotated:
        annotation, *constraints = get_args(annotation)
        for constraint in constraints:
            metadata += getattr(constraint, "metadata", [constraint])
    choices = tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()
    kind: Literal["flag", "choice", "number", "text"] = (
        "choice" if choices else "flag" if annotation is bool else "number" if annotation in (int, float) else "text"
    )
    valid_values = (
        ", ".join(choices)
        if choices
        else "yes or no"
        if kind == "flag"
        else _describe_valid_values(annotation, metadata)
    )
    valid_values += ", or empty" if is_optional else ""
    return FormField(key, field_info.description or "", kind, choices, valid_values, is_optional, annotation is int)


def _describe_valid_values(annotation: Any, metadata: list[Any]) -> str:
    phrases = ["a whole number" if annotation is int else "a number" if annotation is float else "text"]
    for constraint in metadata:
        match constraint:
            case Ge(ge=bound):
                phrases.append(f"at least {bound:,}")
            case Gt(gt=bound):
                phrases.append(f"more than {bound:,}")
            case Le(le=bound):
                phrases.append(f"at most {bound:,}")
            case Lt(lt=bound):
                phrases.append(f"less than {bound:,}")
            case MinLen(min_length=bound):
                phrases.append(f"at least {bound} characters")
            case MaxLen(max_length=bound):
                phrases.append(f"at most {bound} characters")
            case _:
                pattern = getattr(constraint, "pattern", None)
                if pattern and pattern != NOT_BLANK_PATTERN:
                    rule = PATTERN_RULES.get(pattern, f"of the form {pattern}")
                    phrases.append(rule.removeprefix("should be "))
    return ", ".join(phrases)
