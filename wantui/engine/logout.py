"""What a logout does to the engine on this machine, and a systemd unit that keeps it."""

import configparser
import getpass
import sys
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

LOGIND = ("/usr/lib/systemd/logind.conf", "/etc/systemd/logind.conf")
LINGER = Path("/var/lib/systemd/linger")
UNIT = """\
[Unit]
Description=wantui engine: makes what is on the queue

[Service]
ExecStart="{python}" -m wantui engine run
WorkingDirectory={folder}
Environment="XDG_STATE_HOME={state}"
Restart=on-failure
KillSignal=SIGTERM
TimeoutStopSec=120

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True)
class Logout:
    """Whether what a user leaves running survives the end of the last session."""

    kills: bool
    lingers: bool
    why: str

    @property
    def survives(self) -> bool:
        return not self.kills or self.lingers


def look(root: Path = Path("/")) -> Logout:
    """Read what systemd-logind was told; `root` is where the file system begins."""
    if not (root / "run/systemd/system").is_dir():
        return Logout(False, False, "no systemd here: a logout ends nothing that is detached")
    kills = False
    for path in LOGIND:
        main = root / path.lstrip("/")
        drop_ins = main.with_name(main.name + ".d")
        for part in (main, *sorted(drop_ins.glob("*.conf"))):
            kills = _setting(part, kills)
    lingers = (root / str(LINGER).lstrip("/") / getpass.getuser()).exists()
    why = f"KillUserProcesses={'yes' if kills else 'no'}, lingering {'on' if lingers else 'off'}"
    return Logout(kills, lingers, why)


def _setting(path: Path, before: bool) -> bool:
    parser = configparser.ConfigParser(strict=False, allow_no_value=True, interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
        return parser.getboolean("Login", "KillUserProcesses", fallback=before)
    except (configparser.Error, ValueError, UnicodeDecodeError):
        return before


def systemd_unit() -> str:
    """A unit for `systemctl --user` that runs the engine from this environment and working folder."""
    folder = Path.cwd()
    return UNIT.format(python=sys.executable, folder=folder, state=user_state_path())
