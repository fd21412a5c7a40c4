"""Import zarr, and start the thread in which it reads and writes."""

import warnings
from functools import cache
from threading import Lock
from types import ModuleType

FILTER_LOCK = Lock()
"""Lock for the warning filters, which all threads share."""


@cache
def import_zarr() -> ModuleType:
    """Import zarr and start its thread.

    Raises:
        RuntimeError: the system starts no more threads.
    """
    import zarr
    import zarr.core.sync as zarr_sync

    reason = ""
    with FILTER_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
        try:
            zarr.open_group({}, mode="w")
        except RuntimeError as error:
            reason = str(error)
    if reason:
        # Otherwise zarr would take the thread for started, and wait for it forever at the next call.
        zarr_sync.loop[0] = zarr_sync.iothread[0] = None
        raise RuntimeError(reason)
    return zarr
