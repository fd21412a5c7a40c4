"""A digest that tells one set of weights from another without reading all of it."""

import hashlib
from pathlib import Path

SAMPLE = 64 * 1024


def fingerprint(directory: Path) -> str:
    """SHA-256 over name, size, first and last 64 KiB of every JSON and weight file below a model directory.

    Safetensors files begin with the names, shapes and places of their tensors, so that another model differs here.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix not in (".json", ".safetensors", ".model", ".bin", ".gguf") or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(directory).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE))
            if size > SAMPLE:
                file.seek(max(SAMPLE, size - SAMPLE))
                digest.update(file.read())
    return digest.hexdigest()
