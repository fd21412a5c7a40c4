"""Declaration of a capture: its settings, its part of a recipe, its bytes, and its folder.

A capture is anything that is recorded during denoising. Its declaration imports no torch; its recorder, which copies
the values from the device, is in the module of the same name in `wantui.generation.captures`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from wantui.section import ConfigSection

BYTES_BY_DTYPE: Mapping[str, int] = {"float32": 4, "float16": 2}
"""Bytes of a value, by dtype name."""
PositiveCount = Annotated[int, Field(ge=1, le=1_000_000)]
"""Interval or factor in the settings and requests of a capture."""


class CaptureRequest(BaseModel):
    """Part of a recipe that requests one capture."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)


@dataclass(frozen=True)
class DenoisingSize:
    """Sizes of one video's denoising, from which captures and controls compute their bytes."""

    step_count: int
    evaluation_count: int
    """Number of model evaluations; 2 N - 1 for N steps of Heun's method."""
    latent_shape: tuple[int, int, int, int]
    """Channels, latent frames, height and width."""
    patch_size: int
    """Side of the transformer's spatial patch, in latent positions."""
    block_count: int
    head_count: int
    dtype_bytes: int
    """Bytes of a number in the transformer."""
    is_guided: bool
    """True if the model is also evaluated with the negative prompt."""
    marked_words: tuple[str, ...]
    """Marked words of the prompt."""
    negative_marked_words: tuple[str, ...]
    """Occurrences of the marked words in the negative prompt."""
    prompt_character_count: int
    """Characters of the longest prompt that the model reads."""

    @property
    def evaluates_model_twice(self) -> bool:
        """Return whether the sampler evaluates the model twice per step."""
        return self.evaluation_count > self.step_count

    @property
    def position_grid(self) -> tuple[int, int, int]:
        """Return the number of video positions along frames, height and width."""
        _, frames, height, width = self.latent_shape
        return frames, -(-height // self.patch_size), -(-width // self.patch_size)


@dataclass(frozen=True)
class DiskPart:
    """Predicted bytes on disk of one kind of file."""

    name: str
    """Slug of the kind, as in the cost table and in JSON."""
    bytes: int
    basis: str = ""
    """Explanation of the byte count, for users."""


@dataclass(frozen=True)
class CaptureKind:
    """The declaration of one capture.

    Attributes:
        name: slug, also the name of the recorder's module.
        folder_name: name of the folder for its files in a batch folder.
        file_key: key of its files in the manifest.
        section_key: key of its section in the config file.
        settings_type: pydantic model of that section.
        request_type: pydantic model for its part of a recipe.
        build_request: function that returns the request for given settings, or None without one.
        estimate_disk: function that returns the predicted bytes on disk per video.
        estimate_gpu_bytes: function that returns the predicted bytes on the GPU during denoising.
        marks_setting: setting of the section that turns on recording marked words, so that a template without marks has
            nothing to record; empty for a capture that records something else.
    """

    name: str
    folder_name: str
    file_key: str
    section_key: str
    settings_type: type[ConfigSection]
    request_type: type[CaptureRequest]
    build_request: Callable[[Any], CaptureRequest | None]
    estimate_disk: Callable[[Any, DenoisingSize], tuple[DiskPart, ...]]
    estimate_gpu_bytes: Callable[[Any, DenoisingSize], int]
    marks_setting: str = ""


def list_every_nth_index(index_count: int, interval: int) -> list[int]:
    """Return every `interval`-th index below `index_count`, from 0 on, and the last index."""
    return sorted({*range(0, index_count, interval), index_count - 1})
