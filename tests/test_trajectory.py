"""The geometry of a trajectory, held against closed forms and against sums written out."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import TEMPLATE, Wantui, batch
from numpy.typing import NDArray

from wantui.analysis.batch import METRICS, analyse, groups
from wantui.analysis.trajectory import TooShort, trajectory


def of(states: NDArray[np.float64], sigmas: NDArray[np.float64] | None = None):  # type: ignore[no-untyped-def]
    flat = states.reshape(len(states), -1)
    return trajectory(flat @ flat.T, np.linspace(1, 0, len(states)) if sigmas is None else sigmas, flat.shape[1])


def test_a_straight_line_is_as_long_as_its_chord_and_does_not_turn() -> None:
    start, end = np.random.default_rng(0).normal(size=(2, 1000))
    shares = np.array([0, 0.1, 0.5, 0.7, 1.0])[:, None]
    found = of(start + shares * (end - start), 1 - shares[:, 0])
    assert found.length == pytest.approx(np.linalg.norm(end - start) / math.sqrt(1000))
    assert found.straightness == pytest.approx(1)
    assert found.total_turning < 1e-5
    assert found.velocity == pytest.approx(np.full(4, found.length))


def test_a_path_round_a_square_turns_by_a_right_angle_at_each_corner() -> None:
    found = of(np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], dtype=float))
    assert found.turning == pytest.approx([math.pi / 2] * 3)
    assert found.length == pytest.approx(4 / math.sqrt(2))
    assert found.chord == 0
    assert found.straightness == 0


def test_points_on_an_arc_turn_by_the_angle_between_them() -> None:
    angles = np.linspace(0, 2, 11)
    found = of(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert found.total_turning == pytest.approx(9 * 0.2)
    assert found.chord == pytest.approx(2 * math.sin(1) / math.sqrt(2))
    assert found.norm == pytest.approx(np.full(11, 1 / math.sqrt(2)))


def test_a_random_walk_in_many_dimensions_turns_by_a_right_angle_at_each_step() -> None:
    walk = np.random.default_rng(1).normal(size=(21, 50_000)).cumsum(0)
    assert of(walk).total_turning / 19 == pytest.approx(math.pi / 2, abs=0.01)


def test_a_scaled_trajectory_is_longer_and_as_straight() -> None:
    states = np.random.default_rng(2).normal(size=(8, 300))
    one, twice = of(states), of(2 * states)
    assert twice.length == pytest.approx(2 * one.length)
    assert twice.turning == pytest.approx(one.turning)


@pytest.mark.parametrize(
    ("gram", "sigmas", "why"),
    [
        (np.eye(2), np.array([1.0, 0.0]), "2 states are stored, and an angle needs three"),
        (np.full((3, 3), np.nan), np.array([1.0, 0.5, 0.0]), "NaN or infinity"),
        (np.eye(3), np.array([1.0, 0.5, 0.5]), "the same noise level"),
    ],
)
def test_what_has_no_geometry_is_refused_by_name(
    gram: NDArray[np.float64], sigmas: NDArray[np.float64], why: str
) -> None:
    with pytest.raises(TooShort, match=why):
        trajectory(gram, sigmas, 10)


def test_a_batch_is_analysed_from_its_stored_latents_and_what_is_damaged_is_named(
    wantui: Wantui, small: list[str]
) -> None:
    made = wantui("run", "-t", TEMPLATE, "--videos-per-variation", 2, "--store-latents", *small)
    folder = batch(made)
    videos = list(analyse(folder.root))
    assert [(video.variation, video.seed) for video in videos] == [("red", 42), ("red", 43), ("blue", 42), ("blue", 43)]
    states = zarr.open_group(folder.latents(0, 1), mode="r")["latents"][:].astype(np.float64)  # type: ignore[index]
    flat = states.reshape(len(states), -1)
    length = sum(np.linalg.norm(after - before) for before, after in itertools.pairwise(flat))
    assert videos[0].value("length") == pytest.approx(length / math.sqrt(flat.shape[1]), rel=1e-9)
    red, blue = groups(videos)
    assert (red.n, blue.n) == (2, 2)
    lengths = [video.value("length") for video in videos[:2]]
    assert red.mean["length"] == pytest.approx(np.mean(lengths))
    assert red.deviation["length"] == pytest.approx(np.std(lengths, ddof=1))

    shown = wantui("analyze", folder.root, "--groups")
    assert shown.code == 0
    assert shown.out.splitlines()[0].split() == ["variation", "n", *METRICS]
    for part in Path(folder.latents(1, 1) / "gram").rglob("*"):
        if part.is_file():
            part.unlink()
    damaged = list(analyse(folder.root))
    assert damaged[2].trajectory is None
    assert "cannot be read" in damaged[2].why_not
    assert damaged[3].trajectory is not None


def test_a_batch_without_stored_latents_is_said_so(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a red circle", "--videos-per-variation", 1, *small))
    shown = wantui("analyze", folder.root)
    assert shown.code == 2
    assert "--store-latents" in shown.err
