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
    IncompleteCaptureError,
    compute_array_crc,
    compute_constant_crc,
    is_published,
    open_group_for_writing,
    publish_group,
    raise_incomplete_capture,
    reopen_group_for_writing,
)


@dataclass(frozen=True)
class StepArray:
    """One array of a capture."""

    shape: tuple[int, ...]
    """Shape of the value of one step."""
    dtype: str
    scale: float | None = None
    """Factor that stored values are multiplied by; readers divide by the attribute `scale`."""
    compress: bool = False
    has_one_chunk: bool = False
    """True if all steps share one chunk, which suits values of a few bytes; otherwise each step has its own chunk."""


class StepArrayWriter:
    """Write the arrays of one capture of one video step by step; `finish` publishes the group.

    Args:
        arrays: arrays by path in the group, such as "star" or "uncond/star".
        steps: model evaluations that are recorded, from 0.
        sigmas: noise level of each of these evaluations.
        attributes: attributes of the group besides the recipe.
        checksums: CRC-32 of each step that an earlier process stored; empty for a new video.

    Raises:
        IncompleteCaptureError: the stored group is missing or differs from the checksums.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, StepArray],
        steps: Sequence[int],
        sigmas: Sequence[float],
        recipe: Recipe,
        attributes: Mapping[str, Any],
        checksums: Sequence[int] = (),
    ) -> None:
        self.path, self.partial = path, make_partial_path(path)
        self.arrays, self.steps = dict(arrays), list(steps)
        self.attributes = {"recipe": recipe.model_dump(mode="json"), **attributes}
        self.checksums: list[int] = []
        self.is_finished = False
        self._open_arrays: dict[str, Any] = {}
        if checksums:
            self._reopen(checksums, recipe)
        else:
            self._begin(sigmas)

    def _begin(self, sigmas: Sequence[float]) -> None:
        from zarr.codecs import ZstdCodec

        remove_path(self.partial)
        self.path.parent.mkdir(exist_ok=True)
        self.group = open_group_for_writing(self.partial, "w")
        self.group.attrs.update(self.attributes)
        count = len(self.steps)
        self.group.create_array("steps", data=np.array(self.steps, dtype=np.int64))
        self.group.create_array("sigmas", data=np.array(sigmas, dtype=np.float64))
        for path, array in self.arrays.items():
            parent, _, name = path.rpartition("/")
            group = self.group.require_group(parent) if parent else self.group
            created = group.create_array(
                name,
                shape=(count, *array.shape),
                chunks=(count if array.has_one_chunk else 1, *array.shape),
                dtype=array.dtype,
                **({} if array.has_one_chunk else {"compressors": [ZstdCodec(level=3)] if array.compress else None}),
            )
            if array.scale is not None:
                created.attrs["scale"] = array.scale
        self.constant = compute_constant_crc(self.partial, self.arrays)

    def write(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Store the values of the next step; the checksum of a step also covers the constant parts of the group.

        Args:
            values: values by path of the array, each with the array's shape.
        """
        if self.is_finished:
            return
        row, sums = len(self.checksums), []
        for path, array in self.arrays.items():
            scaled = values[path] if array.scale is None else values[path] * array.scale
            stored = np.asarray(scaled).astype(array.dtype)
            self._open_array(path)[row] = stored
            sums.append(compute_array_crc(stored))
        self.checksums.append(compute_array_crc(np.array(sums, dtype=np.uint32), self.constant))

    def read_attribute(self, name: str) -> Any:
        """Return an attribute of the group, which an earlier process may have stored; None if it is missing."""
        return self.group.attrs.get(name)

    def update_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Store attributes that change while the video is rendered."""
        if not self.is_finished:
            self.group.attrs.update(dict(attributes))

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Publish the group under its final name.

        Args:
            attributes: attributes of the group that are known only now.

        Raises:
            RuntimeError: a step is missing.
        """
        if self.is_finished:
            return
        if len(self.checksums) != len(self.steps):
            raise RuntimeError(f"{len(self.checksums)} of {len(self.steps)} steps were written to {self.path}")
        self.group.attrs.update(dict(attributes))
        publish_group(self.partial, self.path)

    def _open_array(self, path: str) -> Any:
        if path not in self._open_arrays:
            self._open_arrays[path] = self.group[path]
        return self._open_arrays[path]

    def _reopen(self, checksums: Sequence[int], recipe: Recipe) -> None:
        with raise_incomplete_capture(self.partial):
            if is_published(self.partial, self.path, recipe):
                self.is_finished = True
                self.checksums = list(checksums)
                return
            self.group = reopen_group_for_writing(self.partial)
            self.constant = compute_constant_crc(self.partial, self.arrays)
            for row, known in enumerate(checksums):
                sums = [compute_array_crc(self._open_array(path)[row]) for path in self.arrays]
                if compute_array_crc(np.array(sums, dtype=np.uint32), self.constant) != known:
                    raise IncompleteCaptureError(f"the values of step {self.steps[row] + 1} differ from their checksum")
            self.group.attrs.update(self.attributes)
        self.checksums = list(checksums)
