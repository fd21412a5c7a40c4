"""The attention maps of one video, as a zarr group that appears only once complete.

NAME         [s, blocks | 1, heads | 1, frames, height, width], float32 or float16: attention of each latent position to
             a marked word, summed over its tokens; NAME_2 is the word's second occurrence, NAME.0 its first token
prompt_mass  attention to all words of the prompt together; end_mass: to the end token; pad_mass: to the padding
steps        [s] int64, index of the evaluation, from 0
sigmas       [s] float64, noise level that the model saw
blocks       [s, blocks] bool, which blocks computed attention; a cache may have skipped some
uncond/      the same arrays for the pass without the prompt; only on request

Readers divide each array by its attribute `scale`: float16 arrays are multiplied by a power of two before they are
stored, because attention is often below the range in which float16 has its full precision.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.planning import Recipe
from wantui.storage.step_arrays import StepArray, StepArrayWriter
from wantui.storage.zarr_group import CaptureError, open_capture, raise_capture_error

FLOAT16_SCALE = 32768.0
POSITION_PIXELS = (16, 32)
"""Height and width of a position in pixels: of most models, and of Wan 2.2 5B."""
FLOAT32_LIMIT = float(np.finfo(np.float32).max)
MapsByContext = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""Maps by context, then by name: [blocks | 1, heads | 1, frames, height, width]."""


class AttentionMapWriter(StepArrayWriter):
    """Write the maps of one video step by step.

    Args:
        names: names of the maps, by context (cond, uncond).
        shape: shape of one map at one step, [blocks | 1, heads | 1, frames, height, width].
        steps: evaluations whose maps are stored, from 0.
        sigmas: noise level of each of these evaluations.
        blocks: number of blocks of the transformer.
        words: metadata of each marked word, by name.
        checksums: as of `StepArrayWriter`.

    Raises:
        IncompleteCaptureError: as `StepArrayWriter`.
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
        request = recipe.capture.attention
        assert request is not None
        scale = FLOAT16_SCALE if request.dtype == "float16" else 1.0
        arrays: dict[str, StepArray] = {}
        for context, names_of_context in names.items():
            for name in names_of_context:
                arrays[_make_array_path(context, name)] = StepArray(shape, request.dtype, scale, request.compress)
            arrays[_make_array_path(context, "blocks")] = StepArray((blocks,), "bool", has_one_chunk=True)
        attributes = {
            "layout": "step, block, head, frame, height, width",
            "blocks": "each" if request.per_block else "mean",
            "heads": "each" if request.per_head else "mean",
            "words": dict(words),
        }
        super().__init__(path, arrays, steps, sigmas, recipe, attributes, checksums)

    def write_maps(self, maps: MapsByContext, blocks: Mapping[str, Sequence[bool]]) -> None:
        """Store the maps of the next step.

        Args:
            blocks: which blocks computed attention, by context.
        """
        values: dict[str, NDArray[Any]] = {}
        for context, maps_of_context in maps.items():
            values |= {
                _make_array_path(context, name): values_of_map for name, values_of_map in maps_of_context.items()
            }
            values[_make_array_path(context, "blocks")] = np.array(blocks[context])
        self.write(values)


def _make_array_path(context: str, name: str) -> str:
    return name if context == "cond" else f"{context}/{name}"


class AttentionMapsError(CaptureError):
    """Raised for attention maps that are missing or unreadable; the text names them."""


@dataclass(frozen=True)
class StoredAttentionMaps:
    """The maps of one video."""

    group: Any
    """The zarr group."""
    words: dict[str, dict[str, Any]]
    """Metadata of each marked word, by the name of its map: text, span, weight, token positions and token texts."""
    steps: NDArray[np.int64]
    sigmas: NDArray[np.float64]
    path: Path
    cells: tuple[Sequence[int], Sequence[int]]
    """Numbers of positions that each row and each column of a map averages."""

    def read_map(self, name: str, index: int | slice = slice(None), context: str = "cond") -> NDArray[np.float32]:
        """Return [s, blocks | 1, heads | 1, frames, height, width], or one stored step without the first axis.

        Raises:
            AttentionMapsError: the map is missing or damaged.
        """
        with _raise_attention_maps_error(self.path):
            group = self.group if context == "cond" else self.group[context]
            array = group[name]
            values = np.asarray(array[index], dtype=np.float32) / _check_scale(array.attrs["scale"])
            if values.ndim != 5 + isinstance(index, slice):
                raise ValueError(f"{name} has {values.ndim} axes")
            return values

    def read_mean(self, name: str) -> NDArray[np.float64]:
        """Return [s, frames, height, width], mean over heads and the blocks that computed attention.

        Height and width are those of the video in positions: a value that averages several positions is repeated at
        each, as the last row and column of a downsampled map may average fewer. NaN at a step in which no block
        computed attention.

        Raises:
            AttentionMapsError: as `read_map`.
        """
        with _raise_attention_maps_error(self.path):
            return np.stack([self.read_mean_at_step(name, index) for index in range(len(self.steps))])

    def read_mean_at_step(self, name: str, index: int) -> NDArray[np.float64]:
        """Return `read_mean` of one stored step, [frames, height, width].

        Raises:
            AttentionMapsError: as `read_map`.
        """
        mean = _average_known(self.read_map(name, index))
        return mean.repeat(self.cells[0], axis=1).repeat(self.cells[1], axis=2)


def _average_known(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean over the first two axes, blocks and heads, without the blocks that a cache skipped (NaN)."""
    is_known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(is_known, values, 0).sum((0, 1), dtype=np.float64) / is_known.sum((0, 1)))


def open_attention_maps(path: Path) -> StoredAttentionMaps:
    """Open the stored maps of a video.

    Raises:
        AttentionMapsError: the maps are missing or damaged.
    """
    with _raise_attention_maps_error(path):
        group = open_capture(path)
        words = {str(name): _check_word(about) for name, about in dict(group.attrs["words"]).items()}
        steps, sigmas = np.asarray(group["steps"][:]), np.asarray(group["sigmas"][:])
        for name in words:
            if group[name].shape[0] != len(steps) or steps.shape != sigmas.shape:
                raise ValueError(f"{name} does not contain one map for each of {len(steps)} steps")
        if len(sizes := {group[name].shape[3:] for name in words}) > 1:
            raise ValueError(f"its maps have different sizes: {sorted(sizes)}")
        return StoredAttentionMaps(group, words, steps, sigmas, path, _find_cells(group, list(words)))


def _find_cells(group: Any, words: Sequence[str]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the numbers of positions that each row and each column of the word maps averages.

    Raises:
        ValueError: the maps do not have the size that their recipe gives them.
    """
    if not words:
        return (), ()
    height, width = group[words[0]].shape[-2:]
    recipe = group.attrs.get("recipe")
    factor = recipe["capture"]["attention"]["downsample"] if recipe is not None else 1
    if factor == 1:
        return [1] * height, [1] * width
    for pixels in POSITION_PIXELS:
        rows, columns = (_build_averaging_matrix(recipe[side] // pixels, factor) for side in ("height", "width"))
        if (len(rows), len(columns)) == (height, width):
            return rows, columns
    size = f"{recipe['width']}x{recipe['height']} pixels"
    raise ValueError(f"maps of {width}x{height} do not fit {size} averaged over {factor} x {factor} positions")


def _build_averaging_matrix(positions: int, factor: int) -> Sequence[int]:
    return [min(factor, positions - start) for start in range(0, positions, factor)]


def _check_scale(attribute: Any) -> np.float32:
    is_number = isinstance(attribute, int | float) and not isinstance(attribute, bool)
    if not is_number or not 0 < attribute < FLOAT32_LIMIT:
        raise ValueError(f"its attribute scale is {str(attribute)[:80]!r}, but it must be a number above 0")
    return np.float32(attribute)


def _check_word(about: Any) -> dict[str, Any]:
    word = dict(about)
    if "token_texts" not in word:  # the key of earlier versions
        word["token_texts"] = word.pop("pieces")
    if not isinstance(word["text"], str) or not all(isinstance(text, str) for text in word["token_texts"]):
        raise ValueError("the attribute words is damaged")
    return word


@contextmanager
def _raise_attention_maps_error(path: Path) -> Iterator[None]:
    try:
        with raise_capture_error(path):
            yield
    except CaptureError as error:
        raise AttentionMapsError(str(error)) from error
