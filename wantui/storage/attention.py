"""The attention maps of one video, as a zarr group that appears only when it is whole.

NAME         [s, blocks | 1, heads | 1, frames, height, width], float32 or float16: attention of each place of the video
             to a marked word, the sum of its pieces; NAME_2 is the word's second occurrence, NAME.0 its first piece
prompt_mass  the same for all words of the prompt together, end_mass for the end token, pad_mass for the pads
steps        [s] int64, index of the evaluation, from 0
sigmas       [s] float64, noise level that the model saw
blocks       [s, blocks] bool, which blocks computed attention; a cache may have skipped some
uncond/      the same of the pass without the prompt, on request

Values are those of the array divided by its attribute `scale`: float16 holds them times a power of two, because
attention is often smaller than what float16 holds with all of its digits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.errors import UserError
from wantui.planning import Recipe
from wantui.storage.atomic import partial_path
from wantui.storage.group import NotWhole, checksum, is_published, open_for_writing, open_whole, publish, remove

FLOAT16_SCALE = 32768.0
Maps = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""By context, then by name: [blocks | 1, heads | 1, frames, height, width]."""


class AttentionWriter:
    """Writes the maps of one video step by step; `finish` makes the group appear.

    Args:
        names: of the maps, by context. shape: of each map of a step, [blocks | 1, heads | 1, frames, height, width].
        steps: evaluations whose maps are stored. sigmas: of these steps. blocks: of the transformer.
        words: what is known of each marked word, for the metadata.
        checksums: of the steps that an earlier process stored.

    Raises:
        NotWhole: those are not there.
    """

    def __init__(
        self,
        path: Path,
        names: Mapping[str, Sequence[str]],
        shape: tuple[int, ...],
        steps: Sequence[int],
        sigmas: Sequence[float],
        blocks: int,
        recipe: Recipe,
        words: Mapping[str, Any],
        checksums: Sequence[int] = (),
    ) -> None:
        from zarr.codecs import ZstdCodec

        assert recipe.capture.attention is not None
        self.path, self.partial, self.names, self.steps = path, partial_path(path), names, list(steps)
        self.capture = recipe.capture.attention
        self.scale = FLOAT16_SCALE if self.capture.dtype == "float16" else 1.0
        self.checksums: list[int] = []
        self.is_finished = False
        self.arrays: dict[tuple[str, str], Any] = {}
        """By context and name, open from step to step."""
        if checksums:
            self._reopen(checksums, recipe)
            return
        remove(self.partial)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.group = open_for_writing(self.partial, "w")
        self.group.attrs.update(
            {
                "recipe": recipe.model_dump(mode="json"),
                "layout": "step, block, head, frame, height, width",
                "blocks": "each" if self.capture.per_block else "mean",
                "heads": "each" if self.capture.per_head else "mean",
                "words": dict(words),
            }
        )
        self.group.create_array("steps", data=np.array(steps, dtype=np.int64))
        self.group.create_array("sigmas", data=np.array(sigmas, dtype=np.float64))
        compressors = [ZstdCodec(level=3)] if self.capture.compress else None
        for context, own in names.items():
            group = self._of(context)
            for name in own:
                array = group.create_array(
                    name,
                    shape=(len(steps), *shape),
                    chunks=(1, *shape),
                    dtype=self.capture.dtype,
                    compressors=compressors,
                )
                array.attrs["scale"] = self.scale
            group.create_array("blocks", shape=(len(steps), blocks), chunks=(len(steps), blocks), dtype="bool")

    def _of(self, context: str) -> Any:
        return self.group if context == "cond" else self.group.require_group(context)

    def _array(self, context: str, name: str) -> Any:
        if (context, name) not in self.arrays:
            self.arrays[context, name] = self._of(context)[name]
        return self.arrays[context, name]

    def write(self, maps: Maps, blocks: Mapping[str, Sequence[bool]]) -> None:
        """Store the maps of the next step."""
        if self.is_finished:
            return
        place = len(self.checksums)
        sums = []
        for context, own in self.names.items():
            for name in own:
                stored = (maps[context][name] * self.scale).astype(self.capture.dtype)
                self._array(context, name)[place] = stored
                sums.append(checksum(stored))
            self._array(context, "blocks")[place] = np.array(blocks[context])
        self.checksums.append(checksum(np.array(sums, dtype=np.uint32)))

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Put the group under its final name."""
        if self.is_finished:
            return
        if len(self.checksums) != len(self.steps):
            raise RuntimeError(f"maps of {len(self.checksums)} of {len(self.steps)} steps were written to {self.path}")
        self.group.attrs.update(dict(attributes))
        publish(self.partial, self.path)

    def _reopen(self, checksums: Sequence[int], recipe: Recipe) -> None:
        try:
            if is_published(self.partial, self.path, recipe):
                self.is_finished = True
                self.checksums = list(checksums)
                return
            self.group = open_for_writing(self.partial, "r+")
            for place, known in enumerate(checksums):
                sums = [checksum(self._of(context)[name][place]) for context, own in self.names.items() for name in own]
                if checksum(np.array(sums, dtype=np.uint32)) != known:
                    raise NotWhole(f"the maps of step {self.steps[place] + 1} are not those that were stored")
        except (OSError, KeyError, IndexError, ValueError, RuntimeError) as error:
            raise NotWhole(f"the stored attention maps cannot be read: {error}") from None
        self.checksums = list(checksums)


class NoMaps(UserError):
    """Attention maps that are missing or cannot be read; the text says which."""


@dataclass(frozen=True)
class StoredMaps:
    """The maps of one video."""

    group: Any
    """The zarr group."""
    words: dict[str, dict[str, Any]]
    """By name of the map: text, span, weight, tokens and pieces."""
    steps: NDArray[np.int64]
    sigmas: NDArray[np.float64]

    def map(self, name: str, place: int | slice = slice(None), context: str = "cond") -> NDArray[np.float32]:
        """[s, blocks | 1, heads | 1, frames, height, width], or of one stored step without the first axis."""
        group = self.group if context == "cond" else self.group[context]
        array = group[name]
        return np.asarray(array[place], dtype=np.float32) / np.float32(array.attrs["scale"])

    def mean(self, name: str) -> NDArray[np.float64]:
        """[s, frames, height, width], mean over blocks and heads."""
        return self.map(name).astype(np.float64).mean((1, 2))


def open_maps(path: Path) -> StoredMaps:
    """The stored maps of a video.

    Raises:
        NoMaps: there are none, or they are damaged.
    """
    try:
        group = open_whole(path)
        words = dict(group.attrs["words"])
        return StoredMaps(group, words, np.asarray(group["steps"][:]), np.asarray(group["sigmas"][:]))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise NoMaps(f"{path}: no attention maps can be read there ({error})") from None
