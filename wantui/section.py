"""Base class of the sections of the config file."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

CONFIG_FILE_CONTEXT = "config file"
"""Serialization context of settings that are written to a config file."""


class ConfigSection(BaseModel):
    """Base class of a section of the config file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    IGNORED_KEYS: ClassVar[dict[str, str]] = {}
    """Keys of the older system without effect here -> reason."""

    def format_short(self) -> str | None:
        """Return a text from which the section is parsed as an item of a list; None if there is none."""
        return None

    @classmethod
    def convert_former_values(cls, values: dict[str, Any]) -> str | None:
        """Convert values of the older system in place, before they are parsed; return a warning, or None."""
        return None

    @field_validator("*", mode="before")
    @classmethod
    def refuse_yes_and_no_for_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Refuse booleans for numbers: Python treats True as 1, but no user means that."""
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise PydanticCustomError("boolean", "Input should not be true or false")
        return value
