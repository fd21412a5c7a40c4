"""Rules for comparing trajectories: recipe fields that must be equal, and fields in which batches may differ."""

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wantui.analysis.video import Video

SAME_FOR_ALL = ("negative_prompt", "sampler", "steps", "flow_shift", "guidance_scale", "guidance_scale_2", "width",
                "height", "frames")  # fmt: skip
"""Fields of the recipe that must be equal for two trajectories to be compared, besides the model's `settings`.

How weights of words are applied must be equal too where there are any; the weights themselves distinguish groups and
phrasings (`groups`)."""
SIZE = ("width", "height", "frames", "shape", "values")
"""Settings that determine the shape of the initial noise; seeds are paired only where these are equal."""
METHOD = "embedding_method"
LEVELS = "noise_levels"
SCHEDULE = ("steps", "sampler", "flow_shift", "storage_interval", "levels")
"""Settings that explain other noise levels."""
LEVEL_DIGITS = 4
"""Digits after the point in which noise levels are compared."""
MAX_LABEL = 40


def settings_of(video: Video) -> dict[str, Any]:
    """Return the settings of a video as in JSON, with the number of values of a state and the noise levels.

    Lengths and bends of a path depend on the states between which they are measured, whatever the recipe says: states
    may be stored at another interval.
    """
    settings: dict[str, Any] = json.loads(json.dumps(dict(video.settings), default=str))
    settings["values"] = video.dimension
    if video.trajectory is not None:
        levels = [round(float(sigma), LEVEL_DIGITS) for sigma in video.trajectory.sigmas]
        settings[LEVELS] = f"{len(levels)} (checksum {zlib.crc32(json.dumps(levels).encode()):08x})"
    return settings


def comparable(videos: Sequence[Video], by: str = "variation") -> tuple[list[Video], list[Video]]:
    """Return videos with a trajectory under the most common settings, and the others with the reason in `reason`.

    Two trajectories with another model, sampler, size or number of steps cannot be compared, whatever they show;
    batches (`by` is "batch") may differ in what is under study, which `studied` names, but not in size.
    """
    usable = [video for video in videos if video.trajectory is not None]
    left = [video for video in videos if video.trajectory is None]
    if by == "batch":
        kept: list[Video] = []
        for members in _by_folder(usable).values():
            alike, others = _most(members)
            kept, left = kept + alike, left + others
        kept, others = _most(kept, SIZE)
    else:
        kept, others = _most(usable)
    return kept, left + others


def _most(videos: Sequence[Video], names: Sequence[str] | None = None) -> tuple[list[Video], list[Video]]:
    every = [settings_of(video) for video in videos]
    every = [{name: settings[name] for name in settings if names is None or name in names} for settings in every]
    kinds = Counter(json.dumps(settings, sort_keys=True) for settings in every)
    methods = Counter(video.weighting for video in videos if video.weighting)
    if len(kinds) < 2 and (len(methods) < 2 or names is not None):
        return list(videos), []
    usual: dict[str, Any] = json.loads(kinds.most_common(1)[0][0])
    method = methods.most_common(1)[0][0] if methods else ""
    kept, left = [], []
    for video, settings in zip(videos, every, strict=True):
        different = [name for name in {**usual, **settings} if settings.get(name) != usual.get(name)]
        if any(name in SCHEDULE for name in different):
            different = [name for name in different if name != LEVELS]
        differs = [f"{name} is {settings.get(name)}, and {usual.get(name)} in those taken" for name in different]
        if names is None and video.weighting and video.weighting != method:
            differs.append(f"{METHOD} is {video.weighting}, and {method} in those taken")
        if differs:
            left.append(replace(video, trajectory=None, reason="; ".join(differs)))
        else:
            kept.append(video)
    return kept, left


@dataclass(frozen=True)
class Studied:
    """Settings in which some batches differ, besides their seeds."""

    values: Mapping[str, Mapping[Path, Any]]
    """Values by name of the setting and batch."""

    def label(self, folder: Path) -> str:
        """Return the value of the one setting that differs, or nothing where there are none or several."""
        if len(self.values) != 1:
            return ""
        ((name, values),) = self.values.items()
        text = f"no {name}" if values[folder] in ("", None) else f"{name} {values[folder]}"
        return text if len(text) <= MAX_LABEL else ""

    @property
    def in_words(self) -> str:
        names = list(self.values)
        if not names:
            return "the batches have the same settings and prompts: what differs between them is chance"
        if len(names) == 1:
            return f"the batches differ in {names[0]}, which is what is compared"
        return f"the batches differ in {', '.join(names)}: what differs may come from any of them"


def studied(videos: Sequence[Video]) -> Studied:
    """Return in which settings, prompts and weights the batches of some videos differ."""
    batches = _by_folder(videos)
    if len(batches) < 2:
        return Studied({})
    by_name: dict[str, dict[Path, Any]] = {}
    for folder, members in batches.items():
        for name, value in settings_of(members[0]).items():
            by_name.setdefault(name, {})[folder] = value
        by_name.setdefault(METHOD, {})[folder] = next((video.weighting for video in members if video.weighting), "")
    for name, pairs in (("prompt", _texts(batches, "prompt")), ("weights of words", _texts(batches, "weights"))):
        by_name[name] = pairs
    differ = {name: values for name, values in by_name.items() if len({json.dumps(v) for v in values.values()}) > 1}
    if "weights of words" in differ and any(not value for value in differ.get(METHOD, {}).values()):
        differ.pop(METHOD, None)  # a batch without weights has no method of applying them
    if "model" in differ:
        differ.pop("revision", None)
    if any(name in SCHEDULE for name in differ):
        differ.pop(LEVELS, None)
    return Studied(differ)


def _texts(batches: Mapping[Path, Sequence[Video]], name: str) -> dict[Path, str]:
    """Return the prompts, or weights, of the variations that all batches have."""
    each = {
        folder: {video.variation: str(getattr(video, name)) for video in members} for folder, members in batches.items()
    }
    shared = set.intersection(*(set(members) for members in each.values()))
    return {
        folder: "; ".join(dict.fromkeys(members[key] for key in members if key in shared))
        for folder, members in each.items()
    }


def _by_folder(videos: Sequence[Video]) -> dict[Path, list[Video]]:
    by_folder: dict[Path, list[Video]] = {}
    for video in videos:
        by_folder.setdefault(video.folder, []).append(video)
    return by_folder


class VideoNames:
    """Names of videos for messages, with the batch where the analysed videos come from several."""

    def __init__(self, videos: Sequence[Video]) -> None:
        self.batches = batch_names([video.folder for video in videos])

    def batch(self, video: Video) -> str:
        """Return the name of the video's batch."""
        return self.batches.get(video.folder, video.folder.name)

    def __call__(self, video: Video) -> str:
        """Return the name of the video."""
        return f"{video.name} of {self.batch(video)}" if len(self.batches) > 1 else video.name


def batch_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each folder: its last part, or as many parts as distinguish it from the others."""
    every = list(dict.fromkeys(folders))
    return {folder: next(_endings(folder, every)) for folder in every}


def _endings(folder: Path, every: Sequence[Path]) -> Iterator[str]:
    for count in range(1, len(folder.parts) + 1):
        ending = folder.parts[-count:]
        if sum(other.parts[-count:] == ending for other in every) == 1:
            yield str(Path(*ending))
    yield str(folder)
