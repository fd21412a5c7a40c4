"""Stored latents in other formats: .npy, .pt, safetensors, and the folder that the older system wrote."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.errors import UserError
from wantui.storage.atomic import partial_path, whole_file
from wantui.storage.group import open_whole
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest

FORMATS = ("npy", "pt", "safetensors", "older")


class NothingToExport(UserError):
    """No stored latents, or a place that cannot be written; the text says which."""


def export_batch(folder: Path, target: Path, kind: str, ids: tuple[str, ...] = ()) -> Iterator[Path]:
    """Write the stored latents of a batch's videos under `target`; yields what was written.

    npy          one array [n, channels, frames, height, width] for each video, with a .json beside it
    pt           the same as a dictionary of tensors, by a process that loads torch
    safetensors  the same arrays, with the recipe in the metadata
    older        prompt_000/vid_001/step_000.npy.gz, [1, ...] each, without the initial noise

    Raises:
        NothingToExport: no video has stored latents, or something stands in the way.
    """
    manifest = read_manifest(BatchFolder(folder))
    chosen = [
        entry
        for entry in manifest.videos
        if entry.state == "done" and "latents" in entry.files and (not ids or entry.id.startswith(ids))
    ]
    stored = [(entry, group) for entry in chosen if "latents" in (group := _open(folder / entry.files["latents"]))]
    if not stored:
        raise NothingToExport(
            f"{folder}: no latents are stored{' of these videos' if ids else ''}, only what was derived from them; "
            "set latent_analysis_settings.store_latents for those to come"
        )
    write: dict[str, Callable[[Path, VideoEntry, Any], Path]] = {
        "npy": _npy,
        "pt": _pt,
        "safetensors": _safetensors,
        "older": _older,
    }
    for entry, group in stored:
        try:
            yield write[kind](_place(target, entry), entry, group)
        except (ValueError, RuntimeError, KeyError) as error:
            raise NothingToExport(f"{folder / entry.files['latents']} cannot be read: {error}") from None


def _open(path: Path) -> Any:
    try:
        return open_whole(path)
    except (OSError, ValueError, KeyError) as error:
        raise NothingToExport(f"{path} cannot be read: {error}") from None


def _place(target: Path, entry: VideoEntry) -> Path:
    place = target / f"prompt_{entry.variation:03d}" / f"vid_{entry.number:03d}"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _about(entry: VideoEntry, group: Any) -> dict[str, Any]:
    return {
        "recipe": entry.recipe.model_dump(mode="json"),
        "sigmas": [float(s) for s in group["sigmas"][:][group["steps"][:]]],
        "steps": [int(step) for step in group["steps"][:]],
        "timesteps": [float(t) for t in group["timesteps"][:]],
    }


def _npy(place: Path, entry: VideoEntry, group: Any) -> Path:
    latents = group["latents"]
    with whole_file(place.with_suffix(".npy")) as partial:
        header = np.lib.format.open_memmap(partial, mode="w+", dtype=latents.dtype, shape=latents.shape)
        for index in range(latents.shape[0]):  # a state at a time: some have gigabytes
            header[index] = latents[index]
        header.flush()
        del header
    with whole_file(place.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(_about(entry, group), indent=1))
    return place.with_suffix(".npy")


def _arrays(group: Any) -> dict[str, NDArray[Any]]:
    names = [name for name in ("latents", "predicted_clean", "sigmas", "timesteps", "steps", "gram") if name in group]
    return {name: np.ascontiguousarray(group[name][:]) for name in names}


def _safetensors(place: Path, entry: VideoEntry, group: Any) -> Path:
    from safetensors.numpy import save_file

    with whole_file(place.with_suffix(".safetensors")) as partial:
        save_file(_arrays(group), partial, {"recipe": entry.recipe.to_json()})
    return place.with_suffix(".safetensors")


_TO_TORCH = """
import sys, torch
from safetensors import safe_open
from safetensors.torch import load_file
with safe_open(sys.argv[1], "pt") as file:
    recipe = file.metadata()["recipe"]
torch.save({**load_file(sys.argv[1]), "recipe": recipe}, sys.argv[2])
"""


def _pt(place: Path, entry: VideoEntry, group: Any) -> Path:
    """By another process, because torch belongs into no client."""
    source = _safetensors(place.with_name(f"{place.name}_for_torch"), entry, group)
    try:
        with whole_file(place.with_suffix(".pt")) as partial:
            done = subprocess.run([sys.executable, "-c", _TO_TORCH, source, partial], capture_output=True, text=True)
            if done.returncode:
                raise NothingToExport(f"torch could not write {place.name}.pt: {done.stderr.strip().splitlines()[-1]}")
    finally:
        source.unlink(missing_ok=True)
    return place.with_suffix(".pt")


def _older(place: Path, entry: VideoEntry, group: Any) -> Path:
    latents, steps, sigmas = group["latents"], group["steps"][:], group["sigmas"][:]
    timesteps, recipe = group["timesteps"][:], entry.recipe
    partial = partial_path(place)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for index in range(1, latents.shape[0]):  # it stored what came after each step, and no initial noise
        step = int(steps[index]) - 1
        state = np.asarray(latents[index])[None]
        with gzip.open(partial / f"step_{step:03d}.npy.gz", "wb", compresslevel=1) as file:
            np.save(file, state)
        about = {
            "video_id": entry.id,
            "step": step,
            "timestep": float(timesteps[step]),
            "sigma": float(sigmas[step]),
            "total_steps": len(timesteps),
            "shape": list(state.shape),
            "dtype": str(state.dtype),
            "prompt": recipe.prompt,
            "seed": recipe.seed,
            "cfg_scale": recipe.guidance_scale,
        }
        (partial / f"step_{step:03d}_metadata.json").write_text(json.dumps(about, indent=1))
    summary = {"video_id": entry.id, "steps": latents.shape[0] - 1, "prompt": recipe.prompt, "seed": recipe.seed}
    (partial / "summary.json").write_text(json.dumps(summary, indent=1))
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)
    return place
