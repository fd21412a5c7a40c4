"""Make the videos of a batch, one after another, in this process; a failed video does not stop the others."""

import errno
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.errors import UserError
from wantui.generation.denoise import Step
from wantui.generation.load import LoadError, load_pipeline, resolve_device
from wantui.generation.make_video import MadeVideo, VideoFiles, make_video
from wantui.models.catalogue import find_model
from wantui.models.fingerprint import fingerprint
from wantui.planning import Recipe
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, State, VideoEntry, relative_files, write_manifest

if TYPE_CHECKING:
    from diffusers import WanPipeline


@dataclass(frozen=True)
class Loading:
    """The pipeline is about to be loaded."""

    model: str


@dataclass(frozen=True)
class VideoStarted:
    """A video is about to be made; `position` counts from 1 among the `total` that are missing."""

    video: VideoEntry
    position: int
    total: int


@dataclass(frozen=True)
class StepDone:
    """One denoising step is done."""

    video: VideoEntry
    index: int
    count: int
    seconds: float
    sigma: float


@dataclass(frozen=True)
class VideoDone:
    """A video and its manifest entry are on disk."""

    video: VideoEntry


@dataclass(frozen=True)
class VideoFailed:
    """A video could not be made; `video.error` says why."""

    video: VideoEntry


Event = Loading | VideoStarted | StepDone | VideoDone | VideoFailed


class CannotWrite(UserError):
    """The batch folder cannot be written any more; what is done stays done."""

    exit_code = 1


class DiskFull(CannotWrite):
    """No room is left where the batch is written."""


def load_for(recipe: Recipe, device: str = "auto") -> "WanPipeline":
    """The pipeline that makes this recipe's video."""
    return load_pipeline(find_model(recipe.model), recipe.revision, recipe.dtype, resolve_device(device))


def check_weights(recipe: Recipe) -> None:
    """Refuse to go on with other weights than the recipe names.

    Raises:
        LoadError: the files of a local model have changed since the recipe was written.
    """
    model = find_model(recipe.model)
    if model.is_local and (found := fingerprint(Path(model.location))) != recipe.revision:
        raise LoadError(
            f"the weights in {model.location} have changed since this batch was planned "
            f"(fingerprint {found[:12]}, planned {str(recipe.revision)[:12]}); plan a new batch"
        )


def missing_videos(folder: BatchFolder, manifest: Manifest) -> list[VideoEntry]:
    """The videos that are not done or whose files are gone, in order."""
    return [
        video
        for video in manifest.videos
        if video.state != "done" or not all((folder.root / path).exists() for path in video.files.values())
    ]


def run_batch(folder: BatchFolder, manifest: Manifest, device: str = "auto") -> Generator[Event]:
    """Make what is missing of a batch and keep its manifest true; yields what happens.

    Raises:
        NotLoaded: the pipeline cannot be loaded. Nothing was made.
        CannotWrite: the folder cannot be written any more, as when the disk is full. What is done stays done.
    """
    missing = missing_videos(folder, manifest)
    if not missing:
        return
    yield Loading(missing[0].recipe.model)
    check_weights(missing[0].recipe)
    pipeline = load_for(missing[0].recipe, device)
    for position, video in enumerate(missing, start=1):
        yield VideoStarted(video, position, len(missing))
        _record(folder, manifest, video, "running")
        try:
            for event in make_video(pipeline, video.recipe, _files(folder, video)):
                if isinstance(event, Step):
                    yield StepDone(video, event.index, event.count, event.seconds, event.sigma)
                else:
                    _record_done(folder, video, event)
        except (KeyboardInterrupt, GeneratorExit):
            _record_if_possible(folder, manifest, video, "interrupted")
            raise
        except Exception as error:  # whatever it is, it is this video's, and the others may be well
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                video.error = "the disk was full"
                _record_if_possible(folder, manifest, video, "interrupted")
                raise _disk_full(folder) from error
            video.error = f"{type(error).__name__}: {error}"
            _record(folder, manifest, video, "failed")
            yield VideoFailed(video)
            continue
        _record(folder, manifest, video, "done")
        yield VideoDone(video)


def _files(folder: BatchFolder, video: VideoEntry) -> VideoFiles:
    place = video.variation, video.number
    return VideoFiles(folder.clip(*place), folder.sheet(*place), folder.latents(*place))


def _record(folder: BatchFolder, manifest: Manifest, video: VideoEntry, state: State) -> None:
    video.state = state
    try:
        write_manifest(folder, manifest)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(folder) from error
        raise CannotWrite(f"{folder.manifest} cannot be written: {error.strerror or error}") from error


def _record_if_possible(folder: BatchFolder, manifest: Manifest, video: VideoEntry, state: State) -> None:
    """On a full disk the last manifest may have to stay as it is: it calls the video running, which is not done."""
    try:
        _record(folder, manifest, video, state)
    except CannotWrite:
        pass


def _disk_full(folder: BatchFolder) -> DiskFull:
    return DiskFull(f"no room is left in {folder.root} ({shutil.disk_usage(folder.root).free / 1e6:.0f} MB free)")


def _record_done(folder: BatchFolder, video: VideoEntry, made: MadeVideo) -> None:
    files = _files(folder, video)
    paths = {"clip": files.clip, "sheet": files.sheet}
    if video.recipe.capture.latents:
        paths["latents"] = files.latents
    video.files = relative_files(folder, paths)
    video.seconds = {"denoise": round(made.denoise_seconds, 3), "decode": round(made.decode_seconds, 3)}
    video.peak_memory = made.peak_memory
    video.bytes = sum(_size(path) for path in paths.values())
    video.latents_sha256 = made.latents_sha256
    video.error = None


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return path.stat().st_size
