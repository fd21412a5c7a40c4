"""Entry point of the program, also of `python -m wantui`."""

import sys

from wantui.errors import INTERRUPTED_EXIT_CODE


def main() -> None:
    """Import and run the command line; Ctrl-C during the import ends the program without a traceback."""
    try:
        from wantui.cli import main as run_command_line
    except KeyboardInterrupt:
        sys.stderr.write("wantui: interrupted\n")
        sys.exit(INTERRUPTED_EXIT_CODE)
    run_command_line()


if __name__ == "__main__":
    main()
