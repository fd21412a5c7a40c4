"""Suggest the key of the config that an unknown key probably means."""

import difflib
from collections.abc import Sequence

from wantui import __version__
from wantui.config.document import KeyPath
from wantui.config.settings import Settings
from wantui.config.yaml_errors import describe_odd_blank
from wantui.section import ConfigSection

RENAMED_KEYS = {"model_revision": "model_settings.revision"}
"""Legacy keys and their current names."""
MAX_KEY_LENGTH = 80
"""Longest key that a message quotes, in characters."""


def find_section(name: str) -> type[ConfigSection] | None:
    """Return the model of a section; None if the name is not that of a section."""
    field = Settings.model_fields.get(name)
    model = field.annotation if field else None
    return model if isinstance(model, type) and issubclass(model, ConfigSection) else None


def _list_valid_keys() -> list[KeyPath]:
    """Return all sections and keys, in the order of the config file."""
    keys: list[KeyPath] = []
    for name in Settings.model_fields:
        keys.append((name,))
        if section := find_section(name):
            keys += [(name, key) for key in section.model_fields]
    return keys


def format_key_suggestion(key: KeyPath) -> str:
    """Return the end of an "unknown key" message: the key that was probably meant, or the valid keys."""
    key = tuple(part[:MAX_KEY_LENGTH] for part in key)  # difflib is slow for long keys
    if blank := describe_odd_blank(key[-1]):
        return f": it contains {blank}; replace it by a space"
    valid_keys = _list_valid_keys()
    if "." in key[-1]:  # section.key is the notation of --set
        nested_key = tuple(key[-1].split("."))
        return _suggest_nesting(nested_key, valid_keys) or format_key_suggestion(nested_key)
    if key[-1] in RENAMED_KEYS:
        return f"; it is now {RENAMED_KEYS[key[-1]]}"
    candidates = [valid_key for valid_key in valid_keys if valid_key[-1] == key[-1]]
    section_keys_by_name = {valid_key[-1]: valid_key for valid_key in valid_keys if valid_key[:-1] == key[:-1]}
    all_keys_by_name = {valid_key[-1]: valid_key for valid_key in valid_keys}
    for keys_by_name in (section_keys_by_name, all_keys_by_name):
        if candidates:
            break
        close_names = difflib.get_close_matches(key[-1], keys_by_name, n=1, cutoff=0.6)
        candidates = [keys_by_name[name] for name in close_names]
    if candidates:
        return f"; did you mean {'.'.join(candidates[0])}?"
    if not section_keys_by_name:
        return f"; wantui {__version__} has no keys here"
    return f"; valid keys of wantui {__version__} here: {', '.join(section_keys_by_name)}"


def _suggest_nesting(key: KeyPath, valid_keys: Sequence[KeyPath]) -> str | None:
    """Return the advice for a valid key that is written with a dot; None if the key is not valid."""
    if key not in valid_keys:
        return None
    return f"; in a config, write it in two lines: `{key[0]}:`, and below it, indented, `{key[-1]}: VALUE`"
