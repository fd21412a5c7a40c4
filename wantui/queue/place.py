"""Where the queue lies: the user's state directory, one for each machine, on a local disk."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from wantui.errors import UserError

LOCAL = Path("/var/tmp")
"""On a local disk wherever there is one, and not emptied when the machine starts."""
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "afs",
    "9p",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
}


@dataclass(frozen=True)
class Place:
    """A directory that exists, is this user's alone, and is on a local disk; `note` says why it is an unusual one."""

    directory: Path
    note: str | None = None


def state_place() -> Place:
    """The state directory: $XDG_STATE_HOME/wantui/HOST, or one under the machine's /var/tmp where that is a network's.

    SQLite's write-ahead log does not work over a network, and homes often are on one.

    Raises:
        UserError: it cannot be made or written.
    """
    directory = user_state_path("wantui") / platform.node()
    kind = file_system(directory)
    if kind not in NETWORK_FILE_SYSTEMS:
        return Place(_private(directory))
    fallback = _private(_private(LOCAL / f"wantui-{os.getuid()}") / platform.node())
    return Place(fallback, f"{directory} is on a network file system ({kind}); the queue is kept in {fallback}")


def _private(directory: Path) -> Path:
    advice = "set XDG_STATE_HOME to a folder that you can write"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if directory.stat().st_uid != os.getuid():
            raise UserError(f"the state directory {directory} belongs to another user; {advice}")
        directory.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"the state directory {directory} cannot be made: {error.strerror or error}; {advice}"
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"the state directory {directory} cannot be written; {advice}")
    return directory


def file_system(path: Path) -> str:
    """The type of the file system that holds a path (or would), as the kernel's mount table has it."""
    path = path.resolve()
    found, kind = Path("/"), "unknown"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4].encode().decode("unicode_escape"))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, after.split()[0]
    return kind
