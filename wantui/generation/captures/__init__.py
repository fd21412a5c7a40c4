"""Record the captures that a recipe requests while its video is denoised.

A capture is declared in `wantui.captures`, and recorded by the module of the same name here. That module has a class
`Recorder`, a `CaptureRecorder`, and, where the capture must see the attention of the blocks, a function `make_hook`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from wantui.captures import CAPTURES
from wantui.generation.attention_hooks import DenoisingHook
from wantui.generation.captures.base import CaptureRecorder
from wantui.generation.preparation import DenoisingPreparation
from wantui.planning import Recipe
from wantui.storage.background_writer import BackgroundWriter


def make_hooks(preparation: DenoisingPreparation) -> dict[str, DenoisingHook]:
    """Return the hooks that a denoising run needs, by capture name."""
    hooks: dict[str, DenoisingHook] = {}
    for kind in CAPTURES:
        make_hook = getattr(_import_recorder_module(kind.name), "make_hook", None)
        if make_hook is not None and (hook := make_hook(preparation)) is not None:
            hooks[kind.name] = hook
    return hooks


def make_recorders(
    paths_by_capture: Mapping[str, Path],
    recipe: Recipe,
    background_writer: BackgroundWriter,
    earlier_checksums_by_capture: Mapping[str, Sequence[int]],
    is_resumable: bool,
) -> dict[str, CaptureRecorder]:
    """Return the recorders of the requested captures that have a path, by name."""
    recorders: dict[str, CaptureRecorder] = {}
    for kind, _ in recipe.capture_requests:
        if kind.name in paths_by_capture:
            recorder_class: type[CaptureRecorder] = _import_recorder_module(kind.name).Recorder
            earlier_checksums = earlier_checksums_by_capture.get(kind.name, ())
            recorders[kind.name] = recorder_class(
                paths_by_capture[kind.name], recipe, background_writer, earlier_checksums, is_resumable
            )
    return recorders


def _import_recorder_module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
