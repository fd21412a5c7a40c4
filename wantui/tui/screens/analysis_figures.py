"""Views of the Analysis screen: curves of a video, and figures about groups, which are computed in the background."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import on, work

from wantui.analysis.group import Group
from wantui.analysis.groups import find_dividing_groupings
from wantui.analysis.interaction import Interaction, find_factor_pairs
from wantui.analysis.video import Video
from wantui.formatting import format_share
from wantui.metric_names import CURVE_NAMES
from wantui.tui.analysis.comparison_view import draw_comparison, list_exclusions
from wantui.tui.analysis.data import (
    ComparisonDone,
    Figure,
    FigureDone,
    FigureKey,
    GroupCurves,
    GroupPaths,
    Separation,
    compare_videos,
    compute_figure,
)
from wantui.tui.analysis.dose_view import sort_trends
from wantui.tui.analysis.interaction_view import draw_correlations, draw_interaction
from wantui.tui.analysis.level_view import draw_separation
from wantui.tui.analysis.video_ranks import describe_ranks
from wantui.tui.analysis.views import (
    FIGURE_VIEWS,
    GROUP_VIEWS,
    LOW_VIEW_HEIGHT,
    VIDEO_VIEWS,
    draw_mean_curves,
    draw_paths,
    draw_video_curves,
)
from wantui.tui.plain_names import describe_grouping
from wantui.tui.screens.analysis_attention import AnalysisAttention
from wantui.tui.series_colours import assign_series_colours
from wantui.tui.widgets.trajectory_details import TrajectoryDetails
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison
    from wantui.analysis.mean_curves import MedianCurves

CURVE_HINT = "n next curve"
REFUSAL_HINT = (
    "press c for other groups, b to add batches to the analysis, v for another view, or 1 to compose more seeds"
)
"""What can be done after a comparison or a figure was refused."""
PAIR_HINT, METRIC_HINT = "n next pair", "n next metric"
NO_INTERACTION = """\
an interaction needs two brackets or settings with several values each

template for example: a [large|small] [red|blue] circle
press b to add batches to the analysis, or 1 to compose one"""
SCROLL_HINT, ROW_HINT = "tab, then j k scroll", "↑ ↓ next video"
MIN_TABLE_HEIGHT = 5
"""Minimum height of the table with its border, in lines."""
DEFAULT_MAX_TABLE_HEIGHT_BESIDE_ATTENTION = 8
"""Maximum height of the table above attention in analysis.tcss, in lines."""
FRAME_MARGIN = 6
"""Cells of the frame that its subtitle cannot take."""


class AnalysisFigures(AnalysisAttention):
    """Base of the Analysis screen that loads and draws the views below the table, and handles the keys of the views."""

    def __init__(self) -> None:
        super().__init__()
        self.videos: list[Video] = []
        self.median_curves: MedianCurves = {}
        self.grouping = ""
        """Name of the grouping; empty to list single videos."""
        self.current_group: str | None = None
        """Name of the group whose videos are listed; None to list all groups."""
        self.exclusion_reasons: Sequence[tuple[str, str]] = []
        """Names of the videos excluded from the group means, each with the reason."""
        self.comparison_outcome: ComparisonDone | None = None
        self.video_view, self.group_view = "curves", "effects"
        """View below a table of videos, and below a table of groups."""
        self.curve_name = ""
        """Curve of the mean curves; empty for the one that differs most clearly."""
        self.charted_metric = ""
        """Metric whose dose-response curve is shown; empty for the declared one."""
        self.factor_pair = ""
        """Two factors whose interaction is shown, such as "1,2"; empty for the first pair with the current grouping."""
        self._figures_by_key: dict[FigureKey, FigureDone] = {}
        self._requested_figure: FigureKey | None = None
        self._factor_pairs: tuple[list[Video], list[str]] = ([], [])
        """Pairs of factors, with the videos that they are of."""

    @property
    def is_grouped(self) -> bool:
        return bool(self.grouping) and self.current_group is None

    @property
    def current_view(self) -> str:
        """Name of the view that is shown."""
        return self.group_view if self.is_grouped else self.video_view

    @property
    def views(self) -> tuple[str, ...]:
        """Views of the current table, in the order of the key that cycles through them."""
        return GROUP_VIEWS if self.is_grouped else VIDEO_VIEWS

    def forget_figures(self) -> None:
        """Drop the figures of the previous videos."""
        self.comparison_outcome, self._requested_figure = None, None
        self._figures_by_key = {}

    # Background threads

    @work(thread=True, exclusive=True, group="compare", exit_on_error=False)
    def compare_groups(self, videos: list[Video], grouping: str) -> None:
        """Compare the groups, which takes a second or more."""
        self.post_message(compare_videos(videos, grouping))

    @work(thread=True, exclusive=True, group="figure", exit_on_error=False)
    def compute_group_figure(self, videos: list[Video], key: FigureKey) -> None:
        """Compute mean curves or principal components."""
        self.post_message(compute_figure(videos, key))

    @on(ComparisonDone)
    def _show_comparison(self, message: ComparisonDone) -> None:
        # A cancelled thread still posts its result, which may be about other batches.
        if message.grouping == self.grouping and message.videos is self.videos:
            self.comparison_outcome = message
            self.draw_details()

    @on(FigureDone)
    def _show_figure(self, message: FigureDone) -> None:
        if message.videos is self.videos:
            self._figures_by_key[message.key] = message
            self.draw_details()

    # Drawing

    @on(TrajectoryDetails.MovedOn)
    def _move_to_next_row(self, message: TrajectoryDetails.MovedOn) -> None:
        self.row_list.action_move(message.count)

    @on(TrajectoryDetails.Resized)
    def _draw_in_new_size(self) -> None:
        self.draw_details()

    def draw_details(self) -> None:
        """Draw the current view."""
        row, view = self.row_list.current_row, self.current_view
        hint = {
            "means": CURVE_HINT,
            "attention": ROW_HINT,
            "effects": SCROLL_HINT,
            "correlations": SCROLL_HINT,
            "interaction": PAIR_HINT if len(self._list_factor_pairs()) > 1 else SCROLL_HINT,
        }.get(view, "")
        if view in FIGURE_VIEWS and view != "correlations":
            grouping = describe_grouping(self._choose_figure_grouping(view))
            hint = f"by {grouping}   {hint}".rstrip() if grouping else ""
        self.details.show_tabs(self.views, view, hint)
        self.set_class(view == "attention", "-attention")
        if view in FIGURE_VIEWS:
            self._draw_figure(view, row)
        elif self.is_grouped:
            self._draw_comparison()
        elif not isinstance(row, Video):
            self.details.show_message("")
        elif view == "attention":
            self.draw_attention_view(row)
        else:
            self._draw_curves(row)

    def _draw_curves(self, video: Video) -> None:
        """Draw the curves of a video; its rank among all videos is in the legend, or in the frame of a low pane."""
        canvas, metric = self.details.get_canvas(), self.row_list.metric_name
        is_low = canvas.height < LOW_VIEW_HEIGHT
        describe = partial(describe_ranks, video, self.videos, metric)
        colour_name = self.row_list.colours_by_name.get(video.variation, "accent")
        if is_low:
            self.details.show_tabs(self.views, self.current_view, describe(canvas.width - FRAME_MARGIN))
            lines = draw_video_curves(video, self.median_curves, canvas, colour_name=colour_name)
        else:
            lines = draw_video_curves(video, self.median_curves, canvas, describe, colour_name)
        self.details.show_lines(lines)

    def _draw_comparison(self) -> None:
        canvas, outcome = self.details.get_canvas(), self.comparison_outcome
        row = self.row_list.current_row
        if row is not None and outcome is not None and outcome.comparison is not None:
            self._show_drawn_comparison(outcome.comparison, row.name)
            return
        text = "" if row is None else "comparing ..." if outcome is None else outcome.error
        hint = [Text(""), *wrap_text(REFUSAL_HINT, canvas.width, Style(dim=True))] if text and outcome else []
        hint += list_exclusions("left out", self.exclusion_reasons, canvas)
        self.details.show_lines([*wrap_text(text, canvas.width), *hint])

    def _show_drawn_comparison(self, comparison: "Comparison", group_name: str) -> None:
        canvas, colours = self.details.get_canvas(), self.row_list.colours_by_name
        lines, row_by_metric = draw_comparison(
            comparison, group_name, self.exclusion_reasons, canvas, colours, self.charted_metric
        )
        self.details.show_lines(lines)
        hints = [METRIC_HINT] if comparison.dose_response is not None else []
        if hidden_count := sum(row >= canvas.height for row in row_by_metric.values()):
            hints.append(f"{hidden_count} more metrics: {SCROLL_HINT}")
        if hints:
            self.details.show_tabs(self.views, self.current_view, "   ".join(hints))

    def _choose_figure_grouping(self, view: str) -> str:
        """Return the grouping of a figure: the chosen grouping, or the first grouping that divides the videos."""
        if view == "correlations":
            return ""
        if view == "interaction":
            pairs = self._list_factor_pairs()
            return self.factor_pair if self.factor_pair in pairs else next(iter(pairs), "")
        return self.grouping or next(iter(find_dividing_groupings(self.videos)), "variation")

    def _list_factor_pairs(self) -> list[str]:
        """Return the videos' factor pairs; pairs with the current grouping come first."""
        videos, pairs = self._factor_pairs
        if videos is not self.videos:
            pairs = find_factor_pairs(self.videos)
            self._factor_pairs = (self.videos, pairs)
        return sorted(pairs, key=lambda pair: self.grouping not in pair.split(","))

    def _draw_figure(self, view: str, row: Video | Group | None) -> None:
        key = FigureKey(view, self._choose_figure_grouping(view), self.curve_name if view == "means" else "")
        if view == "interaction" and not key.grouping:
            self.details.show_message(NO_INTERACTION)
            return
        message = self._figures_by_key.get(key)
        if message is None:
            if key != self._requested_figure:
                self._requested_figure = key
                self.compute_group_figure(self.videos, key)
            self.details.show_message("computing ..." if self.videos else "")
        elif message.figure is None:
            self.details.show_message(f"{message.error}\n\n{REFUSAL_HINT}")
        else:
            self.details.show_lines(self._draw_computed_figure(message.figure, key.grouping, row))

    def _draw_computed_figure(self, figure: Figure, grouping: str, row: Video | Group | None) -> list[Text]:
        canvas, row_name = self.details.get_canvas(), "" if row is None else row.name
        match figure:
            case Separation():
                return draw_separation(figure, row_name, canvas)
            case Interaction():
                return draw_interaction(figure, canvas)
            case GroupPaths():
                shares = [
                    f"PC{index + 1} {format_share(share, 1)}"
                    for index, share in enumerate(figure.components.variance_shares)
                ]
                hint = f"by {describe_grouping(grouping)}   {', '.join(shares)} of the variance"
                self.details.show_tabs(self.views, self.current_view, hint)
                return draw_paths(figure.components, row_name, canvas, self._choose_group_colours(figure.group_names))
            case GroupCurves():
                highlighted_group = self.current_group or (row.variation if isinstance(row, Video) else row_name)
                colours_by_name = self._choose_group_colours(figure.group_names)
                return draw_mean_curves(
                    figure.curve_name, figure.mean_curves, highlighted_group, canvas, colours_by_name, figure.comparison
                )
            case _:
                return draw_correlations(figure, canvas)

    def _choose_group_colours(self, group_names: Sequence[str]) -> Mapping[str, str]:
        """Return the colours of the table if it has all groups, else the colours of these groups alone."""
        colours_by_name = self.row_list.colours_by_name
        return colours_by_name if colours_by_name.keys() >= set(group_names) else assign_series_colours(group_names)

    def fit_table(self, row_count: int) -> None:
        """Make the table as high as its rows, up to a share of the screen, or up to the lines that attention leaves.

        Without videos, it takes all of the screen.
        """
        self.set_class(not self.videos, "-empty")
        height = max(MIN_TABLE_HEIGHT, row_count + 3) + self.has_class("-with-meaning")
        table = self.query_one("#table")
        table.styles.height = height if self.videos else "1fr"
        spare_height = self.measure_height_beside_attention(table)
        if spare_height > DEFAULT_MAX_TABLE_HEIGHT_BESIDE_ATTENTION:
            table.styles.max_height = spare_height
        else:
            table.styles.clear_rule("max_height")

    # Actions

    def show_view(self, view: str) -> None:
        """Show a view of the current table; attention gets the focus, because its pictures have keys."""
        if view == "attention":
            self.set_focus(self.details)
        elif self.current_view == "attention" and not self.has_class("-enlarged"):
            self.set_focus(self.row_list)
        if self.is_grouped:
            self.group_view = view
        else:
            self.video_view = view
        self.details.scroll_home(animate=False)
        self.draw_details()

    def action_next_view(self, count: int) -> None:
        """Show the next view; after the last one, the first."""
        self.show_view(self.views[(self.views.index(self.current_view) + count) % len(self.views)])

    def action_toggle_attention(self) -> None:
        """Switch between a video's attention and its curves."""
        if self.is_grouped:
            self.notify("attention is shown for single videos: press enter to list the videos of the group")
            return
        self.show_view("curves" if self.current_view == "attention" else "attention")

    def action_next_curve(self) -> None:
        """Show the next figure of the view.

        This is the mean curves of the next quantity, the interaction of the next factor pair, or the curve of the
        next metric over a setting.
        """
        comparison = None if self.comparison_outcome is None else self.comparison_outcome.comparison
        if self.current_view == "effects" and comparison is not None and comparison.dose_response is not None:
            metrics = [trend.metric for trend in sort_trends(comparison.dose_response)]
            charted_metric = self.charted_metric or comparison.dose_response.trends[0].metric
            index = metrics.index(charted_metric) if charted_metric in metrics else -1
            self.charted_metric = metrics[(index + 1) % len(metrics)]
            self.show_view("effects")
            return
        if self.current_view == "interaction":
            pairs = self._list_factor_pairs()
            if pairs:
                self.factor_pair = pairs[(pairs.index(self._choose_figure_grouping("interaction")) + 1) % len(pairs)]
            self.show_view("interaction")
            return
        if self.current_view == "means":
            key = FigureKey("means", self._choose_figure_grouping("means"), self.curve_name)
            message = self._figures_by_key.get(key)
            figure = None if message is None else message.figure
            shown_curve = figure.curve_name if isinstance(figure, GroupCurves) else self.curve_name
            index = CURVE_NAMES.index(shown_curve) if shown_curve in CURVE_NAMES else -1
            self.curve_name = CURVE_NAMES[(index + 1) % len(CURVE_NAMES)]
        self.show_view("means")
