"""The latents of one video, as a zarr group that appears only when it is whole.

latents    [n, channels, frames, height, width], float32 or float16; index 0 is the initial noise
sigmas     [n] float64, noise level of each stored state
timesteps  [steps] float64, what the model was told at each evaluation
steps      [n] int64, after how many evaluations each state was stored; 0, ..., the last always
gram       [n, n] float64, inner products of the stored states, from their float32 values
"""

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.planning import Recipe
from wantui.planning.estimate import captured_steps
from wantui.storage.atomic import partial_path, sync

EXACT = "exact"
"""Array of the float32 states beside float16 ones, until the group is finished."""
CHUNK = 1 << 18
"""Values of each state that are multiplied at a time for the Gram matrix."""


class NotWhole(Exception):
    """The states of a capture that was begun are not those that were written."""


class LatentWriter:
    """Writes the states of one video in order; `finish` makes the group appear.

    Args:
        shape: of one state, [channels, frames, height, width].
        checksums: of the states that an earlier process stored, to go on after them; none to begin.

    Raises:
        NotWhole: those states are not there.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        sigmas: Sequence[float],
        timesteps: Sequence[float],
        recipe: Recipe,
        checksums: Sequence[int] = (),
    ) -> None:
        import zarr
        from zarr.codecs import ZstdCodec

        self.path, self.partial = path, partial_path(path)
        capture = recipe.capture
        self.steps = captured_steps(len(timesteps), capture.interval)
        self.states: list[NDArray[np.float32]] = []
        self.checksums: list[int] = []
        self.is_finished = False
        if checksums:
            self._reopen(checksums, recipe)
            return
        _remove(self.partial)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.group = zarr.open_group(self.partial, mode="w")
        self.group.attrs["recipe"] = recipe.model_dump(mode="json")
        self.latents: Any = self.group.create_array(
            "latents",
            shape=(len(self.steps), *shape),
            chunks=(1, *shape),
            dtype=capture.dtype,
            compressors=[ZstdCodec(level=3)] if capture.compress else None,
        )
        # Float16 has lost what the Gram matrix is made of; whoever goes on after a crash needs it still.
        self.exact: Any = self.latents
        if capture.dtype != "float32":
            self.exact = self.group.create_array(
                EXACT, shape=self.latents.shape, chunks=(1, *shape), dtype="float32", compressors=None
            )
        for name, values in (
            ("sigmas", np.array([sigmas[step] for step in self.steps], dtype=np.float64)),
            ("timesteps", np.array(timesteps, dtype=np.float64)),
            ("steps", np.array(self.steps, dtype=np.int64)),
        ):
            self.group.create_array(name, data=values)

    def write(self, step: int, state: NDArray[np.float32]) -> None:
        """Store the state after `step` evaluations, if it is one of those chosen.

        Raises:
            ValueError: float16 was asked for and cannot hold the values.
        """
        if self.is_finished or len(self.states) == len(self.steps) or step != self.steps[len(self.states)]:
            return
        with np.errstate(over="ignore"):
            stored = state.astype(self.latents.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(
                f"latents after step {step} are too large for float16; "
                "use latent_analysis_settings.storage_dtype: float32"
            )
        place = len(self.states)
        self.latents[place] = stored
        if self.exact is not self.latents:
            self.exact[place] = state
        self.states.append(state)
        self.checksums.append(_checksum(state))

    def finish(self) -> None:
        """Store the Gram matrix and put the group under its final name."""
        if not self.is_finished and len(self.states) != len(self.steps):
            raise RuntimeError(f"{len(self.states)} of {len(self.steps)} states were written to {self.path}")
        if self.is_finished:
            return
        self.group.create_array("gram", data=gram_matrix(self.states), overwrite=True)
        _remove(self.partial / EXACT)
        for path in (*self.partial.rglob("*"), self.partial):
            sync(path)
        _remove(self.path)
        self.partial.rename(self.path)
        sync(self.path.parent)

    def _reopen(self, checksums: Sequence[int], recipe: Recipe) -> None:
        import zarr

        try:
            if not self.partial.exists() and self.path.exists():
                # The process before us ended between the last capture and the record of the video.
                stored = zarr.open_group(self.path, mode="r").attrs["recipe"]
                if stored == recipe.model_dump(mode="json"):
                    self.is_finished = True
                    self.checksums = list(checksums)
                    return
            self.group = zarr.open_group(self.partial, mode="r+")
            self.latents = self.group["latents"]
            self.exact = self.group.get(EXACT, self.latents)
            for place, checksum in enumerate(checksums):
                state = np.ascontiguousarray(self.exact[place], dtype=np.float32)
                if _checksum(state) != checksum:
                    raise NotWhole(f"the state after step {self.steps[place]} is not the one that was stored")
                self.states.append(state)
        except (OSError, KeyError, IndexError, ValueError, RuntimeError) as error:
            raise NotWhole(f"the stored states cannot be read: {error}") from None
        self.checksums = list(checksums)


def gram_matrix(states: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Inner products [n, n] of n states, accumulated in float64: in float32 they would fake 0.7 rad of turning."""
    flat = [state.reshape(-1) for state in states]
    gram = np.zeros((len(flat), len(flat)))
    for start in range(0, flat[0].size, CHUNK):
        part = np.stack([state[start : start + CHUNK] for state in flat]).astype(np.float64)
        gram += part @ part.T
    return gram


def _checksum(state: NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(state).data)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
