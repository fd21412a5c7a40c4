"""Write the keys of all screens to docs/screens.md: `python docs/keys.py`."""

from pathlib import Path

import click

from wantui.tui.actions import ACTIONS_BY_SCREEN, GROUP_TITLES

DOCUMENT = Path(__file__).parent / "screens.md"
START, END = "<!-- keys -->\n", "<!-- end of keys -->\n"
KEY_NAMES = {
    "asterisk": "*",
    "question_mark": "?",
    "slash": "/",
    "minus": "-",
    "plus": "+",
    "equals_sign": "=",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "delete": "del",
    "escape": "esc",
}


def format_keys(key_names: str) -> str:
    """Return the keys of an action as code, separated by spaces."""
    return " ".join(f"`{KEY_NAMES.get(key, key)}`" for key in key_names.split(","))


def build_key_tables() -> str:
    """Return a table of keys for each screen."""
    parts = []
    for name, actions in ACTIONS_BY_SCREEN.items():
        rows = [
            f"| {format_keys(action.key_names)} | {action.help_text.replace('|', chr(92) + '|')} | `{action.id}` |"
            for action in actions
        ]
        parts.append(
            "\n".join([f"### {GROUP_TITLES.get(name, 'All screens')}\n", "| key | | name |", "|---|---|---|", *rows])
        )
    return "\n\n".join(parts) + "\n"


@click.command()
def main() -> None:
    """Write the keys of all screens to docs/screens.md."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(before + START + build_key_tables() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
