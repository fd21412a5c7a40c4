"""One video of an analysis, from wantui or from the older system."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.trajectory import Floats, NoGeometryError, Trajectory, value


@dataclass(frozen=True)
class Video:
    """One video of an analysis; `reason` where it has no trajectory."""

    folder: Path
    number: int
    """Number in its batch, from 0."""
    id: str
    variation: str
    prompt: str
    choices: Mapping[int, str]
    """Text of the chosen option of each bracket."""
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the recipe that must be equal for a comparison."""
    trajectory: Trajectory | None = None
    reason: str = ""
    is_damaged: bool = False
    """True if stored data cannot be read, rather than being absent."""
    stride: int = 1
    """Every how many stored states the trajectory takes."""
    dimension: int = 0
    """Values of a state."""
    channel_power: Floats | None = None
    """[channels], mean square of each channel of the final state."""
    path: Path | None = None
    """The zarr group."""
    attention: Path | None = None
    words: int = 0
    """Number of words of the prompt; a confounder of any comparison of prompts."""
    warnings: tuple[str, ...] = ()
    """Limits to what the trajectory means."""
    template: str = ""
    """The template without its options: what all variations share."""
    weighting: str = ""
    """Method of applying weights of marked words; empty if all are 1."""
    weights: str = ""
    """Marked words with a weight other than 1, as in "circle:6"."""
    options: Mapping[int, str] = field(default_factory=dict)
    """Options by bracket, as the template has them, with the weights of their words."""

    def value(self, metric: str) -> float:
        """Return a metric; NaN without a trajectory or such a metric."""
        return value(self.trajectory, metric) if self.trajectory is not None else float("nan")

    @property
    def name(self) -> str:
        return f"{self.variation} seed {self.seed}"

    def is_same_as(self, other: "Video") -> bool:
        """Return whether two readings of a video gave equal results; `==` cannot compare arrays."""
        mine, theirs = (replace(video, trajectory=None, channel_power=None) for video in (self, other))
        arrays = zip(self._arrays(), other._arrays(), strict=True)
        return mine == theirs and all(_is_equal(one, another) for one, another in arrays)

    def _arrays(self) -> tuple[Floats | None, ...]:
        path = self.trajectory
        return (self.channel_power, None, None) if path is None else (self.channel_power, path.sigmas, path.gram)

    def projection(self) -> NDArray[np.float32]:
        """Return [S + 1, k], the states in few dimensions.

        Raises:
            NoGeometryError: it was not stored.
        """
        return np.asarray(self._stored("projection", "projection of its states"))

    def noise_levels(self) -> Floats:
        """Return [S + 1], noise level of every state of the sampler, stored or not.

        Raises:
            NoGeometryError: they were not stored.
        """
        return np.asarray(self._stored("sigmas", "noise levels"), dtype=np.float64)

    def projected_path(self) -> tuple[Floats, NDArray[np.float32]]:
        """Return noise levels [N + 1] and projected states [N + 1, k], without predictors.

        Heun's method has two states at a noise level, of which the first is a predictor and no state of the path.

        Raises:
            NoGeometryError: they were not stored, or do not fit each other.
        """
        states, sigmas = self.projection(), self.noise_levels()
        if len(states) != len(sigmas):
            raise NoGeometryError(f"{self.name}: {len(states)} projected states do not fit {len(sigmas)} noise levels")
        kept = np.append(np.diff(sigmas) != 0, True)
        return sigmas[kept], states[kept]

    def _stored(self, name: str, what: str) -> NDArray[np.float32]:
        from wantui.storage.zarr_group import CaptureError, open_capture, raise_capture_error

        if self.path is None:
            raise NoGeometryError(f"{self.name}: no {what} is stored")
        try:
            group = open_capture(self.path)
            with raise_capture_error(self.path):
                return np.asarray(group[name][:])
        except CaptureError as error:
            raise NoGeometryError(f"{self.name}: no {what} can be read: {error}") from None


def _is_equal(one: Floats | None, other: Floats | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)
