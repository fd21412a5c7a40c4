"""Folders that the user of the tests cannot write, even if that is root."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def freeze_folder(folder: Path) -> None:
    """Make a folder unwritable, or skip the test if root cannot do that here."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
    elif (
        shutil.which("chattr") is None
        or subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode
    ):
        pytest.skip("no folder can be made immutable here")


def thaw_folder(folder: Path) -> None:
    """Make a frozen folder writable."""
    if os.geteuid() != 0:
        folder.chmod(0o755)
    else:
        subprocess.run(["chattr", "-i", folder], check=True)
