"""Fingerprint of a set of weights: a digest of local files, or the commit of a model from the hub."""

import errno
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from wantui.models.parts import part_files

SAMPLE = 64 * 1024
SAMPLES = 256


def fingerprint(directory: Path) -> str:
    """Return the SHA-256 over name, size and content of every JSON and weight file of a model's parts.

    Symbolic links count as what they lead to. What else is in the folder, videos made below it say, does not count.
    Files over 16 MiB are sampled: 256 stretches of 64 KiB, evenly spread, the first and the last bytes among them. A
    fine-tune or merge changes all of a tensor and is seen; a single flipped bit in a large file may not be.
    """
    return _fingerprint(directory, tuple(_Stat.of(directory, path) for path in part_files(directory) if _counts(path)))


def fingerprint_of_file(path: Path) -> str:
    """Return the same of one file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return _fingerprint(path.parent, (_Stat.of(path.parent, Path(path.name)),))


def _counts(path: Path) -> bool:
    return path.suffix in (".json", ".safetensors", ".model", ".bin", ".gguf", ".pt", ".pth")


class _Stat(NamedTuple):
    """File identity used to detect changes, with links followed."""

    path: Path
    """Relative to the folder."""
    size: int
    modified: int
    """Nanoseconds."""
    inode: int
    device: int

    @classmethod
    def of(cls, folder: Path, path: Path) -> "_Stat":
        stat = (folder / path).stat()
        return cls(path, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


@lru_cache(maxsize=8)
def _fingerprint(directory: Path, files: tuple[_Stat, ...]) -> str:
    """Read files again only when one of them has changed: a template is planned at every key."""
    digest = hashlib.sha256()
    for path, size, *_ in files:
        digest.update(f"{path.as_posix()}\0{size}\0".encode())
        with (directory / path).open("rb") as file:
            if size <= SAMPLES * SAMPLE:
                digest.update(file.read())
                continue
            for index in range(SAMPLES):
                file.seek(index * (size - SAMPLE) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def snapshot_in_cache(hub_id: str, revision: str | None) -> Path | None:
    """Return the folder of a hub model on this machine, if some of it is here."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    return Path(index).parent if isinstance(index, str) else None


def commit_in_cache(hub_id: str, revision: str | None) -> str | None:
    """Return the commit of a branch or tag (None: main) of a hub model on this machine, or None if it is missing."""
    folder = snapshot_in_cache(hub_id, revision)
    return None if folder is None else folder.name
