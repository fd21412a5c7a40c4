"""Run the command line as `python -m wantui`."""

from wantui.cli import main

main()
