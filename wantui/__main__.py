"""Entry point of the program, also of `python -m wantui`."""

import sys

INTERRUPTED_EXIT_CODE = 130
"""Exit code of a command that Ctrl-C ended."""


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
