"""Read config files, the older system's among them, with errors that name line, key and the nearest valid key."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from wantui.config.presets import find_config
from wantui.config.problems import ConfigError, Problem
from wantui.config.settings import Section, Settings
from wantui.formatting import UNPRINTABLE, printable

UNSUPPORTED_SECTIONS = {
    "cfg_schedule_settings": "schedules of the guidance scale",
    "prompt_schedule_settings": "schedules of the prompt",
    "attention_bending_settings": "attention bending",
    "attention_bending_variations": "sweeps of attention bending",
}
IGNORED_SECTIONS = {"output_settings": "nothing ever read this section"}
NOT_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises for values of a tagged or date-like form that hold something else, and for endless nesting."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where PyYAML was built with it, as its wheels are: eight configs are summarised while a screen is drawn."""
Key = tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """Validated settings, where they came from, and what the user has to know about them."""

    settings: Settings
    source: Path | str
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()
    """What the file asks for and this version cannot do; such a config can be looked at, and is not run."""

    @property
    def name(self) -> str:
        return Path(self.source).stem


def load_config(name: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Load a config by path or preset name, and apply overrides of the form section.key=value.

    Raises:
        ConfigError: no such file, YAML that does not parse, unknown keys, wrong values; all of them at once.
    """
    path = find_config(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(path, None, "", f"cannot be read: {error}")]) from None
    return parse_config(text, path, overrides)


def parse_config(text: str, source: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML text; see `load_config`."""
    reader = _Reader(source)
    values = reader.read(text)
    for override in overrides:
        reader.override(values, override)
    reader.drop_dead_keys(values)
    if reader.problems:
        raise ConfigError(reader.problems)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError([reader.explain(details) for details in error.errors()]) from None
    return Config(settings, source, tuple(reader.warnings), tuple(reader.refusals))


class _Reader:
    """Turns a YAML text into plain values while it remembers the line of every key."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.lines: dict[Key, int] = {}
        self.overridden: set[Key] = set()
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.refusals: list[Problem] = []

    def problem(self, key: Key, message: str) -> Problem:
        if key in self.overridden:
            return Problem("--set", None, ".".join(key), message)
        line = next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), None)
        return Problem(self.source, line, ".".join(key), message)

    def refuse(self, key: Key, message: str) -> None:
        self.refusals.append(self.problem(key, message))

    def read(self, text: str) -> dict[str, Any]:
        try:
            node = yaml.compose(text, Loader=LOADER)
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            reason = getattr(error, "problem", None) or str(error)
            line = mark.line + 1 if mark else None
            raise ConfigError([Problem(self.source, line, "", f"not valid YAML: {reason}")]) from None
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(
                [Problem(self.source, 1, "", "a config is a mapping of sections, such as model_settings:")]
            )
        try:
            self.note_lines(node, ())
            values: dict[str, Any] = yaml.constructor.SafeConstructor().construct_document(node)
        except NOT_YAML as error:
            raise ConfigError([Problem(self.source, None, "", f"not valid YAML: {error}")]) from None
        return {
            name: {} if content is None and _section_model(str(name)) else content for name, content in values.items()
        }

    def note_lines(self, node: yaml.MappingNode, above: Key) -> None:
        for key_node, value_node in node.value:
            key = (*above, str(key_node.value))
            line = key_node.start_mark.line + 1
            if key in self.lines:
                message = f"written twice; the one in line {line} counts"
                self.warnings.append(self.problem(key, message))
            self.lines[key] = line
            if isinstance(value_node, yaml.MappingNode):
                self.note_lines(value_node, key)

    def override(self, values: dict[str, Any], override: str) -> None:
        dotted, equals, written = override.partition("=")
        key = tuple(dotted.strip().split("."))
        if not equals or not all(key):
            problem = Problem("--set", None, override, "write it as section.key=value")
            raise ConfigError([problem])
        try:
            value = yaml.safe_load(written)
        except NOT_YAML:
            value = written
        *sections, last = key
        for section in sections:
            values = values.setdefault(section, {})
            if not isinstance(values, dict):
                raise ConfigError([Problem("--set", None, dotted, f"{section} is not a section")])
        values[last] = value
        self.overridden.update(key[:n] for n in range(1, len(key) + 1) if key[:n] not in self.lines or n == len(key))

    def drop_dead_keys(self, values: dict[str, Any]) -> None:
        """Take out what the older system wrote and what changes nothing, with a warning for each."""
        for name, content in list(values.items()):
            key = (str(name),)
            if name in UNSUPPORTED_SECTIONS:
                if isinstance(values.pop(name), dict) and content.get("enabled"):
                    self.refuse((*key, "enabled"), f"{UNSUPPORTED_SECTIONS[name]} are not part of this version")
            elif name in IGNORED_SECTIONS:
                del values[name]
                self.warnings.append(self.problem(key, f"ignored: {IGNORED_SECTIONS[name]}"))
            elif "memory_settings" in str(name) and name != "memory_settings":
                del values[name]
                self.warnings.append(self.problem(key, "ignored: a misspelt memory_settings"))
            elif isinstance(content, dict) and (section := _section_model(str(name))):
                dead = section.DEAD
                for word in [word for word in content if word in dead]:
                    self.warnings.append(self.problem((*key, word), f"has no effect: {dead[word]}"))
                    del content[word]
                if name == "prompt_settings" and content.get("embedding_method") == "norm_preserving":
                    del content["embedding_method"]
                    said = "norm_preserving never changed anything; weights are applied by attention instead"
                    self.warnings.append(self.problem((*key, "embedding_method"), said))
                if name == "prompt_settings" and content.pop("enable_weighting", False):
                    self.refuse((*key, "enable_weighting"), "automatic weighting is not done; write (word:1.5)")

    def explain(self, details: Any) -> Problem:
        """A validation error of pydantic in words, with the nearest valid key for an unknown one."""
        key = tuple(str(part) for part in details["loc"] if part != "function-before")
        if details["type"] == "extra_forbidden":
            return self.problem(key, f"unknown key{nearest(key)}")
        if details["type"] == "value_error":
            return self.problem(key, str(details["ctx"]["error"]))
        return self.problem(key, f"{details['msg'][0].lower()}{details['msg'][1:]}, got {details['input']!r}")


def _section_model(name: str) -> type[Section] | None:
    """The model of a section of the file; nothing for a plain key."""
    field = Settings.model_fields.get(name)
    model = field.annotation if field else None
    return model if isinstance(model, type) and issubclass(model, Section) else None


def valid_keys() -> list[Key]:
    """All sections and keys, in the order of the file."""
    keys: list[Key] = []
    for name in Settings.model_fields:
        keys.append((name,))
        if section := _section_model(name):
            keys += [(name, key) for key in section.model_fields]
    return keys


def nearest(key: Key) -> str:
    """A hint at the key that was probably meant, or an empty string."""
    keys = valid_keys()
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
    return f"; valid here: {', '.join(here)}" if here else ""


def as_dict(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, in the order of the file; empty sections left out."""
    values = settings.model_dump(mode="json")
    return {name: value for name, value in values.items() if value != {}}


def dump(settings: Settings) -> str:
    """Return the settings as YAML that loads to the same settings, and in which a terminal obeys nothing."""
    text = str(yaml.dump(as_dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    return printable(text, keep_lines=True)


class _Dumper(yaml.SafeDumper):
    """Quotes text that holds control characters: in double quotes their escapes mean the characters themselves."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if UNPRINTABLE.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
