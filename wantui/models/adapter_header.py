"""Read the header of an adapter's safetensors file: shapes, types and metadata of its tensors. Never imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wantui.file_state import FileState
from wantui.json_files import parse_json
from wantui.models.adapters import AdapterError
from wantui.models.safetensors_header import TensorInfo, find_weight_file_error, read_safetensors_header

METADATA_KEY = "lora_adapter_metadata"
"""Key of the metadata in which diffusers stores the settings of an adapter."""


@dataclass(frozen=True, eq=False)  # compared by identity, so that functions of a header can be cached
class AdapterHeader:
    """The tensors of an adapter's file by name, and the settings that diffusers stored with them."""

    tensors: Mapping[str, TensorInfo]
    settings: Mapping[str, Any]
    """Settings of peft, such as `transformer.lora_alpha`; empty in other formats."""


def read_adapter_header(path: Path) -> AdapterHeader:
    """Return the header of a safetensors file, cached until the file changes.

    Raises:
        AdapterError: the file cannot be read, is incomplete, or is not a safetensors file.
    """
    try:
        return _read_header(path, FileState.from_path(path))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=64)
def _read_header(path: Path, state: FileState) -> AdapterHeader:
    if (weight_file_error := find_weight_file_error(path, state)) is not None:
        raise AdapterError(f"{path} {weight_file_error}")
    tensors, metadata = read_safetensors_header(path)
    try:
        settings = parse_json(metadata.get(METADATA_KEY, "{}"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise AdapterError(f"{path} has damaged metadata ({METADATA_KEY}). Copy it again")
    return AdapterHeader(tensors, settings)
