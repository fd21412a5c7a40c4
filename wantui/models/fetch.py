"""Fetch the weights of a hub model: find missing files, check disk space, resume interrupted downloads."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import format_bytes
from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import find_snapshot_folder
from wantui.models.parts import INDEX_FILE, PART_NAMES, PartError, check_model_files

FETCH_PATTERNS = [INDEX_FILE, *(f"{part}/*" for part in PART_NAMES)]
"""Patterns of the pipeline files in a repository; images and weights in other formats are not fetched."""
RESERVE_BYTES = 1_000_000_000
"""Disk space that must stay free after a download."""


class NotFetchedError(UserError):
    """Raised if weights cannot be fetched; files that were already fetched are kept."""


@dataclass(frozen=True)
class MissingFiles:
    """Number and total size of the files that are not in the cache yet."""

    file_count: int
    total_bytes: int


def find_replaced_parts(transformer_file: object | None) -> tuple[str, ...]:
    """Return the model parts that a transformer file replaces; no parts without such a file."""
    return () if transformer_file is None else ("transformer",)


def _list_fetch_patterns(replaced_parts: Collection[str]) -> list[str]:
    """Return the patterns of the files to fetch.

    Of replaced parts, only configs are fetched, which describe the replacement.
    """
    return [
        pattern if (part := pattern.partition("/")[0]) not in replaced_parts else f"{part}/*config.json"
        for pattern in FETCH_PATTERNS
    ]


def find_missing_files(
    model: WanModel, revision: str | None = None, replaced_parts: Collection[str] = ()
) -> MissingFiles:
    """Ask the hub for the files that a download would fetch.

    Args:
        replaced_parts: parts with weights from another file, which are not fetched.

    Raises:
        NotFetchedError: the hub cannot be reached, or has no such model or revision.
    """
    from huggingface_hub import snapshot_download

    try:
        hub_files = snapshot_download(
            model.location, revision=revision, allow_patterns=_list_fetch_patterns(replaced_parts), dry_run=True
        )
    except Exception as error:  # the client, its HTTP library and the system raise unrelated types
        raise _make_fetch_error(model, revision, error) from None
    missing_files = [file for file in hub_files if file.will_download]
    return MissingFiles(len(missing_files), sum(file.file_size or 0 for file in missing_files))


def fetch_model(model: WanModel, revision: str | None = None, replaced_parts: Collection[str] = ()) -> Path:
    """Download missing files into the hub cache, resume interrupted downloads, and return the model folder.

    Args:
        replaced_parts: parts with weights from another file, which are not fetched.

    Raises:
        NotFetchedError: there is not enough disk space, or the download fails; another call resumes it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    missing_files = find_missing_files(model, revision, replaced_parts)
    folder = Path(HF_HUB_CACHE)
    while not folder.is_dir():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if missing_files.total_bytes + RESERVE_BYTES > free_bytes:
        raise NotFetchedError(
            f"cannot fetch {model.name}: it needs {format_bytes(missing_files.total_bytes)} more, and "
            f"{format_bytes(free_bytes)} are "
            f"free in {folder}. Free disk space, or set HF_HOME to a folder on another disk"
        )
    try:
        return Path(
            snapshot_download(model.location, revision=revision, allow_patterns=_list_fetch_patterns(replaced_parts))
        )
    except Exception as error:
        raise _make_fetch_error(model, revision, error) from None


def ensure_model_folder(
    model: WanModel,
    revision: str | None,
    ignored_parts: Collection[str] = (),
    *,
    replaced_parts: Collection[str] = (),
    may_fetch: bool = True,
) -> Path:
    """Return the folder of a model with all files that loading needs; download missing files of hub models.

    The hub is not contacted if the cache is complete.

    Args:
        ignored_parts: parts that may be incomplete.
        replaced_parts: parts with weights from another file, which are not fetched.

    Raises:
        PartError: a file is missing in a local folder, or on the hub.
        NotFetchedError: a file is missing in the cache, and cannot or may not be fetched.
    """
    if model.is_local:
        check_model_files(Path(model.location), ignored_parts)
        return Path(model.location)
    folder = find_snapshot_folder(model.location, revision)
    reason = f"no file of {model.name} is on this machine"
    if folder is not None:
        try:
            check_model_files(folder, ignored_parts)
            return folder
        except PartError as error:
            reason = str(error)
    if not may_fetch:
        raise NotFetchedError(f"{reason}. Fetch the model: wantui models fetch {model.name}")
    try:
        folder = fetch_model(model, revision, replaced_parts)
    except NotFetchedError as error:
        raise NotFetchedError(f"{reason}; {error}") from error
    check_model_files(folder, ignored_parts)
    return folder


def _make_fetch_error(model: WanModel, revision: str | None, error: Exception) -> NotFetchedError:
    """Return the error for an exception of the hub client."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    hub_errors = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, hub_errors):  # the client may wrap them
        cause = cause.__cause__ or cause.__context__
    match cause:
        case GatedRepoError():
            reason = "its owner must grant access. Request access on its page, then run: hf auth login"
        case RepositoryNotFoundError():
            reason = "the hub has no such model, or it is private. For a private one, run: hf auth login"
        case RevisionNotFoundError():
            reason = f"it has no revision {revision!r}"
        case _:
            message_lines = str(error).strip().splitlines()
            # `find_missing_files` makes a dry run, which means nothing to the user.
            cause_text = (
                message_lines[0].removeprefix("Dry run cannot be performed as ").rstrip(".")
                if message_lines
                else type(error).__name__
            )
            reason = f"{cause_text}. Run the command again to resume: fetched files are kept"
    return NotFetchedError(f"cannot fetch {model.location}: {reason}")
