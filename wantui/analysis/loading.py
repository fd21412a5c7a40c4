"""Loading of stored trajectories, from batch folders of wantui and of the older system.

A video that cannot be analysed is returned with the reason instead of a trajectory.
"""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wantui.analysis.arrays import FloatArray, mark_last_repeats
from wantui.analysis.comparability import COMPARED_FIELDS
from wantui.analysis.gram import StateBuffer, compute_gram
from wantui.analysis.guidance_gap import GuidanceGap, load_guidance_gap
from wantui.analysis.legacy_batches import find_latents_folder, read_legacy_batch_videos
from wantui.analysis.setting_values import collect_setting_values
from wantui.analysis.template_parts import collect_template_brackets, label_scheduled_options, split_template
from wantui.analysis.trajectory import DamagedGeometryError, NoGeometryError, Trajectory, build_trajectory
from wantui.analysis.video import TemplateBracket, Video
from wantui.captures.guidance_gap import GUIDANCE_GAP
from wantui.controls import CONTROLS, ControlKind
from wantui.controls.prompt_schedule import SETTING_KEY, SWITCH_KEY
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.planning import Recipe
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VariationEntry, VideoEntry, read_manifest
from wantui.storage.manifest_errors import describe_other_folder
from wantui.storage.state_reader import StoredStates, check_stored_states
from wantui.storage.zarr_group import CaptureError, convert_to_capture_error, open_capture_arrays


@dataclass(frozen=True)
class LoadedBatches:
    """Finished videos of several batches."""

    videos: list[Video]
    errors: tuple[str, ...] = ()
    """Errors of unreadable batches."""
    manifest_by_folder: Mapping[Path, Manifest] = field(default_factory=dict)
    """Manifests of the readable batches, read with their videos; batches of the older system have none."""

    def describe_unfinished_videos(self) -> list[str]:
        """Return a sentence for each batch with videos that have no result, such as a running batch."""
        notes = []
        for folder, manifest in self.manifest_by_folder.items():
            count_by_state = manifest.count_states()
            video_count = sum(count_by_state.values())
            if unfinished_count := video_count - count_by_state.pop("done", 0):
                states_text = ", ".join(f"{count} {state}" for state, count in count_by_state.items())
                notes.append(
                    f"{unfinished_count} of {format_count(video_count, 'video')} of {folder} "
                    f"{'has' if unfinished_count == 1 else 'have'} no result: {states_text}"
                )
        return notes


def read_batch_videos(folder: Path, from_latents: bool = False) -> Iterator[Video]:
    """Yield every finished video of a batch folder, of wantui or of the older system.

    Args:
        from_latents: True to compute Gram matrices from stored latents instead of using the stored matrices.

    Raises:
        UserError: the folder is not a batch folder of either system.
    """
    yield from _load_videos(folder, _read_batch_manifest(folder), from_latents)


def _read_batch_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a batch folder; None for a batch of the older system.

    Raises:
        UserError: the folder is not a batch folder of either system.
    """
    try:
        is_current = (folder / "batch.json").exists()
        is_legacy = not is_current and (
            (folder / "batch_metadata.json").exists() or any(find_latents_folder(folder).glob("*/vid_*/step_*.npy*"))
        )
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from None
    if is_current:
        return read_manifest(BatchFolder(folder))
    if is_legacy:
        return None
    missing_files = (
        "neither batch.json nor files of diffusion_latent_exploration, such as "
        "latents/prompt_000/vid_001/step_000.npy.gz"
    )
    raise UserError(describe_other_folder(folder, missing_files))


def read_batches(
    folders: Sequence[Path], from_latents: bool = False, on_video: Callable[[int], None] = lambda _: None
) -> LoadedBatches:
    """Read the finished videos of several batches.

    Args:
        on_video: called with the number of videos read so far.

    Raises:
        UserError: no batch can be read.
    """
    videos: list[Video] = []
    errors: list[UserError] = []
    manifest_by_folder: dict[Path, Manifest] = {}
    folders_by_real_path: dict[str, Path] = {}
    for folder in folders:
        try:
            if (first := folders_by_real_path.setdefault(os.path.realpath(folder), folder)) is not folder:
                raise UserError(f"cannot analyse {folder} again: it is the same batch as {first}. Name each batch once")
            if (manifest := _read_batch_manifest(folder)) is not None:
                manifest_by_folder[folder] = manifest
            for video in _load_videos(folder, manifest, from_latents):
                videos.append(video)
                on_video(len(videos))
        except UserError as error:
            errors.append(error)
    if errors and len(errors) == len(folders):
        raise errors[0]
    return LoadedBatches(videos, tuple(map(str, errors)), manifest_by_folder)


def _load_videos(folder: Path, manifest: Manifest | None, from_latents: bool) -> Iterator[Video]:
    if manifest is None:
        yield from read_legacy_batch_videos(folder)
        return
    done_entries = [(video_index, entry) for video_index, entry in enumerate(manifest.videos) if entry.state == "done"]
    template_parts = split_template(manifest.template)
    scheduled_options = label_scheduled_options(manifest.variations, template_parts)
    brackets = collect_template_brackets(manifest.variations, template_parts)
    state_buffer = StateBuffer() if from_latents else None

    def load(video_index: int, entry: VideoEntry) -> Video:
        video = _describe_video(folder, video_index, manifest, scheduled_options[entry.variation], brackets)
        return _load_geometry(video, entry, state_buffer)

    if not from_latents:
        yield from itertools.starmap(load, done_entries)
        return
    from threadpoolctl import threadpool_limits

    # One thread reads while the other multiplies. More BLAS threads would take CPU time from reading.
    with threadpool_limits(1), ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(load, video_index, entry) for video_index, entry in done_entries]
        try:
            for future in futures:
                yield future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _describe_video(
    folder: Path,
    video_index: int,
    manifest: Manifest,
    scheduled_options: dict[int, str],
    brackets: Mapping[int, TemplateBracket],
) -> Video:
    """Return a video with the data in its manifest, without its trajectory."""
    entry = manifest.videos[video_index]
    recipe, variation = entry.recipe, manifest.variations[entry.variation]
    template_parts = split_template(manifest.template)
    option_numbers = {int(choice["bracket"]): int(choice["option"]) for choice in variation.choices}
    return Video(
        folder=folder,
        video_index=video_index,
        id=entry.id,
        variation=variation.id,
        **describe_prompts(recipe, variation, scheduled_options, _list_swept_paths(manifest)),
        template_brackets=brackets,
        choices_by_bracket={int(choice["bracket"]): str(choice["text"]) for choice in variation.choices},
        seed=entry.seed,
        recipe=recipe,
        settings=_collect_settings(recipe),
        **_describe_sweep(manifest, entry),
        template_skeleton=template_parts.skeleton,
        unfilled_options=template_parts.select_options(option_numbers) | scheduled_options,
        options_by_bracket=template_parts.fill_options(option_numbers) | scheduled_options,
        weighting_method=recipe.weighting or "",
        clip_path=folder / entry.files["clip"] if "clip" in entry.files else None,
        attention_path=folder / entry.files["attention"] if "attention" in entry.files else None,
        contributions_path=folder / entry.files["contributions"] if "contributions" in entry.files else None,
        declared_metric=str(manifest.config.get("primary_metric") or ""),
    )


def _load_geometry(video: Video, entry: VideoEntry, state_buffer: StateBuffer | None) -> Video:
    """Return a video with its trajectory, or with the reason why the trajectory is missing.

    Args:
        state_buffer: memory for the stored states, from which inner products are computed; None reads the stored ones.
    """
    if state_buffer is not None:
        video = replace(video, settings={**video.settings, **_describe_latents_storage(entry.recipe)})
    if "latents" not in entry.files:
        return replace(video, exclusion_reason="it has no stored trajectory")
    path = video.folder / entry.files["latents"]
    video = replace(video, trajectory_path=path)
    try:
        trajectory, dimension, channel_power, warnings = _load_trajectory(path, entry.recipe, state_buffer)
    except NoGeometryError as error:
        is_damaged = isinstance(error, DamagedGeometryError)
        return replace(video, exclusion_reason=str(error), is_damaged=is_damaged)
    except CaptureError as error:
        return replace(video, exclusion_reason=f"its stored trajectory cannot be read: {error}", is_damaged=True)
    guidance_gap, gap_warnings = _load_guidance_gap(video.folder, entry)
    return replace(
        video,
        trajectory=trajectory if guidance_gap is None else replace(trajectory, guidance_gap=guidance_gap),
        dimension=dimension,
        channel_power=channel_power,
        warnings=(*warnings, *gap_warnings),
    )


def describe_prompts(
    recipe: Recipe, variation: VariationEntry, scheduled_options: Mapping[int, str], swept_paths: Sequence[str]
) -> dict[str, Any]:
    """Return the fields that describe a video's prompts.

    A prompt schedule that the batch sweeps is a setting: the phrasing then has the prompt that the template gives, and
    the options of the brackets that only the schedule has.

    Args:
        scheduled_options: options of the brackets that only the schedule has, by bracket.
        swept_paths: paths of the settings that the batch sweeps.
    """
    sweeps_schedule = any(
        path in (SETTING_KEY, SWITCH_KEY) or path.startswith(f"{SETTING_KEY}.") for path in swept_paths
    )
    if sweeps_schedule:
        weights = [(str(mark["text"]), float(mark["weight"])) for mark in variation.marks]
    else:
        weights = [(mark.text, mark.weight) for prompt in recipe.prompts for mark in prompt.marks]
    options_text = ", ".join(scheduled_options.values())
    phrasing = f"{variation.prompt} ({options_text})" if scheduled_options else variation.prompt
    return {
        "prompt": recipe.prompt_text,
        "matched_prompt": phrasing if sweeps_schedule else "",
        "word_weights": ", ".join(f"{text}:{weight:g}" for text, weight in weights if weight != 1),
        "word_count": max(len(prompt.prompt.split()) for prompt in recipe.prompts),
    }


def _load_guidance_gap(folder: Path, entry: VideoEntry) -> tuple[GuidanceGap | None, tuple[str, ...]]:
    """Return the guidance gap of a video, or None if it is not stored; also return a warning if it cannot be read."""
    if GUIDANCE_GAP.file_key not in entry.files:
        return None, ()
    try:
        return load_guidance_gap(folder / entry.files[GUIDANCE_GAP.file_key], entry.recipe), ()
    except CaptureError as error:
        return None, (f"its guidance gap cannot be read: {error}",)


def _describe_sweep(manifest: Manifest, entry: VideoEntry) -> dict[str, Any]:
    """Return the fields of a video that describe its settings and the settings that its batch sweeps."""
    cell, axes = manifest.find_cell(entry), () if manifest.sweep is None else manifest.sweep.axes
    swept_values = None if cell is None else {path: cell.values.get(path) for path in _list_swept_paths(manifest)}
    return {
        "setting_values": collect_setting_values(entry.recipe, manifest.config, swept_values),
        "swept_axes": tuple(tuple(axis.paths) for axis in axes),
        "cell_label": "" if cell is None else cell.label,
    }


def _list_swept_paths(manifest: Manifest) -> list[str]:
    return [] if manifest.sweep is None else [path for axis in manifest.sweep.axes for path in axis.paths]


def collect_control_settings(recipe: Recipe, kinds: Sequence[ControlKind] = CONTROLS) -> dict[str, Any]:
    """Return the compared values of each control, None for a control that is off; excludes word weights.

    These settings must be equal for a comparison. Word weights and the prompts of a schedule are part of the phrasing.
    """
    return {
        kind.name: None
        if (request := recipe.find_control_request(kind.name)) is None
        else kind.get_compared_settings(request)
        for kind in kinds
        if kind.section_key is not None
    }


def _collect_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that videos must share to be compared."""
    magnitudes = recipe.magnitudes
    return {
        **recipe.source.comparison_settings,
        **{name: getattr(recipe, name) for name in COMPARED_FIELDS},
        "cached": recipe.speed == "cached",
        "fp8": recipe.speed == "fp8",
        "magnitudes": hashlib.sha256(json.dumps(magnitudes).encode()).hexdigest()[:8] if magnitudes else None,
        **collect_control_settings(recipe),
    }


def _describe_latents_storage(recipe: Recipe) -> dict[str, Any]:
    """Return the interval and dtype of the stored latents: a trajectory computed from latents depends on both."""
    return {"storage_interval": recipe.capture.interval, "storage_dtype": recipe.capture.dtype}


def _load_trajectory(
    path: Path, recipe: Recipe | None, state_buffer: StateBuffer | None
) -> tuple[Trajectory, int, FloatArray | None, tuple[str, ...]]:
    """Return the trajectory of a video, facts about its states, and warnings.

    The facts are the number of values per state, and the mean square of each channel in the final state.
    """
    group, arrays = open_capture_arrays(path, recipe)
    with convert_to_capture_error(path):
        sigmas = _read_floats(arrays["sigmas"], "noise levels")
        dimension = _read_state_dimension(group.attrs.get("shape"), arrays.get("latents"))
        if state_buffer is None:
            channel_power = np.asarray(arrays["channel_power"][-1]) if "channel_power" in arrays else None
            gram = _read_floats(arrays["gram"], "inner products")
            return build_trajectory(gram, sigmas, dimension), dimension, channel_power, ()
        if "latents" not in arrays:
            raise NoGeometryError("its latents are not stored, only their inner products")
        stored_steps = np.asarray(arrays["steps"][:])
        check_stored_states(stored_steps, arrays["latents"], len(sigmas))
        steps = stored_steps.tolist()
        state_indices, warnings = select_corrected_states(steps, sigmas)
        states = StoredStates(arrays["latents"], state_indices)
        gram = compute_gram(states.read_states, len(states), states.dimension, state_buffer)
        return (
            build_trajectory(gram, sigmas[[steps[index] for index in state_indices]], dimension),
            dimension,
            None,
            warnings,
        )


def _read_floats(array: Any, description: str) -> FloatArray:
    """Return an array of a capture; captures without checksums can have been changed to another type.

    Raises:
        DamagedGeometryError: the array has no floating-point numbers.
    """
    if array.dtype.kind != "f":
        raise DamagedGeometryError(f"the stored {description} are damaged: {array.dtype} instead of floats")
    return np.asarray(array[:])


def _read_state_dimension(shape: Any, latents: Any) -> int:
    """Return the number of values per state.

    Args:
        shape: attribute `shape` of the capture; None if it has none.
        latents: array of the stored states; None without it.

    Raises:
        ValueError: the attribute `shape` is invalid, as it can be in captures without checksums.
    """
    if shape is None:
        if latents is None:
            raise KeyError("latents")
        return math.prod(latents.shape[1:])
    if not isinstance(shape, list) or not shape or not all(type(length) is int and length > 0 for length in shape):
        raise ValueError(f"its attribute shape is {str(shape)[:80]}, but must be a list of positive lengths")
    if latents is not None and tuple(shape) != latents.shape[1:]:
        raise ValueError(f"its attribute shape is {str(shape)[:80]}, but its states are {latents.shape[1:]}")
    return math.prod(shape)


def select_corrected_states(steps: Sequence[int], sigmas: FloatArray) -> tuple[list[int], tuple[str, ...]]:
    """Return the indices of the stored states without Heun's predictors, and a warning or None.

    The warning names predictors that are stored without their corrected state.

    Heun's sampler evaluates the model twice at a noise level: first at an Euler predictor, then at the corrected state.
    Versions before 0.2 counted `storage_interval` in evaluations, and could store a predictor without its corrected
    state; comparing neighbouring stored states cannot detect those.

    Args:
        steps: number of model evaluations before each stored state.
        sigmas: [S + 1] noise levels of all states, stored or not.
    """
    is_last = mark_last_repeats(sigmas)
    state_indices = [index for index, step in enumerate(steps) if is_last[step]]
    lone_predictors = [step for step in steps if not is_last[step] and step + 1 not in steps]
    if not lone_predictors:
        return state_indices, ()
    return state_indices, (
        f"{len(lone_predictors)} of {len(steps)} stored states are excluded: they are predictors of the heun sampler",
    )
