"""The batch folders on a machine: the archive, whatever the queue knows of them."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wantui.errors import UserError
from wantui.storage.layout import BatchFolder


@dataclass(frozen=True)
class FoundBatch:
    """A batch folder in a few words, as its manifest has it."""

    folder: Path
    created: str
    """ISO 8601, UTC; empty where the manifest cannot be read."""
    template: str
    model: str
    counts: tuple[tuple[str, int], ...]
    """Number of videos in each state that occurs."""
    fault: str = ""
    """Why the manifest cannot be read."""

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)

    def count(self, state: str) -> int:
        return dict(self.counts).get(state, 0)

    def holds(self, words: str) -> bool:
        """Whether each word is somewhere in its name, template or model."""
        text = f"{self.folder.name} {self.template} {self.model} {self.created}".lower()
        return all(word in text for word in words.lower().split())


def find_batches(roots: Iterable[Path]) -> list[FoundBatch]:
    """All batches in these folders, and those that are such folders themselves; newest first."""
    found: dict[Path, FoundBatch] = {}
    for root in roots:
        for folder in _batch_folders(root.resolve()):
            manifest = BatchFolder(folder).manifest
            try:
                changed = manifest.stat().st_mtime_ns
            except OSError:
                continue
            found[folder] = _summary(folder, changed)
    return sorted(found.values(), key=lambda batch: (batch.created, batch.folder.name), reverse=True)


def _batch_folders(root: Path) -> list[Path]:
    if os.access(root / "batch.json", os.F_OK):
        return [root]
    try:
        with os.scandir(root) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return [folder for folder in folders if os.access(folder / "batch.json", os.F_OK)]


@lru_cache(maxsize=4096)
def _summary(folder: Path, changed: int) -> FoundBatch:
    """Of a manifest as it was at a time; read without its recipes being checked."""
    try:
        read = json.loads(BatchFolder(folder).manifest.read_text(encoding="utf-8"))
        states = [str(video["state"]) for video in read["videos"]]
        counts = tuple((state, states.count(state)) for state in dict.fromkeys(states))
        model = str(read["videos"][0]["recipe"]["model"])
        return FoundBatch(folder, str(read["created"]), str(read["template"]), model, counts)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return FoundBatch(folder, "", "", "", (), f"batch.json cannot be read: {error!r}")


def move_to_trash(folder: Path) -> None:
    """Move a batch folder to the trash of its file system.

    Raises:
        UserError: it is no batch folder, or there is no trash for it; the folder is then as it was.
    """
    from send2trash import TrashPermissionError, send2trash

    if not (folder / "batch.json").is_file():
        raise UserError(f"{folder} is not a batch folder: it has no batch.json")
    try:
        send2trash(str(folder))
    except (OSError, TrashPermissionError) as error:
        raise UserError(f"{folder} cannot be moved to the trash: {error}") from None
