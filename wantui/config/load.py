"""Load config files, also those of the older system; errors give the line, the key and the nearest valid key."""

import difflib
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from wantui import __version__
from wantui.config.document import Key, Scalar, read_document, read_text, to_plain
from wantui.config.fields import find_field
from wantui.config.presets import find_config
from wantui.config.problems import MAX_PROBLEMS, ConfigError, Problem, limit_problems
from wantui.config.settings import PATTERN_RULES, Settings
from wantui.config.values import parse_value
from wantui.formatting import MAX_TEXT_LENGTH, UNPRINTABLE, escape_unprintable, shorten_text
from wantui.section import Section

UNSUPPORTED_SECTIONS = {
    "cfg_schedule_settings": "guidance schedules",
    "prompt_schedule_settings": "prompt schedules",
    "attention_bending_settings": "attention bending",
    "attention_bending_variations": "attention bending sweeps",
}
"""Sections of the older system for features that wantui lacks, and the names of these features."""
IGNORED_SECTIONS = {"output_settings": "the older system never read this section"}
"""Sections without effect, and the reason."""
SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Surrogate character, by which Python passes a byte of the command line that is not UTF-8."""
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = MAX_TEXT_LENGTH
RENAMED_KEYS = {"model_revision": "model_settings.revision"}
"""Legacy keys and their current names."""
MAX_KEY_LENGTH = 80
"""Longest key that a message quotes, in characters."""


@dataclass(frozen=True)
class Option:
    """The value of a setting from a command-line option of its own."""

    name: str
    """Name of the option, such as `--seed`."""
    value: Any


@dataclass(frozen=True)
class Config:
    """Validated settings, their source, and notes for the user."""

    settings: Settings
    source: Path | str
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()
    """Requested features that this version lacks; the config can be shown, but not run."""

    @property
    def name(self) -> str:
        return Path(self.source).stem


def load_config(
    name: Path | str,
    overrides: Sequence[str] = (),
    options: Mapping[str, Option] | None = None,
    *,
    may_be_pipe: bool = False,
) -> Config:
    """Load a config by path or preset name, and apply the settings of the command line.

    Args:
        overrides: settings as section.key=value.
        options: settings from options of their own, by dotted key; `overrides` take precedence.
        may_be_pipe: accept a pipe and wait for its end; only for a path from the command line.

    Raises:
        ConfigError: the file is missing or not YAML, or keys or values are invalid; lists all problems.
    """
    path = find_config(name)
    return parse_config(read_text(path, may_be_pipe=may_be_pipe), path, overrides, options)


def parse_config(
    text: str, source: Path | str, overrides: Sequence[str] = (), options: Mapping[str, Option] | None = None
) -> Config:
    """Parse YAML text to a config, as `load_config` does for a file."""
    reader = _ConfigReader(source)
    values = reader.read_yaml(text)
    for key, option in (options or {}).items():
        reader.set_value(values, tuple(key.split(".")), option.value, option.name)
    for override in overrides:
        reader.apply_override(values, override)
    reader.warn_of_repeated_options()
    reader.drop_ignored_keys(values)
    values = reader.convert_types(values)
    problems, hidden = list(reader.problems), 0
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems += [reader.explain_error(details) for details in errors[:MAX_PROBLEMS]]
        hidden = max(len(errors) - MAX_PROBLEMS, 0)
    if problems:
        raise ConfigError(limit_problems(problems, source, hidden))
    return Config(
        settings, source, tuple(limit_problems(reader.warnings, source)), tuple(limit_problems(reader.refusals, source))
    )


class _ConfigReader:
    """Reader that converts YAML text to values of settings, and records the source of each key."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.lines: dict[Key, int] = {}
        self.origins: dict[Key, str] = {}
        """Key -> command-line option that set it."""
        self.repeated: dict[Key, list[str]] = {}
        """Key -> all command-line options that set it, in the order in which they were applied."""
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.refusals: list[Problem] = []

    def make_problem(self, key: Key, message: str) -> Problem:
        """Return a problem at the line of a key, or of its section if the key has no line."""
        dotted = ".".join(shorten_text(part, MAX_KEY_LENGTH) for part in key)
        if key in self.origins:
            return Problem(self.origins[key], None, dotted, message)
        line = next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), None)
        return Problem(self.source, line, dotted, message)

    def read_yaml(self, text: str) -> dict[str, Any]:
        document = read_document(text, self.source)
        self.lines = document.lines
        for key, line in document.duplicates:
            self.warnings.append(self.make_problem(key, f"duplicate key; the value in line {line} is used"))
        return document.values

    def apply_override(self, values: dict[str, Any], override: str) -> None:
        """Set the value of section.key=value."""
        dotted, equals, text = override.partition("=")
        key = tuple(dotted.strip().split("."))
        if not equals or not all(key):
            raise ConfigError(
                [Problem("--set", None, shorten_text(override, MAX_KEY_LENGTH), "write it as section.key=value")]
            )
        if len(key) == 1 and _find_section(key[0]):
            raise ConfigError([Problem("--set", None, key[0], f"is a section; write {key[0]}.key=value")])
        self.set_value(values, key, Scalar(text, is_quoted=False), "--set")

    def set_value(self, values: dict[str, Any], key: Key, value: Any, origin: str) -> None:
        """Set a value from the command line."""
        texts = (*key, value.text if isinstance(value, Scalar) else str(value))
        if any(SURROGATE.search(text) for text in texts):
            raise ConfigError([Problem(origin, None, "", "contains text that is not UTF-8")])
        *sections, last = key
        for section in sections:
            inner = values.get(section)
            if inner is None or (isinstance(inner, Scalar) and inner.is_null):
                inner = values[section] = {}
            if not isinstance(inner, dict):
                message = f"{shorten_text(section, MAX_KEY_LENGTH)} is not a section"
                raise ConfigError(
                    [Problem(origin, None, ".".join(shorten_text(part, MAX_KEY_LENGTH) for part in key), message)]
                )
            values = inner
        values[last] = value
        self.repeated.setdefault(key, []).append(origin)
        new_keys = (key[:n] for n in range(1, len(key) + 1) if key[:n] not in self.lines or n == len(key))
        self.origins.update(dict.fromkeys(new_keys, origin))

    def warn_of_repeated_options(self) -> None:
        """Warn of settings that the command line sets several times."""
        for key, origins in self.repeated.items():
            if len(origins) > 1:
                options = " and ".join(dict.fromkeys(origins))
                times = "twice" if len(origins) == 2 else f"{len(origins)} times"
                message = f"set {times}, by {options}; the last value of {origins[-1]} is used"
                dotted = ".".join(shorten_text(part, MAX_KEY_LENGTH) for part in key)
                self.warnings.append(Problem("command line", None, dotted, message))

    def convert_types(self, values: dict[str, Any]) -> dict[str, Any]:
        """Convert values to the declared types of the settings; record a problem for each invalid text."""
        converted: dict[str, Any] = {}
        for name, content in values.items():
            if _find_section(name) and isinstance(content, dict):
                converted[name] = {}
                for word, value in content.items():
                    self._convert_value(converted[name], word, (name, word), value)
            elif _find_section(name) and isinstance(content, Scalar) and content.is_null:
                converted[name] = {}
            else:
                self._convert_value(converted, name, (name,), content)
        return converted

    def _convert_value(self, target: dict[str, Any], word: str, key: Key, value: Any) -> None:
        field = find_field(".".join(key))
        if field is None or not isinstance(value, Scalar):
            target[word] = to_plain(value)
        elif value.is_null and key not in self.origins:
            target[word] = None
        elif value.is_quoted and field.kind == "text":
            target[word] = value.text
        else:
            try:
                target[word] = parse_value(field, value.text)
            except ValueError as error:
                self.problems.append(self.make_problem(key, str(error)))

    def drop_ignored_keys(self, values: dict[str, Any]) -> None:
        """Remove sections and keys of the older system without effect here, with a warning or refusal for each."""
        for name, content in list(values.items()):
            key = (name,)
            if name in UNSUPPORTED_SECTIONS:
                self._drop_unsupported(name, to_plain(values.pop(name)))
            elif name in IGNORED_SECTIONS:
                del values[name]
                self.warnings.append(self.make_problem(key, f"ignored: {IGNORED_SECTIONS[name]}"))
            elif "memory_settings" in name and name != "memory_settings":
                del values[name]
                self.warnings.append(self.make_problem(key, "ignored: a misspelt memory_settings"))
            elif isinstance(content, dict) and (section := _find_section(name)):
                for word in [word for word in content if word in section.IGNORED_KEYS]:
                    self.warnings.append(
                        self.make_problem((*key, word), f"has no effect: {section.IGNORED_KEYS[word]}")
                    )
                    del content[word]
                if name == "prompt_settings":
                    self._drop_weighting(content)

    def _drop_unsupported(self, name: str, content: Any) -> None:
        """Refuse a section for a feature that this version lacks, unless the section is disabled."""
        if content is None or content == {} or (isinstance(content, dict) and _is_false(content.get("enabled", ""))):
            return
        key: Key = (name, "enabled") if isinstance(content, dict) and "enabled" in content else (name,)
        message = f"not supported: {UNSUPPORTED_SECTIONS[name]}"
        if key == (name,) and isinstance(content, dict):
            message += "; `enabled: false` disables the section"
        self.refusals.append(self.make_problem(key, message))

    def _drop_weighting(self, content: dict[str, Any]) -> None:
        """Remove the weighting keys of the older system that have no counterpart here."""
        if to_plain(content.get("embedding_method")) == "norm_preserving":
            del content["embedding_method"]
            message = "norm_preserving never had an effect; the method `attention` is used instead"
            self.warnings.append(self.make_problem(("prompt_settings", "embedding_method"), message))
        if not _is_false(to_plain(content.pop("enable_weighting", False))):
            key = ("prompt_settings", "enable_weighting")
            self.refusals.append(
                self.make_problem(key, "automatic weighting is not supported; write (word:1.5) in the template")
            )

    def explain_error(self, details: Any) -> Problem:
        """Return the problem for a validation error of pydantic; for an unknown key, suggest the nearest valid one."""
        key = tuple(str(part) for part in details["loc"] if part != "function-before")
        if details["type"] == "extra_forbidden":
            return self.make_problem(key, f"unknown key{_suggest_key(key)}")
        if details["type"] == "value_error":
            return self.make_problem(key, shorten_text(str(details["ctx"]["error"])))
        if details["type"] == "model_type":
            words = "should be a section: keys and values below it"
            return self.make_problem(key, f"{words}, got {_REPR.repr(details['input'])}")
        if details["input"] is None:
            words = "has no value. Give one, or remove the key to use the default"
            return self.make_problem(key, words)
        words = f"{details['msg'][0].lower()}{details['msg'][1:]}"
        if details["type"] == "string_pattern_mismatch":
            words = PATTERN_RULES.get(details["ctx"]["pattern"], words)
        message = f"{words}, got {_REPR.repr(details['input'])}"
        return self.make_problem(key, message)


def _is_false(value: Any) -> bool:
    return value is None or value is False or value in ("0", "0.0")


def _find_section(name: str) -> type[Section] | None:
    """Return the model of a section; None if the name is not that of a section."""
    field = Settings.model_fields.get(name)
    model = field.annotation if field else None
    return model if isinstance(model, type) and issubclass(model, Section) else None


def _list_valid_keys() -> list[Key]:
    """Return all sections and keys, in the order of the config file."""
    keys: list[Key] = []
    for name in Settings.model_fields:
        keys.append((name,))
        if section := _find_section(name):
            keys += [(name, key) for key in section.model_fields]
    return keys


def _suggest_key(key: Key) -> str:
    """Return the end of an "unknown key" message: the key that was probably meant, or the valid keys."""
    key = tuple(part[:MAX_KEY_LENGTH] for part in key)  # difflib is slow for long keys
    keys = _list_valid_keys()
    if key[-1] in RENAMED_KEYS:
        return f"; it is now {RENAMED_KEYS[key[-1]]}"
    candidates = [valid for valid in keys if valid[-1] == key[-1]]
    same_section = {valid[-1]: valid for valid in keys if valid[:-1] == key[:-1]}
    all_sections = {valid[-1]: valid for valid in keys}
    for choices in (same_section, all_sections):
        if candidates:
            break
        close = difflib.get_close_matches(key[-1], choices, n=1, cutoff=0.6)
        candidates = [choices[word] for word in close]
    if candidates:
        return f"; did you mean {'.'.join(candidates[0])}?"
    if not same_section:
        return f"; wantui {__version__} has no keys here"
    return f"; valid keys of wantui {__version__} here: {', '.join(same_section)}"


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values, in the order of the config file, without empty sections."""
    values = settings.model_dump(mode="json")
    return {name: value for name, value in values.items() if value != {}}


def dump(settings: Settings) -> str:
    """Return the settings as YAML that loads to the same settings, with control characters escaped."""
    return dump_values(to_dict(settings))


def dump_values(values: Mapping[str, Any]) -> str:
    """Return the values of `to_dict` as YAML, with control characters escaped."""
    text = str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    return escape_unprintable(text, keep_lines=True)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that double-quotes text with control characters, because only there YAML has escapes for them."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if UNPRINTABLE.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
