"""The trajectory of one video, as a zarr group that appears only once complete.

sigmas            [S + 1] float64, noise level of each state; state 0 is the initial noise
timesteps         [S] float64, timestep given to the model at each evaluation
gram              [S + 1, S + 1] float64, inner products of the states, which determine their geometry
projection        [S + 1, k] float32, projection of each state to k dimensions, equal for all videos of one size
channel_power     [S + 1, channels] float64, mean square of each latent channel
steps             [n] int64, number of evaluations before each stored state; starts with 0, ends with the last
latents           [n, channels, frames, height, width], float32 or float16; only if latents are stored
predicted_clean   [n - 1, ...], clean latents predicted by the evaluation before latents[i + 1]; only on request
guidance_scales   [S] float64, guidance scale of each evaluation; only if a control changes guidance
pass_counts       [S] int64, passes of each evaluation: 1 where the unconditional pass was skipped; as guidance_scales
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.atomic_files import make_partial_path, remove_path
from wantui.formatting import format_count
from wantui.planning import Recipe
from wantui.planning.disk_estimate import list_captured_steps
from wantui.planning.evaluation_prompts import build_evaluation_prompts_attribute
from wantui.storage.zarr_group import (
    PartialCaptureError,
    compute_array_crc,
    compute_crc_of_constant_parts,
    convert_to_partial_capture_error,
    is_group_published,
    open_group_for_writing,
    publish_group,
    reopen_group_for_writing,
)

EXACT_STATES_ARRAY = "exact"
"""Name of the temporary array of all states in float32, which resuming after a crash needs."""
STEPWISE_ARRAYS = ("latents", EXACT_STATES_ARRAY, "predicted_clean")
"""Names of the arrays that are written step by step."""
DERIVED_ARRAYS = ("gram", "projection", "channel_power")
"""Names of the arrays that are computed from all states at the end."""


class TrajectoryWriter:
    """Writer of one video's states, in order; `finish_group` publishes the group.

    Args:
        state_shape: shape of one state, [channels, frames, height, width].
        checksums: checksums of the states that an earlier process stored, to resume after them; empty for a new video.
        is_resumable: whether another process may resume this video.
        values_by_name: further arrays with one value per evaluation, [S].

    Raises:
        PartialCaptureError: the stored states are missing or differ from the checksums.
    """

    def __init__(
        self,
        path: Path,
        state_shape: tuple[int, ...],
        sigmas: Sequence[float],
        timesteps: Sequence[float],
        recipe: Recipe,
        checksums: Sequence[int] = (),
        is_resumable: bool = True,
        values_by_name: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> None:
        self.path, self.partial_folder = path, make_partial_path(path)
        self.capture_request = recipe.capture
        self.state_count = len(sigmas)
        self.stored_steps = (
            list_captured_steps(recipe.sampler, recipe.steps, self.capture_request.interval)
            if self.capture_request.latents
            else []
        )
        self.rows_by_step = {step: row for row, step in enumerate(self.stored_steps)}
        self.checksums: list[int] = []
        self.earlier_states: list[NDArray[np.float32]] = []
        """States that an earlier process stored."""
        self.is_finished = False
        self.predicted_clean_array: Any = None
        self.attributes = {
            "recipe": recipe.model_dump(mode="json"),
            "shape": list(state_shape),
            **build_evaluation_prompts_attribute(recipe),
        }
        if checksums:
            self._reopen_group(checksums, recipe)
            return
        constant_arrays = {
            "sigmas": np.array(sigmas, dtype=np.float64),
            "timesteps": np.array(timesteps, dtype=np.float64),
            "steps": np.array(self.stored_steps, dtype=np.int64),
            **values_by_name,
        }
        self._create_group(state_shape, constant_arrays, is_resumable)

    def _create_group(
        self, state_shape: tuple[int, ...], constant_arrays: Mapping[str, NDArray[Any]], is_resumable: bool
    ) -> None:
        from zarr.codecs import ZstdCodec

        remove_path(self.partial_folder)
        self.path.parent.mkdir(exist_ok=True)
        self.group = open_group_for_writing(self.partial_folder, "w")
        self.group.attrs.update(self.attributes)
        compressors = [ZstdCodec(level=3)] if self.capture_request.compress else None
        chunks, stored_count = (1, *state_shape), len(self.stored_steps)

        def create_states_array(name: str, state_count: int, dtype: str, compressors: Any) -> Any:
            return self.group.create_array(
                name, shape=(state_count, *state_shape), chunks=chunks, dtype=dtype, compressors=compressors
            )

        self.latents_array: Any = (
            create_states_array("latents", stored_count, self.capture_request.dtype, compressors)
            if stored_count
            else None
        )
        if self.capture_request.predicted_clean:
            self.predicted_clean_array = create_states_array(
                "predicted_clean", stored_count - 1, self.capture_request.dtype, compressors
            )
        are_latents_exact = stored_count == self.state_count and self.capture_request.dtype == "float32"
        self.exact_states_array: Any = None
        if is_resumable and not are_latents_exact:
            self.exact_states_array = create_states_array(EXACT_STATES_ARRAY, self.state_count, "float32", None)
        for name, values in constant_arrays.items():
            self.group.create_array(name, data=values)
        self.constant_crc = compute_crc_of_constant_parts(self.partial_folder, STEPWISE_ARRAYS, DERIVED_ARRAYS)

    def write_state(
        self, step: int, state: NDArray[np.float32], predicted_clean: NDArray[np.float32] | None = None
    ) -> None:
        """Store the state after `step` evaluations.

        The checksum of a step covers the state, its predicted clean latents, and the constant parts of the group.

        Raises:
            ValueError: a value is NaN or infinite, or too large for float16.
        """
        if self.is_finished or step != len(self.checksums):
            return
        crc = compute_array_crc(state, self.constant_crc)
        if self.exact_states_array is not None:
            self.exact_states_array[step] = state
        row = self.rows_by_step.get(step)
        if row is not None:
            self.latents_array[row] = self._to_stored_dtype(state, step)
            if self.predicted_clean_array is not None and row > 0 and predicted_clean is not None:
                stored_clean = self._to_stored_dtype(predicted_clean, step)
                self.predicted_clean_array[row - 1] = stored_clean
                crc = compute_array_crc(stored_clean, crc)
        self.checksums.append(crc)

    def _to_stored_dtype(self, state: NDArray[np.float32], step: int) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            stored_state = state.astype(self.latents_array.dtype)
        if not np.isfinite(stored_state).all():
            if not np.isfinite(state).all():
                raise ValueError(f"latents after {format_count(step, 'model evaluation')} contain NaN or infinity")
            raise ValueError(
                f"latents after {format_count(step, 'model evaluation')} are too large for float16. "
                "Use latent_analysis_settings.storage_dtype: float32"
            )
        return stored_state

    def finish_group(self, derived_arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        """Store the arrays derived from the states, and publish the group under its final name.

        Args:
            derived_arrays: the arrays gram, projection and channel_power.
        """
        if self.is_finished:
            return
        if len(self.checksums) != self.state_count:
            raise RuntimeError(f"{len(self.checksums)} of {self.state_count} states were written to {self.path}")
        for name, values in derived_arrays.items():
            self.group.create_array(name, data=values, overwrite=True)
        self.group.attrs.update(dict(attributes))
        if self.capture_request.latents and self.capture_request.dtype == "float16":
            stored_turning = self.compute_total_turning(self.latents_array)
            exact_turning = self.compute_total_turning_from_gram(derived_arrays["gram"])
            self.group.attrs["float16_turning_added"] = stored_turning - exact_turning
        remove_path(self.partial_folder / EXACT_STATES_ARRAY)
        publish_group(self.partial_folder, self.path)

    def compute_total_turning(self, states: Any) -> float:
        """Return the total turning of the stored states: the sum of the angles between successive steps, in radians."""
        total_angle, previous_state, previous_step = 0.0, None, None
        for index in range(len(self.stored_steps)):
            state = np.asarray(states[index], dtype=np.float64).ravel()
            if previous_state is not None:
                step = state - previous_state
                if previous_step is not None:
                    total_angle += _compute_angle(
                        float(previous_step @ step), float(previous_step @ previous_step), float(step @ step)
                    )
                previous_step = step
            previous_state = state
        return total_angle

    def compute_total_turning_from_gram(self, gram: NDArray[np.float64]) -> float:
        """Return the total turning of the exact states in radians, computed from their inner products."""
        stored_gram = gram[np.ix_(self.stored_steps, self.stored_steps)]
        step_gram = stored_gram[1:, 1:] - stored_gram[1:, :-1] - stored_gram[:-1, 1:] + stored_gram[:-1, :-1]
        squared_lengths, successive_products = np.diagonal(step_gram).tolist(), np.diagonal(step_gram, 1).tolist()
        return sum(
            _compute_angle(float(a), float(p), float(q))
            for a, p, q in zip(successive_products, squared_lengths[:-1], squared_lengths[1:], strict=True)
        )

    def _reopen_group(self, checksums: Sequence[int], recipe: Recipe) -> None:
        with convert_to_partial_capture_error(self.partial_folder):
            if is_group_published(self.partial_folder, self.path, recipe):
                self.is_finished = True
                self.checksums = list(checksums)
                return
            self.group = reopen_group_for_writing(self.partial_folder)
            if self.group["steps"][:].tolist() != self.stored_steps:
                raise PartialCaptureError("an earlier version of wantui selected different steps")
            self.latents_array = self.group.get("latents")
            self.exact_states_array = self.group.get(EXACT_STATES_ARRAY)
            self.predicted_clean_array = self.group.get("predicted_clean")
            self.constant_crc = compute_crc_of_constant_parts(self.partial_folder, STEPWISE_ARRAYS, DERIVED_ARRAYS)
            for step, expected_crc in enumerate(checksums):
                self.earlier_states.append(self._read_verified_state(step, expected_crc))
            self.group.attrs.update(self.attributes)
        self.checksums = list(checksums)

    def _read_verified_state(self, step: int, expected_crc: int) -> NDArray[np.float32]:
        """Return the state after `step` evaluations as stored by an earlier process.

        Raises:
            PartialCaptureError: the state or its predicted clean latents differ from the checksum.
        """
        source_array = self.exact_states_array if self.exact_states_array is not None else self.latents_array
        row = self.rows_by_step.get(step)
        state = np.ascontiguousarray(source_array[step], dtype=np.float32)
        crc = compute_array_crc(state, self.constant_crc)
        if self.predicted_clean_array is not None and row:
            crc = compute_array_crc(self.predicted_clean_array[row - 1], crc)
        is_stored = (
            row is None
            or self.exact_states_array is None
            or np.array_equal(self.latents_array[row], self._to_stored_dtype(state, step))
        )
        if crc != expected_crc or not is_stored:
            raise PartialCaptureError(
                f"the state after {format_count(step, 'model evaluation')} differs from its checksum"
            )
        return state


def _compute_angle(inner_product: float, squared_length: float, other_squared_length: float) -> float:
    if squared_length <= 0 or other_squared_length <= 0:
        return 0.0
    return float(np.arccos(np.clip(inner_product / np.sqrt(squared_length * other_squared_length), -1, 1)))
