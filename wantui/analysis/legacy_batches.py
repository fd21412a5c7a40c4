"""Reader of batches of the older system: latents/prompt_000/vid_001/step_000.npy.gz, without the initial noise."""

import gzip
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.gram import StateBuffer, compute_gram
from wantui.analysis.noise_levels import find_levels_after
from wantui.analysis.trajectory import NoGeometryError, Trajectory, build_trajectory
from wantui.analysis.video import Video
from wantui.json_files import UnreadableFileError, read_json, read_json_object
from wantui.storage.state_reader import Row
from wantui.storage.zarr_group import CaptureError, raise_capture_error

_STEP_FILE = re.compile(r"step_(\d+)\.npy(\.gz)?$")
_NEWEST_LAYOUT_FOLDER = re.compile(r"(?P<variation>p(?P<prompt>\d+)_b\d+)_s(?P<seed>\d+)$")
"""Folder name of a video in the newest layout: prompt, bending variation (b000 is none) and number of the seed."""
_VIDEO_FOLDER = re.compile(r"vid_(\d+)$")
_NPY_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of .npy headers by version; later versions differ only in field names."""


def read_legacy_batch(folder: Path) -> Iterator[Video]:
    """Yield the videos of a batch of the older system.

    `variation` is the prompt's folder, in the newest layout with the bending variation.
    """
    prompts, warnings = _read_prompts(folder)
    for number, directory in enumerate(_find_video_folders(folder)):
        yield _load_video(folder, number, directory, prompts, warnings)


def find_latents_folder(folder: Path) -> Path:
    """Return the folder that contains the prompt folders: `latents`, or in an export the batch folder itself."""
    return folder / "latents" if (folder / "latents").is_dir() else folder


def _find_video_folders(folder: Path) -> Iterator[Path]:
    """Yield video folders in order, and unreadable folders too, which a glob would skip silently."""
    for group in sorted(find_latents_folder(folder).glob("*")):
        try:
            videos = sorted(path for path in group.iterdir() if path.name.startswith("vid_"))
        except NotADirectoryError:
            continue
        except OSError:
            yield group  # reading it reports the error
            continue
        yield from filter(_has_steps, videos)


def _has_steps(directory: Path) -> bool:
    try:
        return any(_STEP_FILE.search(path.name) for path in directory.iterdir())
    except NotADirectoryError:
        return False
    except OSError:
        return True  # reading it reports the error


def _load_video(
    folder: Path, number: int, directory: Path, prompts: Mapping[str, str], warnings: tuple[str, ...]
) -> Video:
    group = directory.parent.name
    later = _NEWEST_LAYOUT_FOLDER.match(group)
    variation = later["variation"] if later else group
    error = ""
    metadata: dict[int, dict[str, Any]] = {}
    try:
        metadata = _read_metadata(directory)
    except UnreadableFileError as unreadable:
        error = str(unreadable)
    except OSError as unreadable:
        error = f"{directory} cannot be read: {unreadable.strerror or unreadable}"
    first = metadata[min(metadata)] if metadata else {}
    prompt = str(first.get("prompt") or prompts.get(f"prompt_{later['prompt']}" if later else group, variation))
    seed, is_seed_stored = _find_seed(first, directory, later)
    if metadata and not is_seed_stored:
        warnings = (*warnings, "no seed is stored: videos are paired by number instead")
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
        return Video(**known, reason=error, is_damaged=True, warnings=warnings)
    try:
        with raise_capture_error(directory):
            trajectory, shape, of_levels = _compute_trajectory(directory, metadata)
    except NoGeometryError as no_geometry:
        return Video(**known, reason=str(no_geometry), warnings=warnings)
    except CaptureError as damage:
        return Video(**known, reason=str(damage), is_damaged=True, warnings=warnings)
    settings = {
        "shape": list(shape),
        "steps": len(trajectory.sigmas),
        "levels": "assumed" if of_levels else "stored",
        "guidance_scale": first.get("cfg_scale"),
    }
    return Video(
        **known,
        settings=settings,
        trajectory=trajectory,
        dimension=math.prod(shape),
        warnings=(*warnings, *of_levels),
    )


def _find_seed(
    metadata: Mapping[str, Any], directory: Path, newest_layout_match: re.Match[str] | None
) -> tuple[int, bool]:
    """Return the stored seed of a video and True, or its number and False."""
    seed = metadata.get("seed")
    if type(seed) is int:
        return seed, True
    if isinstance(seed, str) and seed.isdecimal() and len(seed) < 20:
        return int(seed), True
    if newest_layout_match:
        return int(newest_layout_match["seed"]), False
    match = _VIDEO_FOLDER.match(directory.name)
    return int(match[1]) if match else 0, False


def _read_metadata(directory: Path) -> dict[int, dict[str, Any]]:
    """Return the metadata of the stored steps by step number; steps without metadata are missing.

    Raises:
        UnreadableFileError: a metadata file cannot be read.
    """
    metadata = {}
    for step, path in _find_step_files(directory).items():
        file = path.with_name(f"{path.name.split('.')[0]}_metadata.json")
        try:
            metadata[step] = read_json_object(file)
        except FileNotFoundError:
            continue
    return metadata


def _find_step_files(directory: Path) -> dict[int, Path]:
    """Return the files of the stored steps by step number, in order."""
    numbered = ((_STEP_FILE.search(path.name), path) for path in sorted(directory.iterdir()))
    return dict(sorted((int(match[1]), path) for match, path in numbered if match))


def _compute_trajectory(
    directory: Path, metadata: Mapping[int, Mapping[str, Any]]
) -> tuple[Trajectory, tuple[int, ...], tuple[str, ...]]:
    """Return the trajectory, the shape of a state, and warnings about its noise levels.

    Sizes are checked from headers before any state is read, because a gzip file of a few KiB can expand to GiB.
    """
    files = _find_step_files(directory)
    shapes = Counter(_read_shape(path) for path in files.values())
    if len(shapes) > 1:
        raise NoGeometryError(f"its steps have different shapes: {', '.join(map(str, shapes))}")
    levels = find_levels_after(list(files), metadata)
    (shape,) = shapes
    dimension = math.prod(shape)
    paths = list(files.values())

    def read(which: range, rows: Sequence[Row]) -> None:
        for path, row in zip(paths[which.start : which.stop], rows, strict=True):
            row[:] = _load_state(path, shape)

    gram = compute_gram(read, len(paths), dimension, StateBuffer())
    return build_trajectory(gram, levels.sigmas, dimension), shape, levels.warnings


@contextmanager
def _open_state(path: Path) -> Iterator[BinaryIO]:
    """Open the file of a state; errors while reading it become a CaptureError that names it."""
    with raise_capture_error(path):
        if not path.is_file():
            raise ValueError("it is not a regular file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)


def _read_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a stored state, from its header."""
    with _open_state(path) as file:
        version = np.lib.format.read_magic(file)
        if version not in _NPY_HEADER_READERS:
            raise ValueError(f"its .npy version is {version[0]}.{version[1]}, but only 1.0 and 2.0 are supported")
        shape, _, dtype = _NPY_HEADER_READERS[version](file)
        if dtype.kind not in "fiub":
            raise ValueError(f"its values are {dtype}, but must be real numbers")
        if any(length < 0 for length in shape):
            raise ValueError(f"its shape {shape} is invalid")
        return tuple(shape)


def _load_state(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the values of a stored state, which must still have this shape."""
    if _read_shape(path) != shape:
        raise CaptureError(f"cannot read {path}: it changed meanwhile. Retry when no program writes it")
    with _open_state(path) as file:
        stored = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        # This read also reaches the end of the file, where gzip verifies its checksum.
        if file.read(1):
            raise ValueError("it has more bytes than its header declares")
        with np.errstate(over="ignore"):  # values too large for float32 become infinity, which build_trajectory refuses
            return stored.astype(np.float32).ravel()


def _read_prompts(folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the prompts by folder name, and a warning if the file of prompts cannot be read."""
    try:
        document = read_json(folder / "configs" / "prompt_variations.json")
    except FileNotFoundError:
        return {}, ()
    except UnreadableFileError as error:
        return {}, (f"prompts are unknown: {error}",)
    entries = document.get("variations", []) if isinstance(document, dict) else document
    prompts = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        text = entry.get("text") or entry.get("prompt") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            prompts[f"prompt_{index:03d}"] = text
    return prompts, ()
