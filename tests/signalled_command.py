"""A command that sends itself a signal at a chosen moment."""

import subprocess
import sys

SEND_SIGNAL = """
import os, signal, sys

number, event, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if number == signal.SIGINT:
    signal.signal(number, signal.default_int_handler)  # a background shell ignores SIGINT
elif number != signal.SIGKILL:
    signal.signal(number, signal.SIG_DFL)  # tests may run under nohup, which ignores SIGHUP
sent = False

def hook(kind, arguments):
    global sent
    if not sent and kind == event and name in str(arguments[0]):
        sent = True
        os.kill(os.getpid(), number)

if event != "import" or name != "wantui.cli":
    import wantui.cli
sys.addaudithook(hook)
from wantui.__main__ import main
sys.argv = ["wantui", *sys.argv[4:]]
main()
"""
"""Program that runs a command, and sends a signal to itself at an audit event whose first argument contains a name."""


RUN = ["run", "--detach", "-c", "nano", "-t", "a circle", "--set", "use_timestamp=false", "--set", "batch_name=new"]


def run_until(number: int, event: str, name: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", SEND_SIGNAL, str(number), event, name, *RUN]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
