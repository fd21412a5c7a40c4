"""Log files of the engine, of each worker and of each batch, rotated at ten megabytes."""

import logging
import os
import stat
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_LOG_MEGABYTES, BACKUP_COUNT = 10, 3
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


class _SharedLogHandler(RotatingFileHandler):
    """Handler of a log into which several processes write: one of them rotates it, and the others follow."""

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 - the name in the base class
        """Return whether the record does not fit; first open the current file if another process rotated the log."""
        try:
            current_status = os.lstat(self.baseFilename)
        except FileNotFoundError:  # the log was removed, or another process is rotating it
            with suppress(OSError):  # its folder was removed too
                self._reopen()
            return False
        stream = self.stream
        if stream is not None and not os.path.samestat(os.fstat(stream.fileno()), current_status):
            if not stat.S_ISREG(current_status.st_mode):  # another user may have put it into a shared folder
                return False
            self._reopen()
        return bool(super().shouldRollover(record))

    def _reopen(self) -> None:
        """Open the file at the path instead of the open one."""
        stream, self.stream = self.stream, self._open()
        if stream is not None:
            stream.close()


def open_log(name: str, path: Path) -> logging.Logger:
    """Return a logger that writes only to one file; it discards all records if the file cannot be opened."""
    logger = logging.getLogger(f"wantui.{name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    close_log(logger)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_fifo():  # another user may have put it into a shared folder
            path.unlink()
        handler: logging.Handler = _SharedLogHandler(
            path,
            maxBytes=MAX_LOG_MEGABYTES * 1_000_000,
            backupCount=BACKUP_COUNT,
            encoding="utf-8",
            errors="backslashreplace",  # otherwise a record with a path that is not UTF-8 would be lost
        )
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk must not stop a video
    logger.addHandler(handler)
    return logger


def close_log(logger: logging.Logger) -> None:
    """Close the log file of a logger; buffered output that cannot be written is lost."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk must not end a worker
            handler.close()
