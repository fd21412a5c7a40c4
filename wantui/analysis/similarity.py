"""Similarity of videos to a baseline with the same seed: measures of the frames, and distance of the final latents."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wantui.errors import UserError
from wantui.planning.sweep import BASELINE_LABEL
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.manifest_axes import BatchAxes
from wantui.storage.mp4 import ClipError, Frame
from wantui.storage.recorded_files import read_recorded_frames
from wantui.storage.similarity_file import FrameMeasure, VideoSimilarity, to_json_score
from wantui.storage.zarr_group import CaptureError, convert_to_capture_error, open_capture

SSIM_SIGMA = 1.5
"""Standard deviation of the Gaussian window in pixels, as in Wang et al. 2004."""
MIN_SSIM_SIDE = 11
"""Minimum width and height of a frame in pixels, given by the window."""
MIN_ID_LENGTH = 4
"""Minimum number of characters in an id."""


@dataclass(frozen=True)
class PairedVideos:
    """A video and its baseline."""

    video: VideoEntry
    baseline: VideoEntry


def pair_with_baseline(manifest: Manifest, written: str, folder: Path) -> list[PairedVideos]:
    """Return each finished video with its baseline, which has the same seed unless one video is the baseline of all.

    Args:
        written: `baseline` (the sweep's own), values of swept settings (`cfg_scale=1`, several with commas), a cell's
            label, a variation's id, or the start of a video's id.

    Raises:
        UserError: the batch has no such baseline, or no video has one.
    """
    find_key = _choose_pairing(manifest, written, folder)
    done = [entry for entry in manifest.videos if entry.state == "done"]
    baselines: dict[tuple[object, ...], VideoEntry] = {}
    for entry in done:
        is_baseline, key = find_key(entry)
        if is_baseline:
            baselines.setdefault(key, entry)
    pairs = [
        PairedVideos(entry, baseline)
        for entry in done
        if (baseline := baselines.get(find_key(entry)[1])) is not None and baseline is not entry
    ]
    if not pairs:
        raise UserError(f"--baseline: no finished video of {folder} has a finished baseline {written!r}")
    return pairs


PairingKey = Callable[[VideoEntry], tuple[bool, tuple[object, ...]]]
"""Function of a video: whether it is a baseline, and the key that it shares with its baseline."""


def _choose_pairing(manifest: Manifest, written: str, folder: Path) -> PairingKey:
    axes = BatchAxes(manifest, range(len(manifest.videos)))
    sweep = manifest.sweep
    if (sweep is not None and any(cell.label == written for cell in sweep.cells)) or written == BASELINE_LABEL:
        flagged = [cell for cell in sweep.cells if cell.baseline] if sweep is not None else []
        labels = {cell.label for cell in flagged} if written == BASELINE_LABEL else {written}
        if not labels:
            raise UserError(f"--baseline: {folder} has no baseline cell. Name a value, such as cfg_scale=1")
        return lambda entry: (
            (cell := manifest.find_cell(entry)) is not None and cell.label in labels,
            (entry.variation, entry.seed),
        )
    if "=" in written:
        positions = axes.find_positions("--baseline", [part.strip() for part in written.split(",")])

        def find_setting_key(entry: VideoEntry) -> tuple[bool, tuple[object, ...]]:
            by_axis = axes.get_positions(entry)
            rest = (entry.seed, *(by_axis[axis.name] for axis in axes.axes[:-1] if axis.name not in positions))
            return all(by_axis[name] == chosen[0] for name, chosen in positions.items()), rest

        return find_setting_key
    variations = {variation.id: index for index, variation in enumerate(manifest.variations)}
    if written in variations:
        index = variations[written]
        return lambda entry: (entry.variation == index, (entry.cell, entry.seed))
    matching = [entry for entry in manifest.videos if len(written) >= MIN_ID_LENGTH and entry.id.startswith(written)]
    if len(matching) == 1:
        return lambda entry: (entry is matching[0], ())
    cells = [cell.label for cell in sweep.cells][:10] if sweep is not None else []
    known = ", ".join([*cells, *list(variations)[:10]])
    raise UserError(
        f"--baseline: {folder} has no {written!r}. Name a value of a swept setting (cfg_scale=1), a video ID, "
        f"or one of: {known}"
    )


def require_ssim() -> None:
    """Raise an error if scikit-image is not installed.

    Raises:
        UserError: it is missing.
    """
    if find_spec("skimage") is None:
        raise UserError(
            "cannot measure SSIM: scikit-image is not installed. Install it with pip install 'wantui[similarity]', or "
            "choose other metrics with --metrics psnr,latents"
        )


def measure_pair(
    folder: Path,
    pair: PairedVideos,
    metrics: Sequence[str],
    frame_measures: Mapping[str, FrameMeasure] = MappingProxyType({}),
) -> tuple[VideoSimilarity, list[str]]:
    """Return the similarity of a pair, and reasons for what cannot be measured.

    Args:
        metrics: names; this function measures only ssim, psnr and latents.
        frame_measures: further measures of two frames, by field of `VideoSimilarity`; their mean over frames is stored.
    """
    scores: dict[str, float | None] = {}
    reasons, source = [], ""
    if "ssim" in metrics or "psnr" in metrics or frame_measures:
        measures = ({"ssim": compute_ssim} if "ssim" in metrics else {}) | dict(frame_measures)
        try:
            scores |= _compare_clips(folder, pair, measures, needs_psnr="psnr" in metrics)
        except (UserError, ClipError) as error:
            reasons.append(str(error))
    if "latents" in metrics:
        try:
            distance, source = compute_latent_distance(folder, pair)
            scores["latent_distance"] = to_json_score(distance)
        except (UserError, CaptureError) as error:
            reasons.append(str(error))
    checksums = (pair.video.sha256.get("clip", ""), pair.baseline.sha256.get("clip", ""))
    values = {"baseline": pair.baseline.id, "clip_checksums": checksums, "latents": source, **scores}
    return VideoSimilarity.model_validate(values), reasons


def _compare_clips(
    folder: Path, pair: PairedVideos, measures: Mapping[str, FrameMeasure], needs_psnr: bool
) -> dict[str, float | None]:
    frame_counts = {pair.video.recipe.frames, pair.baseline.recipe.frames}
    sizes = {(entry.recipe.width, entry.recipe.height) for entry in (pair.video, pair.baseline)}
    if len(sizes) > 1 or len(frame_counts) > 1:
        raise UserError("the clips differ in size or length")
    clips = [read_recorded_frames(_find_file(folder, entry, "clip"), entry) for entry in (pair.video, pair.baseline)]
    sums, squares, count, values = dict.fromkeys(measures, 0.0), 0.0, 0, 0
    for frame, reference in zip(*clips, strict=True):
        for name, measure in measures.items():
            sums[name] += measure(frame, reference)
        squares += float(((frame.astype(np.float64) - reference.astype(np.float64)) ** 2).sum())
        count, values = count + 1, values + frame.size
    scores: dict[str, float | None] = {"frames_equal": squares == 0}
    scores |= {name: to_json_score(total / count) for name, total in sums.items()}
    if needs_psnr:
        scores["psnr"] = to_json_score(compute_psnr(squares, values))
    return scores


def compute_psnr(squared_error_sum: float, value_count: int) -> float:
    """Return the peak signal-to-noise ratio in dB of values from 0 to 255; infinite without errors."""
    return 10 * math.log10(255**2 * value_count / squared_error_sum) if squared_error_sum else math.inf


def compute_ssim(frame: Frame, reference: Frame) -> float:
    """Return the structural similarity of two frames [height, width, rgb], averaged over colours (Wang et al. 2004).

    Raises:
        UserError: the frames are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    if min(frame.shape[:2]) < MIN_SSIM_SIDE:
        raise UserError(f"SSIM needs frames of at least {MIN_SSIM_SIDE}x{MIN_SSIM_SIDE} pixels")
    return float(
        structural_similarity(
            frame,
            reference,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
        )
    )


def compute_latent_distance(folder: Path, pair: PairedVideos) -> tuple[float, str]:
    """Return the distance of the final latents, divided by sqrt(D), and its source: stored or projected latents.

    Raises:
        UserError: neither latents nor projections of both are stored, or their shapes differ.
        CaptureError: a file is damaged.
    """
    paths = [_find_file(folder, entry, "latents") for entry in (pair.video, pair.baseline)]
    recipes = (pair.video.recipe, pair.baseline.recipe)
    groups = [open_capture(path, recipe) for path, recipe in zip(paths, recipes, strict=True)]
    if all("latents" in group for group in groups):
        states = [_read_last_state(path, group, "latents") for path, group in zip(paths, groups, strict=True)]
        source, dimension = "stored", states[0].size
    elif all("projection" in group for group in groups):
        states = [_read_last_state(path, group, "projection") for path, group in zip(paths, groups, strict=True)]
        shapes = [group.attrs.get("shape") for group in groups]
        if shapes[0] != shapes[1] or not isinstance(shapes[0], list):
            raise UserError("the latents differ in shape")
        source, dimension = "projected", math.prod(shapes[0])
    else:
        raise UserError("neither the latents nor projections of both videos are stored")
    if states[0].shape != states[1].shape:
        raise UserError("the latents differ in shape")
    return float(np.linalg.norm(states[0] - states[1]) / math.sqrt(dimension)), source


def _read_last_state(path: Path, group: Mapping[str, object], name: str) -> NDArray[np.float64]:
    with convert_to_capture_error(path):
        return np.asarray(group[name][-1], dtype=np.float64)  # type: ignore[index]


def _find_file(folder: Path, entry: VideoEntry, kind: str) -> Path:
    if kind not in entry.files:
        raise UserError(f"{entry.id} has no {'clip' if kind == 'clip' else 'stored trajectory'}")
    return folder / entry.files[kind]
