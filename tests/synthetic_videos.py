"""Videos with synthetic trajectories of known geometry, as the analysis loads them."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from wantui.analysis import loading as read
from wantui.analysis.calibrated import (
    Sensitivity,
    Slope,
)
from wantui.analysis.trajectory import Trajectory, build_trajectory
from wantui.analysis.video import Video

STATES, DIMENSION = 9, 60
SIGMAS = np.linspace(1, 0, STATES)
SETTINGS = {"steps": 8, "width": 64, "sampler": "euler"}


@cache
def make_empty_group(states: int) -> dict[str, bytes]:
    """Return the content of each metadata file of a group for a trajectory, whose arrays have one raw chunk each."""
    with tempfile.TemporaryDirectory() as name:
        group = zarr.open_group(name, mode="w")
        for array, shape, dtype in (("projection", (states, DIMENSION), "<f4"), ("sigmas", (states,), "<f8")):
            group.create_array(array, shape=shape, dtype=dtype, chunks=shape, compressors=None)
        return {str(path.relative_to(name)): path.read_bytes() for path in Path(name).rglob("*") if path.is_file()}


def write_trajectory(place: Path, path: np.ndarray, sigmas: np.ndarray) -> None:
    """Write a group without zarr, which waits for its thread for each file: most of the time of an analysis."""
    chunks = {"projection/c/0/0": path.astype("<f4").tobytes(), "sigmas/c/0": sigmas.astype("<f8").tobytes()}
    for name, content in (make_empty_group(len(sigmas)) | chunks).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


def synthetic_videos(
    folder: Path, spreads: dict[str, float], seeds: int, phrasings: int = 2, lengths: float = 1.0
) -> list[Video]:
    """Videos that go straight from a seed's noise to data of a group's spread; the rest of the phrasing moves it."""
    videos: list[Video] = []
    for g, (name, spread) in enumerate(spreads.items()):
        for phrasing in range(phrasings):
            for seed in range(seeds):
                # Trailing zeros would be the same seed as none.
                rng, of_phrasing = np.random.default_rng([seed, g, phrasing, 1]), np.random.default_rng([phrasing, 2])
                noise = np.random.default_rng([seed, 3]).normal(size=DIMENSION)
                end = 2 * of_phrasing.normal(size=DIMENSION) + spread * rng.normal(size=DIMENSION)
                bend = 0.1 * lengths * np.random.default_rng([seed, g, phrasing, 4]).normal(size=DIMENSION)
                path = SIGMAS[:, None] * noise + (1 - SIGMAS[:, None]) * end
                path = path + np.sin(np.pi * SIGMAS)[:, None] * bend
                place = folder / f"{name}_{phrasing}_{seed}.zarr"
                write_trajectory(place, path, SIGMAS)
                videos.append(
                    Video(
                        folder,
                        len(videos),
                        f"{g}{phrasing}{seed}",
                        f"{name}_{phrasing}",
                        f"{name} in phrasing {phrasing}",
                        {3: name, 7: f"phrasing {phrasing}"},
                        seed,
                        SETTINGS,
                        build_trajectory(path @ path.T, SIGMAS, DIMENSION),
                        dimension=DIMENSION,
                        trajectory_path=place,
                        word_count=4,
                    )
                )
    return videos


def oscillating_videos(
    folder: Path, groups: tuple[str, ...] = ("one", "other"), predictors: bool = False
) -> list[Video]:
    """Videos of 41 states that swing over four states; with predictors between their states if asked for."""
    videos: list[Video] = []
    for g, name in enumerate(groups):
        for seed in range(4):
            rng = np.random.default_rng([seed, g])
            angles, sigmas = np.linspace(0, 1.5, 41), np.linspace(1, 0, 41)
            path = rng.normal(size=DIMENSION) + 0.01 * np.linspace(0, 1, 41)[:, None] * rng.normal(size=DIMENSION)
            swing = 0.02 * np.array([1, 1, -1, -1])[np.arange(41) % 4]
            path[:, :3] = np.stack([np.cos(angles), np.sin(angles), swing], axis=1)
            if predictors:
                path, sigmas = (np.repeat(own, [1, *[2] * 39, 1], axis=0) for own in (path, sigmas))
                path[1:-1:2] += 1
            place = folder / f"{name}_{seed}.zarr"
            write_trajectory(place, path, sigmas)
            about = {"dimension": DIMENSION, "trajectory_path": place}
            result = build_trajectory(path @ path.T, sigmas, DIMENSION)
            videos.append(
                Video(folder, len(videos), f"{g}{seed}", name, name, {}, seed, SETTINGS, result, **about)  # type: ignore[arg-type]
            )
    return videos


def with_states(video: Video, stored: list[int]) -> Video:
    """Return the video with some of its states only, as latents stored at intervals have them."""
    path = video.trajectory
    assert path is not None
    return replace(video, trajectory=Trajectory(path.sigmas[stored], path.gram[np.ix_(stored, stored)]))


def set_values(monkeypatch: pytest.MonkeyPatch, values: Callable[[Video], float]) -> None:
    """Let `length` be what a function says."""
    monkeypatch.setattr(Video, "compute_metric", lambda video, metric: values(video))


def use_videos(monkeypatch: pytest.MonkeyPatch, videos: list[Video]) -> None:
    """Let the command read these videos, whatever batch it is given."""
    monkeypatch.setattr(read, "read_batches", lambda folders, from_latents, *_: read.LoadedBatches(videos))


def make_videos_of_two_words(folder: Path, seeds: int = 8) -> list[Video]:
    """Videos of red and blue circles and rings, which are the phrasings of the synthetic videos."""
    videos = synthetic_videos(folder, {"red": 1.0, "blue": 1.0}, seeds)
    shape_by_phrasing = {"phrasing 0": "circle", "phrasing 1": "ring"}
    return [
        replace(
            video,
            choices_by_bracket={1: video.choices_by_bracket[3], 2: shape_by_phrasing[video.choices_by_bracket[7]]},
        )
        for video in videos
    ]


CFG_PATH = "model_settings.cfg_scale"


def set_setting(video: Video, folder: Path, path: str, value: Any, **settings: Any) -> Video:
    """Return a copy of a video in another batch with a setting; `settings` are compared settings."""
    values = {**video.setting_values, path: value}
    return replace(video, folder=folder, settings={**video.settings, **settings}, setting_values=values)


def build_sensitivity(slope: float, held_out_slope: float, ratio: float, half_width: float = 0.01) -> Sensitivity:
    frequency, held_out = (Slope(s, s - half_width, s + half_width) for s in (slope, held_out_slope))
    return Sensitivity(frequency, held_out, p=0.01, appearance=0.1, ratio=ratio)


def cfg_batches(tmp_path: Path, scales: Sequence[float], seeds: int = 6, effect: float = 0.0) -> list[Video]:
    """Return a batch for each guidance scale; the length of the paths grows by `effect` for each unit of it."""
    videos: list[Video] = []
    for scale in scales:
        folder = tmp_path / f"cfg{scale:g}"
        batch = synthetic_videos(folder, {"one": 1.0}, seeds=seeds, lengths=1.0 + effect * scale)
        videos += [set_setting(video, folder, CFG_PATH, scale, guidance_scale=scale) for video in batch]
    return videos
