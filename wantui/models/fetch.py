"""Fetch the weights of a hub model: what is missing, whether there is room, and go on with a broken download."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import format_bytes
from wantui.models.catalogue import WanModel

PARTS = [
    "model_index.json",
    *(f"{part}/*" for part in ("scheduler", "text_encoder", "tokenizer", "transformer", "transformer_2", "vae")),
]
"""What a pipeline is made of; pictures and other formats in the repository are left there."""
SPARE_BYTES = 1_000_000_000


class NotFetched(UserError):
    """Weights that cannot be fetched; what was fetched before stays."""


@dataclass(frozen=True)
class Missing:
    """What is not in the cache yet."""

    files: int
    bytes: int


def look(model: WanModel, revision: str | None = None) -> Missing:
    """What a download would have to bring.

    Raises:
        NotFetched: the hub cannot be reached, or has no such model or revision.
    """
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(model.location, revision=revision, allow_patterns=PARTS, dry_run=True)
    except Exception as error:  # of the hub's client, of what it sends requests with, and of the system
        raise _refused(model, revision, error) from None
    wanted = [file for file in files if file.will_download]
    return Missing(len(wanted), sum(file.file_size or 0 for file in wanted))


def fetch(model: WanModel, revision: str | None = None) -> Path:
    """Bring what is missing into the hub's cache; files that were broken off are gone on with.

    Raises:
        NotFetched: there is no room, or the network fails; another call goes on from there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    missing = look(model, revision)
    place = Path(HF_HUB_CACHE)
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if missing.bytes + SPARE_BYTES > free:
        raise NotFetched(
            f"{model.name} needs {format_bytes(missing.bytes)} more, and {format_bytes(free)} are free in {place}; "
            "make room, or set HF_HOME to a folder on another disk"
        )
    try:
        return Path(snapshot_download(model.location, revision=revision, allow_patterns=PARTS))
    except Exception as error:
        raise _refused(model, revision, error) from None


def _refused(model: WanModel, revision: str | None, error: Exception) -> NotFetched:
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
            said = str(error).strip().splitlines()
            reason = said[0].rstrip(".") if said else type(error).__name__
            why = f"{reason}. What was fetched stays; call it again to go on"
    return NotFetched(f"{model.location} cannot be fetched: {why}")
