"""Fold the journals of ended batches into their batch.json, for programs that do not read the journal."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest_store import ManifestStore


def start_folding_journals(folders: Sequence[Path], log: logging.Logger) -> threading.Thread:
    """Fold the journal of each of these batch folders whose videos have all ended; return the thread.

    Folding takes seconds for a large manifest, and waits for other processes that write it.
    """
    thread = threading.Thread(target=_fold_journals, args=(folders, log), name="journal", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the system starts no more threads
        log.warning("cannot fold journals into their manifests: %s", error)
    return thread


def _fold_journals(folders: Sequence[Path], log: logging.Logger) -> None:
    for folder in folders:
        try:
            ManifestStore(BatchFolder(folder)).fold_journal_of_ended_batch()
        except (OSError, UserError) as error:
            log.warning("cannot fold the journal of %s into its manifest: %s", folder, error)
