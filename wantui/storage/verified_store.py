"""A zarr store that verifies the checksum of each file when it is read. Imports zarr, which is slow: import it late."""

import errno
import os
import stat
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from wantui.json_files import read_regular_file
from wantui.storage.zarr_import import FILTER_LOCK

MAX_CHUNK_BYTES = 1 << 40
MAX_INLINE_BYTES = 1 << 20
"""Maximum size of a file that is read in the thread of zarr's event loop: passing it to another thread, as zarr does,
takes longer than reading it. Larger files are read by several threads at a time."""


class VerifiedStore(LocalStore):
    """Read-only store of the files in a folder, with verification.

    Args:
        crcs_by_path: CRC-32 of each file by path relative to the folder; None if the group has no checksums.
        make_mismatch_error: returns the error to raise for a file whose checksum differs.
    """

    def __init__(
        self, root: Path, crcs_by_path: Mapping[str, int] | None, make_mismatch_error: Callable[[Path], Exception]
    ) -> None:
        super().__init__(root, read_only=True)
        self.crcs_by_path, self.make_mismatch_error = crcs_by_path, make_mismatch_error

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        if byte_range is None and prototype is not None and self._is_small_file(key):
            try:
                content = (self.root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # removed or replaced meanwhile
                return self._verify_buffer(key, None, byte_range)
            return self._verify_buffer(key, prototype.buffer.from_bytes(content), byte_range)
        return self._verify_buffer(key, await super().get(key, prototype, byte_range), byte_range)

    def _is_small_file(self, key: str) -> bool:
        try:
            status = (self.root / key).stat()
        except OSError:  # raised, or taken for a missing file, by zarr
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_INLINE_BYTES

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        return self._verify_buffer(key, super().get_sync(key, prototype=prototype, byte_range=byte_range), byte_range)

    def _verify_buffer(self, key: str, buffer: Any, byte_range: Any) -> Any:
        if (
            buffer is None and self.crcs_by_path is not None and key in self.crcs_by_path
        ):  # zarr would read a missing chunk as zeros
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root / key))
        if byte_range is not None:  # only the complete file of a shard can be verified
            self.verify_file(key, read_regular_file(self.root / key, MAX_CHUNK_BYTES))
        elif buffer is not None and not key.endswith("zarr.json"):  # metadata are verified when the group is opened
            self.verify_file(key, buffer.as_numpy_array())
        return buffer

    def verify_file(self, key: str, file_bytes: Any) -> None:
        """Compare the bytes of a file with its checksum.

        A file without a checksum fails, because wantui did not write it.
        """
        if self.crcs_by_path is not None and zlib.crc32(file_bytes) != self.crcs_by_path.get(key):
            raise self.make_mismatch_error(self.root / key)


def list_members(group: Any) -> dict[str, Any]:
    """Return all groups and arrays at any depth inside a zarr group, by name.

    Members with damaged metadata are left out without zarr's warning: `open_capture` names their files.
    """
    with FILTER_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component of a Zarr hierarchy")
        return dict(group.members(max_depth=None))
