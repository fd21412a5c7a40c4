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

LOGIND_CONFIGS = ("/usr/lib/systemd/logind.conf", "/etc/systemd/logind.conf")
LINGER_FOLDER = Path("/var/lib/systemd/linger")
UNIT_TEMPLATE = """\
[Unit]
Description=wantui engine: generates the videos of the queue

[Service]
ExecStart={python} -m wantui engine run
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
    lingers: bool
    reason: str

    @property
    def engine_survives(self) -> bool:
        return not self.kills_processes or self.lingers


def read_logind(root: Path = Path("/")) -> LogoutEffect:
    """Read the configuration of systemd-logind below the file-system root `root`."""
    if not (root / "run/systemd/system").is_dir():
        return LogoutEffect(False, False, "no systemd: a logout ends no detached process")
    kills_processes = False
    for path in LOGIND_CONFIGS:
        main = root / path.lstrip("/")
        drop_ins = main.with_name(main.name + ".d")
        for part in (main, *sorted(drop_ins.glob("*.conf"))):
            kills_processes = _read_kill_setting(part, kills_processes)
    name = _read_login_name()
    is_lingering = name is not None and (root / str(LINGER_FOLDER).lstrip("/") / name).exists()
    reason = f"KillUserProcesses={'yes' if kills_processes else 'no'}, lingering {'on' if is_lingering else 'off'}"
    return LogoutEffect(kills_processes, is_lingering, reason)


def _read_login_name() -> str | None:
    """Return this user's login name; None if /etc/passwd does not list the user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def _read_kill_setting(path: Path, default: bool) -> bool:
    parser = configparser.ConfigParser(strict=False, allow_no_value=True, interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
        return parser.getboolean("Login", "KillUserProcesses", fallback=default)
    except (configparser.Error, ValueError, UnicodeDecodeError):
        return default


def build_systemd_unit() -> str:
    """Return a unit for `systemctl --user` that runs the engine from this environment and working folder.

    Raises:
        UserError: a path cannot be written into a unit.
    """
    folder = Path.cwd()
    state = user_state_path()
    for path in (folder, state, Path(sys.executable)):
        # WorkingDirectory takes no quotes, which would protect trailing white space or a trailing backslash.
        if UNPRINTABLE_PATTERN.search(str(path)) or str(path) != str(path).strip() or str(path).endswith("\\"):
            raise UserError(
                f"cannot write a systemd unit for {path}: the path contains a control character, or ends with "
                "white space or a backslash. Run this in another folder."
            )
    return UNIT_TEMPLATE.format(
        python=_quote_for_systemd(sys.executable),
        folder=str(folder).replace("%", "%%"),
        state=_quote_for_systemd(f"XDG_STATE_HOME={state}"),
    )


def _quote_for_systemd(text: str) -> str:
    """Return text in double quotes, with everything escaped that systemd would expand."""
    for special in ("\\", '"'):
        text = text.replace(special, f"\\{special}")
    return f'"{text.replace("%", "%%")}"'
