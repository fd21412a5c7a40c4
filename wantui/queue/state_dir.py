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
"""Folder for the fallback state directory: usually on a local disk, and not emptied at boot."""
MOUNT_TABLE = Path("/proc/self/mountinfo")
WRITE_PROBE_BYTES = 64 << 10
"""Bytes written to detect a full disk: more than one queue transaction or traceback needs."""
STATE_DIR_ADVICE = "Set XDG_STATE_HOME to a folder that you can write."
NETWORK_FILE_SYSTEM_TYPES = {
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
    """An existing, private directory on a local disk; `note` explains an unusual location."""

    directory: Path
    note: str | None = None


def find_state_directory() -> StateDirectory:
    """Return the state directory, after creating it: $XDG_STATE_HOME/wantui/HOST, or a folder in /var/tmp.

    The fallback is used on network file systems, where SQLite's write-ahead log does not work; homes are often there.

    Raises:
        UserError: the directory cannot be created or written.
    """
    directory = _make_default_path()
    file_system_type = find_file_system_type(directory)
    if file_system_type in NETWORK_FILE_SYSTEM_TYPES:
        _create_user_folder()
        fallback_directory = _create_private_directory(locate_state_directory())
        return StateDirectory(
            fallback_directory,
            f"{directory} is on a network file system ({file_system_type}); the queue is kept in {fallback_directory}",
        )
    fallback_home = _make_fallback_home()
    note = (
        f"there is no home folder: {fallback_home} is used instead" if directory.is_relative_to(fallback_home) else None
    )
    return StateDirectory(_create_private_directory(directory), note)


def locate_state_directory() -> Path:
    """Return the path of the state directory, which may be missing."""
    directory = _make_default_path()
    is_on_network = find_file_system_type(directory) in NETWORK_FILE_SYSTEM_TYPES
    return _make_fallback_home() / directory.name if is_on_network else directory


def _make_default_path() -> Path:
    return user_state_path("wantui") / _make_host_folder_name()


def _make_fallback_home() -> Path:
    return LOCAL_DISK_FOLDER / f"wantui-{os.getuid()}"


def _make_host_folder_name() -> str:
    """Return the name of this machine as the name of one folder; the kernel accepts "", ".." and "a/b" as names."""
    name = platform.node().replace("/", "_")
    return name if name.strip(".") else "localhost"


def ensure_home_folder() -> None:
    """Set HOME and LOGNAME if they are missing, because libraries fail without them.

    A container that runs under a numeric user id has no entry in /etc/passwd, and $HOME may be missing, empty or "/".
    The folders for configuration, cache and state would then be inside a folder named "~", or in the root folder.

    Raises:
        UserError: the fallback home folder cannot be created.
    """
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty value would mean "/"
    home_folder = os.path.expanduser("~")  # noqa: PTH111 - Path.expanduser raises
    if home_folder in ("~", "") or (home_folder.rstrip("/") == "" and not os.access("/", os.W_OK)):
        os.environ["HOME"] = str(_create_user_folder())
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _create_user_folder() -> Path:
    """Create and return this user's folder in /var/tmp; another user may have taken the name of the folder there.

    Raises:
        UserError: the folder is a link, belongs to another user, or cannot be created.
    """
    folder = _make_fallback_home()
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # Check by descriptor, not by name: the name could be replaced by a link between two calls.
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
            f"cannot create the state directory {directory}: {error.strerror or error}. {STATE_DIR_ADVICE}"
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"the state directory {directory} cannot be written. {STATE_DIR_ADVICE}")
    if (reason := _find_lock_error(directory)) is not None:
        raise UserError(
            f"cannot store the queue in the state directory {directory}: its file system has no locks ({reason}). "
            "Set XDG_STATE_HOME to a folder on a local disk."
        )
    return directory


def _find_lock_error(directory: Path) -> str | None:
    """Return why files in a folder cannot be locked as SQLite (POSIX locks) and the engine (flock) need it.

    None if locks work, or if no file can be created for the test: whoever creates one later reports the reason.
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


def find_write_error(folder: Path) -> str | None:
    """Return why WRITE_PROBE_BYTES cannot be written in a folder, such as a full disk; None if they can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(WRITE_PROBE_BYTES))
    except OSError as error:
        return error.strerror or str(error)
    return None


def find_file_system_type(path: Path) -> str:
    """Return the file system type of an existing or future path, from the kernel's mount table."""
    try:
        lines = MOUNT_TABLE.read_bytes().split(b"\n")  # other line breaks may be part of a name
    except OSError:
        return "unknown"
    real_path = Path(os.path.realpath(path))
    best_mount_point, file_system_type = Path("/"), "unknown"
    for line in lines:
        mount_fields, _, type_fields = line.partition(b" - ")
        mount_words, type_words = mount_fields.split(b" "), type_fields.split(b" ")
        if len(mount_words) < 5 or not type_words[0]:
            continue
        mount_point = _decode_mount_point(mount_words[4])
        if real_path.is_relative_to(mount_point) and len(mount_point.parts) >= len(best_mount_point.parts):
            best_mount_point, file_system_type = mount_point, type_words[0].decode(errors="replace")
    return file_system_type


def _decode_mount_point(field: bytes) -> Path:
    """Decode a path of the mount table, in which blanks and backslashes are octal escapes."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), field)))
