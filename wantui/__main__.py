"""python -m wantui"""

from wantui.cli import main

main()
