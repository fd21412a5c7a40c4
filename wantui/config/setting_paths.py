"""Find the setting that a dotted name refers to, also inside lists and mappings, and parse its values."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from wantui.captures import CAPTURES
from wantui.config.document import convert_to_plain_value, parse_yaml_document
from wantui.config.fields import FormField, make_form_field
from wantui.config.key_suggestions import describe_ambiguous_key, find_probable_setting
from wantui.config.problems import ConfigError
from wantui.config.settings import Settings
from wantui.config.sweep_syntax import SweepError, WrittenValue, parse_range, reject_misspelt_range
from wantui.config.values import parse_setting_value
from wantui.controls import CONTROLS
from wantui.formatting import shorten_text
from wantui.section import ConfigSection, DescribedModel

_NO_EFFECT_REASON = "it does not change the video"
_SAME_SEEDS_REASON = "every cell has the same seeds. List them with --seeds, or set videos_per_variation"
_SAME_WEIGHTS_REASON = "all videos of a batch use the same weights. Queue one batch for each value"
FLOW_KINDS = ("mapping", "list")
"""Kinds of settings that are written as one line of YAML."""
UNSWEEPABLE_SETTINGS = {
    "model_settings.seed": _SAME_SEEDS_REASON,
    "videos_per_variation": _SAME_SEEDS_REASON,
    "seeds": _SAME_SEEDS_REASON,
    "model_settings.model_id": _SAME_WEIGHTS_REASON,
    "model_settings.revision": _SAME_WEIGHTS_REASON,
    "model_settings.transformer_file": _SAME_WEIGHTS_REASON,
    "model_settings.dtype": _SAME_WEIGHTS_REASON,
    "model_settings.weights": _SAME_WEIGHTS_REASON,
    "model_settings.device": _NO_EFFECT_REASON,
    "model_settings.force_capture": _NO_EFFECT_REASON,
    "model_settings.gpus_per_video": _NO_EFFECT_REASON,
    "memory_settings.plan": _NO_EFFECT_REASON,
    "prompt_settings.max_variations": _NO_EFFECT_REASON,
    "prompt_settings.generic_words": _NO_EFFECT_REASON,
    "primary_metric": _NO_EFFECT_REASON,
    "output_dir": _NO_EFFECT_REASON,
    "output_permissions": _NO_EFFECT_REASON,
    "batch_name": _NO_EFFECT_REASON,
    "use_timestamp": _NO_EFFECT_REASON,
    "sweeps": _NO_EFFECT_REASON,
    "sweeps_baseline": _NO_EFFECT_REASON,
    "sweeps_skip_impossible": _NO_EFFECT_REASON,
    **{
        f"{kind.section_key}.{key}": "it changes what is stored, not the video"
        for kind in CAPTURES
        for key in kind.settings_type.model_fields
    },
}
"""Settings that a sweep cannot change, and the reason."""


@dataclass(frozen=True)
class SettingPath:
    """A setting, possibly inside a list or a mapping."""

    path: str
    """Complete dotted name, such as lora_settings.adapters.style.strength."""
    keys: tuple[str | int, ...]
    """Keys and indices that lead to the setting in the JSON of the settings; the first is the section."""
    field: FormField | None
    """Declaration of the setting or mapping entry; None for a group of settings."""
    is_structured: bool
    """True for a list, a mapping or a group of settings."""

    @property
    def section(self) -> str:
        return str(self.keys[0])

    @property
    def item_keys(self) -> tuple[str | int, ...] | None:
        """Return the keys of the list item that contains the setting; None outside lists."""
        indices = [position for position, key in enumerate(self.keys) if isinstance(key, int)]
        return self.keys[: indices[0] + 1] if indices else None


def find_sweepable_setting(settings: Settings, written_name: str) -> SettingPath:
    """Find a setting by its name: section.key, an unambiguous key, or a name inside a list (lora.style.strength).

    Raises:
        SweepError: no setting or several settings have this name, or a sweep cannot change it.
    """
    parts = _expand_name(written_name)
    path = ".".join(parts)
    if path in UNSWEEPABLE_SETTINGS:
        raise SweepError(f"cannot sweep {path}: {UNSWEEPABLE_SETTINGS[path]}")
    section = getattr(settings, parts[0])
    if len(parts) == 1:
        raise SweepError(f"cannot sweep {path}: it is a section. Write {path}.KEY=VALUES")
    return _follow_path(path, section, parts)


@cache
def _index_paths_by_key() -> dict[str, list[str]]:
    """Return the paths of all sweepable settings, indexed by their last key."""
    paths_by_key: dict[str, list[str]] = {}
    for section_name, field in Settings.model_fields.items():
        section_type = field.annotation
        if isinstance(section_type, type) and issubclass(section_type, ConfigSection):
            for key in section_type.model_fields:
                if (path := f"{section_name}.{key}") not in UNSWEEPABLE_SETTINGS:
                    paths_by_key.setdefault(key, []).append(path)
    return paths_by_key


def list_sweepable_names(settings: Settings) -> list[str]:
    """Return a name for each setting that a sweep can change: only the key if just one section has this key.

    Settings in lists are named by their items, as in lora.style.strength; entries of mappings are not listed.
    """
    names = [
        name
        for key, paths in _index_paths_by_key().items()
        for name in ([key] if len(paths) == 1 else paths)
        if name not in Settings.model_fields
    ]
    for kind in CONTROLS:
        if kind.section_key is not None and kind.items_key:
            items = getattr(getattr(settings, kind.section_key), kind.items_key)
            names += [
                f"{kind.items_alias}.{item.name}.{key}"
                for item in items
                for key in type(item).model_fields
                if key != "name"
            ]
    return names


def expand_list_alias(written_name: str) -> str:
    """Replace the alias of a list in a name with its complete path: `lora` with `lora_settings.adapters`."""
    paths = {kind.items_alias: f"{kind.section_key}.{kind.items_key}" for kind in CONTROLS if kind.items_alias}
    first_part, *parts = written_name.split(".")
    return ".".join([paths.get(first_part, first_part), *parts])


def _expand_name(written_name: str) -> list[str]:
    """Return the parts of a name's complete path; check only its section."""
    parts = expand_list_alias(written_name).split(".")
    if any(not part.strip() for part in parts):
        raise SweepError(f"cannot sweep {shorten_text(written_name)!r}: it is not the name of a setting")
    if parts[0] in Settings.model_fields:
        return parts
    paths = _index_paths_by_key().get(parts[0], [])
    if len(paths) == 1:
        return [*paths[0].split("."), *parts[1:]]
    if paths:
        raise SweepError(f"cannot sweep {written_name}: {describe_ambiguous_key(paths)}")
    refused_paths = [path for path in UNSWEEPABLE_SETTINGS if path.split(".")[-1] == written_name]
    if refused_paths:
        raise SweepError(f"cannot sweep {refused_paths[0]}: {UNSWEEPABLE_SETTINGS[refused_paths[0]]}")
    raise SweepError(f"cannot sweep {shorten_text(written_name)}: unknown setting{_suggest_setting(written_name)}")


def _suggest_setting(written_name: str) -> str:
    """Return the end of a message on an unknown setting: the setting that was probably meant."""
    paths_by_key = _index_paths_by_key()
    aliases = [kind.items_alias for kind in CONTROLS if kind.items_alias]
    paths = [*(path for paths in paths_by_key.values() for path in paths), *aliases]
    probable = find_probable_setting(written_name, paths)
    if probable is None:
        return ". `wantui config schema` lists all settings"
    key = probable.rpartition(".")[2]
    return f"; did you mean {key if len(paths_by_key.get(key, ())) == 1 else probable}?"


def _suggest_key(name: str, candidates: list[str]) -> str:
    close_names = difflib.get_close_matches(name[:80], candidates, n=1, cutoff=0.6)
    return f"; did you mean {close_names[0]}?" if close_names else f". Use one of {', '.join(candidates)}"


def _follow_path(path: str, section: Any, parts: list[str]) -> SettingPath:
    value: Any = section
    keys: list[str | int] = [parts[0]]
    field: FormField | None = None
    rest = parts[1:]
    while rest:
        parent_name = ".".join(parts[: len(parts) - len(rest)])
        parent_field, field = field, None
        if isinstance(value, BaseModel):
            key = rest.pop(0)
            fields = type(value).model_fields
            if key not in fields:
                is_of_section = parent_name in Settings.model_fields
                suggestion = _suggest_setting(path) if is_of_section else _suggest_key(key, list(fields))
                raise SweepError(f"cannot sweep {path}: {parent_name} has no key {key}{suggestion}")
            keys.append(key)
            value, field = getattr(value, key), _make_typed_field(f"{parent_name}.{key}", fields[key], type(value))
        elif isinstance(value, Mapping):
            key = ".".join(rest)  # a key such as `sigma 0.8` contains a dot
            key_by_text = {str(entry_key): entry_key for entry_key in value}
            if key not in key_by_text:
                raise SweepError(f"cannot sweep {path}: {_describe_missing_name(parent_name, key_by_text, key)}")
            keys.append(key)
            value, rest = value[key_by_text[key]], []
            if parent_field is not None:
                field = replace(parent_field, key=path, kind=parent_field.item_kind)
        elif isinstance(value, list | tuple):
            index, rest = _find_item(path, parent_name, value, rest)
            keys.append(index)
            value = value[index]
        else:
            raise SweepError(f"cannot sweep {path}: {parent_name} has no settings of its own")
    is_structured = isinstance(value, BaseModel | Mapping | list | tuple)
    return SettingPath(path, tuple(keys), field, is_structured)


def _find_item(path: str, list_name: str, items: Any, rest: list[str]) -> tuple[int, list[str]]:
    """Return the index of the item that `rest` names, and the parts after its name; names may contain dots."""
    names = [str(getattr(item, "name", "")) for item in items]
    for part_count in range(len(rest), 0, -1):
        if (name := ".".join(rest[:part_count])) in names:
            return names.index(name), rest[part_count:]
    raise SweepError(f"cannot sweep {path}: {_describe_missing_name(list_name, names, rest[0])}")


def _describe_missing_name(parent_name: str, names: Iterable[str], missing_name: str) -> str:
    known_names = ", ".join(names)
    if not known_names:
        return f"{parent_name} is empty. Add {missing_name} to it before you sweep it"
    return f"{parent_name} has no {missing_name}. Use one of {known_names}"


def _make_typed_field(key: str, field_info: Any, model: type[DescribedModel]) -> FormField | None:
    """Return the declaration of a setting that has a single type besides None; return None for other settings."""
    annotation = field_info.annotation
    members = [annotation]
    if get_origin(annotation) in (Union, UnionType):
        members = [part for part in get_args(annotation) if part is not NoneType]
    if len(members) != 1:
        return None
    core = get_args(members[0])[0] if get_origin(members[0]) is Annotated else members[0]
    field = make_form_field(key, field_info, model)
    has_known_type = core in (bool, int, float, str) or get_origin(core) is Literal or field.kind in FLOW_KINDS
    return field if has_known_type else None


def parse_swept_values(setting: SettingPath, written: WrittenValue) -> list[Any]:
    """Parse one written value of a setting; a range gives several values.

    Raises:
        SweepError: the value does not have the type of the setting.
    """
    try:
        takes_numbers = setting.field is not None and setting.field.kind == "number"
        number_range = parse_range(written.text) if takes_numbers and not written.is_quoted else None
        if takes_numbers and not written.is_quoted:
            reject_misspelt_range(written.text)
        if setting.field is None or number_range is None:
            return [_parse_value(setting, written)]
        if not setting.field.is_integer:
            return [float(number) for number in number_range]
        if any(number.denominator != 1 for number in (number_range.first, number_range.step)):
            raise SweepError(f"the range {written.text} contains numbers that are not whole")
        return [int(number) for number in number_range]
    except ValueError as error:
        raise SweepError(f"cannot sweep {setting.path}: {error}") from None


def _parse_value(setting: SettingPath, written: WrittenValue) -> Any:
    accepts_empty_text = setting.field is None or setting.field.is_optional or setting.field.kind == "text"
    if not written.text and not written.is_quoted and not accepts_empty_text:
        raise ValueError("a value is empty. Write the values after the equals sign, separated by commas")
    if setting.field is not None and not (written.is_quoted and setting.field.kind == "text"):
        return parse_setting_value(setting.field, written.text)
    if setting.field is not None:
        return written.text
    if setting.is_structured or (written.is_quoted and written.text[:1] in ("[", "{")):
        try:
            return convert_to_plain_value(parse_yaml_document(f"value: {written.text}", setting.path).values["value"])
        except ConfigError as error:
            raise SweepError(f"{error.problems[0].message}, in {shorten_text(written.text)!r}") from None
    return written.text
