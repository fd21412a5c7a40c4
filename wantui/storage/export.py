"""Export stored latents as .npy, .pt, safetensors, or in the folder layout of the older system."""

import gzip
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.atomic_files import atomic_folder, atomic_write, write_text_atomically
from wantui.environment import build_python_command
from wantui.errors import UserError
from wantui.formatting import format_count, join_and_shorten
from wantui.paths import check_output_folder
from wantui.planning import Recipe
from wantui.planning.guidance_plan import find_boundary_ratio, plan_guidance
from wantui.process_exits import describe_exit
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.storage.state_reader import check_stored_states
from wantui.storage.video_files import make_parent_folders
from wantui.storage.zarr_group import CaptureError, convert_to_capture_error, open_capture

MAX_LISTED_IDS = 10
"""Maximum number of video ids that an error lists."""


class NothingToExportError(UserError):
    """Raised if no latents are stored, an id is unknown, or the target cannot be written; the text names the reason."""


@dataclass(frozen=True)
class ExportedVideo:
    """Result of exporting one video."""

    video_name: str
    """Variation and seed; for videos that are not generated yet, their number."""
    exported_path: Path | None
    """Written file or folder; None if the video was not exported."""
    reason: str = ""
    """Reason why the video was not exported."""


def export_batch(
    folder: Path, target_folder: Path, export_format: str, id_prefixes: tuple[str, ...] = ()
) -> Iterator[ExportedVideo]:
    """Export the stored latents of a batch to `target_folder`; yield the result of each video.

    npy          one array [n, channels, frames, height, width] per video, and a .json file with its metadata
    pt           a dictionary of tensors, written by a separate process that loads torch
    safetensors  the arrays, with the recipe in the metadata
    older        prompt_000/vid_001/step_000.npy.gz, [1, ...] each, without the initial noise

    Raises:
        NothingToExportError: no video has stored latents, or an id is unknown.
        UserError: this user cannot write in `target_folder`.
        OSError: a file in `target_folder` cannot be written.
    """
    manifest = read_manifest(BatchFolder(folder))
    check_output_folder(target_folder)
    exported_entries, unfinished_entries = _select_entries(folder, manifest, id_prefixes)
    missing_text = f"not generated yet. Generate them first: wantui run --resume {folder}"
    is_any_stored = False
    for entry in exported_entries:
        video_name = manifest.make_video_title(entry)
        try:
            trajectory = _StoredTrajectory(folder / entry.files["latents"], entry.recipe)
            if "latents" not in trajectory.group:
                continue
            is_any_stored = True
            yield ExportedVideo(
                video_name,
                WRITERS_BY_FORMAT[export_format](
                    _prepare_target_path(folder, target_folder, entry, manifest.find_cell_folder(entry)),
                    entry,
                    trajectory,
                ),
            )
        except CaptureError as error:
            is_any_stored = True
            yield ExportedVideo(video_name, None, str(error))
    if is_any_stored and unfinished_entries:
        yield ExportedVideo(format_count(len(unfinished_entries), "video"), None, missing_text)
    if not is_any_stored and unfinished_entries:
        raise NothingToExportError(
            f"cannot export {folder}: {format_count(len(unfinished_entries), 'video')} with latents "
            f"{'is' if len(unfinished_entries) == 1 else 'are'} {missing_text}"
        )
    if not is_any_stored:
        derived_text = ", only values derived from them" if exported_entries else ""
        raise NothingToExportError(
            f"cannot export {folder}: no latents are stored{' for these videos' if id_prefixes else ''}{derived_text}. "
            "Set latent_analysis_settings.store_latents for future videos"
        )


def _select_entries(
    folder: Path, manifest: Manifest, id_prefixes: tuple[str, ...]
) -> tuple[list[VideoEntry], list[VideoEntry]]:
    """Return the selected videos that have a trajectory, and those whose latents are not generated yet.

    Raises:
        NothingToExportError: an id is unknown.
    """
    for id_prefix in id_prefixes:
        if not any(entry.id.startswith(id_prefix) for entry in manifest.videos):
            known_ids = [entry.id for entry in manifest.videos]
            id_list = join_and_shorten(known_ids, MAX_LISTED_IDS)
            raise NothingToExportError(f"--video-id: {folder} has no video {id_prefix!r}. Its ids are {id_list}.")
    entries = [entry for entry in manifest.videos if not id_prefixes or entry.id.startswith(id_prefixes)]
    return (
        [entry for entry in entries if entry.state == "done" and "latents" in entry.files],
        [entry for entry in entries if entry.state != "done" and entry.recipe.capture.latents],
    )


class _StoredTrajectory:
    """The stored trajectory of a video; any damage raises a CaptureError."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.group = path, open_capture(path, recipe)

    def read_array(self, name: str, index: int | slice = slice(None)) -> NDArray[Any]:
        with convert_to_capture_error(self.path / name):
            return np.asarray(self.group[name][index])

    def build_metadata(self, entry: VideoEntry) -> dict[str, Any]:
        steps, sigmas = self.read_array("steps"), self.read_array("sigmas")
        with convert_to_capture_error(self.path):
            check_stored_states(steps, self.group["latents"], len(sigmas))
            return {
                "recipe": entry.recipe.model_dump(mode="json"),
                "sigmas": [float(sigma) for sigma in sigmas[steps]],
                "steps": [int(step) for step in steps],
                "timesteps": [float(timestep) for timestep in self.read_array("timesteps")],
            }


def _prepare_target_path(batch_folder: Path, target_folder: Path, entry: VideoEntry, cell_folder: str) -> Path:
    path = target_folder / f"prompt_{entry.variation:03d}" / cell_folder / f"vid_{entry.number:03d}"
    make_parent_folders(batch_folder if target_folder.is_relative_to(batch_folder) else target_folder, path)
    return path


def _write_npy(path: Path, entry: VideoEntry, trajectory: _StoredTrajectory) -> Path:
    latents, metadata = trajectory.group["latents"], trajectory.build_metadata(entry)
    header = {"descr": np.lib.format.dtype_to_descr(latents.dtype), "fortran_order": False, "shape": latents.shape}
    # No memory map: on a full disk, a write to one ends the process by SIGBUS.
    with atomic_write(path.with_suffix(".npy")) as temporary_path, temporary_path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for index in range(latents.shape[0]):  # one state at a time: all states together can take gigabytes
            file.write(trajectory.read_array("latents", index).tobytes())
    write_text_atomically(path.with_suffix(".json"), json.dumps(metadata, indent=1))
    return path.with_suffix(".npy")


def _write_safetensors(path: Path, entry: VideoEntry, trajectory: _StoredTrajectory) -> Path:
    from safetensors.numpy import save

    stored_names = ("latents", "predicted_clean", "sigmas", "timesteps", "steps", "gram", "guidance_scales")
    arrays = {
        name: np.ascontiguousarray(trajectory.read_array(name)) for name in stored_names if name in trajectory.group
    }
    with atomic_write(path.with_suffix(".safetensors")) as temporary_path:
        temporary_path.write_bytes(save(arrays, {"recipe": entry.recipe.to_json()}))  # its own writer hides a full disk
    return path.with_suffix(".safetensors")


_CONVERT_TO_PT_SCRIPT = """
import sys, torch
from safetensors import safe_open
from safetensors.torch import load_file
with safe_open(sys.argv[1], "pt") as file:
    recipe = file.metadata()["recipe"]
torch.save({**load_file(sys.argv[1]), "recipe": recipe}, sys.argv[2])
"""


def _write_pt(path: Path, entry: VideoEntry, trajectory: _StoredTrajectory) -> Path:
    """Write a .pt file in another process, because clients must not load torch."""
    safetensors_path = _write_safetensors(path.with_name(f"{path.name}_for_torch"), entry, trajectory)
    try:
        with atomic_write(path.with_suffix(".pt")) as temporary_path:
            process = subprocess.run(
                build_python_command("-c", _CONVERT_TO_PT_SCRIPT, str(safetensors_path), str(temporary_path)),
                capture_output=True,
                text=True,
            )
            if process.returncode:
                reason = (process.stderr.strip().splitlines() or [describe_exit(process.returncode)])[-1]
                raise NothingToExportError(f"torch could not write {path.name}.pt: {reason}")
    finally:
        safetensors_path.unlink(missing_ok=True)
    return path.with_suffix(".pt")


def _list_guidance_scales(recipe: Recipe, trajectory: _StoredTrajectory) -> list[float]:
    """Return the guidance scale of each evaluation.

    Raises:
        CaptureError: the evaluations of the second transformer are unknown.
    """
    if "guidance_scales" in trajectory.group:
        return [float(scale) for scale in trajectory.read_array("guidance_scales")]
    if recipe.guidance_scale_2 is not None and find_boundary_ratio(recipe) is None:
        raise CaptureError(
            f"the steps with cfg_scale_2 are unknown, because the model {recipe.model} is not on this machine. Export "
            "on the machine that has the model, or choose another --format"
        )
    return [evaluation.scale for evaluation in plan_guidance(recipe)]


def _write_older_layout(path: Path, entry: VideoEntry, trajectory: _StoredTrajectory) -> Path:
    steps = trajectory.read_array("steps")
    sigmas = trajectory.read_array("sigmas")
    timesteps = trajectory.read_array("timesteps")
    recipe = entry.recipe
    scales = _list_guidance_scales(recipe, trajectory)
    with atomic_folder(path) as temporary_folder:
        for index in range(
            1, len(steps)
        ):  # the older system stored the state after each step, but not the initial noise
            step = int(steps[index]) - 1
            state = trajectory.read_array("latents", index)[None]
            with gzip.open(temporary_folder / f"step_{step:03d}.npy.gz", "wb", compresslevel=1) as file:
                np.save(file, state)
            metadata = {
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
                "cfg_scale": scales[step],
            }
            (temporary_folder / f"step_{step:03d}_metadata.json").write_text(json.dumps(metadata, indent=1))
        summary = {"video_id": entry.id, "steps": len(steps) - 1, "prompt": recipe.prompt, "seed": recipe.seed}
        (temporary_folder / "summary.json").write_text(json.dumps(summary, indent=1))
    return path


WRITERS_BY_FORMAT: dict[str, Callable[[Path, VideoEntry, _StoredTrajectory], Path]] = {
    "npy": _write_npy,
    "pt": _write_pt,
    "safetensors": _write_safetensors,
    "older": _write_older_layout,
}
"""Functions that write one trajectory, and return the path of the file or folder."""
