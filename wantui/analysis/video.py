"""Record of one analysed video, from wantui or from the older system."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.trajectory import Floats, NoGeometryError, Trajectory, compute_metric


@dataclass(frozen=True)
class Video:
    """One analysed video; without a trajectory, `reason` says why."""

    folder: Path
    """Batch folder."""
    number: int
    """Index in the batch, from 0."""
    id: str
    variation: str
    prompt: str
    choices: Mapping[int, str]
    """Text of the chosen option of each bracket."""
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that must be equal for a comparison."""
    trajectory: Trajectory | None = None
    reason: str = ""
    is_damaged: bool = False
    """True if stored data exist but cannot be read."""
    stride: int = 1
    """Stride of the trajectory, in stored states."""
    dimension: int = 0
    """Number of values of a state."""
    channel_power: Floats | None = None
    """[channels], mean square of each channel of the final state."""
    path: Path | None = None
    """Zarr group of the stored trajectory."""
    attention: Path | None = None
    """Zarr group of the attention maps."""
    words: int = 0
    """Number of words in the prompt, a possible confounder when prompts are compared."""
    warnings: tuple[str, ...] = ()
    """Assumptions about the stored data that limit the interpretation of the trajectory."""
    template: str = ""
    """Template without its options, equal for all variations."""
    weighting: str = ""
    """Method of applying word weights; empty if all weights are 1."""
    weights: str = ""
    """Marked words with a weight other than 1, such as "circle:6"."""
    options: Mapping[int, str] = field(default_factory=dict)
    """Chosen options by bracket, as written in the template, with word weights."""

    def compute_metric(self, metric: str) -> float:
        """Return a metric of the trajectory; NaN if there is no trajectory or no value."""
        return compute_metric(self.trajectory, metric) if self.trajectory is not None else float("nan")

    @property
    def name(self) -> str:
        return f"{self.variation} seed {self.seed}"

    def is_same_as(self, other: "Video") -> bool:
        """Return whether two loaded videos are equal, arrays included, which `==` cannot compare."""
        mine, theirs = (replace(video, trajectory=None, channel_power=None) for video in (self, other))
        arrays = zip(self._arrays(), other._arrays(), strict=True)
        return mine == theirs and all(_are_arrays_equal(mine_array, another) for mine_array, another in arrays)

    def _arrays(self) -> tuple[Floats | None, ...]:
        path = self.trajectory
        return (self.channel_power, None, None) if path is None else (self.channel_power, path.sigmas, path.gram)

    def projection(self) -> NDArray[np.float32]:
        """Load the projections [S + 1, k] of the states.

        Raises:
            NoGeometryError: they are not stored, or of another form.
        """
        states = np.asarray(self._read_stored("projection", "projection of its states"))
        if states.ndim != 2 or not states.size or states.dtype.kind != "f":
            stored = f"{states.dtype} of shape {states.shape}"
            raise NoGeometryError(f"the projection is {stored} instead of a row of floats for each state")
        return states

    def noise_levels(self) -> Floats:
        """Load the noise levels [S + 1] of all states of the sampler, whether their latents are stored or not.

        Raises:
            NoGeometryError: they are not stored, or of another form.
        """
        return np.asarray(self._read_stored("sigmas", "noise levels"), dtype=np.float64)

    def projected_path(self) -> tuple[Floats, NDArray[np.float32]]:
        """Load noise levels [N + 1] and projected states [N + 1, k], without predictors.

        Heun's method has two states at a noise level; the first is a predictor, not a state of the path.

        Raises:
            NoGeometryError: they are not stored, or their numbers differ.
        """
        states, sigmas = self.projection(), self.noise_levels()
        if len(states) != len(sigmas):
            raise NoGeometryError(f"{len(states)} projected states do not match {len(sigmas)} noise levels")
        is_distinct = np.append(np.diff(sigmas) != 0, True)
        return sigmas[is_distinct], states[is_distinct]

    def _read_stored(self, name: str, what: str) -> NDArray[np.float32]:
        from wantui.storage.zarr_group import CaptureError, open_capture, raise_capture_error

        if self.path is None:
            raise NoGeometryError(f"no {what} is stored")
        try:
            group = open_capture(self.path)
            with raise_capture_error(self.path):
                return np.asarray(group[name][:])
        except CaptureError as error:
            raise NoGeometryError(f"no {what} can be read: {error}") from None


def _are_arrays_equal(first: Floats | None, second: Floats | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second, equal_nan=True)
