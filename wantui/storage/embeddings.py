"""Disk cache of text embeddings, one file per prompt and encoder, without the padding."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from wantui.atomic_files import atomic_write

PARTIAL_SUFFIX = ".partial"
MAX_CACHE_BYTES = 2 << 30
"""Maximum size of the cache in bytes; the least recently used files are removed first."""


class EmbeddingStore:
    """Cache of embeddings by prompt, [tokens, dim], as integers of 2 or 4 bytes that hold the bits.

    Args:
        made_with: everything besides the prompt that determines the bits, such as the encoder and its precision.
    """

    def __init__(self, made_with: Mapping[str, object], directory: Path | None = None) -> None:
        self.made_with = dict(made_with)
        self.directory = directory or user_cache_path("wantui") / "embeddings"

    def find_path(self, prompt: str) -> Path:
        """Return the file of a prompt's embedding, which need not exist."""
        key = json.dumps({**self.made_with, "prompt": prompt}, sort_keys=True)
        return self.directory / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"

    def read_embedding(self, prompt: str) -> NDArray[np.generic] | None:
        """Return the embedding, or None if it is missing or unreadable."""
        path = self.find_path(prompt)
        try:
            embedding: NDArray[np.generic] = np.load(path, allow_pickle=False)
            os.utime(path)
        except (OSError, ValueError, EOFError):
            return None
        return embedding

    def write_embedding(self, prompt: str, embedding: NDArray[np.generic]) -> None:
        """Store the embedding of a prompt."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.find_path(prompt)
        # A name per writer: the workers of several GPUs may write the same prompt at once.
        partial = path.with_name(f"{path.stem}.{token_hex(8)}{PARTIAL_SUFFIX}")
        with atomic_write(path, partial), partial.open("wb") as file:
            np.save(file, embedding, allow_pickle=False)

    def remove_least_used(self, needed: set[str]) -> None:
        """Remove the least recently used files beyond `MAX_CACHE_BYTES`, except those of the needed prompts."""
        needed_paths = {self.find_path(prompt) for prompt in needed}
        files = []
        for path in (*self.directory.glob("*.npy"), *self.directory.glob(f"*{PARTIAL_SUFFIX}")):
            with suppress(FileNotFoundError):  # another worker may remove files at the same time
                files.append((path, path.stat()))
        total = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda one: one[1].st_mtime):
            if total <= MAX_CACHE_BYTES:
                return
            if path not in needed_paths:
                path.unlink(missing_ok=True)
                total -= stat.st_size
