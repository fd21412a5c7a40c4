"""Write a capture as a zarr group of arrays with one value per recorded step.

The group also has `steps` [s] int64, the index of each recorded model evaluation from 0, and `sigmas` [s] float64, the
noise level that the model saw. The group gets its final name only when it is complete, and a process that resumes a
video verifies the values of the earlier process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.atomic_files import make_partial_path, remove_path
from wantui.planning import Recipe
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


@dataclass(frozen=True)
class StepArray:
    """One array of a capture."""

    step_shape: tuple[int, ...]
    """Shape of one step's value."""
    dtype: str
    scale: float | None = None
    """Factor that stored values are multiplied by; readers divide by the attribute `scale`."""
    is_compressed: bool = False
    has_one_chunk: bool = False
    """True if all steps share one chunk, which suits values of a few bytes; otherwise each step has its own chunk."""


class StepArrayWriter:
    """Writer of one capture's arrays for one video, step by step; `finish_group` publishes the group.

    Args:
        arrays_by_path: arrays by path in the group, such as "star" or "uncond/star".
        evaluations: model evaluations that are recorded, from 0.
        sigmas: noise level of each of these evaluations.
        attributes: attributes of the group besides the recipe.
        checksums: CRC-32 of each step that an earlier process stored; empty for a new video.

    Raises:
        PartialCaptureError: the stored group is missing or differs from the checksums.
    """

    def __init__(
        self,
        path: Path,
        arrays_by_path: Mapping[str, StepArray],
        evaluations: Sequence[int],
        sigmas: Sequence[float],
        recipe: Recipe,
        attributes: Mapping[str, Any],
        checksums: Sequence[int] = (),
    ) -> None:
        self.path, self.partial_folder = path, make_partial_path(path)
        self.arrays_by_path, self.evaluations = dict(arrays_by_path), list(evaluations)
        self.attributes = {"recipe": recipe.model_dump(mode="json"), **attributes}
        self.checksums: list[int] = []
        self.is_finished = False
        self._open_arrays_by_path: dict[str, Any] = {}
        if checksums:
            self._reopen_group(checksums, recipe)
        else:
            self._create_group(sigmas)

    def _create_group(self, sigmas: Sequence[float]) -> None:
        from zarr.codecs import ZstdCodec

        remove_path(self.partial_folder)
        self.path.parent.mkdir(exist_ok=True)
        self.group = open_group_for_writing(self.partial_folder, "w")
        self.group.attrs.update(self.attributes)
        step_count = len(self.evaluations)
        self.group.create_array("steps", data=np.array(self.evaluations, dtype=np.int64))
        self.group.create_array("sigmas", data=np.array(sigmas, dtype=np.float64))
        for path, array in self.arrays_by_path.items():
            parent, _, name = path.rpartition("/")
            group = self.group.require_group(parent) if parent else self.group
            zarr_array = group.create_array(
                name,
                shape=(step_count, *array.step_shape),
                chunks=(step_count if array.has_one_chunk else 1, *array.step_shape),
                dtype=array.dtype,
                **(
                    {}
                    if array.has_one_chunk
                    else {"compressors": [ZstdCodec(level=3)] if array.is_compressed else None}
                ),
            )
            if array.scale is not None:
                zarr_array.attrs["scale"] = array.scale
        self.constant_crc = compute_crc_of_constant_parts(self.partial_folder, self.arrays_by_path)

    def write_step(self, values_by_path: Mapping[str, NDArray[Any]]) -> None:
        """Store the values of the next step; the checksum of a step also covers the constant parts of the group.

        Args:
            values_by_path: values by array path, each with the array's shape.
        """
        self.write_steps({path: np.asarray(values)[None] for path, values in values_by_path.items()})

    def write_steps(self, values_by_path: Mapping[str, NDArray[Any]]) -> None:
        """Store the values of the next steps at once; see `write_step`.

        Args:
            values_by_path: values [steps, ...] by array path.
        """
        if self.is_finished:
            return
        first_row = len(self.checksums)
        crcs_by_array = []
        for path, array in self.arrays_by_path.items():
            scaled_values = values_by_path[path] if array.scale is None else values_by_path[path] * array.scale
            stored_values = np.asarray(scaled_values).astype(array.dtype)
            self._get_open_array(path)[first_row : first_row + len(stored_values)] = stored_values
            crcs_by_array.append([compute_array_crc(step_values) for step_values in stored_values])
        for array_crcs in zip(*crcs_by_array, strict=True):
            self.checksums.append(compute_array_crc(np.array(array_crcs, dtype=np.uint32), self.constant_crc))

    def read_attribute(self, name: str) -> Any:
        """Return an attribute of the group, possibly stored by an earlier process; None if the attribute is missing."""
        return self.group.attrs.get(name)

    def update_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Store attributes that change while the video is rendered."""
        if not self.is_finished:
            self.group.attrs.update(dict(attributes))

    def finish_group(self, attributes: Mapping[str, Any]) -> None:
        """Publish the group under its final name.

        Args:
            attributes: attributes of the group that are known only now.

        Raises:
            RuntimeError: a step is missing.
        """
        if self.is_finished:
            return
        if len(self.checksums) != len(self.evaluations):
            raise RuntimeError(f"{len(self.checksums)} of {len(self.evaluations)} steps were written to {self.path}")
        self.group.attrs.update(dict(attributes))
        publish_group(self.partial_folder, self.path)

    def _get_open_array(self, path: str) -> Any:
        if path not in self._open_arrays_by_path:
            self._open_arrays_by_path[path] = self.group[path]
        return self._open_arrays_by_path[path]

    def _reopen_group(self, checksums: Sequence[int], recipe: Recipe) -> None:
        with convert_to_partial_capture_error(self.partial_folder):
            if is_group_published(self.partial_folder, self.path, recipe):
                self.is_finished = True
                self.checksums = list(checksums)
                return
            self.group = reopen_group_for_writing(self.partial_folder)
            self.constant_crc = compute_crc_of_constant_parts(self.partial_folder, self.arrays_by_path)
            for step_row, expected_crc in enumerate(checksums):
                array_crcs = [compute_array_crc(self._get_open_array(path)[step_row]) for path in self.arrays_by_path]
                if compute_array_crc(np.array(array_crcs, dtype=np.uint32), self.constant_crc) != expected_crc:
                    raise PartialCaptureError(
                        f"the values of model evaluation {self.evaluations[step_row]} differ from their checksum"
                    )
            self.group.attrs.update(self.attributes)
        self.checksums = list(checksums)
