"""Logs in batch folders, which a worker writes in addition to its own log."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

from wantui.storage.layout import BatchFolder
from wantui.storage.log_files import close_log, open_log
from wantui.storage.video_files import find_linked_folder


class BatchLogs:
    """The open logs of batch folders.

    Args:
        worker_log: log of the worker, which replaces a log that cannot be used.
    """

    def __init__(self, worker_log: logging.Logger) -> None:
        self.worker_log = worker_log
        self._open_logs: dict[str, logging.Logger] = {}
        """Open logs, by logger name."""

    @contextmanager
    def open(self, batch_number: int, folder: BatchFolder) -> Generator[logging.Logger]:
        """Yield the log of a batch folder, and close it at the end unless it was open before."""
        name = f"batch.{batch_number}"
        batch_log = self._open_logs.get(name)  # already open if the current video is of the same batch
        # Path.is_dir raises for an unreadable folder (EACCES, ESTALE); the outcome of the video reports that.
        opens_log = batch_log is None and os.path.isdir(folder.root)  # noqa: PTH112
        if opens_log and (link := find_linked_folder(folder.root, folder.log_path)) is not None:
            self.worker_log.warning("%s is a symbolic link; this worker's log replaces the batch log", link)
            opens_log = False
        if opens_log:
            batch_log = self._open_logs[name] = open_log(name, folder.log_path)
        try:
            yield batch_log or self.worker_log
        finally:
            if opens_log:
                close_log(self._open_logs.pop(name))
