"""Rules for comparing trajectories: settings that must be equal, and settings in which batches may differ."""

import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wantui.analysis.setting_values import flatten_settings, to_number
from wantui.analysis.video import Video
from wantui.planning.recipe import Recipe

SEPARATELY_COMPARED_FIELDS = frozenset(
    {"model", "revision", "dtype", "weights", "transformer_file"}  # in `ModelSource.comparison_settings`
    | {"prompt", "marks", "seed"}  # distinguish groups, phrasings and units
    | {"weighting", "speed", "magnitudes", "controls"}  # compared in the form that `loading` gives them
    | {"format", "fps", "capture"}  # do not change the latents; the noise levels of a capture are compared
)
"""Recipe fields that `COMPARED_FIELDS` excludes."""
COMPARED_FIELDS = tuple(name for name in Recipe.model_fields if name not in SEPARATELY_COMPARED_FIELDS)
"""Recipe fields that must be equal for two trajectories to be compared: all except SEPARATELY_COMPARED_FIELDS.

If there are word weights, the method of applying them must be equal too; the weights themselves distinguish groups and
phrasings (`groups`)."""
SIZE_SETTINGS = ("width", "height", "frames", "shape", "values")
"""Settings that determine the shape of the initial noise; seeds can be paired only if these are equal."""
WEIGHTING_SETTING = "embedding_method"
"""Name of the setting for the method of applying word weights."""
SPEED_SETTING = "speed"
SPEED_PARTS = ("cached", "fp8", "magnitudes")
"""Compared settings that follow from the speed. Videos of `fused` and `reference` are compared, because they differ by
rounding only."""
NOISE_LEVELS_SETTING = "noise_levels"
"""Name of the setting that summarises the noise levels of the stored states."""
SCHEDULE_SETTINGS = ("steps", "sampler", "flow_shift", "storage_interval", "levels")
"""Settings that explain different noise levels."""
NOISE_LEVEL_DIGITS = 4
"""Decimal places to which noise levels are compared."""
MAX_LABEL_LENGTH = 40
"""Maximum length of a batch label in characters."""


def collect_compared_settings(video: Video) -> dict[str, Any]:
    """Return the settings of a video as JSON values, with the number of values per state and the noise levels.

    A control that is on is "on", and each of its settings is named `control.setting`.

    The noise levels count because lengths and bends depend on which states are stored, and recipes with equal steps
    may be stored at different intervals.
    """
    settings: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(dict(video.settings), default=str)).items():
        # The settings of a control count one by one: its parameters can differ in one that is studied.
        settings |= {name: "on"} | flatten_settings(value, name) if isinstance(value, dict) else {name: value}
    settings["values"] = video.dimension
    if video.trajectory is not None:
        levels = [round(float(sigma), NOISE_LEVEL_DIGITS) for sigma in video.trajectory.sigmas]
        settings[NOISE_LEVELS_SETTING] = f"{len(levels)} (checksum {zlib.crc32(json.dumps(levels).encode()):08x})"
    return settings


def select_comparable_videos(
    videos: Sequence[Video], grouping: str = "variation", studied_settings: Sequence[str] = ()
) -> tuple[list[Video], list[Video]]:
    """Return the videos that can be compared, and the excluded videos with their `exclusion_reason`.

    Videos can be compared if they have a trajectory and the most common settings. Batches (`grouping` is "batch") may
    differ in the settings under study, which `find_differing_settings` names, but not in size.

    Args:
        studied_settings: names of compared settings in which groups may differ; a setting of a control is named
            `control.setting`.
    """
    usable = [video for video in videos if video.trajectory is not None]
    excluded = [video for video in videos if video.trajectory is None]
    if grouping == "batch":
        included: list[Video] = []
        for members in _group_videos_by_folder(usable).values():
            majority, minority = _split_by_majority(members)
            included, excluded = included + majority, excluded + minority
        included, minority = _split_by_majority(included, SIZE_SETTINGS)
    elif studied_settings:
        included, minority = _split_by_unstudied_settings(usable, studied_settings)
    else:
        included, minority = _split_by_majority(usable)
    return included, excluded + minority


def _split_by_unstudied_settings(
    videos: Sequence[Video], studied_settings: Sequence[str]
) -> tuple[list[Video], list[Video]]:
    """Split videos by the settings that are not studied.

    If a setting of a control is studied, videos without the control are compared too. Videos with the control are
    compared only if they have the most common values of its other settings.
    """
    excluded_names = {*studied_settings}
    if any(name in SCHEDULE_SETTINGS for name in studied_settings):
        excluded_names.add(NOISE_LEVELS_SETTING)
    included, excluded = list(videos), []
    for control in dict.fromkeys(name.partition(".")[0] for name in studied_settings if "." in name):
        with_control = [video for video in included if video.settings.get(control) is not None]
        majority, minority = _split_by_majority(with_control, excluded_names=excluded_names)
        excluded += minority
        kept = {id(video) for video in majority}
        included = [video for video in included if video.settings.get(control) is None or id(video) in kept]
        if len(majority) < len(included):
            names_by_video = [collect_compared_settings(video) for video in with_control]
            excluded_names |= {control} | {
                name for names in names_by_video for name in names if name.startswith(f"{control}.")
            }
    included, minority = _split_by_majority(included, excluded_names=excluded_names)
    return included, excluded + minority


def _split_by_majority(
    videos: Sequence[Video], setting_names: Sequence[str] | None = None, excluded_names: Collection[str] = ()
) -> tuple[list[Video], list[Video]]:
    all_settings = [collect_compared_settings(video) for video in videos]
    all_settings = [
        {
            name: settings[name]
            for name in settings
            if not _is_part_of_any(name, excluded_names) and (setting_names is None or name in setting_names)
        }
        for settings in all_settings
    ]
    setting_counts = Counter(json.dumps(settings, sort_keys=True) for settings in all_settings)
    method_counts = Counter(video.weighting_method for video in videos if video.weighting_method)
    compares_methods = setting_names is None and WEIGHTING_SETTING not in excluded_names
    if len(setting_counts) < 2 and (len(method_counts) < 2 or not compares_methods):
        return list(videos), []
    common_settings: dict[str, Any] = json.loads(setting_counts.most_common(1)[0][0])
    common_method = method_counts.most_common(1)[0][0] if method_counts else ""
    included, excluded = [], []
    for video, settings in zip(videos, all_settings, strict=True):
        different_names = [
            name for name in {**common_settings, **settings} if settings.get(name) != common_settings.get(name)
        ]
        different_controls = tuple(f"{name}." for name in different_names)
        different_names = [name for name in different_names if not name.startswith(different_controls)]
        if any(name in SCHEDULE_SETTINGS for name in different_names):
            different_names = [name for name in different_names if name != NOISE_LEVELS_SETTING]
        reasons = [
            f"{name} is {settings.get(name)}, but "
            + _describe_common_value(common_settings.get(name), [each.get(name) for each in all_settings])
            for name in different_names
        ]
        if compares_methods and video.weighting_method and video.weighting_method != common_method:
            common_text = _describe_common_value(common_method, list(method_counts.elements()))
            reasons.append(f"{WEIGHTING_SETTING} is {video.weighting_method}, but {common_text}")
        if reasons:
            excluded.append(replace(video, trajectory=None, exclusion_reason="; ".join(reasons)))
        else:
            included.append(video)
    return included, excluded


def _describe_common_value(common_value: object, values: Sequence[object]) -> str:
    """Return the value of the compared videos, and whether most of all videos have it; there can be a tie."""
    is_majority = 2 * values.count(common_value) > len(values)
    return f"{common_value} in {'most videos' if is_majority else 'the compared videos'}"


def _is_part_of_any(name: str, setting_names: Collection[str]) -> bool:
    """Return whether a compared setting is one of these settings, or a part of it (`steps.moments` of `steps`)."""
    return any(name == setting_name or name.startswith(f"{setting_name}.") for setting_name in setting_names)


@dataclass(frozen=True)
class DifferingSettings:
    """Settings, prompts and word weights in which batches differ."""

    values_by_setting: Mapping[str, Mapping[Path, Any]]
    """Values by setting, then by batch folder."""

    @property
    def numbers_by_folder(self) -> dict[Path, float]:
        """Return the batches' values of the only differing setting if all are numbers; else an empty dict."""
        if len(self.values_by_setting) != 1:
            return {}
        ((_, values),) = self.values_by_setting.items()
        numbers = {folder: number for folder, value in values.items() if (number := to_number(value)) is not None}
        return numbers if len(numbers) == len(values) else {}

    @property
    def only_name(self) -> str:
        """Return the name of the only differing setting; empty unless exactly one setting differs."""
        return next(iter(self.values_by_setting)) if len(self.values_by_setting) == 1 else ""

    def make_label(self, folder: Path) -> str:
        """Return a label with the batch's value of the differing setting; empty unless exactly one setting differs."""
        if len(self.values_by_setting) != 1:
            return ""
        ((name, values),) = self.values_by_setting.items()
        text = f"no {name}" if values[folder] in ("", None) else f"{name} {values[folder]}"
        return text if len(text) <= MAX_LABEL_LENGTH else ""

    @property
    def description(self) -> str:
        names = list(self.values_by_setting)
        if not names:
            return "the batches have equal settings and prompts: any difference between them is chance"
        if len(names) == 1:
            return f"the batches differ in {names[0]} only"
        return f"the batches differ in {', '.join(names)}: any of these may cause a difference"


def find_differing_settings(videos: Sequence[Video]) -> DifferingSettings:
    """Return the settings, prompts and word weights in which the batches of some videos differ."""
    videos_by_folder = _group_videos_by_folder(videos)
    if len(videos_by_folder) < 2:
        return DifferingSettings({})
    values_by_setting: dict[str, dict[Path, Any]] = {}
    for folder, members in videos_by_folder.items():
        for name, value in collect_compared_settings(members[0]).items():
            values_by_setting.setdefault(name, {})[folder] = value
        recipe = members[0].recipe
        values_by_setting.setdefault(SPEED_SETTING, {})[folder] = None if recipe is None else recipe.speed
        values_by_setting.setdefault(WEIGHTING_SETTING, {})[folder] = next(
            (video.weighting_method for video in members if video.weighting_method), ""
        )
    for name, values_by_folder in (
        ("prompt", _find_shared_texts(videos_by_folder, "prompt")),
        ("weights of words", _find_shared_texts(videos_by_folder, "word_weights")),
    ):
        values_by_setting[name] = values_by_folder
    values_by_setting = {
        name: {folder: values.get(folder) for folder in videos_by_folder} for name, values in values_by_setting.items()
    }
    differing_values = {
        name: values for name, values in values_by_setting.items() if len({json.dumps(v) for v in values.values()}) > 1
    }
    different_controls = tuple(f"{name}." for name in differing_values)
    differing_values = {
        name: values for name, values in differing_values.items() if not name.startswith(different_controls)
    }
    if "weights of words" in differing_values and any(
        not value for value in differing_values.get(WEIGHTING_SETTING, {}).values()
    ):
        differing_values.pop(WEIGHTING_SETTING, None)  # a batch without weights has no method of applying them
    if SPEED_SETTING in differing_values:
        differing_values = {name: values for name, values in differing_values.items() if name not in SPEED_PARTS}
    if "model" in differing_values:
        differing_values.pop("revision", None)
    if any(name in SCHEDULE_SETTINGS for name in differing_values):
        differing_values.pop(NOISE_LEVELS_SETTING, None)
    return DifferingSettings(differing_values)


def _find_shared_texts(videos_by_folder: Mapping[Path, Sequence[Video]], attribute: str) -> dict[Path, str]:
    """Return, by batch folder, the joined prompts (or weights) of the variations that all batches share."""
    texts_by_folder: dict[Path, dict[str, list[str]]] = {folder: {} for folder in videos_by_folder}
    for folder, members in videos_by_folder.items():
        for video in members:
            texts_by_folder[folder].setdefault(video.variation, []).append(str(getattr(video, attribute)))
    shared_variations = set.intersection(*(set(members) for members in texts_by_folder.values()))
    return {
        folder: "; ".join(
            dict.fromkeys(text for variation in texts if variation in shared_variations for text in texts[variation])
        )
        for folder, texts in texts_by_folder.items()
    }


def _group_videos_by_folder(videos: Sequence[Video]) -> dict[Path, list[Video]]:
    videos_by_folder: dict[Path, list[Video]] = {}
    for video in videos:
        videos_by_folder.setdefault(video.folder, []).append(video)
    return videos_by_folder


class VideoNamer:
    """Names of videos for messages; they include the batch if there are several."""

    def __init__(self, videos: Sequence[Video]) -> None:
        self.batch_names_by_folder = choose_unique_batch_names([video.folder for video in videos])

    def name_batch(self, video: Video) -> str:
        """Return the name of the video's batch."""
        return self.batch_names_by_folder.get(video.folder, video.folder.name)

    def name_video(self, video: Video) -> str:
        """Return the name of the video."""
        return f"{video.name} of {self.name_batch(video)}" if len(self.batch_names_by_folder) > 1 else video.name


def choose_unique_batch_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest unique name of each folder: as many trailing path parts as distinguish it from the others."""
    unique_folders = list(dict.fromkeys(folders))
    return {folder: next(_generate_unique_endings(folder, unique_folders)) for folder in unique_folders}


def _generate_unique_endings(folder: Path, all_folders: Sequence[Path]) -> Iterator[str]:
    for part_count in range(1, len(folder.parts) + 1):
        ending_parts = folder.parts[-part_count:]
        if sum(other_folder.parts[-part_count:] == ending_parts for other_folder in all_folders) == 1:
            yield str(Path(*ending_parts))
    yield str(folder)
