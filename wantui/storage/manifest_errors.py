"""Errors about the manifest of a batch folder: it is missing, damaged or of an unsupported format."""

import os
from pathlib import Path
from typing import Any

from wantui import __version__
from wantui.errors import UserError
from wantui.json_files import UnreadableFileError, is_refused_by_system

READABLE_MANIFEST_FORMATS = (1, 2, 3, 4)
REPAIR_ADVICE = (
    "Restore batch.json from a backup. Without one, the clips in videos/ can still be played, and the config and the "
    "template in configs/ generate the batch again"
)
"""Advice for a batch.json with damaged content."""


class ManifestError(UserError):
    """Raised for a batch folder whose batch.json is missing, damaged or of an unsupported format."""


def explain_missing_manifest(folder: Path, missing_files: str = "no batch.json") -> str:
    """Return why a path without batch.json is not a batch folder.

    Args:
        missing_files: what an existing folder lacks.
    """
    if os.path.isdir(folder):  # noqa: PTH112 - never raises
        return f"it has {missing_files}"
    is_file = os.path.exists(folder)  # noqa: PTH110 - never raises
    return "it is a file. Give the folder that contains batch.json" if is_file else "it does not exist"


def describe_other_folder(folder: Path, missing_files: str = "no batch.json") -> str:
    """Return the message about a path that is not a batch folder; see `explain_missing_manifest`."""
    return f"{folder} is not a batch folder: {explain_missing_manifest(folder, missing_files)}"


def make_damaged_manifest_error(path: Path, reason: str) -> ManifestError:
    """Return the error for a batch.json with damaged content, with what the user can do."""
    return ManifestError(f"{path} is damaged: {reason}. {REPAIR_ADVICE}")


def make_unreadable_manifest_error(error: UnreadableFileError) -> ManifestError:
    """Return the error for a batch.json that is not JSON, or that the system refuses to read."""
    return ManifestError(str(error) if is_refused_by_system(error) else f"{error}. {REPAIR_ADVICE}")


def check_manifest_format(path: Path, document: dict[str, Any]) -> None:
    """Reject a manifest of an unsupported format.

    Raises:
        ManifestError: names the format and the version that wrote it.
    """
    format_number = document.get("format")
    if type(format_number) is not int:
        raise make_damaged_manifest_error(path, f"its format is {format_number!r}; it must be a number")
    if format_number not in READABLE_MANIFEST_FORMATS:
        writer_name = f"wantui {document['wantui']}" if isinstance(document.get("wantui"), str) else "another wantui"
        raise ManifestError(
            f"cannot read {path}: it was written by {writer_name} with format {format_number}; wantui {__version__} "
            f"reads {', '.join(map(str, READABLE_MANIFEST_FORMATS))}. Update wantui"
        )


def describe_writer(document: dict[str, Any]) -> str:
    """Return a remark on the version that wrote a manifest, if it is another one."""
    writer_version = document.get("wantui")
    if not isinstance(writer_version, str) or writer_version in ("", __version__):
        return ""
    return f" (it was written by wantui {writer_version}; this is {__version__})"
