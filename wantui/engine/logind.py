"""Whether the engine survives a logout, and a systemd unit that keeps it running."""

import configparser
import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from wantui.errors import UserError
from wantui.formatting import UNPRINTABLE_PATTERN

SYSTEMD_FOLDERS = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")
"""Folders of configurations, by falling precedence (logind.conf(5))."""
LINGER_FOLDER = Path("/var/lib/systemd/linger")
UNIT_TEMPLATE = """\
[Unit]
Description=wantui engine: generates the videos of the queue

[Service]
ExecStart={python} -P -m wantui engine run
WorkingDirectory={folder}
Environment={state}
Restart=on-failure
KillSignal=SIGTERM
TimeoutStopSec=120

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True)
class LogoutEffect:
    """Effect of a user's last logout on background processes."""

    kills_processes: bool
    is_lingering: bool
    explanation: str

    @property
    def engine_survives(self) -> bool:
        return not self.kills_processes or self.is_lingering


def read_logout_effect(root: Path = Path("/")) -> LogoutEffect:
    """Read the configuration of systemd-logind below the file-system root `root`."""
    if not (root / "run/systemd/system").is_dir():
        return LogoutEffect(False, False, "no systemd: detached processes survive a logout")
    kills_processes = False
    for path in _list_logind_configs(root):
        kills_processes = _read_kill_setting(path, kills_processes)
    login_name = _read_login_name()
    is_lingering = login_name is not None and (root / str(LINGER_FOLDER).lstrip("/") / login_name).exists()
    explanation = f"KillUserProcesses={'yes' if kills_processes else 'no'}, lingering {'on' if is_lingering else 'off'}"
    return LogoutEffect(kills_processes, is_lingering, explanation)


def _list_logind_configs(root: Path) -> list[Path]:
    """Return the first main file and all drop-ins, in the order in which later values win."""
    folders = [root / folder for folder in SYSTEMD_FOLDERS]
    main_files = [path for folder in folders if (path := folder / "logind.conf").is_file()]
    drop_ins_by_name = {
        path.name: path for folder in reversed(folders) for path in (folder / "logind.conf.d").glob("*.conf")
    }
    return [*main_files[:1], *(drop_ins_by_name[name] for name in sorted(drop_ins_by_name))]


def _read_login_name() -> str | None:
    """Return this user's login name; None if /etc/passwd does not list the user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def _read_kill_setting(path: Path, default_value: bool) -> bool:
    parser = configparser.ConfigParser(strict=False, allow_no_value=True, interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
        return parser.getboolean("Login", "KillUserProcesses", fallback=default_value)
    except (configparser.Error, ValueError, UnicodeDecodeError):
        return default_value


def build_systemd_unit() -> str:
    """Return a unit for `systemctl --user` that runs the engine from this environment and working folder.

    Raises:
        UserError: a path cannot be written into a unit.
    """
    working_folder = Path.cwd()
    state_folder = user_state_path()
    for path in (working_folder, state_folder, Path(sys.executable)):
        # WorkingDirectory takes no quotes, which would protect trailing white space or a trailing backslash.
        if UNPRINTABLE_PATTERN.search(str(path)) or str(path) != str(path).strip() or str(path).endswith("\\"):
            raise UserError(
                f"cannot write a systemd unit for {path}: the path contains a control character, or ends with "
                "white space or a backslash. Run this in another folder."
            )
    return UNIT_TEMPLATE.format(
        python=_quote_for_systemd(sys.executable),
        folder=str(working_folder).replace("%", "%%"),
        state=_quote_for_systemd(f"XDG_STATE_HOME={state_folder}"),
    )


def _quote_for_systemd(text: str) -> str:
    """Return text in double quotes, with everything escaped that systemd would expand."""
    for special in ("\\", '"'):
        text = text.replace(special, f"\\{special}")
    return f'"{text.replace("%", "%%")}"'
