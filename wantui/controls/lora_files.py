"""Files of LoRA adapters: their fingerprints, and whether they fit the model."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING

from wantui.controls.lora import ADAPTERS_KEY, LoraAdapter, LoraAdapterSettings, LoraFile, LoraRequest
from wantui.models.adapter_header import AdapterHeader, read_adapter_header
from wantui.models.adapter_layout import AdapterLayout, list_layer_shapes, match_adapter_layers
from wantui.models.adapters import AdapterError, find_adapter_file, hash_adapter_file
from wantui.models.catalogue import WanModel, find_model, find_model_with_known_sizes

if TYPE_CHECKING:
    from wantui.planning.recipe import Recipe

_HIGH_NOISE_PATTERN = re.compile(r"high[\W_]*noise|(^|[\W_])high([\W_]|$)|(^|[\W_])hn([\W_]|$)", re.IGNORECASE)
_LOW_NOISE_PATTERN = re.compile(r"low[\W_]*noise|(^|[\W_])low([\W_]|$)|(^|[\W_])ln([\W_]|$)", re.IGNORECASE)


def build_adapter(settings: LoraAdapterSettings) -> LoraAdapter:
    """Return the adapter of a recipe for its settings, with the fingerprints of its files.

    Raises:
        AdapterError: a file is missing or cannot be read.
    """
    try:
        source = _read_file(settings.path, settings.file, settings.revision)
        source_2 = None
        if settings.path_2 is not None or settings.file_2 is not None:
            revision_2 = settings.revision if settings.path_2 is None else None
            source_2 = _read_file(settings.path_2 or settings.path, settings.file_2, revision_2)
    except AdapterError as error:
        raise AdapterError(f"{ADAPTERS_KEY}: cannot use {settings.name}: {error}") from None
    return LoraAdapter(
        name=str(settings.name),
        source=source,
        strength=settings.strength,
        source_2=source_2,
        strength_2=settings.strength_2,
    )


def _read_file(path: str, hub_file: str | None, hub_revision: str | None) -> LoraFile:
    """Return a file with its fingerprint.

    Raises:
        AdapterError: see `build_adapter`.
    """
    file = find_adapter_file(path, hub_file, hub_revision)
    read_adapter_header(file.local_path)  # before a whole file of another kind is hashed
    try:
        fingerprint = hash_adapter_file(file.local_path)
    except OSError as error:
        raise AdapterError(f"{file.local_path} cannot be read: {error.strerror or error}") from None
    return LoraFile(path=file.reference, file=file.hub_file, revision=file.hub_revision, fingerprint=fingerprint)


def find_file_conflicts(request: LoraRequest, recipe: "Recipe") -> Sequence[str]:
    """Return reasons why the adapters cannot be merged into the weights of a recipe."""
    model = find_model(recipe.model)
    conflicts = []
    if recipe.weights == "gguf" and (request.list_merged_files() or request.list_merged_files(is_second=True)):
        conflicts.append(
            f"{ADAPTERS_KEY}: adapters cannot be merged into the weights of a GGUF file. Remove "
            "model_settings.transformer_file; to save memory, set model_settings.weights to int8 or float8"
        )
    if model.boundary_ratio is None:
        conflicts += [
            f"{ADAPTERS_KEY}: {adapter.name} has path_2, file_2 or strength_2, which are for models with two "
            f"transformers; {model.name} has one"
            for adapter in request.adapters
            if adapter.source_2 is not None or adapter.strength_2 is not None
        ]
    for name, file, layout in _match_files(request, model, recipe.revision):
        if isinstance(layout, AdapterError):
            conflicts.append(f"{ADAPTERS_KEY}: cannot use {name} ({file.label}): {layout}")
    return conflicts


def find_file_warnings(request: LoraRequest, recipe: "Recipe") -> Sequence[str]:
    """Return warnings about partly applied adapters, and about files for the other transformer."""
    model = find_model(recipe.model)
    warnings = []
    for name, file, layout in _match_files(request, model, recipe.revision):
        if isinstance(layout, AdapterLayout) and (description := layout.describe_unapplied()):
            warnings.append(f"{ADAPTERS_KEY}: {name} ({file.label}): {description}")
    if model.boundary_ratio is not None:
        for is_second, other_pattern, noise_words, remedy in (
            (False, _LOW_NOISE_PATTERN, "low noise", "path for the file of the high-noise transformer, or strength: 0"),
            (True, _HIGH_NOISE_PATTERN, "high noise", "path_2 for the file of that transformer, or strength_2: 0"),
        ):
            for name, file, _ in request.list_merged_files(is_second):
                file_name = PurePath(file.file or file.path).name
                if other_pattern.search(file_name):
                    other_name = "low-noise" if is_second else "high-noise"
                    warnings.append(
                        f"{ADAPTERS_KEY}: {name}: the file name {file_name} suggests {noise_words}, but the file also "
                        f"changes the {other_name} transformer. If it should not, set {remedy}"
                    )
    return warnings


def _match_files(
    request: LoraRequest, model: WanModel, revision: str | None
) -> list[tuple[str, LoraFile, AdapterLayout | AdapterError]]:
    """Return, for each file of the adapters, the layers that it changes, or the reason why it cannot be used."""
    sized_model = find_model_with_known_sizes(model, revision)
    if sized_model is None:  # checked when the model is loaded
        return []
    matches: dict[LoraFile, tuple[str, LoraFile, AdapterLayout | AdapterError]] = {}
    for adapter in request.adapters:
        for file in filter(None, (adapter.source, adapter.source_2)):
            if file in matches:
                continue
            try:
                layout = _match_header(read_adapter_header(file.locate().local_path), sized_model, model.name)
            except AdapterError as error:
                layout = error
            matches[file] = adapter.name, file, layout
    return list(matches.values())


@lru_cache(maxsize=64)
def _match_header(header: AdapterHeader, model: WanModel, model_name: str) -> AdapterLayout | AdapterError:
    """Return the layers that a file changes, or the reason why it cannot be used.

    The result is cached, because the application plans a batch at every key press, and every cell of a sweep is
    checked.
    """
    try:
        return match_adapter_layers(header, list_layer_shapes(model), model_name)
    except AdapterError as error:
        return error
