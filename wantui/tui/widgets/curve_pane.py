"""Pane with the trajectory curves of one video in front of the previous video's, and a legend."""

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text
from textual.events import Resize

from wantui.batches.progress import VideoProgress
from wantui.tui.chart import SIGMA_NOTE
from wantui.tui.monitor.charts import ChartStyles, Curve, draw_charts
from wantui.tui.plain_names import replace_names
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import cut_middle

MIN_NOTE_GAP = 3
"""Least number of cells between the legend and the explanation."""


class CurvePane(DiffText):
    """Charts of a trajectory's metrics."""

    DEFAULT_CSS = """
    CurvePane { height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[str, VideoProgress | None, VideoProgress | None, str | None] = ("", None, None, None)

    def show_curves(
        self, title: str, current: VideoProgress | None, previous: VideoProgress | None, colour_name: str | None
    ) -> None:
        """Draw the curves of a video, and the curves of an earlier video in grey.

        Args:
            colour_name: theme colour of the video; None if its batch has only one variation.
        """
        self._shown = (title, current, previous, colour_name)
        self._draw()

    def on_resize(self, event: Resize) -> None:
        """Draw the curves in the new size: the log beside them appears with its first line."""
        self._draw()

    def _draw(self) -> None:
        title, current, previous, colour_name = self._shown
        width, height = self.size.width, self.size.height
        if not width or height < 2:
            return
        colour, grey = self.make_colour_style(colour_name or "accent"), Style(dim=True)
        if not any(progress is not None and progress.sigmas for progress in (current, previous)):
            lines = [Text("")] * height
            lines[height // 2] = Text("The curves begin with the first step.".center(width), grey)
            self.show_lines(lines)
            return
        legend = Text(no_wrap=True)
        if title:
            legend.append("━━ ", colour).append_text(cut_middle(Text(title), width - len("━━ ")))
        if previous is not None:
            previous_title = replace_names(previous.title)
            names = (f"before: {previous_title}", previous_title, "before")
            free_width = width - legend.cell_len - len("   ━━ ")
            name = next((name for name in names if len(name) <= free_width), names[-1])
            legend.append("   " * bool(title)).append(f"━━ {name}", grey)
        styles = ChartStyles(colour, grey, grey)
        if (gap := width - legend.cell_len - len(SIGMA_NOTE)) >= MIN_NOTE_GAP:
            legend.append(" " * gap).append(SIGMA_NOTE, grey)
        last_sigma = find_last_sigma([progress for progress in (current, previous) if progress is not None])
        curves = _collect_curves(current), _collect_curves(previous)
        charts = draw_charts(*curves, width, height - 1, styles, last_sigma)
        self.show_lines([legend, *charts])


def find_last_sigma(videos: Sequence[VideoProgress]) -> float:
    """Return the noise level at the right end: 0, or the lowest noise level of a video that has all its steps."""
    sigmas = [sigma for video in videos for sigma in video.sigmas if sigma is not None]
    is_complete = any(video.step_count and video.step_number >= video.step_count for video in videos)
    return min(sigmas) if is_complete and sigmas and min(sigmas) < 1 else 0.0


def _collect_curves(progress: VideoProgress | None) -> Mapping[str, Curve]:
    """Return the curves of a video by metric."""
    if progress is None:
        return {}
    return {name: Curve(progress.sigmas, values) for name, values in progress.curve_by_metric.items()}
