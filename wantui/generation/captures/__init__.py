"""Record the captures that a recipe requests while its video is denoised.

A capture is declared in `wantui.captures`, and recorded by the module of the same name here. That module has a class
`Recorder`, and, where the capture must see the attention of the blocks, a function `hook`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wantui.captures import CAPTURES
from wantui.generation.attention_hooks import DenoisingHook
from wantui.generation.preparation import Preparation
from wantui.planning import Recipe
from wantui.storage.background_writer import BackgroundWriter

if TYPE_CHECKING:
    from wantui.generation.denoise import Start, Step


class Recorder(Protocol):
    """Recorder of one capture of one video; it never changes its inputs.

    Args:
        path: zarr group, which appears once complete.
        background: writer thread.
        earlier: CRC-32 of each part that an earlier process stored.
        resumable: whether another process may resume this video.
    """

    def __init__(
        self, path: Path, recipe: Recipe, background: BackgroundWriter, earlier: Sequence[int], resumable: bool
    ) -> None: ...

    def on_start(self, start: "Start", steps_done: int) -> None:
        """Start, or resume after some steps.

        Raises:
            IncompleteCaptureError: parts that an earlier process stored are missing.
        """
        ...

    def on_step(self, step: "Step") -> None:
        """Record one step."""
        ...

    def on_end(self) -> None:
        """Publish the recorded values."""
        ...

    def compute_checksums(self) -> tuple[int, ...]:
        """Return the CRC-32 of each stored part."""
        ...


def make_hooks(preparation: Preparation) -> dict[str, DenoisingHook]:
    """Return the hooks that a denoising needs, by the name of the capture."""
    hooks: dict[str, DenoisingHook] = {}
    for kind in CAPTURES:
        make = getattr(_module(kind.name), "hook", None)
        if make is not None and (hook := make(preparation)) is not None:
            hooks[kind.name] = hook
    return hooks


def make_recorders(
    paths: Mapping[str, Path],
    recipe: Recipe,
    background: BackgroundWriter,
    earlier: Mapping[str, Sequence[int]],
    resumable: bool,
) -> dict[str, Recorder]:
    """Return the recorders of the captures that a recipe requests and that have a path, by name."""
    recorders: dict[str, Recorder] = {}
    for kind in CAPTURES:
        if kind.name in paths and recipe.capture.find_request(kind.name) is not None:
            make: type[Recorder] = _module(kind.name).Recorder
            already = earlier.get(kind.name, ())
            recorders[kind.name] = make(paths[kind.name], recipe, background, already, resumable)
    return recorders


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
