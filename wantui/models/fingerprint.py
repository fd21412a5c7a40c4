"""Fingerprint of model weights: a digest of local files, or the commit of a hub model."""

import errno
import hashlib
from functools import lru_cache
from pathlib import Path

from wantui.file_state import FileState
from wantui.models.parts import list_part_files

FINGERPRINTED_SUFFIXES = (".json", ".safetensors", ".model", ".bin", ".gguf", ".pt", ".pth")
"""Suffixes of the files that a pipeline is loaded from."""
FINGERPRINT_SAMPLE_BYTES = 64 * 1024
"""Length of each sample from a large file."""
FINGERPRINT_SAMPLE_COUNT = 256
"""Number of samples from a large file."""


def fingerprint_model(folder: Path) -> str:
    """Return the SHA-256 of the names, sizes and contents of all JSON and weight files of a model's parts.

    Symbolic links are followed. Other files in the folder, such as videos, are ignored. Files over 16 MiB are sampled:
    256 evenly spaced samples of 64 KiB, including the first and the last bytes. This detects a fine-tune or merge,
    which changes all of a tensor, but may miss a single flipped bit.
    """
    return _compute_fingerprint(
        folder,
        tuple((path, FileState.from_path(folder / path)) for path in list_fingerprinted_files(folder)),
    )


def fingerprint_file(path: Path) -> str:
    """Return the fingerprint of a single file.

    Raises:
        OSError: the file cannot be read or is not a regular file.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return _compute_fingerprint(path.parent, ((Path(path.name), FileState.from_path(path)),))


def list_fingerprinted_files(folder: Path) -> list[Path]:
    """Return the JSON and weight files of a model's parts, relative to its folder."""
    return [path for path in list_part_files(folder) if path.suffix in FINGERPRINTED_SUFFIXES]


@lru_cache(maxsize=64)
def _compute_fingerprint(folder: Path, files: tuple[tuple[Path, FileState], ...]) -> str:
    """Compute a fingerprint, cached until a file changes: the application plans a batch at every key press.

    Args:
        files: paths relative to the folder, and their states.
    """
    digest = hashlib.sha256()
    for path, state in files:
        file_bytes = state.size_bytes
        digest.update(f"{path.as_posix()}\0{file_bytes}\0".encode())
        with (folder / path).open("rb") as file:
            if file_bytes <= FINGERPRINT_SAMPLE_COUNT * FINGERPRINT_SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for sample_index in range(FINGERPRINT_SAMPLE_COUNT):
                file.seek(sample_index * (file_bytes - FINGERPRINT_SAMPLE_BYTES) // (FINGERPRINT_SAMPLE_COUNT - 1))
                digest.update(file.read(FINGERPRINT_SAMPLE_BYTES))
    return digest.hexdigest()


def find_snapshot_folder(hub_id: str, revision: str | None) -> Path | None:
    """Return the cache folder of a hub model, possibly incomplete; None if the model is not in the cache."""
    from huggingface_hub import try_to_load_from_cache

    index_path = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    return Path(index_path).parent if isinstance(index_path, str) else None


def find_cached_commit(hub_id: str, revision: str | None) -> str | None:
    """Return the commit of a branch or tag (None: main) of a hub model; None if that revision is not in the cache."""
    folder = find_snapshot_folder(hub_id, revision)
    return None if folder is None else folder.name
