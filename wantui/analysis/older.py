"""Batches of the older system: latents/prompt_000/vid_001/step_000.npy.gz, without the initial noise."""

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.noise_levels import levels_after
from wantui.analysis.products import HeldStates, gram_of, in_memory
from wantui.analysis.trajectory import NoGeometry, Trajectory, trajectory
from wantui.analysis.video import Video
from wantui.json_files import UnreadableFileError, read_json, read_json_object
from wantui.storage.group import CaptureError, named_damage

_STEP = re.compile(r"step_(\d+)\.npy(\.gz)?$")
_LATER_GROUP = re.compile(r"(?P<variation>p(?P<prompt>\d+)_b\d+)_s(?P<seed>\d+)$")
"""Folder of one video in the newest layout, by prompt, bending variation (b000 is none) and number of the seed."""
_VIDEO = re.compile(r"vid_(\d+)$")


def read_older(folder: Path) -> Iterator[Video]:
    """Yield the videos of a batch of the older system.

    The variation is the prompt, together with the bending variation in the newest layout.
    """
    prompts, warnings = _prompts(folder)
    for number, directory in enumerate(_directories(folder)):
        yield _video(folder, number, directory, prompts, warnings)


def latents_folder(folder: Path) -> Path:
    """Return the folder with a folder for each prompt: `latents`, or the batch folder itself, as of an export."""
    return folder / "latents" if (folder / "latents").is_dir() else folder


def _directories(folder: Path) -> Iterator[Path]:
    """Yield the folders of videos in order, and those that cannot be listed, which a glob leaves out in silence."""
    for group in sorted(latents_folder(folder).glob("*")):
        try:
            videos = sorted(path for path in group.iterdir() if path.name.startswith("vid_"))
        except NotADirectoryError:
            continue
        except OSError:
            yield group  # reading it will say why
            continue
        yield from filter(_holds_steps, videos)


def _holds_steps(directory: Path) -> bool:
    try:
        return any(_STEP.search(path.name) for path in directory.iterdir())
    except NotADirectoryError:
        return False
    except OSError:
        return True  # reading it will say why


def _video(folder: Path, number: int, directory: Path, prompts: Mapping[str, str], warnings: tuple[str, ...]) -> Video:
    group = directory.parent.name
    later = _LATER_GROUP.match(group)
    variation = later["variation"] if later else group
    error = ""
    metadata: dict[int, dict[str, Any]] = {}
    try:
        metadata = _metadata(directory)
    except UnreadableFileError as unreadable:
        error = str(unreadable)
    except OSError as unreadable:
        error = f"{directory} cannot be read: {unreadable.strerror or unreadable}"
    first = metadata[min(metadata)] if metadata else {}
    prompt = str(first.get("prompt") or prompts.get(f"prompt_{later['prompt']}" if later else group, variation))
    seed, is_seed_stored = _seed(first, directory, later)
    if metadata and not is_seed_stored:
        warnings = (*warnings, "no seed is stored: videos are paired by their number")
    known: dict[str, Any] = {
        "folder": folder,
        "number": number,
        "id": str(first.get("video_id", f"{group}_{directory.name}")),
        "variation": variation,
        "prompt": prompt,
        "choices": {},
        "seed": seed,
        "words": len(prompt.split()),
    }
    if error:
        return Video(**known, why_not=error, is_damaged=True, warnings=warnings)
    try:
        with named_damage(directory):
            found, shape, of_levels = _trajectory(directory, metadata)
    except NoGeometry as no_geometry:
        return Video(**known, why_not=str(no_geometry), warnings=warnings)
    except CaptureError as damage:
        return Video(**known, why_not=str(damage), is_damaged=True, warnings=warnings)
    settings = {
        "shape": list(shape),
        "steps": len(found.sigmas),
        "levels": "assumed" if of_levels else "stored",
        "guidance_scale": first.get("cfg_scale"),
    }
    return Video(
        **known,
        settings=settings,
        trajectory=found,
        dimension=int(np.prod(shape)),
        warnings=(*warnings, *of_levels),
    )


def _seed(metadata: Mapping[str, Any], directory: Path, later: re.Match[str] | None) -> tuple[int, bool]:
    """Return the seed of a video, or else its number, and whether it is the seed; 0 is a seed."""
    found = metadata.get("seed")
    if type(found) is int:
        return found, True
    if isinstance(found, str) and found.isdecimal() and len(found) < 20:
        return int(found), True
    if later:
        return int(later["seed"]), False
    match = _VIDEO.match(directory.name)
    return int(match[1]) if match else 0, False


def _metadata(directory: Path) -> dict[int, dict[str, Any]]:
    """Return the metadata of the stored steps by number.

    Raises:
        UnreadableFileError: metadata are there and cannot be read.
    """
    found = {}
    for step, path in _files(directory).items():
        file = path.with_name(f"{path.name.split('.')[0]}_metadata.json")
        try:
            found[step] = read_json_object(file)
        except FileNotFoundError:
            continue
    return found


def _files(directory: Path) -> dict[int, Path]:
    """Return the files of the stored steps by number, in order."""
    numbered = ((_STEP.search(path.name), path) for path in sorted(directory.iterdir()))
    return dict(sorted((int(match[1]), path) for match, path in numbered if match))


def _trajectory(
    directory: Path, metadata: Mapping[int, Mapping[str, Any]]
) -> tuple[Trajectory, tuple[int, ...], tuple[str, ...]]:
    """Trajectory, shape of a state, and warnings about its noise levels."""
    files = _files(directory)
    loaded = [_load(path) for path in files.values()]
    shapes = Counter(state.shape for state in loaded)
    if len(shapes) > 1:
        raise NoGeometry(f"its steps have different shapes: {', '.join(map(str, shapes))}")
    levels = levels_after(list(files), metadata)
    shape = loaded[0].shape
    dimension = int(np.prod(shape))
    gram = gram_of(in_memory(loaded), len(loaded), dimension, HeldStates())
    return trajectory(gram, levels.sigmas, dimension), shape, levels.warnings


def _load(path: Path) -> NDArray[np.float32]:
    with named_damage(path):
        if not path.is_file():
            raise ValueError("it is not a regular file")
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                stored = np.asarray(np.load(file))
        else:
            stored = np.asarray(np.load(path))
        if stored.dtype.kind not in "fiub":
            raise ValueError(f"its values are {stored.dtype}, and must be real numbers")
        with np.errstate(over="ignore"):  # what is too large becomes infinity, which is refused by name
            return stored.astype(np.float32)


def _prompts(folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the prompts by folder, and a warning where there are some that cannot be read."""
    try:
        found = read_json(folder / "configs" / "prompt_variations.json")
    except FileNotFoundError:
        return {}, ()
    except UnreadableFileError as error:
        return {}, (f"prompts are not known: {error}",)
    entries = found.get("variations", []) if isinstance(found, dict) else found
    prompts = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        text = entry.get("text") or entry.get("prompt") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            prompts[f"prompt_{index:03d}"] = text
    return prompts, ()
