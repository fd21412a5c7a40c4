"""Names of keys in tui.yaml, as Textual writes them: `x`, `f5`, `ctrl+x`, `question_mark`."""

import unicodedata

from textual.keys import KEY_NAME_REPLACEMENTS, KEY_TO_UNICODE_NAME, Keys, _character_to_key, format_key

MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}
NAMED_KEYS = {
    *(name for key in Keys if (name := key.value.rpartition("+")[2]).isidentifier()),
    *KEY_NAME_REPLACEMENTS.values(),
    *KEY_TO_UNICODE_NAME,
}


def is_key_name(text: str) -> bool:
    """Return whether a terminal can send a key of this name."""
    *modifiers, name = text.split("+") if text != "+" else [text]
    if not set(modifiers) <= MODIFIERS:
        return False
    if len(name) == 1:
        return name.isprintable()
    return name in NAMED_KEYS or _is_character_name(name)


def _is_character_name(name: str) -> bool:
    """Return whether Textual derives this name from the Unicode name of a character, as in `exclamation_mark`."""
    try:
        unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return False
    return name == name.lower()


def suggest_key(text: str) -> str:
    """Return a hint for the name of an unknown key."""
    near = text.strip().lower().replace(" ", "").replace("-", "+").replace("ctl", "ctrl").replace("control", "ctrl")
    return f"did you mean {near}?" if is_key_name(near) else "write keys as x, f5, ctrl+x or question_mark"


def normalize_key(text: str) -> str:
    """Return the name of a key that is given by its name or as a character, such as question_mark for ?."""
    return _character_to_key(text) if len(text) == 1 else text


TEXTS_BY_KEY = {"enter": "enter", "backspace": "backspace"}
"""Texts of keys whose signs in Textual are rarely known."""


def format_keys(key_names: str) -> str:
    """Return comma-separated keys as texts show them: `question_mark,f1` becomes `?, F1`."""
    return ", ".join(format_key_name(name.strip()) for name in key_names.split(","))


def format_key_name(name: str) -> str:
    """Return one key as texts show it, such as `ctrl+p`, `F5` or `?`."""
    *modifiers, key = name.split("+") if name != "+" else [name]
    if key.startswith("f") and key[1:].isdecimal():
        key = key.upper()
    return "+".join([*modifiers, TEXTS_BY_KEY.get(key) or format_key(key)])
