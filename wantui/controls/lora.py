"""The control of LoRA: adapters that are merged into the weights of the transformers before the first step."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from wantui.controls.base import ControlKind, ControlRequest
from wantui.section import ConfigSection

if TYPE_CHECKING:
    from wantui.models.adapters import AdapterFile
    from wantui.planning.recipe import Recipe

ADAPTERS_KEY = "lora_settings.adapters"
MAX_STRENGTH = 10
"""Largest absolute strength."""
MAX_ADAPTER_COUNT = 32
"""Maximum number of adapters per video."""
MAX_NAME_LENGTH = 100
Strength = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH, allow_inf_nan=False)]
NotBlank = Annotated[str, Field(pattern=r"\S", max_length=4096)]
_NUMBER_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?|[+-]?(nan|inf|infinity)", re.ASCII | re.I)


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
    def reject_schedules(cls, strength: object) -> object:
        """Reject strengths that change over the steps."""
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
        """Give a name to each adapter without one; reject two adapters with the same name."""
        names = [adapter.name or adapter.default_name for adapter in adapters]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two adapters have the name {name}. Give one of them another `name`")
        return tuple(adapter.model_copy(update={"name": name}) for adapter, name in zip(adapters, names, strict=True))


class LoraFile(BaseModel):
    """A file of an adapter in a recipe."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    path: str
    """Absolute path, name of a packaged adapter, or hub id."""
    file: str | None = None
    """File in the hub repository."""
    revision: str | None = None
    """Commit of the hub repository."""
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the file."""

    def locate(self) -> "AdapterFile":
        """Find the file on this machine.

        Raises:
            AdapterError: it is missing.
        """
        from wantui.models.adapters import find_adapter_file

        return find_adapter_file(self.path, self.file, self.revision)

    @property
    def label(self) -> str:
        """Return the name of the file in messages."""
        return self.path if self.file is None else f"{self.path}/{self.file}"


class LoraAdapter(BaseModel):
    """An adapter in a recipe."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

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
        """Return the contents and strengths of merged files, without paths and names, which do not change videos."""
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
    from wantui.controls.lora_files import build_adapter  # slow to import, as below

    return LoraRequest(adapters=tuple(build_adapter(adapter) for adapter in settings.adapters))


def find_conflicts(request: LoraRequest, recipe: "Recipe") -> Sequence[str]:
    """Return reasons why the adapters cannot be merged into the weights of a recipe."""
    from wantui.controls.lora_files import find_file_conflicts

    return find_file_conflicts(request, recipe)


def find_warnings(request: LoraRequest, recipe: "Recipe") -> Sequence[str]:
    """Return warnings about partly applied adapters, and about files for the other transformer."""
    from wantui.controls.lora_files import find_file_warnings

    return find_file_warnings(request, recipe)


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
