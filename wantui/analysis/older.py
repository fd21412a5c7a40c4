"""Batches of the older system: latents/prompt_000/vid_001/step_000.npy.gz, without the initial noise."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.products import HeldStates, gram_of, in_memory
from wantui.analysis.trajectory import NoGeometry, Trajectory, trajectory
from wantui.analysis.video import Video

_OLDER_STEP = re.compile(r"step_(\d+)\.npy(\.gz)?$")


def read_older(folder: Path) -> Iterator[Video]:
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
            "words": len(prompt.split()),
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
    gram = gram_of(in_memory(loaded), len(loaded), dimension, HeldStates())
    return trajectory(gram, np.array(sigmas, dtype=np.float64), dimension), shape


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
