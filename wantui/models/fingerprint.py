"""Fingerprint of model weights: a digest of local files, or the commit of a hub model."""

import errno
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from wantui.models.parts import list_part_files

SAMPLE_BYTES = 64 * 1024
"""Length of a sample of a large file."""
SAMPLE_COUNT = 256
"""Number of samples of a large file."""


def fingerprint(directory: Path) -> str:
    """Return the SHA-256 of the names, sizes and contents of all JSON and weight files of a model's parts.

    Symbolic links are followed. Other files in the folder, such as videos, are ignored. Files over 16 MiB are sampled:
    256 evenly spaced samples of 64 KiB, including the first and the last bytes. This detects a fine-tune or merge,
    which changes all of a tensor, but may miss a single flipped bit.
    """
    return _fingerprint(
        directory,
        tuple(_Stat.from_path(directory, path) for path in list_part_files(directory) if _is_fingerprinted(path)),
    )


def fingerprint_file(path: Path) -> str:
    """Return the fingerprint of a single file.

    Raises:
        OSError: the file cannot be read or is not a regular file.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return _fingerprint(path.parent, (_Stat.from_path(path.parent, Path(path.name)),))


def _is_fingerprinted(path: Path) -> bool:
    return path.suffix in (".json", ".safetensors", ".model", ".bin", ".gguf", ".pt", ".pth")


class _Stat(NamedTuple):
    """File identity used to detect changes, with links followed."""

    path: Path
    """Relative to the folder."""
    size: int
    modified: int
    """Modification time in nanoseconds."""
    inode: int
    device: int

    @classmethod
    def from_path(cls, folder: Path, path: Path) -> "_Stat":
        stat = (folder / path).stat()
        return cls(path, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


@lru_cache(maxsize=8)
def _fingerprint(directory: Path, files: tuple[_Stat, ...]) -> str:
    """Compute a fingerprint, cached until a file changes: the application plans a batch at every key press."""
    digest = hashlib.sha256()
    for path, size, *_ in files:
        digest.update(f"{path.as_posix()}\0{size}\0".encode())
        with (directory / path).open("rb") as file:
            if size <= SAMPLE_COUNT * SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for index in range(SAMPLE_COUNT):
                file.seek(index * (size - SAMPLE_BYTES) // (SAMPLE_COUNT - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def find_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """Return the cache folder of a hub model, possibly incomplete; None if the model is not in the cache."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    return Path(index).parent if isinstance(index, str) else None


def find_commit(hub_id: str, revision: str | None) -> str | None:
    """Return the commit of a branch or tag (None: main) of a cached hub model; None if it is not in the cache."""
    folder = find_snapshot(hub_id, revision)
    return None if folder is None else folder.name
