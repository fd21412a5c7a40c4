"""Settings of videos by config path, such as `model_settings.cfg_scale`, for groups of equal settings."""

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wantui.analysis.video import Video
from wantui.controls import CONTROLS
from wantui.errors import UserError
from wantui.planning import Recipe

RECIPE_FIELDS_BY_PATH = {
    "model_settings.model_id": "model",
    "model_settings.revision": "revision",
    "model_settings.steps": "steps",
    "model_settings.cfg_scale": "guidance_scale",
    "model_settings.cfg_scale_2": "guidance_scale_2",
    "model_settings.sampler": "sampler",
    "model_settings.flow_shift": "flow_shift",
    "model_settings.dtype": "dtype",
    "model_settings.weights": "weights",
    "model_settings.speed": "speed",
    "video_settings.width": "width",
    "video_settings.height": "height",
    "video_settings.frames": "frames",
    "video_settings.fps": "fps",
    "prompt_settings.negative_prompt": "negative_prompt",
    "prompt_settings.embedding_method": "weighting",
}
"""Config path -> recipe field with the value that was used: a config may leave it to a default."""
GROUPINGS_WITHOUT_SETTING = ("variation", "prompt", "batch")
"""Names of groupings that are not settings."""
SETTING_NAME_PATTERN = re.compile(r"[^\W\d].*", re.DOTALL)
"""Pattern of a setting's name in a grouping; a name that starts with a digit means a bracket."""
MIN_SIMILARITY = 0.75
"""Smallest similarity of a suggested name to a mistyped one, from 0 to 1: "shape" and "sampler" have 0.67."""
TRANSFORMER_FILE_PATH = "model_settings.transformer_file"
COMPARED_NAMES_BY_PATH: Mapping[str, tuple[str, ...]] = {
    "model_settings.model_id": ("model", "revision"),
    "model_settings.speed": ("cached", "fp8", "magnitudes"),
    "model_settings.weights": ("weights", "transformer_file"),
    TRANSFORMER_FILE_PATH: ("weights", "transformer_file"),
    "prompt_settings.embedding_method": ("embedding_method",),
    "prompt_schedule_settings.schedule": ("prompt_schedule.times",),
}
"""Config path -> compared settings (`comparability`) that differ with it, if they are not the recipe field."""


class SettingNameError(UserError):
    """Raised for a name that matches no setting, or several settings.

    Args:
        name: the name as written.
        reason: why it names no setting.
        advice: what to write instead, or the settings in which the videos differ.
    """

    def __init__(self, name: str, reason: str, advice: str) -> None:
        super().__init__(f"cannot group by {name!r}: {reason}. {advice}")
        self.reason, self.advice = reason, advice


def collect_setting_values(
    recipe: Recipe, config: Mapping[str, Any], swept_values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the settings that determine a video, as JSON values by config path.

    The recipe has the values that were used. Settings of controls are named as in the config; items of a list are named
    by their `name`, such as `lora_settings.adapters.style.strength`.

    Args:
        swept_values: value of each setting that the batch sweeps, by path; None for the config's own value.
    """
    values: dict[str, Any] = {path: getattr(recipe, field) for path, field in RECIPE_FIELDS_BY_PATH.items()}
    file = recipe.transformer_file
    values[TRANSFORMER_FILE_PATH] = None if file is None else file.path
    for kind in CONTROLS:
        if kind.section_key is None:
            continue
        request = recipe.find_control_request(kind.name)
        if request is None:
            continue
        section, used_values = config.get(kind.section_key), kind.get_compared_settings(request)
        written = flatten_settings(section if isinstance(section, dict) else {}, kind.section_key)
        if kind.items_key:  # a cell may lack items of the config
            items_prefix = f"{kind.section_key}.{kind.items_key}."
            prefixes = tuple(f"{items_prefix}{item['name']}." for item in used_values[kind.items_key])
            written = {k: v for k, v in written.items() if not k.startswith(items_prefix) or k.startswith(prefixes)}
        values |= written
        values |= {path: value for path, value in (swept_values or {}).items() if path in written and value is not None}
        values |= flatten_settings(used_values, kind.section_key)
    # An empty schedule or list counts as no value, like in batches that do not sweep it.
    recorded_values = {path: None if value in ({}, []) else value for path, value in (swept_values or {}).items()}
    return {path: value for path, value in recorded_values.items() if path not in RECIPE_FIELDS_BY_PATH} | values


def flatten_settings(value: Any, path: str) -> dict[str, Any]:
    """Return the leaves of nested settings by dotted path; items of a list are named by `name`, or by their number."""
    if isinstance(value, Mapping) and value:
        leaves = [flatten_settings(item, f"{path}.{key}") for key, item in value.items()]
    elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        leaves = [
            flatten_settings(item, f"{path}.{item.get('name') or number}") for number, item in enumerate(value, start=1)
        ]
    else:
        return {path: value}
    return {leaf_path: leaf for flat in leaves for leaf_path, leaf in flat.items()}


def list_setting_paths(videos: Sequence[Video]) -> list[str]:
    """Return the paths of all settings that some video has, in the order of the config."""
    return list(dict.fromkeys(path for video in videos for path in video.setting_values))


def list_differing_paths(videos: Sequence[Video]) -> list[str]:
    """Return the paths of the settings in which videos differ, in the order of the config."""
    return [
        path
        for path in list_setting_paths(videos)
        if any(video.setting_values.get(path) != videos[0].setting_values.get(path) for video in videos)
    ]


def find_setting_path(name: str, videos: Sequence[Video]) -> str:
    """Return the path of the setting that a name means.

    A name is a path, its last parts (`cfg_scale`), parts of it in order (`lora.style.strength`), or the recipe field
    (`guidance_scale`).

    If a name matches several settings, the one in which the videos differ is meant.

    Raises:
        SettingNameError: no setting has this name, or several have.
    """
    paths = list_setting_paths(videos)
    candidates = (
        [path for path in paths if name in (path, RECIPE_FIELDS_BY_PATH.get(path))]
        or [path for path in paths if path.endswith(f".{name}")]
        or [path for path in paths if _is_name_of(name, path)]
    )
    if not candidates:
        advice = _advise_setting(name, paths, videos)
        raise SettingNameError(name, "no setting of these videos has this name", advice)
    if len(candidates) > 1:
        differing_paths = list_differing_paths(videos)
        candidates = [path for path in candidates if path in differing_paths] or candidates
    if len(candidates) > 1:
        names = ", ".join(shorten_path(path, paths) for path in candidates)
        raise SettingNameError(name, f"it may be {names}", "Name one of these")
    return candidates[0]


def _advise_setting(name: str, paths: Sequence[str], videos: Sequence[Video]) -> str:
    """Return the most similar name of a setting, or the settings in which the videos differ.

    If a setting of a section is swept, only this setting is named: the other settings of the section, such as the unit
    of a schedule, follow from it.
    """
    differing_paths = list_differing_paths(videos)
    swept_paths = {path for video in videos for axis in video.swept_axes for path in axis}
    swept_sections = {path.partition(".")[0] for path in swept_paths}
    named_paths = [path for path in differing_paths if path in swept_paths or path.split(".")[0] not in swept_sections]
    names = [shorten_path(path, paths) for path in named_paths or differing_paths]
    words = [name, *name.split("_")[1:]]  # "cfg_scal" is like the "scale" of an adapter
    similar_names = [
        similar_name
        for word, known_names in itertools.product(words, (names, [shorten_path(path, paths) for path in paths]))
        for similar_name in difflib.get_close_matches(word, known_names, 1, MIN_SIMILARITY)
    ]
    suggestion = f"Did you mean {similar_names[0]}? " if similar_names else ""
    return suggestion + (f"The videos differ in: {', '.join(names)}" if names else "The videos differ in no setting")


def _is_name_of(name: str, path: str) -> bool:
    """Return whether the parts of a name occur in a path in this order, the last one at the end."""
    name_parts, path_parts = name.split("."), path.split(".")
    if name_parts[-1] != path_parts[-1]:
        return False
    remaining_parts = iter(path_parts[:-1])
    return all(any(_is_part_of(part, path_part) for path_part in remaining_parts) for part in name_parts[:-1])


def _is_part_of(name_part: str, path_part: str) -> bool:
    """Return whether a part of a name matches a part of a path.

    It matches if it equals this part, or begins a word of a section (`bend` matches `attention_bending_settings`).
    """
    return name_part == path_part or (
        path_part.endswith("_settings")
        and (
            path_part.removesuffix("_settings") == name_part
            or any(word.startswith(name_part) for word in path_part.split("_")[:-1])
        )
    )


def shorten_path(path: str, paths: Iterable[str]) -> str:
    """Return the last parts of a path that no other path ends with, and that mean no other grouping: `cfg_scale`.

    The step 10 of a schedule is `schedule.10`, because `10` means a bracket.
    """
    parts, other_paths = path.split("."), [f".{other_path}" for other_path in paths if other_path != path]
    for count in range(1, len(parts)):
        ending = ".".join(parts[-count:])
        is_setting_name = ending not in GROUPINGS_WITHOUT_SETTING and SETTING_NAME_PATTERN.fullmatch(ending)
        if is_setting_name and not any(other_path.endswith(f".{ending}") for other_path in other_paths):
            return ending
    return path


def list_compared_names(path: str) -> tuple[str, ...]:
    """Return the compared settings (`comparability`) that differ with a setting."""
    if path in COMPARED_NAMES_BY_PATH:
        return COMPARED_NAMES_BY_PATH[path]
    if path in RECIPE_FIELDS_BY_PATH:
        return (RECIPE_FIELDS_BY_PATH[path],)
    section, _, rest = path.partition(".")
    return tuple(f"{kind.name}.{rest}" for kind in CONTROLS if kind.section_key == section)


def to_number(value: Any) -> float | None:
    """Return the value of a setting as a number; None if it is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def make_value_key(value: Any) -> str:
    """Return a text that equal values share; 5 and 5.0 are equal."""
    number = to_number(value)
    return json.dumps(value if number is None else number, sort_keys=True, ensure_ascii=False)
