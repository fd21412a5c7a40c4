"""Batches of the older system: noise levels, seeds, layouts and metadata, against paths whose geometry is known."""

import gzip
import json
import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Wantui, deny

from wantui.analysis import gram as products
from wantui.analysis.comparability import select_comparable_videos
from wantui.analysis.loading import read_batch_videos
from wantui.analysis.noise_levels import find_noise_levels_after_steps
from wantui.analysis.trajectory import NoGeometryError
from wantui.analysis.video import Video

STEPS = 20


def unipc_levels(steps: int, shift: float) -> np.ndarray:
    """[steps + 1], the noise levels of diffusers' UniPC for flow models, from the first step to 0."""
    u = (1 - 1 / 1000) * (1 - np.arange(steps + 1) / steps)
    return shift * u / (1 + (shift - 1) * u)


def write_straight_video(
    folder: Path,
    stored: Sequence[int],
    sigmas: np.ndarray,
    video: str = "prompt_000/vid_001",
    change: Callable[[int, dict[str, Any]], dict[str, Any] | None] = lambda step, about: about,
) -> None:
    """Write a straight path as the older system did: the level in a step's metadata is the one before it."""
    random = np.random.default_rng(0)
    noise, data = random.normal(size=(2, 1, 16, 2, 4, 4))
    directory = folder / "latents" / video
    directory.mkdir(parents=True)
    for step in stored:
        after = sigmas[step + 1]
        with gzip.open(directory / f"step_{step:03d}.npy.gz", "wb") as file:
            np.save(file, ((1 - after) * data + after * noise).astype(np.float32))
        about: dict[str, Any] = {
            "video_id": "v",
            "step": step,
            "sigma": float(sigmas[step]),
            "timestep": int(1000 * sigmas[step]),
            "total_steps": len(sigmas) - 1,
            "prompt": "a star",
            "seed": 7,
        }
        changed = change(step, about)
        if changed is not None:
            (directory / f"step_{step:03d}_metadata.json").write_text(json.dumps(changed))


def write_states(folder: Path, states: Sequence[Any]) -> None:
    """Write states of any kind as the steps of one video."""
    levels = unipc_levels(len(states), 3.0)
    write_straight_video(folder, range(len(states)), levels)
    for step, state in enumerate(states):
        with gzip.open(folder / f"latents/prompt_000/vid_001/step_{step:03d}.npy.gz", "wb") as file:
            np.save(file, state)


def read_single_video(folder: Path) -> Video:
    (video,) = read_batch_videos(folder)
    return video


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("interval", [1, 2, 5])
def test_straight_legacy_path_is_straight_at_any_storage_interval(tmp_path: Path, interval: int, shift: float) -> None:
    sigmas = unipc_levels(STEPS, shift)  # A6
    stored = range(0, STEPS, interval)
    write_straight_video(tmp_path, stored, sigmas)
    video = read_single_video(tmp_path)
    assert video.trajectory is not None
    assert video.trajectory.sigmas == pytest.approx(sigmas[[step + 1 for step in stored]], abs=1e-6)
    assert video.compute_metric("flow_straightness") == pytest.approx(0, abs=1e-8)
    assert video.compute_metric("straightness") == pytest.approx(1, abs=1e-6)


def test_linear_levels_at_interval_5_give_a_straight_path(tmp_path: Path) -> None:  # A6
    write_straight_video(tmp_path, range(0, STEPS, 5), np.linspace(1, 0, STEPS + 1))
    assert read_single_video(tmp_path).compute_metric("flow_straightness") == pytest.approx(0, abs=1e-10)


def test_noise_levels_are_derived_from_integer_timesteps(tmp_path: Path) -> None:  # A6
    sigmas = unipc_levels(STEPS, 3.0)
    write_straight_video(
        tmp_path,
        range(0, STEPS, 5),
        sigmas,
        change=lambda step, about: {name: value for name, value in about.items() if name != "sigma"},
    )
    video = read_single_video(tmp_path)
    assert video.trajectory is not None
    assert video.trajectory.sigmas == pytest.approx(sigmas[[1, 6, 11, 16]], abs=2e-3)
    assert video.compute_metric("flow_straightness") < 1e-4


@pytest.mark.parametrize("missing", [0, 7, 19])
def test_missing_step_does_not_shift_other_noise_levels(tmp_path: Path, missing: int) -> None:  # A6
    sigmas = unipc_levels(STEPS, 5.0)
    stored = [step for step in range(STEPS) if step != missing]
    write_straight_video(tmp_path, stored, sigmas)
    video = read_single_video(tmp_path)
    assert video.trajectory is not None
    assert video.trajectory.sigmas == pytest.approx(sigmas[[step + 1 for step in stored]], abs=1e-6)


def test_inconsistent_noise_level_is_refused(tmp_path: Path) -> None:  # A6
    odd = np.concatenate([np.linspace(1, 0, STEPS + 1) ** 3])
    write_straight_video(tmp_path, range(0, STEPS, 5), odd)
    video = read_single_video(tmp_path)
    assert video.trajectory is None
    assert "the noise level after step 0 is not stored, and cannot be derived" in video.exclusion_reason
    write_straight_video(tmp_path / "all", range(STEPS), odd)  # each next level is stored
    assert read_single_video(tmp_path / "all").compute_metric("flow_straightness") == pytest.approx(0, abs=1e-8)


def test_levels_after_steps_are_read_from_our_export() -> None:
    levels = find_noise_levels_after_steps(
        [1, 5], {1: {"sigma": 0.9, "sigma_after": 0.7}, 5: {"sigma": 0.3, "sigma_after": 0.1}}
    )
    assert levels.sigmas.tolist() == [0.7, 0.1]


def test_seed_0_is_accepted(tmp_path: Path) -> None:  # A6
    write_straight_video(tmp_path, range(STEPS), unipc_levels(STEPS, 3), change=lambda _, about: about | {"seed": 0})
    assert read_single_video(tmp_path).seed == 0


@pytest.mark.slow
def test_videos_of_the_newest_layout_are_grouped_by_prompt_and_bending(tmp_path: Path) -> None:  # A6
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "prompt_variations.json").write_text('["a rose", "a star"]')
    for prompt in (0, 1):
        for bending in (0, 1):
            for seed in (0, 1, 2):

                def change(_: int, about: dict[str, Any], seed: int = seed) -> dict[str, Any]:
                    return {name: value for name, value in about.items() if name != "prompt"} | {"seed": 40 + seed}

                name = f"p{prompt:03d}_b{bending:03d}_s{seed:03d}/vid_001"
                write_straight_video(tmp_path, range(STEPS), unipc_levels(STEPS, 3), name, change)
    videos = list(read_batch_videos(tmp_path))
    assert {video.variation for video in videos} == {"p000_b000", "p000_b001", "p001_b000", "p001_b001"}
    assert [video.seed for video in videos[:4]] == [40, 41, 42, 40]
    assert {video.prompt for video in videos if video.variation.startswith("p001")} == {"a star"}


ODD = {
    "no JSON": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "binary": "\0",
}


@pytest.mark.parametrize("odd", ODD)
def test_unreadable_metadata_is_named_and_excludes_the_video(tmp_path: Path, odd: str, wantui: Wantui) -> None:
    sigmas = unipc_levels(STEPS, 3.0)
    for number in (1, 2):
        write_straight_video(tmp_path, range(STEPS), sigmas, f"prompt_000/vid_{number:03d}")
    (tmp_path / "latents/prompt_000/vid_001/step_004_metadata.json").write_text(ODD[odd])
    first, second = read_batch_videos(tmp_path)
    assert first.trajectory is None
    assert "step_004_metadata.json cannot be read" in first.exclusion_reason
    assert second.trajectory is not None
    result = wantui("analyze", tmp_path)
    assert result.code == 1
    assert "step_004_metadata.json cannot be read" in result.err


@pytest.mark.parametrize("odd", ["0.5", True, -1, None, [1]])
def test_invalid_noise_level_is_reported_and_missing_level_is_derived(tmp_path: Path, odd: Any) -> None:
    write_straight_video(
        tmp_path,
        range(STEPS),
        unipc_levels(STEPS, 3),
        change=lambda step, about: about | ({"sigma": odd, "timestep": None, "seed": odd} if step == 3 else {}),
    )
    video = read_single_video(tmp_path)
    if odd is None:  # not stored, and follows from the others
        assert video.trajectory is not None
    else:
        assert "sigma of step 3 is " in video.exclusion_reason


def test_legacy_batch_without_metadata_is_read_with_a_warning(tmp_path: Path, wantui: Wantui) -> None:  # A6
    write_straight_video(tmp_path, range(STEPS), unipc_levels(STEPS, 3), change=lambda *_: None)
    video = read_single_video(tmp_path)
    assert video.trajectory is not None
    assert video.trajectory.sigmas == pytest.approx(np.linspace(0.95, 0, STEPS))
    assert "equal steps are assumed" in video.warnings[0]
    result = wantui("analyze", tmp_path)
    assert result.code == 0
    assert "warning: no noise levels are stored: equal steps are assumed" in result.err
    assert "(1 video)" in result.err


def test_steps_without_a_known_total_are_refused(tmp_path: Path) -> None:
    def without_total(step: int, about: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in about.items() if name != "total_steps"}

    write_straight_video(tmp_path / "a", range(0, STEPS, 5), unipc_levels(STEPS, 3), change=without_total)
    assert "nor the number of steps is stored" in read_single_video(tmp_path / "a").exclusion_reason
    write_straight_video(tmp_path / "b", range(STEPS), unipc_levels(STEPS, 3), change=without_total)
    assert "step 19 is assumed to be the last" in read_single_video(tmp_path / "b").warnings[0]
    write_straight_video(
        tmp_path / "c",
        range(STEPS),
        unipc_levels(STEPS, 3),
        change=lambda step, about: about | {"total_steps": 20 + step % 2},
    )
    assert "its metadata disagree on the number of steps: 20, 21" in read_single_video(tmp_path / "c").exclusion_reason
    with pytest.raises(NoGeometryError, match="step 25 is stored, but the metadata of the video declare 20 steps"):
        find_noise_levels_after_steps([0, 25], {0: {"sigma": 1.0, "total_steps": 20}})


def test_damaged_states_are_named_with_their_file(tmp_path: Path) -> None:  # B8
    write_straight_video(tmp_path, range(STEPS), unipc_levels(STEPS, 3))
    file = tmp_path / "latents/prompt_000/vid_001/step_004.npy.gz"
    whole = file.read_bytes()
    for damaged in (whole[:50], b"", whole[:30] + bytes(40) + whole[70:], b"\x1f\x8b\x08", gzip.compress(b"text")):
        file.write_bytes(damaged)
        video = read_single_video(tmp_path)
        assert video.is_damaged
        assert "step_004.npy.gz cannot be read" in video.exclusion_reason


def test_folder_with_an_unusual_name_is_read(tmp_path: Path) -> None:
    write_straight_video(tmp_path, range(STEPS), unipc_levels(STEPS, 3), "prompt_000/vid_x", lambda *_: None)
    assert read_single_video(tmp_path).seed == 0


@pytest.mark.parametrize("denied", ["latents/prompt_000", "latents/prompt_000/vid_001"])
def test_unreadable_legacy_video_is_named_and_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    for video in ("prompt_000/vid_001", "prompt_001/vid_001"):
        write_straight_video(tmp_path, range(STEPS), unipc_levels(STEPS, 3.0), video)
    deny(monkeypatch, tmp_path / denied)
    closed, read = read_batch_videos(tmp_path)
    assert "Permission denied" in closed.exclusion_reason
    assert closed.is_damaged
    assert read.trajectory is not None


@pytest.mark.parametrize("shape", [(0,), (1, 0, 2)])
def test_states_without_values_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_states(tmp_path, [np.zeros(shape)] * STEPS)
    assert read_single_video(tmp_path).exclusion_reason == "its states contain no values"


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[D]", [("a", "f4")]])
def test_states_of_non_real_dtype_are_refused(tmp_path: Path, dtype: Any) -> None:
    write_states(tmp_path, [np.zeros(8, dtype=dtype)] * STEPS)
    video = read_single_video(tmp_path)
    assert video.is_damaged
    assert "must be real numbers" in video.exclusion_reason


def test_enormous_state_is_refused_without_reading_it(tmp_path: Path) -> None:
    write_states(tmp_path, [np.zeros(8, np.float32)] * STEPS)
    for step in range(STEPS):
        with gzip.open(tmp_path / f"latents/prompt_000/vid_001/step_{step:03d}.npy.gz", "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (1, 16, 1 << 12, 1 << 10, 1 << 10)}
            )
    tracemalloc.start()
    video = read_single_video(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.exclusion_reason == f"its states have {1 << 36:,} values each, more than the maximum of 67,108,864"
    assert peak < 10 << 20


@pytest.mark.slow
def test_legacy_states_are_read_with_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = np.random.default_rng(1).normal(size=(STEPS, 1 << 18)).astype(np.float32)
    write_states(tmp_path, list(states))
    monkeypatch.setattr(products, "BUFFER_BYTES", 6 * states[0].nbytes)
    tracemalloc.start()
    video = read_single_video(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.trajectory is not None
    wide = states.astype(np.float64)
    assert video.trajectory.gram == pytest.approx(wide @ wide.T / wide.shape[1], rel=1e-9)
    assert peak < 12 * states[0].nbytes


@pytest.mark.parametrize("suffix", [b"\0", b"\x93NUMPY"])
def test_trailing_bytes_in_a_state_are_reported(tmp_path: Path, suffix: bytes) -> None:
    write_states(tmp_path, [np.full(8, step, np.float32) for step in range(STEPS)])
    file = tmp_path / "latents/prompt_000/vid_001/step_004.npy.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()) + suffix))
    video = read_single_video(tmp_path)
    assert video.is_damaged
    assert "step_004.npy.gz cannot be read: it has more bytes than its header declares" in video.exclusion_reason


def test_changed_value_in_a_gzipped_state_is_detected_by_its_checksum(tmp_path: Path) -> None:
    write_states(tmp_path, [np.full(8, step, np.float32) for step in range(STEPS)])
    file = tmp_path / "latents/prompt_000/vid_001/step_004.npy.gz"
    stored = bytearray(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=0))
    stored[-10] ^= 0x40  # of the last value; its CRC-32 and length follow
    file.write_bytes(stored)
    video = read_single_video(tmp_path)
    assert video.is_damaged
    assert "step_004.npy.gz cannot be read: CRC check failed" in video.exclusion_reason


def test_single_value_states_use_little_memory(tmp_path: Path) -> None:
    write_states(tmp_path, [np.float32(step) for step in range(STEPS)])
    tracemalloc.start()
    video = read_single_video(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.trajectory is not None
    assert video.compute_metric("turning") == 0
    assert peak < 100 << 20


@pytest.mark.parametrize("name", ["step_000.npy.tmp", "step_abc.npy"])
def test_folder_without_steps_is_not_a_video(tmp_path: Path, name: str) -> None:
    write_straight_video(tmp_path, range(STEPS), unipc_levels(STEPS, 3.0))
    other = tmp_path / "latents" / "prompt_000" / "vid_002"
    other.mkdir()
    (other / name).write_text("")
    assert read_single_video(tmp_path).exclusion_reason == ""


def test_values_beyond_float32_are_refused_without_a_numpy_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write_states(tmp_path, [np.array([1e300, 0.0, -1e300])] * STEPS)
    assert read_single_video(tmp_path).exclusion_reason == "the stored inner products contain NaN or infinity"
    assert not list(recwarn)


def test_videos_with_different_guidance_are_not_compared(tmp_path: Path) -> None:
    sigmas = unipc_levels(STEPS, 3.0)

    def with_guidance(scale: float) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
        return lambda _, about: {**about, "cfg_scale": scale}

    for number, scale in enumerate((5.0, 5.0, 9.0), start=1):
        write_straight_video(
            tmp_path,
            range(STEPS),
            sigmas,
            f"prompt_000/vid_{number:03d}",
            with_guidance(scale),
        )
    _, left = select_comparable_videos(list(read_batch_videos(tmp_path)))
    assert [video.exclusion_reason for video in left] == ["guidance_scale is 9.0, but 5.0 in most videos"]


def test_seed_stored_as_a_whole_float_is_the_seed(tmp_path: Path) -> None:  # A6
    for number, seed in ((1, 42.0), (2, 42.5)):

        def set_seed(_: int, about: dict[str, Any], seed: float = seed) -> dict[str, Any]:
            return about | {"seed": seed}

        write_straight_video(tmp_path, range(5), unipc_levels(5, 3.0), f"prompt_000/vid_{number:03d}", set_seed)
    whole, fractional = read_batch_videos(tmp_path)
    assert (whole.seed, whole.warnings) == (42, ())
    assert fractional.seed == 2
    assert "no seed is stored" in fractional.warnings[0]


@pytest.mark.parametrize("name", ["old_step_003.npy.gz", "zold_step_003.npy.gz", "step_3.npy.gz"])
def test_step_that_is_stored_twice_excludes_the_video(tmp_path: Path, name: str) -> None:  # A6
    write_straight_video(tmp_path, range(5), unipc_levels(5, 3.0))
    folder = tmp_path / "latents" / "prompt_000" / "vid_001"
    shutil.copy(folder / "step_000.npy.gz", folder / name)
    video = read_single_video(tmp_path)
    assert video.trajectory is None
    assert "step 3 is in two files" in video.exclusion_reason
    assert name in video.exclusion_reason


def test_hidden_files_do_not_count_as_steps(
    tmp_path: Path,
) -> None:  # A6: macOS writes them beside each file of a network share
    write_straight_video(tmp_path, range(5), unipc_levels(5, 3.0))
    folder = tmp_path / "latents" / "prompt_000" / "vid_001"
    expected = read_single_video(tmp_path)
    for step in (3, 5):
        (folder / f"._step_{step:03d}.npy.gz").write_bytes(b"\x00\x05\x16\x07")
    video = read_single_video(tmp_path)
    assert video.trajectory is not None
    assert expected.trajectory is not None
    assert video.trajectory.sigmas.tolist() == expected.trajectory.sigmas.tolist()
