"""Rules for comparing trajectories: settings that must be equal, and settings in which batches may differ."""

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wantui.analysis.video import Video

COMPARED_FIELDS = ("negative_prompt", "sampler", "steps", "flow_shift", "guidance_scale", "guidance_scale_2", "width",
                "height", "frames")  # fmt: skip
"""Recipe fields that must be equal for two trajectories to be compared, besides `ModelSource.settings`.

If there are word weights, the method of applying them must be equal too; the weights themselves distinguish groups and
phrasings (`groups`)."""
SIZE_SETTINGS = ("width", "height", "frames", "shape", "values")
"""Settings that determine the shape of the initial noise; seeds can be paired only if these are equal."""
WEIGHTING_SETTING = "embedding_method"
NOISE_LEVELS_SETTING = "noise_levels"
SCHEDULE_SETTINGS = ("steps", "sampler", "flow_shift", "storage_interval", "levels")
"""Settings that explain different noise levels."""
NOISE_LEVEL_DIGITS = 4
"""Decimal places to which noise levels are compared."""
MAX_LABEL_LENGTH = 40


def collect_settings(video: Video) -> dict[str, Any]:
    """Return the settings of a video as JSON values, with the number of values per state and the noise levels.

    The noise levels count because lengths and bends depend on which states are stored, and recipes with equal steps
    may be stored at different intervals.
    """
    settings: dict[str, Any] = json.loads(json.dumps(dict(video.settings), default=str))
    settings["values"] = video.dimension
    if video.trajectory is not None:
        levels = [round(float(sigma), NOISE_LEVEL_DIGITS) for sigma in video.trajectory.sigmas]
        settings[NOISE_LEVELS_SETTING] = f"{len(levels)} (checksum {zlib.crc32(json.dumps(levels).encode()):08x})"
    return settings


def select_comparable_videos(videos: Sequence[Video], by: str = "variation") -> tuple[list[Video], list[Video]]:
    """Return the videos that can be compared, and the excluded videos with their `reason`.

    Videos can be compared if they have a trajectory and the most common settings. Batches (`by` is "batch") may differ
    in the settings under study, which `find_differing_settings` names, but not in size.
    """
    usable = [video for video in videos if video.trajectory is not None]
    excluded = [video for video in videos if video.trajectory is None]
    if by == "batch":
        included: list[Video] = []
        for members in _group_by_folder(usable).values():
            alike, others = _split_by_majority(members)
            included, excluded = included + alike, excluded + others
        included, others = _split_by_majority(included, SIZE_SETTINGS)
    else:
        included, others = _split_by_majority(usable)
    return included, excluded + others


def _split_by_majority(videos: Sequence[Video], names: Sequence[str] | None = None) -> tuple[list[Video], list[Video]]:
    every = [collect_settings(video) for video in videos]
    every = [{name: settings[name] for name in settings if names is None or name in names} for settings in every]
    kinds = Counter(json.dumps(settings, sort_keys=True) for settings in every)
    methods = Counter(video.weighting for video in videos if video.weighting)
    if len(kinds) < 2 and (len(methods) < 2 or names is not None):
        return list(videos), []
    usual: dict[str, Any] = json.loads(kinds.most_common(1)[0][0])
    method = methods.most_common(1)[0][0] if methods else ""
    included, excluded = [], []
    for video, settings in zip(videos, every, strict=True):
        different = [name for name in {**usual, **settings} if settings.get(name) != usual.get(name)]
        if any(name in SCHEDULE_SETTINGS for name in different):
            different = [name for name in different if name != NOISE_LEVELS_SETTING]
        differs = [f"{name} is {settings.get(name)}, but {usual.get(name)} in most videos" for name in different]
        if names is None and video.weighting and video.weighting != method:
            differs.append(f"{WEIGHTING_SETTING} is {video.weighting}, but {method} in most videos")
        if differs:
            excluded.append(replace(video, trajectory=None, reason="; ".join(differs)))
        else:
            included.append(video)
    return included, excluded


@dataclass(frozen=True)
class DifferingSettings:
    """Settings, prompts and word weights in which batches differ."""

    values: Mapping[str, Mapping[Path, Any]]
    """Values by setting, then by batch folder."""

    def label(self, folder: Path) -> str:
        """Return a label with the batch's value of the only differing setting; empty if none or several differ."""
        if len(self.values) != 1:
            return ""
        ((name, values),) = self.values.items()
        text = f"no {name}" if values[folder] in ("", None) else f"{name} {values[folder]}"
        return text if len(text) <= MAX_LABEL_LENGTH else ""

    @property
    def description(self) -> str:
        names = list(self.values)
        if not names:
            return "the batches have equal settings and prompts: any difference between them is chance"
        if len(names) == 1:
            return f"the batches differ in {names[0]} only"
        return f"the batches differ in {', '.join(names)}: any of these may cause a difference"


def find_differing_settings(videos: Sequence[Video]) -> DifferingSettings:
    """Return the settings, prompts and word weights in which the batches of some videos differ."""
    batches = _group_by_folder(videos)
    if len(batches) < 2:
        return DifferingSettings({})
    by_name: dict[str, dict[Path, Any]] = {}
    for folder, members in batches.items():
        for name, value in collect_settings(members[0]).items():
            by_name.setdefault(name, {})[folder] = value
        by_name.setdefault(WEIGHTING_SETTING, {})[folder] = next(
            (video.weighting for video in members if video.weighting), ""
        )
    for name, pairs in (
        ("prompt", _find_shared_texts(batches, "prompt")),
        ("weights of words", _find_shared_texts(batches, "weights")),
    ):
        by_name[name] = pairs
    differ = {name: values for name, values in by_name.items() if len({json.dumps(v) for v in values.values()}) > 1}
    if "weights of words" in differ and any(not value for value in differ.get(WEIGHTING_SETTING, {}).values()):
        differ.pop(WEIGHTING_SETTING, None)  # a batch without weights has no method of applying them
    if "model" in differ:
        differ.pop("revision", None)
    if any(name in SCHEDULE_SETTINGS for name in differ):
        differ.pop(NOISE_LEVELS_SETTING, None)
    return DifferingSettings(differ)


def _find_shared_texts(batches: Mapping[Path, Sequence[Video]], name: str) -> dict[Path, str]:
    """Return the prompts (or weights) of the variations that all batches share, joined, by batch folder."""
    each = {
        folder: {video.variation: str(getattr(video, name)) for video in members} for folder, members in batches.items()
    }
    shared = set.intersection(*(set(members) for members in each.values()))
    return {
        folder: "; ".join(dict.fromkeys(members[key] for key in members if key in shared))
        for folder, members in each.items()
    }


def _group_by_folder(videos: Sequence[Video]) -> dict[Path, list[Video]]:
    by_folder: dict[Path, list[Video]] = {}
    for video in videos:
        by_folder.setdefault(video.folder, []).append(video)
    return by_folder


class VideoNamer:
    """Names of videos for messages; they include the batch if there are several."""

    def __init__(self, videos: Sequence[Video]) -> None:
        self.batch_names = choose_batch_names([video.folder for video in videos])

    def name_batch(self, video: Video) -> str:
        """Return the name of the video's batch."""
        return self.batch_names.get(video.folder, video.folder.name)

    def __call__(self, video: Video) -> str:
        """Return the name of the video."""
        return f"{video.name} of {self.name_batch(video)}" if len(self.batch_names) > 1 else video.name


def choose_batch_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest unique name of each folder: as many trailing path parts as distinguish it from the others."""
    unique_folders = list(dict.fromkeys(folders))
    return {folder: next(_generate_unique_endings(folder, unique_folders)) for folder in unique_folders}


def _generate_unique_endings(folder: Path, all_folders: Sequence[Path]) -> Iterator[str]:
    for count in range(1, len(folder.parts) + 1):
        ending = folder.parts[-count:]
        if sum(other_folder.parts[-count:] == ending for other_folder in all_folders) == 1:
            yield str(Path(*ending))
    yield str(folder)
