"""Declaration of a control: its settings, its part of a recipe, its bytes on the GPU, and its conflicts.

A control is anything that changes the denoising of a video. Its declaration imports no torch; what it does is in the
module of the same name in `wantui.generation.controls`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from wantui.captures.base import DenoisingSize
from wantui.section import Section

if TYPE_CHECKING:
    from wantui.planning.recipe import Recipe


class ControlRequest(BaseModel):
    """A recipe's request to one control."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def no_bytes(request: Any, size: DenoisingSize) -> int:
    """Return 0: the control needs no GPU memory besides that of denoising."""
    return 0


@dataclass(frozen=True)
class ControlKind:
    """The declaration of one control.

    Attributes:
        name: slug, and name of the module that applies it.
        request: pydantic model of its part of a recipe.
        section: key of its section in the config file; None for a control that is written in the template.
        settings: pydantic model of that section.
        requested: the request that settings make; None where they ask for nothing.
        conflicts: reasons for which a recipe cannot have it, each a sentence that says how to resolve it.
        gpu_bytes: predicted bytes on the GPU beside the denoising without it.
    """

    name: str
    request: type[ControlRequest]
    section: str | None = None
    settings: type[Section] | None = None
    requested: Callable[[Any], ControlRequest | None] = lambda settings: None
    conflicts: "Callable[[Any, Recipe], Sequence[str]]" = lambda request, recipe: ()
    gpu_bytes: Callable[[Any, DenoisingSize], int] = no_bytes
