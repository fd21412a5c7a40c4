"""Check safetensors files, and read the shapes, types and metadata in their headers. Never imports torch."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wantui.file_state import FileState
from wantui.formatting import shorten_text

LFS_POINTER_PREFIX = b"version https://git-lfs"
"""First bytes of the text file that Git LFS stores in place of a file that was not downloaded."""
FLOAT_DTYPES = ("BF16", "F16", "F32", "F64")
"""Supported types of stored weights. 8-bit types are not supported, because their values need a scale, or are clipped
and rounded."""


@dataclass(frozen=True)
class TensorInfo:
    """Shape and type of a tensor, without its values."""

    shape: tuple[int, ...]
    dtype: str
    """Type name in safetensors files, such as BF16 or F8_E4M3."""

    @property
    def is_float(self) -> bool:
        """Return whether the values are real numbers that need no scale."""
        return self.dtype in FLOAT_DTYPES


@lru_cache(maxsize=256)
def find_weight_file_error(path: Path, state: FileState) -> str | None:
    """Return why the safetensors library rejects a file, or None; cached until the file changes.

    The library checks that the tensors in the header have valid types, shapes and offsets, and that they fill the file.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER_PREFIX)) == LFS_POINTER_PREFIX:
            return "is only a Git LFS pointer. Fetch the file: git lfs pull"
    try:
        with safe_open(path, framework="np"):
            return None
    except SafetensorError as error:
        reason = shorten_text(str(error).removeprefix("Error while deserializing header: "))
        return f"is not a safetensors file, or is incomplete or damaged ({reason}). Copy it again"


def read_safetensors_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors in a file by name, and its metadata.

    Raises:
        OSError, SafetensorError: the file cannot be read, or is damaged.
    """
    infos_by_name = {}
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 -- it is not a dict
            tensor = file.get_slice(name)
            infos_by_name[name] = TensorInfo(tuple(tensor.get_shape()), tensor.get_dtype())
        return infos_by_name, file.metadata() or {}
