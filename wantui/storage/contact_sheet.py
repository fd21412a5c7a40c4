"""Contact sheets: a few frames of a clip side by side, as one jpg."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from wantui.atomic_files import atomic_write
from wantui.storage.mp4 import Frame

SHEET_COLUMNS = 5
MAX_FRAME_WIDTH = 320
"""Maximum width of one frame on a contact sheet, in pixels."""


def list_sheet_frames(frame_count: int) -> list[int]:
    """Return the indices of the frames on the contact sheet of a clip with `frame_count` frames."""
    last_index, count = frame_count - 1, min(SHEET_COLUMNS, frame_count)
    return sorted({round(last_index * column / max(1, count - 1)) for column in range(count)})


class ContactSheet:
    """Contact sheet of evenly spaced frames, collected while the `frame_count` frames of a clip are encoded."""

    def __init__(self, frame_count: int) -> None:
        self.frame_indices = set(list_sheet_frames(frame_count))
        self.selected_frames: list[Frame] = []

    def collect_frames(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield all frames, and store those for the sheet."""
        for index, frame in enumerate(frames):
            if index in self.frame_indices:
                self.selected_frames.append(frame)
            yield frame

    def write_sheet(self, path: Path) -> None:
        """Write the stored frames from left to right."""
        from PIL import Image

        height, width = self.selected_frames[0].shape[:2]
        scale = min(1.0, MAX_FRAME_WIDTH / width)
        frame_size = (round(width * scale), round(height * scale))
        sheet = Image.new("RGB", (frame_size[0] * len(self.selected_frames), frame_size[1]))
        for column, frame in enumerate(self.selected_frames):
            sheet.paste(
                Image.fromarray(frame).resize(frame_size, Image.Resampling.LANCZOS), (column * frame_size[0], 0)
            )
        with atomic_write(path) as partial:
            sheet.save(partial, format="JPEG", quality=90)
