"""Load config files, including files of the older system; errors give the line, the key and the nearest valid key."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wantui.config.document import KeyPath, YamlScalar, convert_to_plain_value, parse_yaml_document, read_config_text
from wantui.config.fields import FormField, find_form_field
from wantui.config.key_suggestions import (
    MAX_KEY_LENGTH,
    describe_ambiguous_key,
    find_section,
    format_key_suggestion,
    list_setting_paths,
)
from wantui.config.legacy_keys import LegacyKeyConverter
from wantui.config.presets import find_config_path
from wantui.config.problems import MAX_PROBLEMS, ConfigError, ConfigProblem, limit_problems
from wantui.config.settings import RULE_BY_PATTERN, Settings
from wantui.config.sweep import resolve_sweep_axes
from wantui.config.sweep_syntax import SweepError
from wantui.config.validation_messages import explain_invalid_value
from wantui.config.values import parse_mapping_item, parse_setting_value
from wantui.formatting import shorten_text

SURROGATE_PATTERN = re.compile(r"[\ud800-\udfff]")
"""Surrogate character, which Python uses for a byte of the command line that is not UTF-8."""


@dataclass(frozen=True)
class OptionValue:
    """Value of a setting that has its own command-line option."""

    name: str
    """Name of the option, such as `--seed`."""
    value: Any


@dataclass(frozen=True)
class Config:
    """Validated settings, their source, and notes for the user."""

    settings: Settings
    source: Path | str
    warnings: tuple[ConfigProblem, ...] = ()
    refusals: tuple[ConfigProblem, ...] = ()
    """Requested features that this version lacks; the config can be shown, but not run."""
    line_by_key: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Line of each dotted key in the file, counted from 1."""

    @property
    def name(self) -> str:
        return Path(self.source).stem


def load_config(
    name: Path | str,
    overrides: Sequence[str] = (),
    options: Mapping[str, OptionValue] | None = None,
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
        UserError: the path cannot be used.
    """
    path = find_config_path(name)
    return parse_config(read_config_text(path, may_be_pipe=may_be_pipe), path, overrides, options)


def parse_config(
    text: str, source: Path | str, overrides: Sequence[str] = (), options: Mapping[str, OptionValue] | None = None
) -> Config:
    """Parse YAML text to a config, as `load_config` does for a file."""
    config_reader = _ConfigReader(source)
    values = config_reader.read_yaml(text)
    for key, option in (options or {}).items():
        config_reader.set_option_value(values, tuple(key.split(".")), option.value, option.name)
    for override in overrides:
        config_reader.apply_override(values, override)
    config_reader.warn_of_repeated_options()
    config_reader.convert_legacy_keys(values)
    values = config_reader.convert_value_types(values)
    settings = config_reader.validate_settings(values)
    if settings is not None:
        if sweep_problems := config_reader.find_sweep_problems(settings):
            config_reader.problems += sweep_problems
            settings = settings.model_copy(update={"sweeps": None})
        config_reader.warn_of_replaced_seeds(values, settings)
    if config_reader.problems or settings is None:
        problems = sorted(config_reader.problems, key=lambda problem: problem.line or math.inf)
        limited_problems = limit_problems(problems, source, config_reader.hidden_problem_count)
        raise ConfigError(limited_problems, settings, config_reader.list_dotted_lines())
    return Config(
        settings,
        source,
        tuple(limit_problems(config_reader.warnings, source)),
        tuple(limit_problems(config_reader.refusals, source)),
        config_reader.list_dotted_lines(),
    )


class _ConfigReader:
    """Reader that converts YAML text to values of settings, and records the source of each key."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.line_by_key: dict[KeyPath, int] = {}
        self.option_by_key: dict[KeyPath, str] = {}
        """Key -> command-line option that set it."""
        self.options_by_key: dict[KeyPath, list[str]] = {}
        """Key -> all command-line options that set it, in the order in which they were applied."""
        self.problems: list[ConfigProblem] = []
        self.hidden_problem_count = 0
        self.warnings: list[ConfigProblem] = []
        self.refusals: list[ConfigProblem] = []

    def make_problem(self, key: KeyPath, message: str) -> ConfigProblem:
        """Return a problem at the option or line of a key, or else of the innermost section around the key."""
        dotted_key = ".".join(shorten_text(part, MAX_KEY_LENGTH) for part in key)
        for part_count in range(len(key), 0, -1):
            if (option := self.option_by_key.get(key[:part_count])) is not None:
                return ConfigProblem(option, None, dotted_key, message)
            if (line := self.line_by_key.get(key[:part_count])) is not None:
                return ConfigProblem(self.source, line, dotted_key, message)
        return ConfigProblem(self.source, None, dotted_key, message)

    def list_dotted_lines(self) -> dict[str, int]:
        """Return the line of each key of the file by its dotted name."""
        return {".".join(key): line for key, line in self.line_by_key.items()}

    def read_yaml(self, text: str) -> dict[str, Any]:
        document = parse_yaml_document(text, self.source)
        self.line_by_key = document.line_by_key
        for key, line in document.duplicate_keys:
            parent_field = find_form_field(".".join(key[:-1]))
            if parent_field is not None and parent_field.kind == "mapping":
                self.problems.append(self.make_problem(key, f"occurs again in line {line}. Remove one"))
                continue
            self.warnings.append(self.make_problem(key, f"duplicate key; the value in line {line} is used"))
        return document.values

    def apply_override(self, values: dict[str, Any], override: str) -> None:
        """Set the value of section.key=value; the key alone is enough if just one section has it.

        Raises:
            ConfigError: it is written in another way, or several sections have the key.
        """
        dotted_key, separator, value_text = override.partition("=")
        key = tuple(dotted_key.strip().split("."))
        if not separator or not all(key):
            raise ConfigError(
                [ConfigProblem("--set", None, shorten_text(override, MAX_KEY_LENGTH), "write it as section.key=value")]
            )
        if len(key) == 1 and find_section(key[0]):
            raise ConfigError([ConfigProblem("--set", None, key[0], f"is a section; write {key[0]}.key=value")])
        if len(key) == 1 and key[0] not in Settings.model_fields:
            paths = [path for path in list_setting_paths() if path.endswith(f".{key[0]}")]
            if len(paths) > 1:
                raise ConfigError([ConfigProblem("--set", None, key[0], describe_ambiguous_key(paths))])
            key = tuple(paths[0].split(".")) if paths else key
        self.set_option_value(values, key, YamlScalar(value_text, is_quoted=False), "--set")

    def set_option_value(self, values: dict[str, Any], key: KeyPath, value: Any, option_name: str) -> None:
        """Set a value from the command line."""
        texts_to_check = (*key, value.text if isinstance(value, YamlScalar) else str(value))
        if any(SURROGATE_PATTERN.search(text) for text in texts_to_check):
            raise ConfigError([ConfigProblem(option_name, None, "", "contains text that is not UTF-8")])
        *section_names, setting_name = key
        for section_name in section_names:
            section_values = values.get(section_name)
            if section_values is None or (isinstance(section_values, YamlScalar) and section_values.is_null):
                section_values = values[section_name] = {}
            if not isinstance(section_values, dict):
                message = f"{shorten_text(section_name, MAX_KEY_LENGTH)} is not a section"
                raise ConfigError(
                    [
                        ConfigProblem(
                            option_name, None, ".".join(shorten_text(part, MAX_KEY_LENGTH) for part in key), message
                        )
                    ]
                )
            values = section_values
        values[setting_name] = value
        self.options_by_key.setdefault(key, []).append(option_name)
        new_keys = (key[:n] for n in range(1, len(key) + 1) if key[:n] not in self.line_by_key or n == len(key))
        self.option_by_key.update(dict.fromkeys(new_keys, option_name))

    def validate_settings(self, values: dict[str, Any]) -> Settings | None:
        """Return the settings, and record the problems; return None if no key can be blamed for one of them.

        Invalid keys are removed and the rest is validated again, because pydantic and later checks stop at such keys.
        The loop ends because each further round has fewer keys.
        """
        while True:
            try:
                return Settings.model_validate(values)
            except ValidationError as error:
                validation_errors = error.errors(include_url=False)
            self.problems += map(self.explain_validation_error, validation_errors[:MAX_PROBLEMS])
            self.hidden_problem_count += max(len(validation_errors) - MAX_PROBLEMS, 0)
            remaining_values = values
            for error_details in validation_errors:
                remaining_values = _remove_key(remaining_values, error_details["loc"])
            if remaining_values is values:
                return None
            values = remaining_values

    def find_sweep_problems(self, settings: Settings) -> list[ConfigProblem]:
        """Find the problems of the seeds and the sweep, which depend on several settings."""
        problems = []
        if settings.seeds is not None:
            for key in (("model_settings", "seed"), ("videos_per_variation",)):
                if key in self.option_by_key:
                    message = f"cannot be combined with seeds ({settings.seeds}); change or clear seeds instead"
                    problems.append(self.make_problem(key, message))
        try:
            resolve_sweep_axes(settings)
        except SweepError as error:
            problems.append(self.make_problem(("sweeps",), str(error)))
        return problems

    def warn_of_replaced_seeds(self, values: dict[str, Any], settings: Settings) -> None:
        """Warn if `seeds` overrides a different seed or number of videos in the same file."""
        if settings.seeds is None or ("seeds",) not in self.line_by_key:
            return
        model_values = values.get("model_settings") or {}
        for key, given_value, used_value in (
            (("videos_per_variation",), values.get("videos_per_variation"), settings.videos_per_variation),
            (("model_settings", "seed"), model_values.get("seed"), settings.model_settings.seed),
        ):
            if given_value is not None and given_value != used_value:
                message = f"has no effect, because seeds ({settings.seeds}) lists the videos. Remove one of the two"
                self.warnings.append(self.make_problem(key, message))

    def warn_of_repeated_options(self) -> None:
        """Warn of settings that the command line sets several times."""
        for key, option_names in self.options_by_key.items():
            if len(option_names) > 1:
                joined_names = " and ".join(dict.fromkeys(option_names))
                times_text = "twice" if len(option_names) == 2 else f"{len(option_names)} times"
                message = f"set {times_text}, by {joined_names}; the last value of {option_names[-1]} is used"
                dotted_key = ".".join(shorten_text(part, MAX_KEY_LENGTH) for part in key)
                self.warnings.append(ConfigProblem("command line", None, dotted_key, message))

    def convert_legacy_keys(self, values: dict[str, Any]) -> None:
        """Convert sections and keys of the older system in place, and record the warnings and refusals."""
        converter = LegacyKeyConverter(self.make_problem)
        converter.convert(values)
        self.warnings += converter.warnings
        self.refusals += converter.refusals

    def convert_value_types(self, values: dict[str, Any]) -> dict[str, Any]:
        """Convert values to the declared types of the settings; record a problem for each invalid text."""
        converted: dict[str, Any] = {}
        for name, setting_content in values.items():
            if find_section(name) and isinstance(setting_content, dict):
                converted[name] = {}
                for setting_name, value in setting_content.items():
                    self._convert_value(converted[name], setting_name, (name, setting_name), value)
            elif find_section(name) and isinstance(setting_content, YamlScalar) and setting_content.is_null:
                converted[name] = {}
            else:
                self._convert_value(converted, name, (name,), setting_content)
        return converted

    def _convert_value(self, target_values: dict[str, Any], setting_name: str, key: KeyPath, value: Any) -> None:
        field = find_form_field(".".join(key))
        if field is not None and field.kind == "mapping" and isinstance(value, dict):
            target_values[setting_name] = self._convert_mapping(field, key, value)
        elif field is None or not isinstance(value, YamlScalar):
            target_values[setting_name] = convert_to_plain_value(value)
        elif value.is_null and key not in self.option_by_key:
            target_values[setting_name] = None
        elif value.is_quoted and field.kind == "text":
            target_values[setting_name] = value.text
        else:
            try:
                target_values[setting_name] = parse_setting_value(field, value.text)
            except ValueError as error:
                self.problems.append(self.make_problem(key, str(error)))

    def _convert_mapping(self, field: FormField, key: KeyPath, value: dict[str, Any]) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for item_key, item in value.items():
            try:
                items[item_key] = parse_mapping_item(field, item)
            except ValueError as error:
                self.problems.append(self.make_problem((*key, item_key), str(error)))
        return items

    def explain_validation_error(self, error_details: Any) -> ConfigProblem:
        """Return the problem for a pydantic validation error; suggest a valid key for an unknown key."""
        key = tuple(str(part) for part in error_details["loc"] if part != "function-before")
        if error_details["type"] == "extra_forbidden":
            return self.make_problem(key, f"unknown key{format_key_suggestion(key, error_details['input'])}")
        message = explain_invalid_value(error_details, RULE_BY_PATTERN)
        if len(key) == 1 and isinstance(text := error_details["input"], str) and " " in text:
            setting_name, _, value_text = text.partition(" ")
            if f"{key[0]}.{setting_name}" in list_setting_paths():
                message += f". Its line has no colon: write `{setting_name}: {value_text.strip()}`"
        return self.make_problem(key, message)


def _remove_key(section: dict[str, Any], location: Sequence[str | int]) -> dict[str, Any]:
    """Return a copy of a section without the innermost key at the location of a validation error.

    The section itself is returned if it has no key there.
    """
    if not location or location[0] not in section:
        return section
    key, content = str(location[0]), section[str(location[0])]
    remaining_content = _remove_key(content, location[1:]) if isinstance(content, dict) else content
    if remaining_content is content:
        return {name: value for name, value in section.items() if name != key}
    return section | {key: remaining_content}
