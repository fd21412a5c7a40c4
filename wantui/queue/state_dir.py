"""Location of the queue: the user's state directory, one per machine, on a local disk."""

import fcntl
import getpass
import os
import platform
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from wantui.errors import UserError

LOCAL_DISK_FOLDER = Path("/var/tmp")
"""Folder on a local disk, if the machine has one, that is not emptied at boot."""
MOUNT_TABLE = Path("/proc/self/mountinfo")
PROBE_BYTES = 64 << 10
"""Bytes that are written to detect a full disk: more than a transaction of the queue, or a traceback."""
STATE_DIR_ADVICE = "Set XDG_STATE_HOME to a folder that you can write."
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
class StateDirectory:
    """A directory that exists, is this user's alone, and is on a local disk; `note` says why it is an unusual one."""

    directory: Path
    note: str | None = None


def find_state_directory() -> StateDirectory:
    """Return the state directory: $XDG_STATE_HOME/wantui/HOST, or one under /var/tmp where that is a network's.

    SQLite's write-ahead log does not work over a network, and homes often are on one.

    Raises:
        UserError: it cannot be made or written.
    """
    directory = user_state_path("wantui") / platform.node()
    kind = file_system_type(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        fallback = _create_private_directory(_create_user_folder() / platform.node())
        return StateDirectory(
            fallback, f"{directory} is on a network file system ({kind}); the queue is kept in {fallback}"
        )
    stands_in = LOCAL_DISK_FOLDER / f"wantui-{os.getuid()}"
    note = f"there is no home folder: {stands_in} stands in for it" if directory.is_relative_to(stands_in) else None
    return StateDirectory(_create_private_directory(directory), note)


def ensure_home() -> None:
    """Set HOME and LOGNAME for users without them, because libraries fail otherwise.

    A container that runs under a number has neither an entry in /etc/passwd nor, at times, $HOME, or it has one that
    is empty or "/". The paths of configuration, cache and state would then begin with a folder called "~", or be at
    the root of the file system.

    Raises:
        UserError: the folder cannot be made.
    """
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty one would be taken for "/"
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.expanduser raises
    if home in ("~", "") or (home.rstrip("/") == "" and not os.access("/", os.W_OK)):
        os.environ["HOME"] = str(_create_user_folder())
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _create_user_folder() -> Path:
    """Return this user's folder in /var/tmp, where anybody may have created the same name before.

    Raises:
        UserError: it is a link, or another user's, or cannot be made.
    """
    folder = LOCAL_DISK_FOLDER / f"wantui-{os.getuid()}"
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # All by one descriptor: between two looks at the name it could become a link to a folder of the user's own.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(
            f"cannot use the state directory {folder}: {error.strerror or error}. {STATE_DIR_ADVICE}"
        ) from None
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise UserError(f"cannot use the state directory {folder}: it belongs to another user. {STATE_DIR_ADVICE}")
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return folder


def _create_private_directory(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if directory.stat().st_uid != os.getuid():
            raise UserError(f"the state directory {directory} belongs to another user. {STATE_DIR_ADVICE}")
        if not directory.is_symlink():  # the target of a link that a user has made keeps its mode
            directory.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"the state directory {directory} cannot be made: {error.strerror or error}. {STATE_DIR_ADVICE}"
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"the state directory {directory} cannot be written. {STATE_DIR_ADVICE}")
    if (reason := _find_lock_error(directory)) is not None:
        raise UserError(
            f"cannot keep the queue in the state directory {directory}: its file system has no locks ({reason}). "
            "Set XDG_STATE_HOME to a folder on a local disk."
        )
    return directory


def _find_lock_error(directory: Path) -> str | None:
    """Return why files in a folder cannot be locked, as SQLite (POSIX locks) and the engine (flock) do.

    None where they can, and where no file can be made to find out: what needs one says why.
    """
    try:
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - only what locks raise is of interest below
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror or str(error)
    return None


def describe_recording_fault(directory: Path) -> str | None:
    """Return that nothing can be recorded in a state directory now, why, and what to do; None where it can.

    Clients ask this: an engine and workers that cannot write the queue can report it in no other way.
    """
    reason = find_write_fault(directory)
    if reason is None:
        return None
    return (
        f"nothing can be recorded in {directory}: {reason}. When that is corrected, the engine continues by itself; "
        "until then no video advances"
    )


def find_write_fault(folder: Path) -> str | None:
    """Return why a file of PROBE_BYTES cannot be written in a folder: it is full, read-only, ...; None if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error.strerror or str(error)
    return None


def file_system_type(path: Path) -> str:
    """Return the type of the file system that holds a path (or would), by the kernel's mount table."""
    try:
        lines = MOUNT_TABLE.read_bytes().splitlines()
    except OSError:
        return "unknown"
    real = Path(os.path.realpath(path))
    mount, kind = Path("/"), "unknown"
    for line in lines:
        before, _, after = line.partition(b" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        mounted = _decode_mount_point(fields[4])
        if real.is_relative_to(mounted) and len(mounted.parts) >= len(mount.parts):
            mount, kind = mounted, types[0].decode(errors="replace")
    return kind


def _decode_mount_point(field: bytes) -> Path:
    """Return a path as the mount table writes it: its bytes, with blanks and backslashes as three octal digits."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), field)))
