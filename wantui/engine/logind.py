"""Effect of a logout on this machine's engine, and a systemd unit that keeps the engine running."""

import configparser
import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from wantui.errors import UserError
from wantui.formatting import UNPRINTABLE

LOGIND = ("/usr/lib/systemd/logind.conf", "/etc/systemd/logind.conf")
LINGER = Path("/var/lib/systemd/linger")
UNIT = """\
[Unit]
Description=wantui engine: makes what is on the queue

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
class Logout:
    """Effect of the end of the last session on a user's background processes."""

    kills: bool
    lingers: bool
    why: str

    @property
    def survives(self) -> bool:
        return not self.kills or self.lingers


def read_logind(root: Path = Path("/")) -> Logout:
    """Read the configuration of systemd-logind below the file-system root `root`."""
    if not (root / "run/systemd/system").is_dir():
        return Logout(False, False, "no systemd here: a logout ends nothing that is detached")
    kills = False
    for path in LOGIND:
        main = root / path.lstrip("/")
        drop_ins = main.with_name(main.name + ".d")
        for part in (main, *sorted(drop_ins.glob("*.conf"))):
            kills = _setting(part, kills)
    name = _user_name()
    lingers = name is not None and (root / str(LINGER).lstrip("/") / name).exists()
    why = f"KillUserProcesses={'yes' if kills else 'no'}, lingering {'on' if lingers else 'off'}"
    return Logout(kills, lingers, why)


def _user_name() -> str | None:
    """Return the name by which logind knows this user; None for one without an entry in /etc/passwd."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def _setting(path: Path, before: bool) -> bool:
    parser = configparser.ConfigParser(strict=False, allow_no_value=True, interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
        return parser.getboolean("Login", "KillUserProcesses", fallback=before)
    except (configparser.Error, ValueError, UnicodeDecodeError):
        return before


def systemd_unit() -> str:
    """Return a unit for `systemctl --user` that runs the engine from this environment and working folder.

    Raises:
        UserError: a path cannot be written into a unit.
    """
    folder = Path.cwd()
    state = user_state_path()
    for path in (folder, state, Path(sys.executable)):
        # WorkingDirectory has no quotes, so that nothing protects white space at its end, or a backslash there.
        if UNPRINTABLE.search(str(path)) or str(path) != str(path).strip() or str(path).endswith("\\"):
            raise UserError(
                f"cannot write a systemd unit for {path}: it holds a line break, another control character, or ends "
                "in white space or a backslash. Run this in another folder."
            )
    return UNIT.format(
        python=_quoted(sys.executable),
        folder=str(folder).replace("%", "%%"),
        state=_quoted(f"XDG_STATE_HOME={state}"),
    )


def _quoted(text: str) -> str:
    """Return text in double quotes in which systemd replaces nothing."""
    for special in ("\\", '"'):
        text = text.replace(special, f"\\{special}")
    return f'"{text.replace("%", "%%")}"'
