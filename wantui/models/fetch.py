"""Fetch the weights of a hub model: determine missing files, check disk space, and resume interrupted downloads."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import format_bytes
from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import snapshot_in_cache
from wantui.models.parts import INDEX, PART_NAMES, PartError, check_files

FETCH_PATTERNS = [INDEX, *(f"{part}/*" for part in PART_NAMES)]
"""Files of a pipeline; pictures and other formats in the repository are not fetched."""
RESERVE_BYTES = 1_000_000_000


class NotFetchedError(UserError):
    """Weights that cannot be fetched; what was fetched before stays."""


@dataclass(frozen=True)
class Missing:
    """Files that are not in the cache yet."""

    files: int
    bytes: int


def replaced_parts(transformer_file: object | None) -> tuple[str, ...]:
    """Return the parts of a model that a transformer file replaces, if there is one."""
    return () if transformer_file is None else ("transformer",)


def _patterns(replaced: Collection[str]) -> list[str]:
    """Return patterns of the files to fetch; of replaced parts only configs, which describe the replacement."""
    return [
        pattern if (part := pattern.partition("/")[0]) not in replaced else f"{part}/*config.json"
        for pattern in FETCH_PATTERNS
    ]


def dry_run(model: WanModel, revision: str | None = None, replaced: Collection[str] = ()) -> Missing:
    """Return the files that a download would fetch.

    Args:
        replaced: parts whose weights come from elsewhere, and are not fetched.

    Raises:
        NotFetchedError: the hub cannot be reached, or has no such model or revision.
    """
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(model.location, revision=revision, allow_patterns=_patterns(replaced), dry_run=True)
    except Exception as error:  # of the hub's client, of what it sends requests with, and of the system
        raise _refused(model, revision, error) from None
    wanted = [file for file in files if file.will_download]
    return Missing(len(wanted), sum(file.file_size or 0 for file in wanted))


def fetch(model: WanModel, revision: str | None = None, replaced: Collection[str] = ()) -> Path:
    """Download missing files into the hub's cache; interrupted downloads are resumed.

    Args:
        replaced: parts whose weights come from elsewhere, and are not fetched.

    Raises:
        NotFetchedError: there is no room, or the network fails; another call resumes the download.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    missing = dry_run(model, revision, replaced)
    folder = Path(HF_HUB_CACHE)
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if missing.bytes + RESERVE_BYTES > free:
        raise NotFetchedError(
            f"{model.name} needs {format_bytes(missing.bytes)} more, and {format_bytes(free)} are free in {folder}; "
            "make room, or set HF_HOME to a folder on another disk"
        )
    try:
        return Path(snapshot_download(model.location, revision=revision, allow_patterns=_patterns(replaced)))
    except Exception as error:
        raise _refused(model, revision, error) from None


def find_folder(
    model: WanModel,
    revision: str | None,
    without: Collection[str] = (),
    *,
    replaced: Collection[str] = (),
    may_fetch: bool = True,
) -> Path:
    """Return the folder of a model with every file that it is loaded from; missing files of hub models are downloaded.

    A complete copy in the cache needs no network: the hub is asked only where something is missing.

    Args:
        without: parts that need not be complete.
        replaced: parts whose weights come from elsewhere, and are not fetched.

    Raises:
        PartError: a file is missing in a local folder, or at the hub.
        NotFetchedError: a file is missing in the cache, and cannot or may not be fetched.
    """
    if model.is_local:
        check_files(Path(model.location), without)
        return Path(model.location)
    folder = snapshot_in_cache(model.location, revision)
    missing = "none of its files is here"
    if folder is not None:
        try:
            check_files(folder, without)
            return folder
        except PartError as error:
            missing = str(error)
    if not may_fetch:
        raise NotFetchedError(f"{missing}. `wantui models fetch {model.name}` fetches them")
    try:
        folder = fetch(model, revision, replaced)
    except NotFetchedError as error:
        raise NotFetchedError(f"{missing}; {error}") from error
    check_files(folder, without)
    return folder


def _refused(model: WanModel, revision: str | None, error: Exception) -> NotFetchedError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    known = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, known):  # the client wraps them in errors of its own
        cause = cause.__cause__ or cause.__context__
    match cause:
        case GatedRepoError():
            why = "its owner must grant access first: ask on its page, then `hf auth login`"
        case RepositoryNotFoundError():
            why = "the hub has no such model (or it is private: `hf auth login`)"
        case RevisionNotFoundError():
            why = f"it has no revision {revision!r}"
        case _:
            message_lines = str(error).strip().splitlines()
            # What is missing is asked for by a dry run, which nobody else needs to know.
            reason = (
                message_lines[0].removeprefix("Dry run cannot be performed as ").rstrip(".")
                if message_lines
                else type(error).__name__
            )
            why = f"{reason}. What was fetched stays; run the command again to resume"
    return NotFetchedError(f"{model.location} cannot be fetched: {why}")
