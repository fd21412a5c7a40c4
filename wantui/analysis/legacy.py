"""Batches of the older system: latents/prompt_000/vid_001/step_000.npy.gz, without the initial noise."""

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

from wantui.analysis.gram import StateBuffer, gram_of
from wantui.analysis.noise_levels import levels_after
from wantui.analysis.trajectory import NoGeometryError, Trajectory, trajectory
from wantui.analysis.video import Video
from wantui.json_files import UnreadableFileError, read_json, read_json_object
from wantui.storage.state_reader import Row
from wantui.storage.zarr_group import CaptureError, raise_capture_error

_STEP = re.compile(r"step_(\d+)\.npy(\.gz)?$")
_LATER_GROUP = re.compile(r"(?P<variation>p(?P<prompt>\d+)_b\d+)_s(?P<seed>\d+)$")
"""Folder of one video in the newest layout, by prompt, bending variation (b000 is none) and number of the seed."""
_VIDEO = re.compile(r"vid_(\d+)$")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of the header of .npy by version; later versions are for names of fields only."""


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
        return Video(**known, reason=error, is_damaged=True, warnings=warnings)
    try:
        with raise_capture_error(directory):
            trajectory, shape, of_levels = _trajectory(directory, metadata)
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


def _seed(metadata: Mapping[str, Any], directory: Path, later: re.Match[str] | None) -> tuple[int, bool]:
    """Return the seed of a video, or else its number, and whether it is the seed; 0 is a seed."""
    seed = metadata.get("seed")
    if type(seed) is int:
        return seed, True
    if isinstance(seed, str) and seed.isdecimal() and len(seed) < 20:
        return int(seed), True
    if later:
        return int(later["seed"]), False
    match = _VIDEO.match(directory.name)
    return int(match[1]) if match else 0, False


def _metadata(directory: Path) -> dict[int, dict[str, Any]]:
    """Return the metadata of the stored steps by number.

    Raises:
        UnreadableFileError: metadata are there and cannot be read.
    """
    metadata = {}
    for step, path in _files(directory).items():
        file = path.with_name(f"{path.name.split('.')[0]}_metadata.json")
        try:
            metadata[step] = read_json_object(file)
        except FileNotFoundError:
            continue
    return metadata


def _files(directory: Path) -> dict[int, Path]:
    """Return the files of the stored steps by number, in order."""
    numbered = ((_STEP.search(path.name), path) for path in sorted(directory.iterdir()))
    return dict(sorted((int(match[1]), path) for match, path in numbered if match))


def _trajectory(
    directory: Path, metadata: Mapping[int, Mapping[str, Any]]
) -> tuple[Trajectory, tuple[int, ...], tuple[str, ...]]:
    """Return the trajectory, the shape of a state, and warnings about its noise levels.

    Sizes are known from the headers before any state is read: a gzipped file of some KiB may hold GiB.
    """
    files = _files(directory)
    shapes = Counter(_shape(path) for path in files.values())
    if len(shapes) > 1:
        raise NoGeometryError(f"its steps have different shapes: {', '.join(map(str, shapes))}")
    levels = levels_after(list(files), metadata)
    (shape,) = shapes
    dimension = math.prod(shape)
    paths = list(files.values())

    def read(which: range, rows: Sequence[Row]) -> None:
        for path, row in zip(paths[which.start : which.stop], rows, strict=True):
            row[:] = _load(path, shape)

    gram = gram_of(read, len(paths), dimension, StateBuffer())
    return trajectory(gram, levels.sigmas, dimension), shape, levels.warnings


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a state, and turn whatever reading it raises into a CaptureError that names it."""
    with raise_capture_error(path):
        if not path.is_file():
            raise ValueError("it is not a regular file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)


def _shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a stored state, from its header."""
    with _opened(path) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"its version of .npy is {version[0]}.{version[1]}, and 1.0 and 2.0 are known")
        shape, _, dtype = _HEADERS[version](file)
        if dtype.kind not in "fiub":
            raise ValueError(f"its values are {dtype}, and must be real numbers")
        if any(length < 0 for length in shape):
            raise ValueError(f"its shape is {shape}")
        return tuple(shape)


def _load(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the values of a stored state, of the shape that its header had before."""
    if _shape(path) != shape:
        raise CaptureError(f"{path} was changed while it was read. Read it again when nothing writes it")
    with _opened(path) as file:
        stored = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        # gzip verifies its checksum only where it is read to its end.
        if file.read(1):
            raise ValueError("it has more bytes than its values take")
        with np.errstate(over="ignore"):  # what is too large becomes infinity, which is refused by name
            return stored.astype(np.float32).ravel()


def _prompts(folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the prompts by folder, and a warning where there are some that cannot be read."""
    try:
        document = read_json(folder / "configs" / "prompt_variations.json")
    except FileNotFoundError:
        return {}, ()
    except UnreadableFileError as error:
        return {}, (f"prompts are not known: {error}",)
    entries = document.get("variations", []) if isinstance(document, dict) else document
    prompts = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        text = entry.get("text") or entry.get("prompt") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            prompts[f"prompt_{index:03d}"] = text
    return prompts, ()
