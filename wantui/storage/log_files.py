"""Log files: one of the engine, one of each worker, one in each batch folder; rotated at ten megabytes."""

import logging
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

MEGABYTES, KEPT = 10, 3
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def open_log(name: str, path: Path) -> logging.Logger:
    """Return a logger that writes to one file and nowhere else, or nowhere if the file cannot be written."""
    logger = logging.getLogger(f"wantui.{name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    close_log(logger)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_fifo():  # somebody else's, in a folder that is shared
            path.unlink()
        handler: logging.Handler = RotatingFileHandler(
            path,
            maxBytes=MEGABYTES * 1_000_000,
            backupCount=KEPT,
            encoding="utf-8",
            errors="backslashreplace",  # a line that names a path that is not UTF-8 would be lost
        )
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk must not stop a video
    logger.addHandler(handler)
    return logger


def close_log(logger: logging.Logger) -> None:
    """Close the file of a logger; output that can no longer be written is lost."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk, which the last line met already, must not end a worker
            handler.close()
