"""The trajectory of one video, as a zarr group that appears only once complete.

sigmas            [S + 1] float64, noise level of each state; state 0 is the initial noise
timesteps         [S] float64, timestep given to the model at each evaluation
gram              [S + 1, S + 1] float64, inner products of the states, which determine their geometry
projection        [S + 1, k] float32, projection of each state to k dimensions, equal for all videos of one size
channel_power     [S + 1, channels] float64, mean square of each latent channel
steps             [n] int64, number of evaluations before each stored state; starts with 0, ends with the last
latents           [n, channels, frames, height, width], float32 or float16; only if latents are stored
predicted_clean   [n - 1, ...], clean latents predicted by the evaluation before latents[i + 1]; only on request
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.atomic_files import make_partial_path, remove_path
from wantui.planning import Recipe
from wantui.planning.disk_estimate import list_captured_steps
from wantui.storage.zarr_group import (
    IncompleteCaptureError,
    compute_array_crc,
    compute_constant_crc,
    is_published,
    open_group_for_writing,
    publish_group,
    raise_incomplete_capture,
    reopen_group_for_writing,
)

EXACT_STATES_ARRAY = "exact"
"""Name of the temporary array of all states in float32, which resuming after a crash needs."""
STEPWISE_ARRAYS = ("latents", EXACT_STATES_ARRAY, "predicted_clean")
"""Names of the arrays that are written step by step."""
DERIVED_ARRAYS = ("gram", "projection", "channel_power")
"""Names of the arrays that are computed from all states at the end."""


class TrajectoryWriter:
    """Write the states of one video in order; `finish` publishes the group.

    Args:
        shape: shape of one state, [channels, frames, height, width].
        checksums: checksums of the states that an earlier process stored, to resume after them; empty for a new video.
        resumable: whether another process may resume this video.

    Raises:
        IncompleteCaptureError: the stored states are missing or differ from the checksums.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        sigmas: Sequence[float],
        timesteps: Sequence[float],
        recipe: Recipe,
        checksums: Sequence[int] = (),
        resumable: bool = True,
    ) -> None:
        self.path, self.partial = path, make_partial_path(path)
        self.capture = recipe.capture
        self.count = len(sigmas)
        self.steps = (
            list_captured_steps(recipe.sampler, recipe.steps, self.capture.interval) if self.capture.latents else []
        )
        self.row_of_step = {step: row for row, step in enumerate(self.steps)}
        self.checksums: list[int] = []
        self.earlier: list[NDArray[np.float32]] = []
        """States that an earlier process stored."""
        self.is_finished = False
        self.predicted: Any = None
        self.attributes = {"recipe": recipe.model_dump(mode="json"), "shape": list(shape)}
        if checksums:
            self._reopen(checksums, recipe)
            return
        self._begin(shape, sigmas, timesteps, recipe, resumable)

    def _begin(
        self,
        shape: tuple[int, ...],
        sigmas: Sequence[float],
        timesteps: Sequence[float],
        recipe: Recipe,
        resumable: bool,
    ) -> None:
        from zarr.codecs import ZstdCodec

        remove_path(self.partial)
        self.path.parent.mkdir(exist_ok=True)
        self.group = open_group_for_writing(self.partial, "w")
        self.group.attrs.update(self.attributes)
        compressors = [ZstdCodec(level=3)] if self.capture.compress else None
        chunks, stored = (1, *shape), len(self.steps)

        def states(name: str, n: int, dtype: str, compressors: Any) -> Any:
            return self.group.create_array(name, shape=(n, *shape), chunks=chunks, dtype=dtype, compressors=compressors)

        self.latents: Any = states("latents", stored, self.capture.dtype, compressors) if stored else None
        if self.capture.predicted_clean:
            self.predicted = states("predicted_clean", stored - 1, self.capture.dtype, compressors)
        serves_as_exact = stored == self.count and self.capture.dtype == "float32"
        self.exact: Any = None
        if resumable and not serves_as_exact:
            self.exact = states(EXACT_STATES_ARRAY, self.count, "float32", None)
        for name, values in (
            ("sigmas", np.array(sigmas, dtype=np.float64)),
            ("timesteps", np.array(timesteps, dtype=np.float64)),
            ("steps", np.array(self.steps, dtype=np.int64)),
        ):
            self.group.create_array(name, data=values)
        self.constant = compute_constant_crc(self.partial, STEPWISE_ARRAYS, DERIVED_ARRAYS)

    def write(self, step: int, state: NDArray[np.float32], predicted_clean: NDArray[np.float32] | None = None) -> None:
        """Store the state after `step` evaluations.

        The checksum of a step covers the state, its predicted clean latents, and the constant parts of the group.

        Raises:
            ValueError: a value is too large for float16.
        """
        if self.is_finished or step != len(self.checksums):
            return
        crc = compute_array_crc(state, self.constant)
        if self.exact is not None:
            self.exact[step] = state
        index = self.row_of_step.get(step)
        if index is not None:
            self.latents[index] = self._to_stored_dtype(state, step)
            if self.predicted is not None and index > 0 and predicted_clean is not None:
                clean = self._to_stored_dtype(predicted_clean, step)
                self.predicted[index - 1] = clean
                crc = compute_array_crc(clean, crc)
        self.checksums.append(crc)

    def _to_stored_dtype(self, state: NDArray[np.float32], step: int) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            stored = state.astype(self.latents.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(
                f"latents after step {step} are too large for float16. "
                "Use latent_analysis_settings.storage_dtype: float32"
            )
        return stored

    def finish(self, derived: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        """Store the arrays derived from the states, and publish the group under its final name.

        Args:
            derived: the arrays gram, projection and channel_power.
        """
        if self.is_finished:
            return
        if len(self.checksums) != self.count:
            raise RuntimeError(f"{len(self.checksums)} of {self.count} states were written to {self.path}")
        for name, values in derived.items():
            self.group.create_array(name, data=values, overwrite=True)
        self.group.attrs.update(dict(attributes))
        if self.capture.latents and self.capture.dtype == "float16":
            stored, exact = self.total_turning(self.latents), self.total_turning_from_gram(derived["gram"])
            self.group.attrs["float16_turning_added"] = stored - exact
        remove_path(self.partial / EXACT_STATES_ARRAY)
        publish_group(self.partial, self.path)

    def total_turning(self, states: Any) -> float:
        """Return the total turning of the stored states: the sum of the angles between successive steps, in radians."""
        total, before, step = 0.0, None, None
        for index in range(len(self.steps)):
            state = np.asarray(states[index], dtype=np.float64).ravel()
            if before is not None:
                new = state - before
                if step is not None:
                    total += _compute_angle(float(step @ new), float(step @ step), float(new @ new))
                step = new
            before = state
        return total

    def total_turning_from_gram(self, gram: NDArray[np.float64]) -> float:
        """Return the total turning of the exact states in radians, computed from their inner products."""
        chosen = gram[np.ix_(self.steps, self.steps)]
        steps = chosen[1:, 1:] - chosen[1:, :-1] - chosen[:-1, 1:] + chosen[:-1, :-1]
        squares, along = np.diagonal(steps).tolist(), np.diagonal(steps, 1).tolist()
        return sum(
            _compute_angle(float(a), float(p), float(q))
            for a, p, q in zip(along, squares[:-1], squares[1:], strict=True)
        )

    def _reopen(self, checksums: Sequence[int], recipe: Recipe) -> None:
        with raise_incomplete_capture(self.partial):
            if is_published(self.partial, self.path, recipe):
                self.is_finished = True
                self.checksums = list(checksums)
                return
            self.group = reopen_group_for_writing(self.partial)
            if self.group["steps"][:].tolist() != self.steps:
                raise IncompleteCaptureError("an earlier version of wantui selected other steps")
            self.latents = self.group.get("latents")
            self.exact = self.group.get(EXACT_STATES_ARRAY)
            self.predicted = self.group.get("predicted_clean")
            self.constant = compute_constant_crc(self.partial, STEPWISE_ARRAYS, DERIVED_ARRAYS)
            for step, known in enumerate(checksums):
                self.earlier.append(self._read_verified(step, known))
            self.group.attrs.update(self.attributes)
        self.checksums = list(checksums)

    def _read_verified(self, step: int, known: int) -> NDArray[np.float32]:
        """Return the state after a step as stored by an earlier process.

        Raises:
            IncompleteCaptureError: the state or its predicted clean latents differ from the checksum.
        """
        source, index = self.exact if self.exact is not None else self.latents, self.row_of_step.get(step)
        state = np.ascontiguousarray(source[step], dtype=np.float32)
        crc = compute_array_crc(state, self.constant)
        if self.predicted is not None and index:
            crc = compute_array_crc(self.predicted[index - 1], crc)
        is_stored = (
            index is None
            or self.exact is None
            or np.array_equal(self.latents[index], self._to_stored_dtype(state, step))
        )
        if crc != known or not is_stored:
            raise IncompleteCaptureError(f"the state after step {step} differs from its checksum")
        return state


def _compute_angle(along: float, square: float, other_square: float) -> float:
    if square <= 0 or other_square <= 0:
        return 0.0
    return float(np.arccos(np.clip(along / np.sqrt(square * other_square), -1, 1)))
