"""Suggest the setting that an unknown name probably means: in a config file, in --set, and in a sweep."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from wantui import __version__
from wantui.config.document import KeyPath
from wantui.config.settings import Settings
from wantui.config.yaml_errors import describe_unusual_space
from wantui.section import ConfigSection

RENAMED_KEYS = {"model_revision": "model_settings.revision"}
"""Legacy keys and their current names."""
SETTING_BY_SYNONYM = {
    "cfg": "model_settings.cfg_scale",
    "cfg_schedule": "cfg_schedule_settings.schedule",
    "guidance": "model_settings.cfg_scale",
    "guidance_scale": "model_settings.cfg_scale",
    "guidance_scale_2": "model_settings.cfg_scale_2",
    "guidance_schedule": "cfg_schedule_settings.schedule",
    "prompt_schedule": "prompt_schedule_settings.schedule",
    "num_inference_steps": "model_settings.steps",
    "num_steps": "model_settings.steps",
    "sampling_steps": "model_settings.steps",
    "scheduler": "model_settings.sampler",
    "shift": "model_settings.flow_shift",
    "model": "model_settings.model_id",
    "num_frames": "video_settings.frames",
    "length": "video_settings.duration",
    "resolution": "video_settings.width",
    "size": "video_settings.width",
    "negative": "prompt_settings.negative_prompt",
    "num_videos": "videos_per_variation",
    "sweep": "sweeps",
    "metric": "primary_metric",
    "latents": "latent_analysis_settings.store_latents",
    "attention": "attention_analysis_settings.store_attention",
    "lora": "lora_settings.adapters",
}
"""Names of settings in other programs and in conversation -> dotted name of the setting."""
TEMPLATE_NAMES = ("prompt", "prompts", "template", "text")
"""Names under which users look for the prompt, which is not a setting."""
MAX_KEY_LENGTH = 80
"""Longest key that a message quotes, in characters."""
MIN_SIMILARITY = 0.6
"""Smallest difflib ratio at which two names count as similar."""
MIN_MISSPELT_SIMILARITY = 0.85
"""Smallest difflib ratio at which a name counts as a misspelt section, whatever its only key is."""


def find_section(name: str) -> type[ConfigSection] | None:
    """Return the model of a section; None if no section has this name."""
    field = Settings.model_fields.get(name)
    model = field.annotation if field else None
    return model if isinstance(model, type) and issubclass(model, ConfigSection) else None


def list_setting_paths() -> list[str]:
    """Return the dotted names of all settings, in the order of the config file."""
    paths: list[str] = []
    for name in Settings.model_fields:
        section = find_section(name)
        paths += [name] if section is None else [f"{name}.{key}" for key in section.model_fields]
    return paths


def describe_ambiguous_key(paths: Sequence[str]) -> str:
    """Return the end of a message on a short name that several settings have."""
    return f"several settings have this name: {', '.join(paths)}. Write one of these"


def find_probable_setting(name: str, paths: Sequence[str]) -> str | None:
    """Return the setting or section that an unknown dotted name probably means; None if none is similar.

    The key counts more than the section: `generation.steps` means `model_settings.steps`.

    Args:
        name: unknown name, such as stepps, model.steps or model_settings.guidance.
        paths: dotted names of the settings to choose from.
    """
    section, _, key = name.rpartition(".")
    section, key = section[:MAX_KEY_LENGTH], key[:MAX_KEY_LENGTH]  # difflib is slow for long names
    paths_by_key: dict[str, list[str]] = {}
    for path in paths:
        paths_by_key.setdefault(path.rpartition(".")[2], []).append(path)
    if key in paths_by_key:
        return _choose_section(section, paths_by_key[key])
    if SETTING_BY_SYNONYM.get(key) in paths:
        return SETTING_BY_SYNONYM[key]
    own_paths = {path.rpartition(".")[2]: path for path in paths if section and path.startswith(f"{section}.")}
    if near := difflib.get_close_matches(key, own_paths, 1, MIN_SIMILARITY):
        return own_paths[near[0]]
    sections = [] if section else sorted({path.partition(".")[0] for path in paths if "." in path})
    section_by_name = {name.removesuffix("_settings"): name for name in sections} | {name: name for name in sections}
    near = difflib.get_close_matches(key, [*section_by_name, *paths_by_key], 1, MIN_SIMILARITY)
    if not near:
        return None
    return section_by_name.get(near[0]) or _choose_section(section, paths_by_key[near[0]])


def _choose_section(section: str, paths: Sequence[str]) -> str:
    """Return the path whose section is most similar to the written section; the first path if no section is written."""
    similarities = [difflib.SequenceMatcher(None, section, path.rpartition(".")[0]).ratio() for path in paths]
    return paths[similarities.index(max(similarities))] if section else paths[0]


def format_key_suggestion(key: KeyPath, content: Any = None) -> str:
    """Return the end of an "unknown key" message: the key that was probably meant, or the valid keys.

    Args:
        content: value of the key; an unknown section is recognised by its keys.
    """
    key = tuple(part[:MAX_KEY_LENGTH] for part in key)
    if blank := describe_unusual_space(key[-1]):
        return f": it contains {blank}; replace it with a space"
    paths = list_setting_paths()
    if "." in key[-1]:  # section.key is the notation of --set
        nested_key = tuple(key[-1].split("."))
        return _suggest_nesting(nested_key, paths) or format_key_suggestion(nested_key)
    if key[-1] in RENAMED_KEYS:
        return f"; it is now {RENAMED_KEYS[key[-1]]}"
    if len(key) == 1 and key[0] in TEMPLATE_NAMES:
        return "; prompts are written as a template: -t TEXT, or --template-file FILE"
    if len(key) == 1 and isinstance(content, Mapping) and content:
        probable = _find_probable_section(key[0], [str(part) for part in content], paths)
    else:
        probable = find_probable_setting(".".join(key), paths)
    if probable is not None:
        return f"; did you mean {probable}?"
    keys_of_section = [path.rpartition(".")[2] for path in paths if path.startswith(f"{key[0]}.")]
    if len(key) == 2 and keys_of_section:
        return f"; valid keys here (wantui {__version__}): {', '.join(keys_of_section)}"
    if len(key) > 1:
        return f"; no key is valid here (wantui {__version__})"
    return ". `wantui config schema` lists all settings"


def _find_probable_section(name: str, keys: Sequence[str], paths: Sequence[str]) -> str | None:
    """Return the probable meaning of an unknown section with these keys: a setting (one key) or a section."""
    sections = list(dict.fromkeys(path.partition(".")[0] for path in paths if "." in path))
    if len(keys) == 1:
        misspelt_sections = difflib.get_close_matches(name, sections, 1, MIN_MISSPELT_SIMILARITY)
        if misspelt_sections:
            return misspelt_sections[0]
        return find_probable_setting(f"{name}.{keys[0]}", paths) or find_probable_setting(name, paths)
    if SETTING_BY_SYNONYM.get(name) in paths and not {path.rpartition(".")[2] for path in paths}.intersection(keys):
        return SETTING_BY_SYNONYM[name]  # a setting whose value is a mapping
    if near := difflib.get_close_matches(name, sections, 1, MIN_SIMILARITY):
        return near[0]
    shared_counts = [sum(f"{section}.{key}" in paths for key in keys) for section in sections]
    return sections[shared_counts.index(max(shared_counts))] if max(shared_counts) else None


def _suggest_nesting(key: KeyPath, paths: Sequence[str]) -> str | None:
    """Return the advice for a valid key that is written with a dot; None if the key is not valid."""
    if ".".join(key) not in paths:
        return None
    return f"; in a config, write it on two lines: `{key[0]}:`, then, indented, `{key[-1]}: VALUE`"
