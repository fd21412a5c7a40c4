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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.planning import Recipe
from wantui.storage.atomic import partial_path, remove
from wantui.storage.group import (
    CaptureError,
    NotWhole,
    checksum,
    constant_checksum,
    is_published,
    named_damage,
    open_capture,
    open_for_writing,
    publish,
    reopen_for_writing,
)

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
        self.growing = [
            name if context == "cond" else f"{context}/{name}"
            for context in names
            for name in (*names[context], "blocks")
        ]
        self.attributes = {
            "recipe": recipe.model_dump(mode="json"),
            "layout": "step, block, head, frame, height, width",
            "blocks": "each" if self.capture.per_block else "mean",
            "heads": "each" if self.capture.per_head else "mean",
            "words": dict(words),
        }
        if checksums:
            self._reopen(checksums, recipe)
            return
        remove(self.partial)
        path.parent.mkdir(exist_ok=True)
        self.group = open_for_writing(self.partial, "w")
        self.group.attrs.update(self.attributes)
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
        self.constant = constant_checksum(self.partial, self.growing)

    def _of(self, context: str) -> Any:
        return self.group if context == "cond" else self.group.require_group(context)

    def _array(self, context: str, name: str) -> Any:
        if (context, name) not in self.arrays:
            self.arrays[context, name] = self._of(context)[name]
        return self.arrays[context, name]

    def write(self, maps: Maps, blocks: Mapping[str, Sequence[bool]]) -> None:
        """Store the maps of the next step; its checksum covers what does not change in the group too."""
        if self.is_finished:
            return
        place = len(self.checksums)
        sums = []
        for context, own in self.names.items():
            for name in own:
                stored = (maps[context][name] * self.scale).astype(self.capture.dtype)
                self._array(context, name)[place] = stored
                sums.append(checksum(stored))
            computed = np.array(blocks[context])
            self._array(context, "blocks")[place] = computed
            sums.append(checksum(computed))
        self.checksums.append(checksum(np.array(sums, dtype=np.uint32), self.constant))

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
            self.group = reopen_for_writing(self.partial)
            self.constant = constant_checksum(self.partial, self.growing)
            for place, known in enumerate(checksums):
                sums = [
                    checksum(self._array(context, name)[place])
                    for context, own in self.names.items()
                    for name in (*own, "blocks")
                ]
                if checksum(np.array(sums, dtype=np.uint32), self.constant) != known:
                    raise NotWhole(f"the maps of step {self.steps[place] + 1} are not those that were stored")
            self.group.attrs.update(self.attributes)
        except NotWhole:
            raise
        except Exception as error:  # zarr and its codecs have no common error; the video can always start again
            raise NotWhole(f"the stored attention maps cannot be read ({type(error).__name__}: {error})") from None
        self.checksums = list(checksums)


class NoMaps(CaptureError):
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
    path: Path

    def map(self, name: str, place: int | slice = slice(None), context: str = "cond") -> NDArray[np.float32]:
        """[s, blocks | 1, heads | 1, frames, height, width], or of one stored step without the first axis.

        Raises:
            NoMaps: there is no such map, or it is damaged.
        """
        with _as_no_maps(self.path):
            group = self.group if context == "cond" else self.group[context]
            array = group[name]
            found = np.asarray(array[place], dtype=np.float32) / np.float32(array.attrs["scale"])
            if found.ndim != 5 + isinstance(place, slice):
                raise ValueError(f"{name} has {found.ndim} axes")
            return found

    def mean(self, name: str) -> NDArray[np.float64]:
        """[s, frames, height, width], mean over blocks and heads.

        Raises:
            NoMaps: as `map`.
        """
        return self.map(name).astype(np.float64).mean((1, 2))


def open_maps(path: Path) -> StoredMaps:
    """Open the stored maps of a video.

    Raises:
        NoMaps: there are none, or they are damaged.
    """
    with _as_no_maps(path):
        group = open_capture(path)
        words = {str(name): _word(about) for name, about in dict(group.attrs["words"]).items()}
        steps, sigmas = np.asarray(group["steps"][:]), np.asarray(group["sigmas"][:])
        for name in words:
            if group[name].shape[0] != len(steps) or steps.shape != sigmas.shape:
                raise ValueError(f"{name} does not have a map for each of {len(steps)} steps")
        return StoredMaps(group, words, steps, sigmas, path)


def _word(about: Any) -> dict[str, Any]:
    if not isinstance(about["text"], str) or not all(isinstance(piece, str) for piece in about["pieces"]):
        raise ValueError("the attribute words is damaged")
    return dict(about)


@contextmanager
def _as_no_maps(path: Path) -> Iterator[None]:
    try:
        with named_damage(path):
            yield
    except CaptureError as error:
        raise NoMaps(str(error)) from error
