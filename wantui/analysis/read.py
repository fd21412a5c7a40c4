"""Stored trajectories as the analysis takes them: of batch folders, and of the older system's.

What cannot be analysed is named with its reason, and the others go on.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.trajectory import Floats, NoGeometry, Trajectory, trajectory, value
from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest

BLOCK_BYTES = 1 << 29
"""Of states in float32 that are held at a time while a Gram matrix is made from stored latents."""
CHUNK = 1 << 18
"""Values of each state that are multiplied at a time."""
SAME_FOR_ALL = ("model", "revision", "negative_prompt", "sampler", "steps", "flow_shift", "guidance_scale",
                "guidance_scale_2", "width", "height", "frames", "dtype")  # fmt: skip
"""Of the recipe: what must be equal for two trajectories to be compared."""


@dataclass(frozen=True)
class Video:
    """One video of an analysis; `why_not` where it has no trajectory."""

    folder: Path
    number: int
    """From 0, in its batch."""
    id: str
    variation: str
    prompt: str
    choices: Mapping[int, str]
    """Text of the option taken in each bracket."""
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What of the recipe must be equal for a comparison."""
    trajectory: Trajectory | None = None
    why_not: str = ""
    dimension: int = 0
    """Values of a state."""
    channel_power: Floats | None = None
    """[channels], mean square of each channel of the final state."""
    path: Path | None = None
    """The zarr group."""
    attention: Path | None = None
    tokens: int = 0
    """Words of the prompt, a confounder of any comparison of prompts."""

    def value(self, metric: str) -> float:
        """NaN where there is no trajectory, or no such value."""
        return value(self.trajectory, metric) if self.trajectory is not None else float("nan")

    @property
    def name(self) -> str:
        return f"{self.variation} seed {self.seed}"

    def projection(self) -> NDArray[np.float32]:
        """[S + 1, k], the states in few dimensions.

        Raises:
            NoGeometry: it was not stored.
        """
        import zarr

        if self.path is None:
            raise NoGeometry(f"{self.name}: no projection of its states is stored")
        try:
            return np.asarray(zarr.open_group(self.path, mode="r")["projection"][:])
        except (OSError, KeyError, ValueError, RuntimeError):
            raise NoGeometry(f"{self.name}: no projection of its states can be read") from None


def read_batch(folder: Path, from_latents: bool = False) -> Iterator[Video]:
    """Every finished video of a batch folder, of this system or of the older one.

    Args:
        from_latents: make the Gram matrices from the stored latents, rather than take the stored ones.

    Raises:
        UserError: it is no batch folder of either kind.
    """
    if (folder / "batch.json").exists():
        yield from _read(folder, from_latents)
    elif (folder / "batch_metadata.json").exists() or any(folder.glob("latents/*/vid_*/step_*.npy*")):
        yield from _read_older(folder)
    else:
        raise UserError(
            f"{folder} is not a batch folder: it has no batch.json, nor latents/prompt_000/vid_001/step_000.npy.gz "
            "as the older system wrote them"
        )


def _read(folder: Path, from_latents: bool) -> Iterator[Video]:
    manifest = read_manifest(BatchFolder(folder))
    for number, entry in enumerate(manifest.videos):
        if entry.state != "done":
            continue
        variation = manifest.variations[entry.variation]
        choices = {int(choice["bracket"]): str(choice["text"]) for choice in variation.choices}
        yield _video(folder, number, entry, variation.id, choices, from_latents)


def _video(
    folder: Path, number: int, entry: VideoEntry, variation: str, choices: Mapping[int, str], from_latents: bool
) -> Video:
    recipe = entry.recipe
    known: dict[str, Any] = {
        "folder": folder,
        "number": number,
        "id": entry.id,
        "variation": variation,
        "prompt": recipe.prompt,
        "choices": choices,
        "seed": entry.seed,
        "settings": {name: getattr(recipe, name) for name in SAME_FOR_ALL},
        "attention": folder / entry.files["attention"] if "attention" in entry.files else None,
        "tokens": len(recipe.prompt.split()),
    }
    if "latents" not in entry.files:
        return Video(**known, why_not="it has no stored trajectory")
    path = folder / entry.files["latents"]
    try:
        found, dimension, power = _stored(path, from_latents)
        return Video(**known, trajectory=found, dimension=dimension, channel_power=power, path=path)
    except NoGeometry as error:
        return Video(**known, path=path, why_not=str(error))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        return Video(**known, path=path, why_not=f"its stored trajectory cannot be read: {error}")


def _stored(path: Path, from_latents: bool) -> tuple[Trajectory, int, Floats | None]:
    import zarr

    group = zarr.open_group(path, mode="r")
    sigmas = np.asarray(group["sigmas"][:])
    shape = group.attrs.get("shape") or group["latents"].shape[1:]
    dimension = int(np.prod(shape))
    if from_latents:
        if "latents" not in group:
            raise NoGeometry("its latents are not stored, only what was derived from them")
        latents = group["latents"]
        gram = gram_of(latents, latents.shape[0], dimension)
        chosen = np.asarray(group["steps"][:]) if len(sigmas) != latents.shape[0] else slice(None)
        return trajectory(gram, sigmas[chosen], dimension), dimension, None
    power = np.asarray(group["channel_power"][-1]) if "channel_power" in group else None
    return trajectory(np.asarray(group["gram"][:]), sigmas, dimension), dimension, power


def gram_of(states: Any, n: int, dimension: int) -> Floats:
    """Inner products of n stored states, in float64, with a bounded part of them in memory.

    Args:
        states: states[i] is the i-th one, an array of any shape.
    """
    gram = np.zeros((n, n))
    several = max(1, min(n, BLOCK_BYTES // (4 * dimension)))
    blocks = [range(first, min(first + several, n)) for first in range(0, n, several)]
    for i, rows in enumerate(blocks):
        held = _held(states, rows, dimension)
        _add_products(gram, rows, held, rows, held)
        for columns in blocks[i + 1 :]:
            for column in columns:  # one after the other: no two blocks are in memory
                _add_products(gram, rows, held, range(column, column + 1), _held(states, (column,), dimension))
    return gram


def _held(states: Any, which: Sequence[int], dimension: int) -> NDArray[np.float32]:
    held = np.empty((len(which), dimension), dtype=np.float32)
    for place, index in enumerate(which):
        held[place] = np.asarray(states[index]).ravel()
    return held


def _add_products(
    gram: Floats, rows: range, left: NDArray[np.float32], columns: range, right: NDArray[np.float32]
) -> None:
    for start in range(0, left.shape[1], CHUNK):
        one = left[:, start : start + CHUNK].astype(np.float64)
        other = one if left is right else right[:, start : start + CHUNK].astype(np.float64)
        gram[rows.start : rows.stop, columns.start : columns.stop] += one @ other.T
    if left is not right:
        gram[columns.start : columns.stop, rows.start : rows.stop] = gram[
            rows.start : rows.stop, columns.start : columns.stop
        ].T


_OLDER_STEP = re.compile(r"step_(\d+)\.npy(\.gz)?$")


def _read_older(folder: Path) -> Iterator[Video]:
    """Of the older system: latents/prompt_000/vid_001/step_000.npy.gz, without the initial noise, in which each file
    has the noise level of before its step in its metadata, if any."""
    prompts = _older_prompts(folder)
    directories = sorted({path.parent for path in folder.glob("latents/*/vid_*/step_*.npy*")})
    for number, directory in enumerate(directories):
        group = directory.parent.name
        metadata = _json(directory / "step_000_metadata.json")
        prompt = str(metadata.get("prompt") or prompts.get(group, group))
        known: dict[str, Any] = {
            "folder": folder,
            "number": number,
            "id": str(metadata.get("video_id", f"{group}_{directory.name}")),
            "variation": group,
            "prompt": prompt,
            "choices": {},
            "seed": int(metadata.get("seed") or int(directory.name.removeprefix("vid_"))),
            "tokens": len(prompt.split()),
        }
        try:
            found, shape = _older_trajectory(directory)
            settings = {"shape": list(shape), "steps": len(found.sigmas)}
            yield Video(**known, settings=settings, trajectory=found, dimension=int(np.prod(shape)))
        except (NoGeometry, OSError, ValueError, EOFError) as error:
            yield Video(**known, why_not=str(error))


def _older_trajectory(directory: Path) -> tuple[Trajectory, tuple[int, ...]]:
    numbered = ((_OLDER_STEP.search(path.name), path) for path in directory.iterdir())
    files = [path for _, path in sorted((int(match[1]), path) for match, path in numbered if match)]
    loaded = [_load(path) for path in files]
    shapes = Counter(state.shape for state in loaded)
    if len(shapes) > 1:
        raise NoGeometry(f"its steps have different shapes: {', '.join(map(str, shapes))}")
    levels = [_json(path.with_name(path.name.split(".")[0] + "_metadata.json")) for path in files]
    sigmas = [_level_after(levels, i) for i in range(len(levels))]
    if any(sigma is None for sigma in sigmas):
        # Without any, equal steps are all that can be said; curves over sigma are then curves over steps.
        sigmas = list(np.linspace(1 - 1 / len(files), 0, len(files)))
    shape = loaded[0].shape
    dimension = int(np.prod(shape))
    return trajectory(gram_of(loaded, len(loaded), dimension), np.array(sigmas, dtype=np.float64), dimension), shape


def _level_after(levels: Sequence[Mapping[str, Any]], i: int) -> float | None:
    """Noise level of the state after step i: that of before the next step; 0 after the last."""
    if i + 1 == len(levels):
        return 0.0
    level = levels[i + 1]
    if level.get("sigma") is not None:
        return float(level["sigma"])
    return float(level["timestep"]) / 1000 if level.get("timestep") is not None else None


def _load(path: Path) -> NDArray[np.float32]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            return np.asarray(np.load(file), dtype=np.float32)
    return np.asarray(np.load(path), dtype=np.float32)


def _older_prompts(folder: Path) -> dict[str, str]:
    found = _json(folder / "configs" / "prompt_variations.json")
    entries = found if isinstance(found, list) else found.get("variations", [])
    prompts = {}
    for index, entry in enumerate(entries):
        text = entry.get("text") or entry.get("prompt") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            prompts[f"prompt_{index:03d}"] = text
    return prompts


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def comparable(videos: Sequence[Video]) -> tuple[list[Video], list[Video]]:
    """Those with a trajectory under the settings that most of them have, and the others with the reason in `why_not`.

    Two trajectories with another model, sampler, size or number of steps cannot be compared, whatever they show.
    """
    from dataclasses import replace

    usable = [video for video in videos if video.trajectory is not None]
    kinds = Counter(json.dumps(dict(video.settings), sort_keys=True, default=str) for video in usable)
    if len(kinds) < 2:
        return usable, [video for video in videos if video.trajectory is None]
    usual = json.loads(kinds.most_common(1)[0][0])
    kept, left = [], [video for video in videos if video.trajectory is None]
    for video in usable:
        own = json.loads(json.dumps(dict(video.settings), default=str))
        differs = [
            f"{name} is {own.get(name)}, and {usual.get(name)} in most"
            for name in {**usual, **own}
            if own.get(name) != usual.get(name)
        ]
        if differs:
            left.append(replace(video, trajectory=None, why_not="; ".join(differs)))
        else:
            kept.append(video)
    return kept, left
