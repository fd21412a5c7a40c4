"""Entry point of the program, also of `python -m wantui`."""

import signal
import sys

from wantui.errors import INTERRUPTED_EXIT_CODE


def main() -> None:
    """Import and run the command line; Ctrl-C during the import ends the program without a traceback."""
    try:
        if sys.flags.optimize > 1:
            from wantui.environment import restart_with_docstrings

            restart_with_docstrings()
        from wantui.cli import main as run_command_line
    except KeyboardInterrupt:
        sys.stderr.write("wantui: interrupted\n")
        sys.exit(INTERRUPTED_EXIT_CODE)
    try:
        run_command_line()
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python exits must not print a traceback


if __name__ == "__main__":
    main()
