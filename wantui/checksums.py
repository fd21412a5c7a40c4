"""SHA-256 of files, and of JSON documents that contain their own checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def compute_file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_document_checksum(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document without its field `checksum`, as JSON with sorted keys and without spaces."""
    content = {name: value for name, value in document.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
