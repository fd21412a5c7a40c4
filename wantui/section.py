"""Base classes of the config file's sections, whose attribute docstrings are the descriptions of the settings."""

import ast
import inspect
import linecache
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationInfo, field_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from wantui.typed_text import parse_field_text

CONFIG_FILE_CONTEXT = "config file"
"""Serialisation context of settings that are written to a config file."""
ChoiceDescriptions = Mapping[str, Mapping[str, str]]
"""Field -> choice -> description, without a full stop. Choices whose names explain themselves have none."""


class TextParsingModel(BaseModel):
    """Base class of models that parse numbers and flags given as text, by the rules of `typed_text`."""

    @field_validator("*", mode="before")
    @classmethod
    def parse_texts(cls, value: object, info: ValidationInfo) -> object:
        """Parse numbers and flags that are text, as in lists of a config file."""
        return parse_field_text(cls.model_fields[info.field_name].annotation, value) if info.field_name else value


class DescribedModel(BaseModel):
    """Base class of models whose attribute docstrings describe their fields, also in the JSON schema.

    The docstrings are read from the source when they are first shown. pydantic's `use_attribute_docstrings` reads them
    when the class is created, which takes a tenth of a second at every start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, description in read_field_descriptions(cls).items():
            if name in properties:  # a serializer can give the written object other properties, or none
                properties[name].setdefault("description", description)
        return schema


@cache
def read_field_descriptions(model: type[DescribedModel]) -> dict[str, str]:
    """Return by field name the docstring of each field and the descriptions of its choices."""
    descriptions = dict(read_field_docstrings(model))
    for name, choices in model.CHOICE_DESCRIPTIONS.items():
        descriptions[name] = " ".join(
            [descriptions.get(name, ""), *(f"{choice}: {text}." for choice, text in choices.items())]
        )
    return descriptions


@cache
def read_field_docstrings(model: type[DescribedModel]) -> dict[str, str]:
    """Return a model's field docstrings by field name; omit fields without a docstring.

    An installation without sources, only with compiled modules, has no descriptions.
    """
    descriptions: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, DescribedModel) and base.model_fields:
            descriptions |= _read_attribute_docstrings(base.__module__).get(base.__name__, {})
    return {name: text for name, text in descriptions.items() if name in model.model_fields}


@cache
def _read_attribute_docstrings(module_name: str) -> dict[str, dict[str, str]]:
    """Return the attribute docstrings of every class in a module, by class and attribute name."""
    docstrings: dict[str, dict[str, str]] = {}
    module = sys.modules[module_name]
    source_lines = linecache.getlines(module.__file__ or "", vars(module))  # `inspect.getsource` searches all modules
    for node in ast.parse("".join(source_lines)).body:
        if isinstance(node, ast.ClassDef):
            docstrings[node.name] = {
                attribute.target.id: inspect.cleandoc(text)
                for attribute, below in zip(node.body, node.body[1:], strict=False)
                if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name)
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                if isinstance(text := below.value.value, str)
            }
    return docstrings


class ConfigSection(DescribedModel, TextParsingModel):
    """Base class of the config file's sections."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {}
    """Keys of the older system without effect here -> reason."""

    def format_short(self) -> str | None:
        """Return a short text that parses to this section as a list item; None if no such text exists."""
        return None

    @classmethod
    def convert_former_values(cls, values: dict[str, Any]) -> str | None:
        """Convert values of the older system in place, before they are parsed; return a warning, or None."""
        return None

    @field_validator("*", mode="before")
    @classmethod
    def reject_yes_and_no_for_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Reject booleans for numbers: Python treats True as 1, but no user means that."""
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise PydanticCustomError("boolean", "Input should not be true or false")
        return value
