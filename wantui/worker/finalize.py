"""Finalization of a video: a thread completes its files during the next video, then its entry is updated."""

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wantui.captures import CAPTURES
from wantui.generation.make_video import MadeVideo
from wantui.planning import Recipe
from wantui.planning.memory_plan import ChosenPlan
from wantui.queue.records import Claim
from wantui.storage.check import file_sha256
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, relative_files
from wantui.storage.manifest_store import ManifestStore
from wantui.storage.video_files import VideoFiles


@dataclass(frozen=True)
class PendingFinalization:
    """A video that the device has done its part of."""

    claim: Claim
    files: VideoFiles
    record: ManifestStore
    chosen: ChosenPlan
    predicted: float | None
    """Predicted seconds for the video."""
    device: str
    step_seconds: float | None
    """Median of a step."""
    began: float
    """Seconds of the monotonic clock."""
    files_done: "Future[MadeVideo]"

    def wait(self) -> MadeVideo:
        """Wait until the files are complete; return the finished video.

        Raises:
            Exception: they could not be written.
        """
        while True:
            with suppress(KeyboardInterrupt):  # meant for a step; the next step checks for requests
                return self.files_done.result()


@dataclass(frozen=True)
class Written:
    """The files of a finished video, as its entry holds them."""

    files: dict[str, str]
    sha256: dict[str, str]
    bytes: int


def measure(recipe: Recipe, folder: BatchFolder, files: VideoFiles) -> Written:
    """Read the files of a finished video for their checksums and sizes, which takes seconds where they are large."""
    paths = {"clip": files.clip, "sheet": files.sheet}
    for kind in CAPTURES:
        if kind.name in files.captures and recipe.capture.request(kind.name) is not None:
            paths[kind.file_key] = files.captures[kind.name]
    return Written(
        relative_files(folder, paths),
        {kind: file_sha256(path) for kind, path in paths.items() if path.is_file()},
        sum(_size(path) for path in paths.values()),
    )


def enter(entry: VideoEntry, ending: PendingFinalization, made: MadeVideo, written: Written) -> None:
    """Write the results of a video into its entry."""
    entry.state, entry.error = "done", None
    entry.files, entry.sha256, entry.bytes = written.files, written.sha256, written.bytes
    entry.seconds = {"denoise": round(made.denoise_seconds, 3), "decode": round(made.decode_seconds, 3)}
    if ending.step_seconds is not None:
        entry.seconds["step"] = round(ending.step_seconds, 4)
    entry.peak_memory = made.peak_memory
    entry.memory_plan = ending.chosen.plan.slug
    if ending.predicted is not None:
        entry.predicted["seconds"] = round(ending.predicted, 3)
    if ending.chosen.working_bytes is not None:
        entry.predicted["peak_memory"] = ending.chosen.working_bytes
    entry.latents_sha256 = made.latents_sha256


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return path.stat().st_size
