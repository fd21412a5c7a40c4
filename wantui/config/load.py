"""Load config files, the older system's among them, with errors that name line, key and the nearest valid key."""

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
from wantui.config.document import Key, Scalar, plain, read_document, read_text
from wantui.config.fields import field_of
from wantui.config.presets import find_config
from wantui.config.problems import MAX_PROBLEMS, ConfigError, Problem, at_most
from wantui.config.settings import PATTERNS, Settings
from wantui.config.values import value_from_text
from wantui.formatting import MAX_TEXT, UNPRINTABLE, printable, shorten
from wantui.section import Section

UNSUPPORTED_SECTIONS = {
    "cfg_schedule_settings": "schedules of the guidance scale",
    "prompt_schedule_settings": "schedules of the prompt",
    "attention_bending_settings": "attention bending",
    "attention_bending_variations": "sweeps of attention bending",
}
IGNORED_SECTIONS = {"output_settings": "nothing ever read this section"}
SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Bytes of the command line that are not UTF-8, as Python hands them over."""
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = MAX_TEXT
RENAMED = {"model_revision": "model_settings.revision"}
"""Legacy keys and their current names."""
MAX_KEY = 80
"""Longest key that a message repeats, in characters."""


@dataclass(frozen=True)
class Option:
    """A setting that a dedicated command-line option sets."""

    name: str
    """The option, `--seed`."""
    value: Any


@dataclass(frozen=True)
class Config:
    """Validated settings, the source of each, and notes for the user."""

    settings: Settings
    source: Path | str
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()
    """Requests of the file that this version does not support; such a config can be shown, but not run."""

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
    """Load a config by path or preset name, and apply what the command line changes.

    Args:
        overrides: changes of the form section.key=value, whose text `values.value_from_text` reads.
        options: settings by their dotted key that have an option of their own; `overrides` win over them.
        may_be_pipe: accept a pipe and wait for its end; only for a path that the command line names.

    Raises:
        ConfigError: no such file, YAML that does not parse, unknown keys, wrong values; all of them at once.
    """
    path = find_config(name)
    return parse_config(read_text(path, may_be_pipe=may_be_pipe), path, overrides, options)


def parse_config(
    text: str, source: Path | str, overrides: Sequence[str] = (), options: Mapping[str, Option] | None = None
) -> Config:
    """Return the config of a YAML text; see `load_config`."""
    reader = _Reader(source)
    values = reader.read(text)
    for key, option in (options or {}).items():
        reader.set(values, tuple(key.split(".")), option.value, option.name)
    for override in overrides:
        reader.override(values, override)
    reader.drop_dead_keys(values)
    values = reader.typed(values)
    problems, hidden = list(reader.problems), 0
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems += [reader.explain(details) for details in errors[:MAX_PROBLEMS]]
        hidden = max(len(errors) - MAX_PROBLEMS, 0)
    if problems:
        raise ConfigError(at_most(problems, source, hidden))
    return Config(settings, source, tuple(at_most(reader.warnings, source)), tuple(at_most(reader.refusals, source)))


class _Reader:
    """Converter of a YAML text to values for the settings that records the source of each key."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.lines: dict[Key, int] = {}
        self.origins: dict[Key, str] = {}
        """The option of the command line that gave a key."""
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.refusals: list[Problem] = []

    def problem(self, key: Key, message: str) -> Problem:
        dotted = ".".join(shorten(part, MAX_KEY) for part in key)
        if key in self.origins:
            return Problem(self.origins[key], None, dotted, message)
        line = next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), None)
        return Problem(self.source, line, dotted, message)

    def read(self, text: str) -> dict[str, Any]:
        document = read_document(text, self.source)
        self.lines = document.lines
        for key, line in document.repeated:
            self.warnings.append(self.problem(key, f"written twice; the one in line {line} counts"))
        return document.values

    def override(self, values: dict[str, Any], override: str) -> None:
        """Apply section.key=value."""
        dotted, equals, written = override.partition("=")
        key = tuple(dotted.strip().split("."))
        if not equals or not all(key):
            raise ConfigError([Problem("--set", None, shorten(override, MAX_KEY), "write it as section.key=value")])
        if len(key) == 1 and _section_model(key[0]):
            raise ConfigError([Problem("--set", None, key[0], f"is a section; write {key[0]}.key=value")])
        self.set(values, key, Scalar(written, quoted=False), "--set")

    def set(self, values: dict[str, Any], key: Key, value: Any, origin: str) -> None:
        """Set a value given on the command line."""
        written = (*key, value.text if isinstance(value, Scalar) else str(value))
        if any(SURROGATE.search(text) for text in written):
            raise ConfigError([Problem(origin, None, "", "holds text that is not UTF-8")])
        *sections, last = key
        for section in sections:
            inner = values.get(section)
            if inner is None or (isinstance(inner, Scalar) and inner.is_null):
                inner = values[section] = {}
            if not isinstance(inner, dict):
                message = f"{shorten(section, MAX_KEY)} is not a section"
                raise ConfigError([Problem(origin, None, ".".join(shorten(part, MAX_KEY) for part in key), message)])
            values = inner
        values[last] = value
        given = (key[:n] for n in range(1, len(key) + 1) if key[:n] not in self.lines or n == len(key))
        self.origins.update(dict.fromkeys(given, origin))

    def typed(self, values: dict[str, Any]) -> dict[str, Any]:
        """Convert the values to the declared types of the settings; text that does not convert is a problem."""
        typed: dict[str, Any] = {}
        for name, content in values.items():
            if _section_model(name) and isinstance(content, dict):
                typed[name] = {}
                for word, value in content.items():
                    self._type(typed[name], word, (name, word), value)
            elif _section_model(name) and isinstance(content, Scalar) and content.is_null:
                typed[name] = {}
            else:
                self._type(typed, name, (name,), content)
        return typed

    def _type(self, target: dict[str, Any], word: str, key: Key, value: Any) -> None:
        field = field_of(".".join(key))
        if field is None or not isinstance(value, Scalar):
            target[word] = plain(value)
        elif value.is_null and key not in self.origins:
            target[word] = None
        elif value.quoted and field.kind == "text":
            target[word] = value.text
        else:
            try:
                target[word] = value_from_text(field, value.text)
            except ValueError as error:
                self.problems.append(self.problem(key, str(error)))

    def drop_dead_keys(self, values: dict[str, Any]) -> None:
        """Take out what the older system wrote and what changes nothing, with a warning for each."""
        for name, content in list(values.items()):
            key = (name,)
            if name in UNSUPPORTED_SECTIONS:
                self._drop_unsupported(name, plain(values.pop(name)))
            elif name in IGNORED_SECTIONS:
                del values[name]
                self.warnings.append(self.problem(key, f"ignored: {IGNORED_SECTIONS[name]}"))
            elif "memory_settings" in name and name != "memory_settings":
                del values[name]
                self.warnings.append(self.problem(key, "ignored: a misspelt memory_settings"))
            elif isinstance(content, dict) and (section := _section_model(name)):
                for word in [word for word in content if word in section.DEAD]:
                    self.warnings.append(self.problem((*key, word), f"has no effect: {section.DEAD[word]}"))
                    del content[word]
                if name == "prompt_settings":
                    self._drop_weighting(content)

    def _drop_unsupported(self, name: str, content: Any) -> None:
        """Refuse a section for a feature that this version lacks, unless the section is switched off."""
        if content is None or content == {} or (isinstance(content, dict) and _is_false(content.get("enabled", ""))):
            return
        key: Key = (name, "enabled") if isinstance(content, dict) and "enabled" in content else (name,)
        message = f"this version has no {UNSUPPORTED_SECTIONS[name]}"
        if key == (name,) and isinstance(content, dict):
            message += "; `enabled: false` switches them off"
        self.refusals.append(self.problem(key, message))

    def _drop_weighting(self, content: dict[str, Any]) -> None:
        if plain(content.get("embedding_method")) == "norm_preserving":
            del content["embedding_method"]
            message = "norm_preserving never changed anything; weights are applied by attention instead"
            self.warnings.append(self.problem(("prompt_settings", "embedding_method"), message))
        if not _is_false(plain(content.pop("enable_weighting", False))):
            key = ("prompt_settings", "enable_weighting")
            self.refusals.append(self.problem(key, "automatic weighting is not done; write (word:1.5)"))

    def explain(self, details: Any) -> Problem:
        """Return a validation error of pydantic in words, with the nearest valid key for an unknown one."""
        key = tuple(str(part) for part in details["loc"] if part != "function-before")
        if details["type"] == "extra_forbidden":
            return self.problem(key, f"unknown key{nearest(key)}")
        if details["type"] == "value_error":
            return self.problem(key, shorten(str(details["ctx"]["error"])))
        words = f"{details['msg'][0].lower()}{details['msg'][1:]}"
        if details["type"] == "string_pattern_mismatch":
            words = PATTERNS.get(details["ctx"]["pattern"], words)
        message = f"{words}, got {_REPR.repr(details['input'])}"
        return self.problem(key, message)


def _is_false(value: Any) -> bool:
    return value is None or value is False or value in ("0", "0.0")


def _section_model(name: str) -> type[Section] | None:
    """Return the model of a section of the file; nothing for a plain key."""
    field = Settings.model_fields.get(name)
    model = field.annotation if field else None
    return model if isinstance(model, type) and issubclass(model, Section) else None


def valid_keys() -> list[Key]:
    """Return all sections and keys, in the order of the file."""
    keys: list[Key] = []
    for name in Settings.model_fields:
        keys.append((name,))
        if section := _section_model(name):
            keys += [(name, key) for key in section.model_fields]
    return keys


def nearest(key: Key) -> str:
    """Return a hint at the key that was probably meant, or an empty string."""
    key = tuple(part[:MAX_KEY] for part in key)  # what is compared by parts of words takes long where it is long
    keys = valid_keys()
    if key[-1] in RENAMED:
        return f"; it is {RENAMED[key[-1]]} here"
    same_word = [valid for valid in keys if valid[-1] == key[-1]]
    here = {valid[-1]: valid for valid in keys if valid[:-1] == key[:-1]}
    anywhere = {valid[-1]: valid for valid in keys}
    for candidates in (here, anywhere):
        if same_word:
            break
        close = difflib.get_close_matches(key[-1], candidates, n=1, cutoff=0.6)
        same_word = [candidates[word] for word in close]
    if same_word:
        return f"; did you mean {'.'.join(same_word[0])}?"
    return f"; wantui {__version__} has {', '.join(here)} here" if here else f"; wantui {__version__} has none here"


def as_dict(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values, in the order of the file; empty sections left out."""
    values = settings.model_dump(mode="json")
    return {name: value for name, value in values.items() if value != {}}


def dump(settings: Settings) -> str:
    """Return the settings as YAML that loads to the same settings, and in which a terminal obeys nothing."""
    return dump_values(as_dict(settings))


def dump_values(values: Mapping[str, Any]) -> str:
    """Return plain values, as `as_dict` makes them, as YAML in which a terminal obeys nothing."""
    text = str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    return printable(text, keep_lines=True)


class _Dumper(yaml.SafeDumper):
    """Quotes text that holds control characters: in double quotes their escapes mean the characters themselves."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if UNPRINTABLE.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
