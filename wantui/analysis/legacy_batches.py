"""Reader of the older system's batches: latents/prompt_000/vid_001/step_000.npy.gz, without the initial noise."""

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
from wantui.analysis.noise_levels import find_noise_levels_after_steps
from wantui.analysis.trajectory import DamagedGeometryError, NoGeometryError, Trajectory, build_trajectory
from wantui.analysis.video import Video
from wantui.json_files import UnreadableFileError, read_json, read_json_object
from wantui.storage.state_reader import StateRow
from wantui.storage.zarr_group import CaptureError, convert_to_capture_error

_STEP_FILE_PATTERN = re.compile(r"step_(\d+)\.npy(\.gz)?$")
_NEWEST_LAYOUT_FOLDER_PATTERN = re.compile(r"(?P<variation>p(?P<prompt>\d+)_b\d+)_s(?P<seed>\d+)$")
"""Folder name of a video in the newest layout: prompt, bending variation (b000 is none) and number of the seed."""
_VIDEO_FOLDER_PATTERN = re.compile(r"vid_(\d+)$")
_NPY_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of .npy headers by version; later versions differ only in field names."""


def read_legacy_batch_videos(batch_folder: Path) -> Iterator[Video]:
    """Yield the videos of one of the older system's batches.

    `variation` is the prompt's folder; in the newest layout, it includes the bending variation.
    """
    prompts_by_folder, warnings = _read_prompts(batch_folder)
    for video_index, video_folder in enumerate(_find_video_folders(batch_folder)):
        yield _load_video(batch_folder, video_index, video_folder, prompts_by_folder, warnings)


def find_latents_folder(batch_folder: Path) -> Path:
    """Return the folder that contains the prompt folders: `latents`, or in an export the batch folder itself."""
    return batch_folder / "latents" if (batch_folder / "latents").is_dir() else batch_folder


def _find_video_folders(batch_folder: Path) -> Iterator[Path]:
    """Yield video folders in order; include unreadable folders, which a glob would skip silently."""
    for prompt_folder in sorted(find_latents_folder(batch_folder).glob("*")):
        try:
            video_folders = sorted(path for path in prompt_folder.iterdir() if path.name.startswith("vid_"))
        except NotADirectoryError:
            continue
        except OSError:
            yield prompt_folder  # reading it reports the error
            continue
        yield from filter(_has_step_files, video_folders)


def _has_step_files(video_folder: Path) -> bool:
    try:
        return any(_match_step_file(path) for path in video_folder.iterdir())
    except NotADirectoryError:
        return False
    except OSError:
        return True  # reading it reports the error


def _load_video(
    batch_folder: Path,
    video_index: int,
    video_folder: Path,
    prompts_by_folder: Mapping[str, str],
    warnings: tuple[str, ...],
) -> Video:
    prompt_folder_name = video_folder.parent.name
    newest_layout_match = _NEWEST_LAYOUT_FOLDER_PATTERN.match(prompt_folder_name)
    variation = newest_layout_match["variation"] if newest_layout_match else prompt_folder_name
    metadata_by_step, error = _try_to_read_metadata(video_folder)
    first_metadata = metadata_by_step[min(metadata_by_step)] if metadata_by_step else {}
    prompt = str(
        first_metadata.get("prompt")
        or prompts_by_folder.get(
            f"prompt_{newest_layout_match['prompt']}" if newest_layout_match else prompt_folder_name, variation
        )
    )
    seed, is_seed_stored = _find_seed(first_metadata, video_folder, newest_layout_match)
    if metadata_by_step and not is_seed_stored:
        warnings = (*warnings, "no seed is stored: videos are paired by number instead")
    common_fields: dict[str, Any] = {
        "folder": batch_folder,
        "video_index": video_index,
        "id": str(first_metadata.get("video_id", f"{prompt_folder_name}_{video_folder.name}")),
        "variation": variation,
        "prompt": prompt,
        "choices_by_bracket": {},
        "seed": seed,
        "word_count": len(prompt.split()),
    }
    if error:
        return Video(**common_fields, exclusion_reason=error, is_damaged=True, warnings=warnings)
    try:
        with convert_to_capture_error(video_folder):
            trajectory, shape, level_warnings = _compute_trajectory(video_folder, metadata_by_step)
    except NoGeometryError as no_geometry:
        is_damaged = isinstance(no_geometry, DamagedGeometryError)
        return Video(**common_fields, exclusion_reason=str(no_geometry), is_damaged=is_damaged, warnings=warnings)
    except CaptureError as damage:
        return Video(**common_fields, exclusion_reason=str(damage), is_damaged=True, warnings=warnings)
    settings = {
        "shape": list(shape),
        "steps": len(trajectory.sigmas),
        "levels": "assumed" if level_warnings else "stored",
        "guidance_scale": first_metadata.get("cfg_scale"),
    }
    named_values = {"model_settings.cfg_scale": settings["guidance_scale"], "model_settings.steps": settings["steps"]}
    return Video(
        **common_fields,
        settings=settings,
        setting_values={path: value for path, value in named_values.items() if value is not None},
        trajectory=trajectory,
        dimension=math.prod(shape),
        warnings=(*warnings, *level_warnings),
    )


def _find_seed(
    first_metadata: Mapping[str, Any], video_folder: Path, newest_layout_match: re.Match[str] | None
) -> tuple[int, bool]:
    """Return the seed of a video and True if it is stored; otherwise the number of the video and False."""
    seed = first_metadata.get("seed")
    if type(seed) is int:
        return seed, True
    if isinstance(seed, float) and seed.is_integer():
        return int(seed), True
    if isinstance(seed, str) and seed.isdecimal() and len(seed) < 20:
        return int(seed), True
    if newest_layout_match:
        return int(newest_layout_match["seed"]), False
    match = _VIDEO_FOLDER_PATTERN.match(video_folder.name)
    return int(match[1]) if match else 0, False


def _try_to_read_metadata(video_folder: Path) -> tuple[dict[int, dict[str, Any]], str]:
    """Return the metadata of each step, or none and the error."""
    try:
        return _read_step_metadata(video_folder), ""
    except (UnreadableFileError, CaptureError) as error:
        return {}, str(error)
    except OSError as error:
        return {}, f"{video_folder} cannot be read: {error.strerror or error}"


def _read_step_metadata(video_folder: Path) -> dict[int, dict[str, Any]]:
    """Return the metadata of the stored steps by step number; steps without metadata are missing.

    Raises:
        CaptureError: a step is in two files.
        OSError: the folder cannot be read.
        UnreadableFileError: a metadata file cannot be read.
    """
    metadata_by_step = {}
    for step, path in _find_step_files(video_folder).items():
        metadata_path = path.with_name(f"{path.name.split('.')[0]}_metadata.json")
        try:
            metadata_by_step[step] = read_json_object(metadata_path)
        except FileNotFoundError:
            continue
    return metadata_by_step


def _find_step_files(video_folder: Path) -> dict[int, Path]:
    """Return the files of the stored steps by step number, in order.

    Raises:
        CaptureError: a step is in two files.
    """
    paths_by_step: dict[int, Path] = {}
    for path in sorted(video_folder.iterdir()):
        if (match := _match_step_file(path)) is None:
            continue
        if (other_path := paths_by_step.setdefault(int(match[1]), path)) != path:
            raise CaptureError(
                f"{video_folder}: step {int(match[1])} is in two files, {other_path.name} and {path.name}. Move the "
                "wrong one out of the folder"
            )
    return dict(sorted(paths_by_step.items()))


def _match_step_file(path: Path) -> re.Match[str] | None:
    """Return the match of a step's file name; None for hidden files (macOS writes `._NAME` on network shares)."""
    return None if path.name.startswith(".") else _STEP_FILE_PATTERN.search(path.name)


def _compute_trajectory(
    video_folder: Path, metadata_by_step: Mapping[int, Mapping[str, Any]]
) -> tuple[Trajectory, tuple[int, ...], tuple[str, ...]]:
    """Return the trajectory, the shape of a state, and warnings about its noise levels.

    Sizes are checked from headers before any state is read, because a gzip file of a few KiB can expand to GiB.
    """
    paths_by_step = _find_step_files(video_folder)
    shapes = Counter(_read_state_shape(path) for path in paths_by_step.values())
    if len(shapes) > 1:
        raise NoGeometryError(f"its steps have latents of different shapes: {', '.join(map(str, shapes))}")
    noise_levels = find_noise_levels_after_steps(list(paths_by_step), metadata_by_step)
    (shape,) = shapes
    dimension = math.prod(shape)
    paths = list(paths_by_step.values())

    def read_states(state_range: range, rows: Sequence[StateRow]) -> None:
        for path, row in zip(paths[state_range.start : state_range.stop], rows, strict=True):
            row[:] = _load_state(path, shape)

    gram = compute_gram(read_states, len(paths), dimension, StateBuffer())
    return build_trajectory(gram, noise_levels.sigmas, dimension), shape, noise_levels.warnings


@contextmanager
def _open_state_file(path: Path) -> Iterator[BinaryIO]:
    """Open the file of a state; convert errors inside the block to a CaptureError that names the file."""
    with convert_to_capture_error(path):
        if not path.is_file():
            raise ValueError("it is not a regular file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)


def _read_state_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a stored state, from its header."""
    with _open_state_file(path) as file:
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
    if _read_state_shape(path) != shape:
        raise CaptureError(
            f"cannot read {path}: it changed while it was read. Try again when no other program is writing it"
        )
    with _open_state_file(path) as file:
        state = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        # This read also reaches the end of the file, where gzip verifies its checksum.
        if file.read(1):
            raise ValueError("it has more bytes than its header declares")
        with np.errstate(over="ignore"):  # values too large for float32 become infinity, which build_trajectory refuses
            return state.astype(np.float32).ravel()


def _read_prompts(batch_folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the prompts by folder name, and a warning if the file of prompts cannot be read."""
    try:
        document = read_json(batch_folder / "configs" / "prompt_variations.json")
    except FileNotFoundError:
        return {}, ()
    except UnreadableFileError as error:
        return {}, (f"prompts are unknown: {error}",)
    entries = document.get("variations", []) if isinstance(document, dict) else document
    prompts_by_folder = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        text = entry.get("text") or entry.get("prompt") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            prompts_by_folder[f"prompt_{index:03d}"] = text
    return prompts_by_folder, ()
