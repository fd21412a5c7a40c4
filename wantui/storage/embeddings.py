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
    """Cache of embeddings by prompt, [tokens, dim], stored bit for bit as integers of 2 or 4 bytes.

    Args:
        encoder_identity: everything besides the prompt that determines the bits, such as the encoder and its precision.
    """

    def __init__(self, encoder_identity: Mapping[str, object], directory: Path | None = None) -> None:
        self.encoder_identity = dict(encoder_identity)
        self.directory = directory or user_cache_path("wantui") / "embeddings"

    def find_embedding_path(self, prompt: str) -> Path:
        """Return the file of a prompt's embedding, which need not exist."""
        key_json = json.dumps({**self.encoder_identity, "prompt": prompt}, sort_keys=True)
        return self.directory / f"{hashlib.sha256(key_json.encode()).hexdigest()}.npy"

    def read_embedding(self, prompt: str) -> NDArray[np.generic] | None:
        """Return the stored embedding of a prompt, or None if it is missing or unreadable."""
        path = self.find_embedding_path(prompt)
        try:
            embedding: NDArray[np.generic] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        with suppress(OSError):  # the cache is read-only, or another worker has removed the file
            os.utime(path)
        return embedding

    def write_embedding(self, prompt: str, embedding: NDArray[np.generic]) -> None:
        """Store the embedding of a prompt."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.find_embedding_path(prompt)
        # A name per writer: the workers of several GPUs may write the same prompt at once.
        temporary_path = path.with_name(f"{path.stem}.{token_hex(8)}{PARTIAL_SUFFIX}")
        with atomic_write(path, temporary_path), temporary_path.open("wb") as file:
            np.save(file, embedding, allow_pickle=False)

    def remove_least_used_files(self, needed_prompts: set[str]) -> None:
        """Remove the least recently used files beyond `MAX_CACHE_BYTES`, except files of the needed prompts."""
        needed_paths = {self.find_embedding_path(prompt) for prompt in needed_prompts}
        files_with_status = []
        for path in (*self.directory.glob("*.npy"), *self.directory.glob(f"*{PARTIAL_SUFFIX}")):
            with suppress(FileNotFoundError):  # another worker may remove files at the same time
                files_with_status.append((path, path.stat()))
        total_bytes = sum(file_status.st_size for _, file_status in files_with_status)
        for path, file_status in sorted(files_with_status, key=lambda file_and_status: file_and_status[1].st_mtime):
            if total_bytes <= MAX_CACHE_BYTES:
                return
            if path not in needed_paths:
                path.unlink(missing_ok=True)
                total_bytes -= file_status.st_size
