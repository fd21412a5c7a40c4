"""Export stored latents as .npy, .pt, safetensors, or in the folder layout of the older system."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.atomic_files import atomic_folder, atomic_write, write_text_atomically
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import check_output_folder
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest
from wantui.storage.video_files import make_parent_folders
from wantui.storage.zarr_group import CaptureError, open_capture, raise_capture_error

MAX_IDS_SHOWN = 10
"""Maximum number of video ids that an error lists."""
EXPORT_FORMATS = ("npy", "pt", "safetensors", "older")


class NothingToExportError(UserError):
    """Raised if no latents are stored, an id is unknown, or the target cannot be written; the text names the reason."""


@dataclass(frozen=True)
class ExportedVideo:
    """Result of exporting one video."""

    video: str
    """Variation and seed; for videos that are not generated yet, their number."""
    path: Path | None
    """Written file or folder; None if the video was not exported."""
    reason: str = ""
    """Why the video was not exported."""


def export_batch(folder: Path, target: Path, kind: str, ids: tuple[str, ...] = ()) -> Iterator[ExportedVideo]:
    """Export the stored latents of a batch to `target`; yield the result of each video.

    npy          one array [n, channels, frames, height, width] per video, and a .json file with its metadata
    pt           a dictionary of tensors, written by a separate process that loads torch
    safetensors  the arrays, with the recipe in the metadata
    older        prompt_000/vid_001/step_000.npy.gz, [1, ...] each, without the initial noise

    Raises:
        NothingToExportError: no video has stored latents, or an id is unknown.
        UserError: this user cannot write in `target`.
        OSError: a file in `target` cannot be written.
    """
    manifest = read_manifest(BatchFolder(folder))
    check_output_folder(target)
    for wanted in ids:
        if not any(entry.id.startswith(wanted) for entry in manifest.videos):
            known = [entry.id for entry in manifest.videos]
            omitted_text = f" and {len(known) - MAX_IDS_SHOWN:,} more" if len(known) > MAX_IDS_SHOWN else ""
            ids_here = ", ".join(known[:MAX_IDS_SHOWN]) + omitted_text
            raise NothingToExportError(f"--video-id: {folder} has no video {wanted!r}. Its ids are {ids_here}.")
    chosen = [
        entry
        for entry in manifest.videos
        if entry.state == "done" and "latents" in entry.files and (not ids or entry.id.startswith(ids))
    ]
    write: dict[str, Callable[[Path, VideoEntry, _StoredTrajectory], Path]] = {
        "npy": _write_npy,
        "pt": _write_pt,
        "safetensors": _write_safetensors,
        "older": _write_older_layout,
    }
    unfinished = [
        entry
        for entry in manifest.videos
        if entry.state != "done" and entry.recipe.capture.latents and (not ids or entry.id.startswith(ids))
    ]
    missing = f"not generated yet. Generate them first: wantui run --resume {folder}"
    is_any_stored = False
    for entry in chosen:
        name = f"{manifest.variations[entry.variation].id} seed {entry.seed}"
        try:
            capture = _StoredTrajectory(folder / entry.files["latents"])
            if "latents" not in capture.group:
                continue
            is_any_stored = True
            yield ExportedVideo(name, write[kind](_make_target_path(folder, target, entry), entry, capture))
        except CaptureError as error:
            is_any_stored = True
            yield ExportedVideo(name, None, str(error))
    if is_any_stored and unfinished:
        yield ExportedVideo(format_count(len(unfinished), "video"), None, missing)
    if not is_any_stored and unfinished:
        raise NothingToExportError(
            f"cannot export {folder}: {format_count(len(unfinished), 'video')} with latents "
            f"{'is' if len(unfinished) == 1 else 'are'} {missing}"
        )
    if not is_any_stored:
        raise NothingToExportError(
            f"cannot export {folder}: no latents are stored{' for these videos' if ids else ''}, only values derived "
            "from them. Set latent_analysis_settings.store_latents for future videos"
        )


class _StoredTrajectory:
    """The stored trajectory of a video; any damage raises a CaptureError."""

    def __init__(self, path: Path) -> None:
        self.path, self.group = path, open_capture(path)

    def read_array(self, name: str, index: int | slice = slice(None)) -> NDArray[Any]:
        with raise_capture_error(self.path / name):
            return np.asarray(self.group[name][index])

    def describe(self, entry: VideoEntry) -> dict[str, Any]:
        steps, sigmas = self.read_array("steps"), self.read_array("sigmas")
        with raise_capture_error(self.path):
            return {
                "recipe": entry.recipe.model_dump(mode="json"),
                "sigmas": [float(sigma) for sigma in sigmas[steps]],
                "steps": [int(step) for step in steps],
                "timesteps": [float(timestep) for timestep in self.read_array("timesteps")],
            }


def _make_target_path(batch: Path, target: Path, entry: VideoEntry) -> Path:
    path = target / f"prompt_{entry.variation:03d}" / f"vid_{entry.number:03d}"
    make_parent_folders(batch if target.is_relative_to(batch) else target, path)
    return path


def _write_npy(path: Path, entry: VideoEntry, capture: _StoredTrajectory) -> Path:
    latents, about = capture.group["latents"], capture.describe(entry)
    with atomic_write(path.with_suffix(".npy")) as partial:
        header = np.lib.format.open_memmap(partial, mode="w+", dtype=latents.dtype, shape=latents.shape)
        for index in range(latents.shape[0]):  # one state at a time: all states together can take gigabytes
            header[index] = capture.read_array("latents", index)
        header.flush()
        del header
    write_text_atomically(path.with_suffix(".json"), json.dumps(about, indent=1))
    return path.with_suffix(".npy")


def _write_safetensors(path: Path, entry: VideoEntry, capture: _StoredTrajectory) -> Path:
    from safetensors.numpy import save

    stored = ("latents", "predicted_clean", "sigmas", "timesteps", "steps", "gram")
    arrays = {name: np.ascontiguousarray(capture.read_array(name)) for name in stored if name in capture.group}
    with atomic_write(path.with_suffix(".safetensors")) as partial:
        partial.write_bytes(save(arrays, {"recipe": entry.recipe.to_json()}))  # its own writer hides a full disk
    return path.with_suffix(".safetensors")


_CONVERT_TO_PT_SCRIPT = """
import sys, torch
from safetensors import safe_open
from safetensors.torch import load_file
with safe_open(sys.argv[1], "pt") as file:
    recipe = file.metadata()["recipe"]
torch.save({**load_file(sys.argv[1]), "recipe": recipe}, sys.argv[2])
"""


def _write_pt(path: Path, entry: VideoEntry, capture: _StoredTrajectory) -> Path:
    """Write a .pt file in another process, because clients must not load torch."""
    source = _write_safetensors(path.with_name(f"{path.name}_for_torch"), entry, capture)
    try:
        with atomic_write(path.with_suffix(".pt")) as partial:
            done = subprocess.run(
                [sys.executable, "-c", _CONVERT_TO_PT_SCRIPT, source, partial], capture_output=True, text=True
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                raise NothingToExportError(f"torch could not write {path.name}.pt: {reason}")
    finally:
        source.unlink(missing_ok=True)
    return path.with_suffix(".pt")


def _write_older_layout(path: Path, entry: VideoEntry, capture: _StoredTrajectory) -> Path:
    steps, sigmas, timesteps = (
        capture.read_array("steps"),
        capture.read_array("sigmas"),
        capture.read_array("timesteps"),
    )
    recipe = entry.recipe
    with atomic_folder(path) as partial:
        for index in range(
            1, len(steps)
        ):  # the older system stored the state after each step, but not the initial noise
            step = int(steps[index]) - 1
            state = capture.read_array("latents", index)[None]
            with gzip.open(partial / f"step_{step:03d}.npy.gz", "wb", compresslevel=1) as file:
                np.save(file, state)
            about = {
                "video_id": entry.id,
                "step": step,
                "timestep": float(timesteps[step]),
                "sigma": float(sigmas[step]),
                "sigma_after": float(sigmas[step + 1]),
                "total_steps": len(timesteps),
                "shape": list(state.shape),
                "dtype": str(state.dtype),
                "prompt": recipe.prompt,
                "seed": recipe.seed,
                "cfg_scale": recipe.guidance_scale,
            }
            (partial / f"step_{step:03d}_metadata.json").write_text(json.dumps(about, indent=1))
        summary = {"video_id": entry.id, "steps": len(steps) - 1, "prompt": recipe.prompt, "seed": recipe.seed}
        (partial / "summary.json").write_text(json.dumps(summary, indent=1))
    return path
