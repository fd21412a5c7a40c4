"""Find the files of LoRA adapters: packaged adapters by name, local files, and files in the hub cache."""

import difflib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wantui.checksums import compute_file_sha256
from wantui.errors import UserError
from wantui.file_state import FileState
from wantui.formatting import shorten_text
from wantui.models.nano import NANO_ADAPTERS_FOLDER
from wantui.paths import expand_user_path

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
"""Suffixes of files in Python's pickle format, which can run arbitrary code when they are loaded."""
HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")


class AdapterError(UserError):
    """Raised for an adapter that cannot be used; the message gives the reason and the remedy."""


class MissingAdapterError(AdapterError):
    """Raised for a path that does not exist.

    Args:
        path: the path.
        advice: what to give instead.
    """

    def __init__(self, path: Path, advice: str) -> None:
        super().__init__(f"{path} does not exist. {advice}")
        self.path = path


@dataclass(frozen=True)
class PackagedAdapter:
    """An adapter that wantui contains."""

    name: str
    path: Path
    model: str
    """Name of the model in the catalogue that the adapter is for."""
    description: str
    contains_guidance: bool = False
    """Whether the adapter was trained to predict guided velocities, so cfg_scale above 1 guides twice."""


PACKAGED_ADAPTERS = (
    PackagedAdapter(
        "nano-style",
        NANO_ADAPTERS_FOLDER / "nano-style.safetensors",
        "nano",
        "a style: the lower part of each object is white",
    ),
    PackagedAdapter(
        "nano-4step",
        NANO_ADAPTERS_FOLDER / "nano-4step.safetensors",
        "nano",
        "for sampler lcm, 4 steps and cfg_scale 1; generates clips in a fifth of the time",
        contains_guidance=True,
    ),
)
"""Adapters that `lora_settings` and `--lora` accept by name, and that `wantui models ls` lists."""


@dataclass(frozen=True)
class AdapterFile:
    """A file of an adapter on this machine, and the reference with which the file is found again."""

    local_path: Path
    reference: str
    """Name of a packaged adapter, hub id, or absolute path."""
    hub_file: str | None = None
    """Path of the file in the hub repository."""
    hub_revision: str | None = None
    """Commit of the hub repository."""


def find_packaged_adapter(name: str) -> PackagedAdapter | None:
    """Return the packaged adapter of a name, or None."""
    return next((adapter for adapter in PACKAGED_ADAPTERS if adapter.name == name), None)


def find_adapter_file(reference: str, hub_file: str | None = None, hub_revision: str | None = None) -> AdapterFile:
    """Find the file of an adapter; a hub file must be in the cache already.

    Args:
        reference: name of a packaged adapter, hub id (with `hub_file`), or path.
        hub_revision: commit, tag or branch of the hub repository.

    Raises:
        AdapterError: there is no such file, or it is not a regular file or in pickle format.
    """
    if hub_file is not None:
        return _find_hub_file(reference, hub_file, hub_revision)
    if hub_revision is not None:
        raise AdapterError("revision is for files of the hub: set `file` too, or remove revision")
    if (packaged := find_packaged_adapter(reference)) is not None:
        return AdapterFile(packaged.path, packaged.name)
    try:
        path = Path(os.path.abspath(expand_user_path(reference)))  # noqa: PTH100 -- keeps the name of a symbolic link
    except UserError as error:
        raise AdapterError(str(error)) from None
    check_adapter_path(path, reference)
    return AdapterFile(path, str(path))


def check_adapter_path(path: Path, reference: str = "") -> None:
    """Reject a path that is not a regular file, or that is in pickle format.

    Args:
        reference: text from which the path was made.

    Raises:
        AdapterError: see above.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise AdapterError(
            f"{path} is a pickle file, which can run arbitrary code when it is loaded. Use a .safetensors file of the "
            "adapter"
        )
    if path.is_dir():
        raise AdapterError(f"{path} is a folder. Give the path of a .safetensors file in it")
    if os.path.lexists(path) and not path.is_file():
        raise AdapterError(f"{path} is not a regular file")
    if not path.is_file():
        raise MissingAdapterError(path, _suggest_reference(reference))


def _suggest_reference(reference: str) -> str:
    file_name, separator, _ = reference.rpartition(":")
    if separator and os.path.isfile(file_name):  # noqa: PTH113 -- Path.is_file raises for a name that is too long
        return f"{file_name} exists, but the text after the last colon is not a number. Write the strength there"
    names = [adapter.name for adapter in PACKAGED_ADAPTERS]
    if separator and file_name in names:
        return f"The text after the last colon is not a number. Write the strength there, as in {file_name}:0.5"
    if close_names := difflib.get_close_matches(reference, names, n=1):
        return f"Did you mean the packaged adapter {close_names[0]}?"
    packaged_text = f" or a packaged adapter ({', '.join(names)})"
    hub_text = (
        f"; for a file of the hub repository {reference}, set `file` to its name in the repository"
        if HUB_ID_PATTERN.fullmatch(reference)
        else ""
    )
    return f"Give the path of a .safetensors file{packaged_text}{hub_text}"


def _find_hub_file(hub_id: str, hub_file: str, revision: str | None) -> AdapterFile:
    """Return a file of a hub repository that is in the cache, with its commit.

    Raises:
        AdapterError: the id is not valid, or the file is not in the cache.
    """
    from huggingface_hub import try_to_load_from_cache

    if not HUB_ID_PATTERN.fullmatch(hub_id):
        raise AdapterError(
            f"{shorten_text(hub_id)} is not a hub id (owner/name). `file` is for hub repositories only; for a local "
            "file, give its whole path as `path`"
        )
    check_hub_file_name(hub_file)
    try:
        cached_path = try_to_load_from_cache(hub_id, hub_file, revision=revision)
    except ValueError as error:  # of a name that the hub does not allow
        raise AdapterError(f"{shorten_text(hub_id)}: {str(error).splitlines()[0]}") from None
    if not isinstance(cached_path, str):
        revision_option = f" --revision {revision}" if revision else ""
        raise AdapterError(
            f"{hub_file} of {hub_id} is not on this machine. Download it: hf download {hub_id} {hub_file}"
            f"{revision_option}"
        )
    folder_names = Path(cached_path).parts
    commit = next((name for name in reversed(folder_names) if _COMMIT_PATTERN.fullmatch(name)), revision)
    check_adapter_path(Path(cached_path))
    return AdapterFile(Path(cached_path), hub_id, hub_file, commit)


def check_hub_file_name(hub_file: str) -> None:
    """Reject the name of a hub file that leads out of its repository, or is in pickle format.

    Raises:
        AdapterError: see above.
    """
    if not hub_file.strip() or Path(hub_file).is_absolute() or ".." in Path(hub_file).parts:
        raise AdapterError(f"file {shorten_text(repr(hub_file))} is not the name of a file in a hub repository")
    if Path(hub_file).suffix.lower() in PICKLE_SUFFIXES:
        raise AdapterError(
            f"{hub_file} is a pickle file, which can run arbitrary code when it is loaded. Choose a .safetensors file"
        )


def hash_adapter_file(path: Path) -> str:
    """Return the SHA-256 of a file, cached until the file changes.

    Raises:
        OSError: the file cannot be read.
    """
    return _hash_file(path, FileState.from_path(path))


@lru_cache(maxsize=64)
def _hash_file(path: Path, _: FileState) -> str:
    return compute_file_sha256(path)
