"""Declaration of a capture: its settings, its part of a recipe, its bytes, and the place of its files.

A capture is anything that is recorded while a video is denoised. Its declaration imports no torch; the recorder, which
takes the values from the device, is the module of the same name in `wantui.generation.captures`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from wantui.section import Section

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2}
Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Interval or factor of a capture, in its settings and in recipes."""


class CaptureRequest(BaseModel):
    """A recipe's request to one capture."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class DenoisingSize:
    """Sizes of the denoising of one video, from which a capture computes its bytes."""

    steps: int
    evaluations: int
    """Model evaluations; Heun's method has 2 N - 1 for N steps."""
    latent_shape: tuple[int, int, int, int]
    """Channels, latent frames, height and width."""
    patch: int
    """Side of the transformer's spatial patch, in latent positions."""
    blocks: int
    heads: int
    is_guided: bool
    """True if the model is also evaluated without the prompt."""
    marks: tuple[str, ...]
    """Marked words of the prompt."""
    negative_marks: tuple[str, ...]
    """The same words where they occur in the negative prompt."""

    @property
    def evaluates_twice(self) -> bool:
        """Return whether the sampler evaluates the model twice a step."""
        return self.evaluations > self.steps

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return the tokens of the video along frames, height and width."""
        _, frames, height, width = self.latent_shape
        return frames, -(-height // self.patch), -(-width // self.patch)


@dataclass(frozen=True)
class DiskPart:
    """Predicted bytes on disk of one kind of file."""

    name: str
    """Slug of the kind, as in the cost table and in JSON."""
    bytes: int
    basis: str = ""
    """Method of counting the bytes, in words."""


@dataclass(frozen=True)
class CaptureKind:
    """The declaration of one capture.

    Attributes:
        name: slug, and name of the module of the recorder.
        folder: folder of its files below a batch folder.
        file_key: key of its files in the manifest.
        section: key of its section in the config file.
        settings: pydantic model of that section.
        request: pydantic model of its part of a recipe.
        requested: the request that settings make; None where they ask for nothing.
        disk: predicted bytes on disk of one video.
        gpu_bytes: predicted bytes on the GPU while one video is denoised.
    """

    name: str
    folder: str
    file_key: str
    section: str
    settings: type[Section]
    request: type[CaptureRequest]
    requested: Callable[[Any], CaptureRequest | None]
    disk: Callable[[Any, DenoisingSize], tuple[DiskPart, ...]]
    gpu_bytes: Callable[[Any, DenoisingSize], int]


def every(count: int, interval: int) -> list[int]:
    """Return the indexes below `count` that an interval chooses: the first, every `interval`-th after it, the last."""
    return sorted({*range(0, count, interval), count - 1})
