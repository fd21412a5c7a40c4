"""Read the user's settings files, tui.yaml and engine.yaml, and report their errors."""

import difflib
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, ValidationError

from wantui.config.document import convert_to_plain_value, parse_yaml_document, read_config_text
from wantui.config.validation_messages import explain_invalid_value
from wantui.errors import UserError
from wantui.section import TextParsingModel


class UserSettings(TextParsingModel):
    """Content of a user's settings file; every key has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


SettingsType = TypeVar("SettingsType", bound=UserSettings)


def read_user_settings(path: Path, settings_type: type[SettingsType]) -> SettingsType:
    """Read a settings file.

    Raises:
        UserError: the file cannot be read or is invalid; the message names file, key and what it should be.
    """
    document = parse_yaml_document(read_config_text(path), path)
    for key_path, line in document.duplicate_keys:
        raise UserError(f"{path}:{line}: {'.'.join(key_path)}: duplicate key. Remove one")
    try:
        return settings_type.model_validate(convert_to_plain_value(document.values))
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = ".".join(map(str, details["loc"])) or "the file"
        if details["type"] != "extra_forbidden":
            raise UserError(f"{path}: {key}: {explain_invalid_value(details, {})}") from None
        known_keys = list(settings_type.model_fields)
        near_keys = difflib.get_close_matches(key, known_keys, n=1)
        hint = f"did you mean {near_keys[0]}?" if near_keys else f"the keys are {', '.join(known_keys)}"
        raise UserError(f"{path}: {key}: unknown key; {hint}") from None
