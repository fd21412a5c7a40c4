"""A zarr store in a batch folder that does not recreate the folder if it is deleted while arrays are written."""

import errno
import os
from typing import Any

from zarr.storage import LocalStore


class BatchFolderStore(LocalStore):
    """A local store that never creates its parent folders; zarr's own store creates them with every chunk."""

    async def _set(self, key: str, value: Any, exclusive: bool = False) -> None:
        if not self.root.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root.parent))
        await super()._set(key, value, exclusive)
