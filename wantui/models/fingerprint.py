"""What tells one set of weights from another: a digest of local files, the commit of a model from the hub."""

import hashlib
from functools import lru_cache
from pathlib import Path

SAMPLE = 64 * 1024
SAMPLES = 256


def fingerprint(directory: Path) -> str:
    """SHA-256 over name, size and content of every JSON and weight file below a model directory.

    Files over 16 MiB are sampled: 256 stretches of 64 KiB, evenly spread, the first and the last bytes among them. A
    fine-tune or merge changes all of a tensor and is seen; a single flipped bit in a large file may not be.
    """
    found = []
    for path in sorted(directory.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".model", ".bin", ".gguf") and path.is_file():
            stat = path.stat()
            found.append((path, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return _fingerprint(directory, tuple(found))


def fingerprint_of_file(path: Path) -> str:
    """The same of one file."""
    stat = path.stat()
    return _fingerprint(path.parent, ((path, stat.st_size, stat.st_mtime_ns, stat.st_ino),))


@lru_cache(maxsize=8)
def _fingerprint(directory: Path, files: tuple[tuple[Path, int, int, int], ...]) -> str:
    """Files are read again only when their size or time has changed: a template is planned at every key."""
    digest = hashlib.sha256()
    for path, size, _, _ in files:
        digest.update(f"{path.relative_to(directory).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
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

    found = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def commit_in_cache(hub_id: str, revision: str | None) -> str | None:
    """Return the commit that a branch or tag (None: main) of a hub model stands for on this machine, if it is here."""
    folder = snapshot_in_cache(hub_id, revision)
    return None if folder is None else folder.name
