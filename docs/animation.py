"""Animated SVG of successive screenshots."""

import html
import re
from collections.abc import Sequence

SCREENSHOT_PATTERN = re.compile(r"<svg [^>]*viewBox=\"([^\"]+)\"[^>]*>(.*)</svg>", re.DOTALL)
FONT_PATTERN = re.compile(r"@font-face \{.*?\n    \}", re.DOTALL)
TEXT_PATTERN = re.compile(r'<text class="([^"]+)" x="([^"]+)" y="([^"]+)" textLength="([^"]+)"([^>]*)>([^<]*)</text>')
CRISP_ATTRIBUTE = ' shape-rendering="crispEdges"'
ID_PATTERN = re.compile(r"terminal-\d+")
"""Identifier of a screenshot, in the names of its styles and clip paths."""
SPACES_PATTERN = re.compile(r"^(?:&#160;)+|(?:&#160;){2,}|(?:&#160;)+$")


def place_words(screenshot: str) -> str:
    """Give each word after several spaces its own position; some viewers draw spaces with another width."""

    def place(match: re.Match[str]) -> str:
        css_class, x, y, length, attributes, content = match.groups()
        characters = len(html.unescape(content))
        width = float(length) / max(characters, 1)
        texts, column, start = [], 0, 0
        for spaces in (*SPACES_PATTERN.finditer(content), None):
            word = content[start : spaces.start() if spaces else None]
            word_length = len(html.unescape(word))
            if word_length:
                texts.append(
                    f'<text class="{css_class}" x="{float(x) + column * width:.5g}" y="{y}" '
                    f'textLength="{word_length * width:.5g}"{attributes}>{word}</text>'
                )
            if spaces:
                column += word_length + len(html.unescape(spaces[0]))
                start = spaces.end()
        return "".join(texts)

    return TEXT_PATTERN.sub(place, screenshot)


def build_animation(frames: Sequence[tuple[str, float]]) -> str:
    """Return an SVG that shows screenshots in turn, forever; without support for animations, the first one.

    Args:
        frames: screenshot of Textual, and the seconds for which it is shown.
    """
    total_seconds = sum(seconds for _, seconds in frames)
    start_seconds, view_box, fonts = 0.0, "", ""
    rules = ["rect { shape-rendering: crispEdges }", ".frame { visibility: hidden } .frame0 { visibility: visible }"]
    groups = []
    for number, (screenshot, seconds) in enumerate(frames):
        match = SCREENSHOT_PATTERN.search(screenshot)
        assert match is not None, "this is not a screenshot of Textual"
        view_box, content = match[1], match[2]
        fonts = "\n".join(FONT_PATTERN.findall(content))
        content = re.sub(r"\n\s+", "\n", FONT_PATTERN.sub("", content)).replace(CRISP_ATTRIBUTE, "")
        content = ID_PATTERN.sub(f"t{number}", content)  # shorter, and as distinct
        start, end = (100 * at / total_seconds for at in (start_seconds, start_seconds + seconds))
        before = (
            f"0% {{ visibility: hidden }} {start:.3f}% {{ visibility: visible }}"
            if start
            else "0% { visibility: visible }"
        )
        after = f" {end:.3f}% {{ visibility: hidden }}" if number < len(frames) - 1 else ""
        rules.append(f"@keyframes frame{number} {{ {before}{after} }}")
        rules.append(f".frame{number} {{ animation: frame{number} {total_seconds:g}s step-end infinite }}")
        groups.append(f'<g class="frame frame{number}">{content}</g>')
        start_seconds += seconds
    style = "\n".join([fonts, *rules])
    return (
        f'<svg class="rich-terminal" viewBox="{view_box}" xmlns="http://www.w3.org/2000/svg">\n<style>\n{style}\n</style>\n'
        + "\n".join(groups)
        + "\n</svg>\n"
    )
