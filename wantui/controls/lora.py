"""The control of LoRA: adapters that are merged into the weights of the transformers before the first step."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from wantui.controls.base import ControlKind, ControlRequest
from wantui.models.adapter_header import AdapterHeader, read_adapter_header
from wantui.models.adapter_layout import AdapterLayout, list_layer_shapes, match_adapter_layers
from wantui.models.adapters import (
    AdapterError,
    AdapterFile,
    find_adapter_file,
    hash_adapter_file,
)
from wantui.models.catalogue import WanModel, find_model, find_model_with_known_sizes
from wantui.section import ConfigSection

if TYPE_CHECKING:
    from wantui.planning.recipe import Recipe

ADAPTERS_KEY = "lora_settings.adapters"
MAX_STRENGTH = 10
"""Largest absolute strength."""
MAX_ADAPTER_COUNT = 32
"""Largest number of adapters of a video."""
MAX_NAME_LENGTH = 100
Strength = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH, allow_inf_nan=False)]
NotBlank = Annotated[str, Field(pattern=r"\S", max_length=4096)]
_NUMBER_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?|[+-]?(nan|inf|infinity)", re.ASCII | re.I)
_HIGH_NOISE_PATTERN = re.compile(r"high[\W_]*noise|(^|[\W_])high([\W_]|$)|(^|[\W_])hn([\W_]|$)", re.IGNORECASE)
_LOW_NOISE_PATTERN = re.compile(r"low[\W_]*noise|(^|[\W_])low([\W_]|$)|(^|[\W_])ln([\W_]|$)", re.IGNORECASE)


class LoraAdapterSettings(ConfigSection):
    """An adapter: its file and its strength."""

    path: NotBlank
    """Path of a safetensors file, name of a packaged adapter, or hub id (owner/name) with `file`."""
    file: NotBlank | None = None
    """File in the hub repository `path`."""
    revision: NotBlank | None = None
    """Commit, tag or branch of the hub repository."""
    strength: Strength = 1.0
    """Factor of the change; 0 changes nothing, negative values reverse the change."""
    path_2: NotBlank | None = None
    """Wan 2.2 A14B: path of another file for the low-noise transformer; empty: the same file."""
    file_2: NotBlank | None = None
    """Wan 2.2 A14B: file in the hub repository for the low-noise transformer."""
    strength_2: Strength | None = None
    """Wan 2.2 A14B: strength in the low-noise transformer; empty: strength."""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=MAX_NAME_LENGTH)] | None = None
    """Name, unique in the list; empty: the file name without its suffix. Sweeps use it: lora.NAME.strength."""

    @field_validator("strength", "strength_2", mode="before")
    @classmethod
    def refuse_schedules(cls, strength: object) -> object:
        """Refuse strengths that change over the steps."""
        if isinstance(strength, dict | list | tuple):
            raise ValueError(
                "strengths that change over the steps are not supported, because adapters are merged into the weights "
                "before the first step. Give one number"
            )
        return strength

    @property
    def default_name(self) -> str:
        """Return the file name without its suffix; characters that names cannot contain become _."""
        return re.sub(r"[^\w.-]+", "_", PurePath(self.file or self.path).stem)[:MAX_NAME_LENGTH] or "adapter"

    def format_short(self) -> str | None:
        """Return FILE or FILE:STRENGTH if nothing else is set."""
        text = self.path if self.strength == 1 else f"{self.path}:{self.strength!r}"
        is_complete = LoraAdapterSettings.model_validate(parse_adapter_text(text)) == self.model_copy(
            update={"name": None}
        )
        return text if is_complete and self.name in (None, self.default_name) else None


def parse_adapter_text(value: object) -> object:
    """Parse FILE or FILE:STRENGTH; return other values unchanged. Only a number after the last colon is a strength."""
    if not isinstance(value, str):
        return value
    path, separator, strength_text = value.rpartition(":")
    if separator and path and _NUMBER_PATTERN.fullmatch(strength_text.strip()):
        return {"path": path.strip(), "strength": strength_text.strip()}
    return {"path": value.strip()}


class LoraSettings(ConfigSection):
    """LoRA adapters, which change the weights of the model."""

    adapters: Annotated[
        tuple[Annotated[LoraAdapterSettings, BeforeValidator(parse_adapter_text)], ...],
        Field(max_length=MAX_ADAPTER_COUNT),
    ] = ()
    """Adapters: path (a safetensors file or a packaged adapter), strength and name of each; or FILE:STRENGTH."""

    @field_validator("adapters", mode="after")
    @classmethod
    def name_adapters(cls, adapters: tuple[LoraAdapterSettings, ...]) -> tuple[LoraAdapterSettings, ...]:
        """Give a name to each adapter without one; refuse two adapters with the same name."""
        names = [adapter.name or adapter.default_name for adapter in adapters]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two adapters have the name {name}. Give one of them another `name`")
        return tuple(adapter.model_copy(update={"name": name}) for adapter, name in zip(adapters, names, strict=True))


class LoraFile(BaseModel):
    """A file of an adapter in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Absolute path, name of a packaged adapter, or hub id."""
    file: str | None = None
    """File in the hub repository."""
    revision: str | None = None
    """Commit of the hub repository."""
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the file."""

    def locate(self) -> AdapterFile:
        """Find the file on this machine.

        Raises:
            AdapterError: it is missing.
        """
        return find_adapter_file(self.path, self.file, self.revision)

    @property
    def label(self) -> str:
        """Return the name of the file in messages."""
        return self.path if self.file is None else f"{self.path}/{self.file}"


class LoraAdapter(BaseModel):
    """An adapter in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: LoraFile
    strength: Strength
    source_2: LoraFile | None = None
    """File for the second transformer; None for the same file."""
    strength_2: Strength | None = None
    """Strength in the second transformer; None for the same strength."""

    def get_merged_file(self, is_second: bool) -> tuple[LoraFile, float]:
        """Return the file that changes a transformer, and its strength; a strength of 0 changes nothing.

        Args:
            is_second: whether the transformer is the second of two.
        """
        if not is_second:
            return self.source, self.strength
        strength = self.strength if self.strength_2 is None else self.strength_2
        return self.source_2 or self.source, strength


class LoraRequest(ControlRequest):
    """Request to merge adapters into the weights, in order."""

    adapters: tuple[LoraAdapter, ...]

    def list_merged_files(self, is_second: bool = False) -> list[tuple[str, LoraFile, float]]:
        """Return name, file and strength of the adapters that change a transformer, in the order of merging."""
        merged_files = [(adapter.name, *adapter.get_merged_file(is_second)) for adapter in self.adapters]
        return [(name, file, strength) for name, file, strength in merged_files if strength != 0]

    def describe_merged_files(self) -> dict[str, Any]:
        """Return contents and strengths; paths and names are omitted, as they do not change videos."""
        return {
            key: [[file.fingerprint[:16], strength] for _, file, strength in self.list_merged_files(is_second)]
            for key, is_second in (("adapters", False), ("adapters_2", True))
        }

    def describe_adapters(self) -> dict[str, Any]:
        """Return contents and strengths of the adapters by the names of their settings, without paths."""
        values = [
            {
                "name": adapter.name,
                "file": adapter.source.fingerprint[:16],
                "strength": adapter.strength,
                "file_2": None if adapter.source_2 is None else adapter.source_2.fingerprint[:16],
                "strength_2": adapter.strength_2,
            }
            for adapter in self.adapters
        ]
        return {"adapters": [{key: value for key, value in item.items() if value is not None} for item in values]}


def build_request(settings: LoraSettings) -> LoraRequest | None:
    """Return the request for the adapters of the settings, with the fingerprints of their files.

    Raises:
        AdapterError: a file is missing or cannot be read.
    """
    if not settings.adapters:
        return None
    adapters = []
    for item in settings.adapters:
        has_second_file = item.path_2 is not None or item.file_2 is not None
        try:
            source = _read_file(item.path, item.file, item.revision)
            source_2 = None
            if has_second_file:
                revision_2 = item.revision if item.path_2 is None else None
                source_2 = _read_file(item.path_2 or item.path, item.file_2, revision_2)
        except AdapterError as error:
            raise AdapterError(f"{ADAPTERS_KEY}: cannot use {item.name}: {error}") from None
        adapters.append(
            LoraAdapter(
                name=str(item.name),
                source=source,
                strength=item.strength,
                source_2=source_2,
                strength_2=item.strength_2,
            )
        )
    return LoraRequest(adapters=tuple(adapters))


def _read_file(path: str, hub_file: str | None, hub_revision: str | None) -> LoraFile:
    """Return a file with its fingerprint.

    Raises:
        AdapterError: see `build_request`.
    """
    file = find_adapter_file(path, hub_file, hub_revision)
    read_adapter_header(file.local_path)  # before a whole file of another kind is hashed
    try:
        fingerprint = hash_adapter_file(file.local_path)
    except OSError as error:
        raise AdapterError(f"{file.local_path} cannot be read: {error.strerror or error}") from None
    return LoraFile(path=file.reference, file=file.hub_file, revision=file.hub_revision, fingerprint=fingerprint)


def find_conflicts(request: LoraRequest, recipe: "Recipe") -> Sequence[str]:
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


def find_warnings(request: LoraRequest, recipe: "Recipe") -> Sequence[str]:
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
                        f"changes "
                        f"the {other_name} transformer. If it should not, set {remedy}"
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


def list_shown_values(request: LoraRequest) -> dict[str, Any]:
    """Return the strengths and files of the adapters by name."""
    values = {}
    for adapter in request.adapters:
        text = _describe_file(adapter.source, adapter.strength)
        if adapter.source_2 is not None or adapter.strength_2 is not None:
            text += f"; second transformer: {_describe_file(*adapter.get_merged_file(is_second=True))}"
        values[adapter.name] = text
    return values


def _describe_file(file: LoraFile, strength: float) -> str:
    return f"{strength:g} of {PurePath(file.file or file.path).name} (SHA-256 {file.fingerprint[:8]})"


LORA = ControlKind(
    name="lora",
    request_type=LoraRequest,
    section_key="lora_settings",
    settings_type=LoraSettings,
    items_key="adapters",
    items_alias="lora",
    build_request=build_request,
    find_conflicts=find_conflicts,
    find_warnings=find_warnings,
    get_compared_settings=LoraRequest.describe_adapters,
    list_shown_values=list_shown_values,
    keeps_conditional_prediction=True,
)
