"""A zarr store that verifies the checksum of each file when it is read. Imports zarr, which is slow: import it late."""

import errno
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from wantui.json_files import read_regular_file

MAX_CHUNK_BYTES = 1 << 40


class VerifiedStore(LocalStore):
    """Read-only store of the files in a folder, with verification.

    Args:
        checksums: CRC-32 of each file by path relative to the folder; None if the group has no checksums.
        on_mismatch: returns the error to raise for a file whose checksum differs.
    """

    def __init__(
        self, root: Path, checksums: Mapping[str, int] | None, on_mismatch: Callable[[Path], Exception]
    ) -> None:
        super().__init__(root, read_only=True)
        self.checksums, self.on_mismatch = checksums, on_mismatch

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        return self._verify_and_slice(key, await super().get(key, prototype, byte_range), byte_range)

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        return self._verify_and_slice(
            key, super().get_sync(key, prototype=prototype, byte_range=byte_range), byte_range
        )

    def _verify_and_slice(self, key: str, buffer: Any, byte_range: Any) -> Any:
        if (
            buffer is None and self.checksums is not None and key in self.checksums
        ):  # zarr would read a missing chunk as zeros
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root / key))
        if byte_range is not None:  # only the complete file of a shard can be verified
            self.verify(key, read_regular_file(self.root / key, MAX_CHUNK_BYTES))
        elif buffer is not None and not key.endswith("zarr.json"):  # metadata are verified when the group is opened
            self.verify(key, buffer.as_numpy_array())
        return buffer

    def verify(self, key: str, content: Any) -> None:
        """Compare the bytes of a file with its checksum; a file without checksum is foreign, and fails."""
        if self.checksums is not None and zlib.crc32(content) != self.checksums.get(key):
            raise self.on_mismatch(self.root / key)
