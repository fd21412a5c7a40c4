"""Fields of the settings form: name, description and valid values, derived from the pydantic models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from wantui.config.settings import NOT_BLANK_PATTERN, RULE_BY_PATTERN, Settings
from wantui.section import ConfigSection, DescribedModel, read_field_descriptions, read_field_docstrings

if TYPE_CHECKING:
    from wantui.config.load import Config


FieldKind = Literal["flag", "choice", "number", "text", "mapping", "list"]
"""Type of a setting. mapping: keys with numbers or text. list: any list; both are written as one line in the form."""


@dataclass(frozen=True)
class FormField:
    """A setting as the form shows it."""

    key: str
    """Dotted key: section.key."""
    kind: FieldKind
    choices: tuple[str, ...]
    valid_values: str
    """Valid values, in words."""
    is_optional: bool
    """True if the field may be empty."""
    is_integer: bool = False
    """True if the value must be a whole number."""
    item_kind: Literal["number", "text"] = "text"
    """Type of a mapping's values."""
    model: type[DescribedModel] | None = None
    """Model that declares the setting and describes it."""

    @property
    def help(self) -> str:
        """Return the description, with the unit and the meaning of the choices; empty if there is none."""
        return read_field_descriptions(self.model).get(self.name, "") if self.model else ""

    @property
    def summary(self) -> str:
        """Return the description without the meaning of the choices; empty if there is none."""
        return read_field_docstrings(self.model).get(self.name, "") if self.model else ""

    @property
    def choice_descriptions(self) -> Mapping[str, str]:
        """Return the meaning of each choice that has a description."""
        return self.model.CHOICE_DESCRIPTIONS.get(self.name, {}) if self.model else {}

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
                make_form_field(f"{setting_name}.{key}", field_info, section_type)
                for key, field_info in section_type.model_fields.items()
            ]
        else:
            fields.append(make_form_field(setting_name, field, Settings))
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


def make_form_field(key: str, field_info: Any, model: type[DescribedModel]) -> FormField:
    """Return the field of a setting from its pydantic declaration in a model."""
    annotation, metadata = field_info.annotation, list(field_info.metadata)
    is_optional = False
    if get_origin(annotation) in (Union, UnionType):
        member_types = [part for part in get_args(annotation) if part is not NoneType]
        is_optional, annotation = True, member_types[0]
    annotation, constraints = _split_annotation(annotation)
    metadata += constraints
    choices = tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()
    kind = _find_field_kind(annotation)
    valid_values = (
        ", ".join(choices)
        if choices
        else "yes or no"
        if kind == "flag"
        else _describe_mapping(annotation)
        if kind == "mapping"
        else "a list in brackets: [a, b]"
        if kind == "list"
        else _describe_valid_values(annotation, metadata)
    )
    valid_values += ", or empty" if is_optional else ""
    is_integer, item_kind = annotation is int, _find_item_kind(annotation)
    return FormField(key, kind, choices, valid_values, is_optional, is_integer, item_kind, model)


def _find_field_kind(annotation: Any) -> FieldKind:
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mapping"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return "list"
    return "flag" if annotation is bool else "number" if annotation in (int, float) else "text"


def _find_item_kind(annotation: Any) -> Literal["number", "text"]:
    """Return the type of a mapping's values; text for every other type."""
    if _find_field_kind(annotation) != "mapping":
        return "text"
    item_type, _ = _split_annotation(get_args(annotation)[1])
    return "number" if item_type is float else "text"


def _split_annotation(annotation: Any) -> tuple[Any, list[Any]]:
    """Return a type without its annotations, and its constraints."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    item_type, *constraints = get_args(annotation)
    return item_type, [part for constraint in constraints for part in getattr(constraint, "metadata", [constraint])]


def _describe_mapping(annotation: Any) -> str:
    item_type, constraints = _split_annotation(get_args(annotation)[1])
    return f"pairs `key: value`, separated by commas; each value: {_describe_valid_values(item_type, constraints)}"


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
                    rule = RULE_BY_PATTERN.get(pattern, f"of the form {pattern}")
                    phrases.append(rule.removeprefix("should be "))
    return ", ".join(phrases)
