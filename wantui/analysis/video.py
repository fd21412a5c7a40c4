"""Record of one analysed video, from wantui or from the older system."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray, mark_last_repeats
from wantui.analysis.metrics import METRICS
from wantui.analysis.strided_states import compute_metric_at_stride
from wantui.analysis.trajectory import NoGeometryError, Trajectory
from wantui.planning import Recipe

MAX_PROJECTED_VALUE = 1e30
"""Absolute value above which a projected value is damage: squared distances would exceed the range of floats."""


@dataclass(frozen=True)
class TemplateBracket:
    """A bracket of a stored template, with all its options, including those that no finished video has."""

    option_texts: tuple[str, ...]
    """Texts that the bracket has in the variations of the batch, each once; nested brackets are filled in."""
    enclosing_brackets: tuple[int, ...] = ()
    """Numbers of the brackets that this one is nested in, from the outermost."""


@dataclass(frozen=True)
class Video:
    """One analysed video; without a trajectory, `exclusion_reason` says why."""

    folder: Path
    """Batch folder."""
    video_index: int
    """Index in the batch, from 0."""
    id: str
    variation: str
    prompt: str
    """Prompt, with the prompts of a schedule."""
    choices_by_bracket: Mapping[int, str]
    """Text of the option that is chosen in each bracket."""
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that must be equal for a comparison."""
    trajectory: Trajectory | None = None
    exclusion_reason: str = ""
    is_damaged: bool = False
    """True if stored data exist but cannot be read."""
    stride: int = 1
    """Stride of the trajectory, in stored states."""
    is_too_short: bool = False
    """True if the chosen stride leaves too few states."""
    dimension: int = 0
    """Number of values per state."""
    channel_power: FloatArray | None = None
    """[channels], mean square of each channel of the final state."""
    trajectory_path: Path | None = None
    """Zarr group of the stored trajectory."""
    attention_path: Path | None = None
    """Zarr group of the attention maps."""
    clip_path: Path | None = None
    """Clip of the video; None if the manifest lists none."""
    labels: Mapping[str, float] = field(default_factory=dict)
    """External labels of the video, by name; NaN where the table has an empty cell."""
    contributions_path: Path | None = None
    """Zarr group of the word contributions."""
    declared_metric: str = ""
    """Metric that the batch declared when it was queued; empty if none."""
    word_count: int = 0
    """Number of words in the longest prompt of a video, a possible confounder when prompts are compared."""
    warnings: tuple[str, ...] = ()
    """Assumptions about the stored data that limit the interpretation of the trajectory."""
    template_brackets: Mapping[int, TemplateBracket] = field(default_factory=dict)
    """All brackets of the stored template, by number; numbers of groupings and conditions count these."""
    template_skeleton: str = ""
    """Template without its options, equal for all variations."""
    weighting_method: str = ""
    """Method of applying word weights; empty if all weights are 1."""
    word_weights: str = ""
    """Marked words of the phrasing with a weight other than 1, such as "circle:6"."""
    matched_prompt: str = ""
    """Prompt of the phrasing if the batch sweeps its prompt schedule; empty if it is `prompt`."""
    options_by_bracket: Mapping[int, str] = field(default_factory=dict)
    """Chosen options by bracket, as written in the template, with word weights."""
    unfilled_options: Mapping[int, str] = field(default_factory=dict)
    """Chosen options by bracket as in `options_by_bracket`, with placeholders for nested brackets."""
    setting_values: Mapping[str, Any] = field(default_factory=dict)
    """Settings by config path, such as `model_settings.cfg_scale`, that groups can be formed by."""
    swept_axes: tuple[tuple[str, ...], ...] = ()
    """Paths of the settings that the batch sweeps, by axis; settings of one axis change together."""
    cell_label: str = ""
    """Values of the swept settings, for people."""
    stride_by_metric: Mapping[str, int] = field(default_factory=dict)
    """Strides of metrics that are measured at a larger stride than `stride` (`strides`), in stored states."""
    unsettled_metrics: tuple[str, ...] = ()
    """Metrics that have not settled at the stride at which they are measured here."""
    settled_strides: Mapping[str, int | None] = field(default_factory=dict)
    """Smallest stride, in stored states, at which each metric that depends on the steps has settled in the batch and
    cell of the video (`strides.check_strides`); None if at none. Empty if it was not checked."""
    recipe: Recipe | None = None
    """Recipe, which captures must agree with; None for a video of the older system."""

    def compute_metric(self, metric: str) -> float:
        """Return a metric of the trajectory, or an external label; NaN if the trajectory or the value is missing."""
        if metric not in METRICS:
            return self.labels.get(metric, float("nan"))
        return self.compute_path_metric(self.trajectory, metric) if self.trajectory is not None else float("nan")

    def compute_path_metric(self, trajectory: Trajectory, metric: str) -> float:
        """Return a metric of this video's path, or of its null model, at the stride at which the metric is measured."""
        return compute_metric_at_stride(trajectory, metric, self.get_stride(metric) // self.stride)

    def get_stride(self, metric: str) -> int:
        """Return the stride at which a metric is measured, in stored states."""
        return self.stride_by_metric.get(metric, self.stride)

    def describe_stride(self, metric: str) -> str:
        """Return the stride of a metric if it is larger than the trajectory's; otherwise an empty text.

        For a metric that has not settled, return "(not settled)".
        """
        if metric in self.unsettled_metrics:
            return "(not settled)"
        stride = self.get_stride(metric)
        return "" if stride == self.stride else f"(stride {stride})"

    def label_metric(self, metric: str) -> str:
        """Return the name of a metric, with the description of its stride."""
        return f"{metric} {self.describe_stride(metric)}".rstrip()

    @property
    def name(self) -> str:
        return f"{self.variation} seed {self.seed}" + (f", {self.cell_label}" if self.cell_label else "")

    @property
    def phrasing(self) -> str:
        """Return the prompt by which videos are matched; it lacks the prompts of a schedule that the batch sweeps."""
        return self.matched_prompt or self.prompt

    def is_same_as(self, other: "Video") -> bool:
        """Return whether two loaded videos are equal, arrays included, which `==` cannot compare."""
        own_fields, other_fields = (replace(video, trajectory=None, channel_power=None) for video in (self, other))
        array_pairs = zip(self._list_arrays(), other._list_arrays(), strict=True)
        return own_fields == other_fields and all(
            _are_arrays_equal(own_array, other_array) for own_array, other_array in array_pairs
        )

    def _list_arrays(self) -> tuple[FloatArray | None, ...]:
        trajectory = self.trajectory
        return (
            (self.channel_power, None, None)
            if trajectory is None
            else (self.channel_power, trajectory.sigmas, trajectory.gram)
        )

    def load_projection(self) -> NDArray[np.float32]:
        """Load the projections [S + 1, k] of the states.

        Raises:
            NoGeometryError: they are not stored, or of another form.
        """
        (states,) = self._read_stored_arrays({"projection": "projection of its states"})
        return _check_projection(states)

    def load_noise_levels(self) -> FloatArray:
        """Load the noise levels [S + 1] of all states of the sampler, including states whose latents are not stored.

        Raises:
            NoGeometryError: they are not stored, or of another form.
        """
        (sigmas,) = self._read_stored_arrays({"sigmas": "noise levels"})
        return sigmas.astype(np.float64)

    def load_projected_path(self) -> tuple[FloatArray, NDArray[np.float32]]:
        """Load noise levels [N + 1] and projected states [N + 1, k], without predictors.

        Heun's method has two states at a noise level; the first is a predictor, not a state of the path.

        Raises:
            NoGeometryError: they are not stored, or their numbers differ.
        """
        arrays = self._read_stored_arrays({"projection": "projection of its states", "sigmas": "noise levels"})
        states, sigmas = _check_projection(arrays[0]), arrays[1].astype(np.float64)
        if len(states) != len(sigmas):
            raise NoGeometryError(f"{len(states)} projected states do not match {len(sigmas)} noise levels")
        is_distinct = mark_last_repeats(sigmas)
        return sigmas[is_distinct], states[is_distinct]

    def _read_stored_arrays(self, descriptions_by_name: dict[str, str]) -> list[NDArray[np.float32]]:
        """Read arrays of the stored trajectory, which is opened and verified once for all of them."""
        from wantui.storage.zarr_group import CaptureError, convert_to_capture_error, open_capture_arrays

        if self.trajectory_path is None:
            raise NoGeometryError(f"no {next(iter(descriptions_by_name.values()))} is stored")
        stored_arrays, arrays = None, []
        for name, description in descriptions_by_name.items():
            try:
                with convert_to_capture_error(self.trajectory_path):
                    if stored_arrays is None:
                        _, stored_arrays = open_capture_arrays(self.trajectory_path, self.recipe)
                    arrays.append(np.asarray(stored_arrays[name][:]))
            except CaptureError as error:
                raise NoGeometryError(f"no {description} can be read: {error}") from None
        return arrays


def _check_projection(states: NDArray[np.float32]) -> NDArray[np.float32]:
    if states.ndim != 2 or not states.size or states.dtype.kind != "f":
        stored = f"{states.dtype} of shape {states.shape}"
        raise NoGeometryError(f"the projection is {stored} instead of a row of floats for each state")
    if MAX_PROJECTED_VALUE < np.abs(states).max() < np.inf:
        raise NoGeometryError("the projection contains values that are too large for a latent video")
    return states


def _are_arrays_equal(first: FloatArray | None, second: FloatArray | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second, equal_nan=True)
