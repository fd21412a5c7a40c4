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
from wantui.planning.evaluation_prompts import STEP_PROMPTS_ATTRIBUTE, build_evaluation_prompts_attribute
from wantui.storage.step_arrays import StepArray, StepArrayWriter
from wantui.storage.zarr_group import CaptureError, convert_to_capture_error, open_capture

FLOAT16_SCALE = 32768.0
POSITION_PIXEL_SIZES = (16, 32)
"""Height and width of a position in pixels: of most models, and of Wan 2.2 5B."""
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MapsByContext = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""Maps by context, then by name: [blocks | 1, heads | 1, frames, height, width]."""


class AttentionMapWriter(StepArrayWriter):
    """Writer of one video's maps, step by step.

    Args:
        map_names_by_context: names of the maps, by context (cond, uncond).
        map_shape: shape of one map at one step, [blocks | 1, heads | 1, frames, height, width].
        evaluations: evaluations whose maps are stored, from 0.
        sigmas: noise level of each of these evaluations.
        block_count: number of transformer blocks.
        metadata_by_word: metadata of each marked word, by name.
        checksums: as of `StepArrayWriter`.

    Raises:
        PartialCaptureError: as `StepArrayWriter`.
    """

    def __init__(
        self,
        path: Path,
        map_names_by_context: Mapping[str, Sequence[str]],
        map_shape: tuple[int, ...],
        evaluations: Sequence[int],
        sigmas: Sequence[float],
        block_count: int,
        recipe: Recipe,
        metadata_by_word: Mapping[str, Any],
        checksums: Sequence[int] = (),
    ) -> None:
        request = recipe.capture.attention
        assert request is not None
        scale = FLOAT16_SCALE if request.dtype == "float16" else 1.0
        arrays: dict[str, StepArray] = {}
        for context, map_names in map_names_by_context.items():
            for map_name in map_names:
                arrays[_make_array_path(context, map_name)] = StepArray(
                    map_shape, request.dtype, scale, request.compress
                )
            arrays[_make_array_path(context, "blocks")] = StepArray((block_count,), "bool", has_one_chunk=True)
        attributes: dict[str, Any] = {
            "layout": "step, block, head, frame, height, width",
            "blocks": "each" if request.per_block else "mean",
            "heads": "each" if request.per_head else "mean",
            "words": dict(metadata_by_word),
        }
        if evaluation_prompts := build_evaluation_prompts_attribute(recipe).get(STEP_PROMPTS_ATTRIBUTE):
            attributes[STEP_PROMPTS_ATTRIBUTE] = [evaluation_prompts[evaluation] for evaluation in evaluations]
        super().__init__(path, arrays, evaluations, sigmas, recipe, attributes, checksums)

    def write_maps(
        self, maps_by_context: MapsByContext, computed_blocks_by_context: Mapping[str, Sequence[bool]]
    ) -> None:
        """Store the maps of the next step.

        Args:
            computed_blocks_by_context: which blocks computed attention, by context.
        """
        values_by_path: dict[str, NDArray[Any]] = {}
        for context, maps_by_name in maps_by_context.items():
            values_by_path |= {_make_array_path(context, name): map_values for name, map_values in maps_by_name.items()}
            values_by_path[_make_array_path(context, "blocks")] = np.array(computed_blocks_by_context[context])
        self.write_step(values_by_path)


def _make_array_path(context: str, name: str) -> str:
    return name if context == "cond" else f"{context}/{name}"


class AttentionMapsError(CaptureError):
    """Raised for attention maps that are missing or unreadable; the text names them."""


@dataclass(frozen=True)
class StoredAttentionMaps:
    """The maps of one video."""

    group: Any
    """The zarr group."""
    metadata_by_word: dict[str, dict[str, Any]]
    """Metadata of each marked word, by the name of its map: text, span, weight, token positions and token texts."""
    evaluations: NDArray[np.int64]
    sigmas: NDArray[np.float64]
    path: Path
    averaged_counts: tuple[Sequence[int], Sequence[int]]
    """Numbers of positions that each row and each column of a map averages."""

    def reject_missing_word(self, name: str) -> None:
        """Raise AttentionMapsError if no map has this name."""
        if name not in self.metadata_by_word:
            raise AttentionMapsError(
                f"no map of {name!r} is stored. Stored maps: {', '.join(self.metadata_by_word) or 'none'}"
            )

    def read_map(self, name: str, step_index: int | slice = slice(None), context: str = "cond") -> NDArray[np.float32]:
        """Return maps [s, blocks | 1, heads | 1, frames, height, width]; maps of a single step lack the first axis.

        Raises:
            AttentionMapsError: the map is missing or damaged.
        """
        with _convert_to_attention_maps_error(self.path):
            group = self.group if context == "cond" else self.group[context]
            try:
                array = group[name]
            except KeyError:
                self.reject_missing_word(name)
                raise
            values = np.asarray(array[step_index], dtype=np.float32) / _parse_scale(array.attrs["scale"])
            if values.ndim != 5 + isinstance(step_index, slice):
                raise ValueError(f"{name} has {values.ndim} axes")
            return values

    def read_mean_map(self, name: str) -> NDArray[np.float64]:
        """Return maps [s, frames, height, width], averaged over heads and over the blocks that computed attention.

        Height and width equal the positions of the video: a value that averages several positions is repeated at
        each of them, because the last row and column of a downsampled map may average fewer positions. The map is NaN
        at a step in which no block computed attention.

        Raises:
            AttentionMapsError: as `read_map`.
        """
        with _convert_to_attention_maps_error(self.path):
            return np.stack([self.read_mean_map_at_step(name, index) for index in range(len(self.evaluations))])

    def read_mean_map_at_step(self, name: str, step_index: int) -> NDArray[np.float64]:
        """Return the map that `read_mean_map` gives for one stored step, [frames, height, width].

        Raises:
            AttentionMapsError: as `read_map`.
        """
        mean = _average_computed_blocks(self.read_map(name, step_index))
        return mean.repeat(self.averaged_counts[0], axis=1).repeat(self.averaged_counts[1], axis=2)


def _average_computed_blocks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean over the first two axes, blocks and heads, without the blocks that a cache skipped (NaN)."""
    is_known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(is_known, values, 0).sum((0, 1), dtype=np.float64) / is_known.sum((0, 1)))


def open_attention_maps(path: Path, recipe: Recipe | None = None) -> StoredAttentionMaps:
    """Open the stored maps of a video.

    Args:
        recipe: recipe of the video; None if unknown.

    Raises:
        AttentionMapsError: the maps are missing or damaged, or belong to another video.
    """
    with _convert_to_attention_maps_error(path):
        group = open_capture(path, recipe)
        metadata_by_word = {
            str(name): _parse_word_metadata(attribute) for name, attribute in dict(group.attrs["words"]).items()
        }
        evaluations, sigmas = np.asarray(group["steps"][:]), np.asarray(group["sigmas"][:])
        for name in metadata_by_word:
            if group[name].shape[0] != len(evaluations) or evaluations.shape != sigmas.shape:
                raise ValueError(f"{name} does not contain one map for each of {len(evaluations)} steps")
        if len(sizes := {group[name].shape[3:] for name in metadata_by_word}) > 1:
            raise ValueError(f"its maps have different sizes: {sorted(sizes)}")
        averaged_counts = _find_averaged_counts(group, list(metadata_by_word))
        return StoredAttentionMaps(group, metadata_by_word, evaluations, sigmas, path, averaged_counts)


def _find_averaged_counts(group: Any, words: Sequence[str]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the numbers of positions that each row and each column of the word maps averages.

    Raises:
        ValueError: the maps do not have the size that their recipe gives them.
    """
    if not words:
        return (), ()
    height, width = group[words[0]].shape[-2:]
    recipe = group.attrs.get("recipe")
    downsample_factor = recipe["capture"]["attention"]["downsample"] if recipe is not None else 1
    if downsample_factor == 1:
        return [1] * height, [1] * width
    for pixels in POSITION_PIXEL_SIZES:
        row_counts, column_counts = (
            _count_averaged_positions(recipe[side] // pixels, downsample_factor) for side in ("height", "width")
        )
        if (len(row_counts), len(column_counts)) == (height, width):
            return row_counts, column_counts
    size_text = f"{recipe['width']}x{recipe['height']} pixels"
    raise ValueError(
        f"maps of {width}x{height} do not fit {size_text} averaged over {downsample_factor} x {downsample_factor} "
        "positions"
    )


def _count_averaged_positions(position_count: int, downsample_factor: int) -> Sequence[int]:
    return [min(downsample_factor, position_count - start) for start in range(0, position_count, downsample_factor)]


def _parse_scale(attribute: Any) -> np.float32:
    is_number = isinstance(attribute, int | float) and not isinstance(attribute, bool)
    if not is_number or not 0 < attribute < MAX_FLOAT32:
        raise ValueError(f"its attribute scale is {str(attribute)[:80]!r}, but it must be a number above 0")
    return np.float32(attribute)


def _parse_word_metadata(word_attribute: Any) -> dict[str, Any]:
    metadata = dict(word_attribute)
    if "token_texts" not in metadata:  # the key of earlier versions
        metadata["token_texts"] = metadata.pop("pieces")
    if not isinstance(metadata["text"], str) or not all(isinstance(text, str) for text in metadata["token_texts"]):
        raise ValueError("the attribute `words` is damaged")
    return metadata


@contextmanager
def _convert_to_attention_maps_error(path: Path) -> Iterator[None]:
    try:
        with convert_to_capture_error(path):
            yield
    except CaptureError as error:
        raise AttentionMapsError(str(error)) from error
