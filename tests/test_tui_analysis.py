"""The analysis screen over several batches: its group means, and the exclusions that it names."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness_screens import on
from harness_tui import AppUnderTest
from synthetic_videos import SETTINGS, cfg_batches, make_videos_of_two_words, synthetic_videos

from wantui.analysis.calibrated import find_response
from wantui.analysis.correlation_data import correlate_videos
from wantui.analysis.decodability import compute_decodability
from wantui.analysis.differences import format_difference_parts
from wantui.analysis.group import Group
from wantui.analysis.groups import group_comparable_videos
from wantui.analysis.interaction import measure_interaction
from wantui.analysis.interaction_text import describe_interaction
from wantui.analysis.level_states import load_level_states
from wantui.analysis.metrics import METRICS
from wantui.analysis.p_values import find_decisive_p
from wantui.analysis.video import Video
from wantui.analysis.video_guidance import is_unguided
from wantui.tui.analysis import data
from wantui.tui.analysis.comparison_view import draw_comparison
from wantui.tui.analysis.data import ComparisonDone, FigureDone, FigureKey, TrajectoriesLoaded, compute_figure
from wantui.tui.analysis.dose_view import sort_trends
from wantui.tui.analysis.forest_plot import describe_symbols
from wantui.tui.analysis.metric_notes import describe_metric_response
from wantui.tui.plain_names import replace_names
from wantui.tui.screens.analysis import AnalysisScreen
from wantui.tui.widgets.diff_text import DiffText

pytestmark = pytest.mark.terminal


async def show(it: AppUnderTest, videos: list[Video], fault: str = "") -> AnalysisScreen:
    """Show videos as if they had been read from chosen batches."""
    screen = it.screen(AnalysisScreen)
    await it.until(lambda: screen.empty_text != "reading ...")
    folders = list(dict.fromkeys(video.folder for video in videos))
    screen.post_message(TrajectoriesLoaded([], folders, videos, fault))
    await it.until(lambda: screen.videos is videos)
    return screen


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_meaning_and_response_of_every_metric_are_shown_in_full(tmp_path: Path, size: tuple[int, int]) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)
    is_guided = not all(map(is_unguided, videos))

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        for name, metric in METRICS.items():
            meaning = replace_names(metric.meaning)
            await it.until(lambda: re.search(f"{re.escape(meaning)}[.; ]", it.text()))  # noqa: B023
            is_low = size[1] < 30  # rows of the table are worth more there
            assert is_low or describe_metric_response(name, is_guided=is_guided) in it.text()
            assert all(word not in it.text() for word in METRICS if "_" in word)
            await it.press("right")

    on("analysis", test, size=size)


@pytest.mark.parametrize("is_guided", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_response_of_a_metric_names_what_the_calibration_found(metric: str, is_guided: bool) -> None:
    responses = [find_response(metric, is_guided=condition) for condition in (is_guided, not is_guided)]
    words = {
        "both": "follows appearance more than frequency",
        "appearance": "follows appearance, not frequency",
        "frequency": "follows frequency more than appearance",
        "": "",
    }
    text = describe_metric_response(metric, is_guided=is_guided)
    assert text == (f"On nano, it {words[response]}." if (response := responses[0] or responses[1]) else "")


def in_two_batches(folder: Path) -> list[Video]:
    """Return 8 videos of one batch, and two of them again with another number of steps."""
    videos = synthetic_videos(folder, {"one": 1.0, "other": 1.0}, seeds=4, phrasings=1)
    later = [
        replace(video, folder=folder / "later", settings=SETTINGS | {"steps": 20})
        for video in videos
        if video.seed == 0
    ]
    return [*videos, *later]


def test_group_means_exclude_and_name_videos_with_different_settings(tmp_path: Path) -> None:
    videos = in_two_batches(tmp_path)
    pooled, left_out = group_comparable_videos(videos, "variation")
    assert [name for name, _ in left_out] == ["one_0 seed 0 of later", "other_0 seed 0 of later"]

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: "one_0         4" in it.text())
        shown = [row for row in screen.visible_rows if isinstance(row, Group)]
        assert [row.compute_mean("length") for row in shown] == [group.compute_mean("length") for group in pooled]
        assert "2 videos left out" in it.text()
        await it.until(lambda: "left out: one_0 seed 0 of later: steps is 20" in it.cells("#curve-cells"))
        assert "left out: other_0 seed 0 of later: steps is 20" in it.cells("#curve-cells")

    on("analysis", test)


def test_separation_shows_accuracy_and_shares_of_the_groups(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=6)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        screen.grouping = "1"
        screen.show_view("separation")
        screen._update_table()
        await it.until(lambda: "decodability  pairs sorted correctly" in it.cells("#curve-cells"))
        cells = it.cells("#curve-cells")
        assert "one - other" in cells
        assert "wording x group" in cells
        (pair,) = compute_decodability(load_level_states(videos, "1"))
        assert pair.describe()[:60] in cells

    on("analysis", test)


def test_interaction_shows_answers_and_effects_of_two_factors(tmp_path: Path) -> None:
    videos = make_videos_of_two_words(tmp_path)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        screen.grouping = "1"
        screen.show_view("interaction")
        screen._update_table()
        await it.until(lambda: "does the difference between red, blue depend on" in it.cells("#curve-cells"))
        assert "by bracket 1 x bracket 2" in it.text()
        cells = " ".join(it.cells("#curve-cells").split())
        interaction = measure_interaction(videos, "1,2")
        for question, text in describe_interaction(interaction).items():
            assert f"{question} {' '.join(text.split()[:7])}" in cells
        screen.details.scroll_end(animate=False)
        await it.until(lambda: "note: p is corrected for" in it.cells("#curve-cells"))

    on("analysis", test)


def test_export_before_the_comparison_ends_waits_for_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnalysisScreen, "compare_groups", lambda *_: None)
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: screen.is_grouped)
        assert screen.comparison_outcome is None
        await it.press("x")
        await it.until(lambda: any((tmp_path / "reports").glob("comparison_*.html")))

    on("analysis", test)


@pytest.mark.parametrize("grouping", ["", "variation"])
@pytest.mark.parametrize("view", ["means", "paths"])
def test_table_and_chart_have_the_same_colours_without_a_readable_trajectory(
    tmp_path: Path, grouping: str, view: str
) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.0, "c": 1.0}, seeds=3, phrasings=1)
    videos = [replace(video, trajectory=None) if video.variation == "a_0" else video for video in videos]

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        screen.grouping = grouping
        screen.show_view(view)
        screen._update_table()
        await it.until(lambda: "● b_0" in it.cells("#curve-cells"))
        cells = it.app.screen.query_one("#curve-cells", DiffText)
        legend = next(line for line in cells.shown_lines if "● b_0" in line.plain)
        styles = [span.style for span in legend.spans if "● b_0" in legend.plain[span.start : span.end]]
        assert styles == [screen.row_list.make_colour_style("series-teal")]
        assert screen.row_list.colours_by_name["b_0"] == "series-teal"

    on("analysis", test, size=(140, 40))


def test_interaction_of_one_factor_is_explained(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        screen.grouping = "variation"
        screen.show_view("interaction")
        screen._update_table()
        await it.until(lambda: "an interaction needs two brackets or settings" in it.cells("#curve-cells"))

    on("analysis", test)


def test_correlations_show_the_found_ones_or_why_there_are_none(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=6, phrasings=1)
    rated = [replace(video, labels={"rating": video.compute_metric("length")}) for video in videos]
    result = correlate_videos(rated, list(METRICS), ["rating"])

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        screen.show_view("correlations")
        await it.until(lambda: "cannot correlate: the videos have no attention maps" in it.cells("#curve-cells"))
        screen.post_message(FigureDone(videos, FigureKey("correlations", ""), result))
        await it.until(lambda: "clearest: length with rating, rho +1.00" in it.cells("#curve-cells"))

    on("analysis", test, size=(200, 40))


def test_separation_of_videos_without_projections_gives_the_reason(tmp_path: Path) -> None:
    videos = [
        replace(video, trajectory_path=None)
        for video in synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)
    ]
    message = compute_figure(videos, FigureKey("separation", "variation"))
    assert message.figure is None
    assert "no projection of its states is stored" in message.error


def test_columns_of_metrics_have_room_for_the_mark_of_their_stride(tmp_path: Path) -> None:
    videos = [
        replace(video, stride_by_metric={"turning": 2}, unsettled_metrics=("curvature",))
        for video in synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)
    ]

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        screen.row_list.move_metric(list(METRICS).index("turning"))
        await it.until(lambda: "turning (stride 2)" in it.text())
        screen.row_list.move_metric(list(METRICS).index("curvature") - screen.row_list.metric_index)
        await it.until(lambda: "curvature*" in it.text())

    on("analysis", test)


def test_search_does_not_change_the_settings_of_group_means(tmp_path: Path) -> None:
    videos = in_two_batches(tmp_path)
    few = [videos[0], *videos[4:]]  # alone, the name "one_0" would have as many videos of each setting

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, few)
        await it.press("c", "slash")
        await it.paste("one_0")
        await it.until(lambda: len(screen.visible_rows) == 1)
        (group,) = screen.visible_rows
        assert isinstance(group, Group)
        assert [video.folder for video in group.videos] == [tmp_path]

    on("analysis", test)


def test_videos_of_one_variation_cannot_be_grouped(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: "cannot group: all videos are of one variation and one batch" in it.notifications())
        assert not screen.is_grouped

    on("analysis", test)


def test_excluded_videos_beyond_the_list_are_counted(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=8, phrasings=1)
    twice = [replace(video, folder=tmp_path / "later") for video in videos[:9]]

    async def test(it: AppUnderTest) -> None:
        await show(it, [*videos, *twice])
        await it.press("c")
        await it.until(lambda: "left out: 4 more" in it.cells("#curve-cells"))

    on("analysis", test)


def test_groups_without_trajectories_explain_why_they_are_empty(tmp_path: Path) -> None:
    videos = [
        replace(video, trajectory=None, exclusion_reason="it has no stored trajectory")
        for video in synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)
    ]

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.press("c")
        await it.until(lambda: "no trajectory can be read" in it.text())
        await it.until(lambda: "left out: one_0 seed 0: it has no stored trajectory" in it.cells("#curve-cells"))

    on("analysis", test)


def test_unreadable_chosen_batch_is_reported_while_others_are_shown(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos, "b/batch.json cannot be read: it is not JSON")
        assert "some batches are left out: b/batch.json cannot be read" in it.notifications()

    on("analysis", test)


@pytest.mark.parametrize("is_of_these_videos", [False, True])
def test_outdated_comparison_is_discarded(tmp_path: Path, is_of_these_videos: bool) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: screen.comparison_outcome)
        screen.post_message(ComparisonDone(videos if is_of_these_videos else list(videos), "variation", None, "late"))
        await it.pilot.pause()
        assert (
            screen.comparison_outcome is not None and screen.comparison_outcome.error == "late"
        ) == is_of_these_videos

    on("analysis", test)


def test_regenerated_videos_are_compared_again(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        first = await it.until(lambda: screen.comparison_outcome)
        screen.post_message(TrajectoriesLoaded([], [tmp_path], list(videos), ""))
        await it.pilot.pause()
        assert screen.comparison_outcome is first
        again = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1, lengths=3.0)
        screen.post_message(TrajectoriesLoaded([], [tmp_path], again, ""))
        await it.until(lambda: screen.comparison_outcome is not None and screen.comparison_outcome is not first)
        assert screen.comparison_outcome is not None
        assert screen.comparison_outcome.videos is again

    on("analysis", test)


def test_screen_without_trajectories_explains_what_to_do() -> None:
    async def test(it: AppUnderTest) -> None:
        screen = it.screen(AnalysisScreen)
        await it.until(lambda: "no batch here has stored trajectories" in it.text())
        assert "compose a batch" in it.text()
        assert not screen.details.display

    on("analysis", test)


@pytest.mark.parametrize(("newer_counts", "shown"), [([("running", 3)], "older"), ([("done", 1)], "newer")])
def test_newest_batch_with_finished_videos_is_analysed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newer_counts: list[tuple[str, int]], shown: str
) -> None:
    batches = []
    for name, counts in (("newer", newer_counts), ("older", [("done", 2)])):
        (tmp_path / name / "latents" / "prompt_000" / "video_001.zarr").mkdir(parents=True)
        batches.append(SimpleNamespace(folder=tmp_path / name, counts_by_state=tuple(counts)))
    monkeypatch.setattr(data, "find_batches", lambda _: batches)
    monkeypatch.setattr(data, "read_batch_videos", lambda _: [])
    loaded = data.load_chosen_trajectories([tmp_path], [], lambda: False)
    assert loaded is not None
    assert [folder.name for folder in loaded.chosen_folders] == [shown]


def test_batch_without_a_finished_trajectory_is_no_missing_batch(tmp_path: Path) -> None:
    async def test(it: AppUnderTest) -> None:
        screen = it.screen(AnalysisScreen)
        batch: Any = SimpleNamespace(folder=tmp_path, counts_by_state=(("running", 3),))
        screen.post_message(TrajectoriesLoaded([batch], [tmp_path], [], "", [], {}))
        await it.until(lambda: "no finished trajectory yet; press b to choose another" in it.text())
        assert "no batch here" not in it.text()

    on("analysis", test)


def test_attention_takes_the_focus_while_its_keys_act_on_the_pictures(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=3, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("a")
        assert screen.details.has_focus
        first_metric = screen.row_list.metric_name
        await it.press("right", "down")
        assert screen.row_list.metric_name == first_metric
        await it.until(lambda: screen.row_list.current_row is videos[1])
        await it.press("escape", "right")
        assert screen.row_list.has_focus
        assert screen.row_list.metric_name != first_metric
        await it.press("a", "a")
        assert (screen.current_view, screen.details.has_focus) == ("attention", True)
        await it.press("v")
        assert screen.row_list.has_focus

    on("analysis", test)


def test_attention_view_explains_how_to_store_attention(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.until(lambda: "v View" in it.text().splitlines()[-1])
        assert "a Attention" not in it.text().splitlines()[-1], "no maps are stored"
        await it.press("a")
        await it.until(lambda: "turn on 'store attention'" in it.cells("#curve-cells"))
        await it.press("a")
        await it.until(lambda: "norm" in it.cells("#curve-cells"))

    on("analysis", test)


def find_column(lines: list[str], header: str) -> list[str]:
    """Return the cells below a right-aligned header."""
    head = next(line for line in lines if header in line and "seed" in line)
    end = head.index(header) + len(header)
    first = lines.index(head) + 1
    return [line[:end].split()[-1] for line in lines[first : first + 4]]


def test_decimals_of_a_column_are_aligned(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 3.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.until(lambda: screen.visible_rows)
        cells = find_column(it.text().splitlines(), "length")
        assert len({len(cell.partition(".")[2]) for cell in cells}) == 1
        values = [video.compute_metric("length") for video in videos]
        assert [float(cell) for cell in cells] == pytest.approx(values, rel=5e-3)

    on("analysis", test)


def test_table_names_the_batch_only_if_there_are_several(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path / "first", {"one": 1.0}, seeds=2, phrasings=1)
    later = [replace(video, folder=tmp_path / "second") for video in videos]

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.until(lambda: "variation" in it.text())
        assert "│ batch" not in it.text()
        await show(it, [*videos, *later])
        await it.until(lambda: " batch " in it.text())
        assert "second" in it.text()

    on("analysis", test)


@pytest.mark.parametrize("width", [80, 140])
def test_meaning_of_the_marked_metric_is_shown(tmp_path: Path, width: int) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        for name, metric in METRICS.items():
            assert screen.row_list.metric_name == name
            assert replace_names(metric.meaning) in it.text()
            assert name.replace("_", " ") in it.text()  # its column is scrolled into view
            await it.press("right")

    on("analysis", test, size=(width, 24))


def test_view_key_cycles_through_the_views(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("v")
        await it.until(lambda: "95 % interval over seeds (3 each)" in it.cells("#curve-cells"))
        assert "● one_0" in it.cells("#curve-cells")
        await it.press("n")
        await it.until(lambda: "velocity: mean" in it.cells("#curve-cells").splitlines()[0])
        await it.press("v")
        await it.until(lambda: "of the variance" in it.text())
        await it.press("v", "v", "v")
        assert screen.current_view == "curves"
        await it.press("V")
        assert screen.current_view == "correlations"
        await it.press("V")
        assert screen.current_view == "attention"
        await it.press("c")
        assert screen.current_view == "effects"

    on("analysis", test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_curve_key_shows_the_next_metric_over_a_setting_and_then_the_declared_one(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    videos = cfg_batches(tmp_path, (2.0, 4.0, 8.0), effect=0.1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        while screen.grouping != "cfg_scale":
            await it.press("c")
        outcome = await it.until(lambda: screen.comparison_outcome)
        assert outcome.comparison is not None
        assert outcome.comparison.dose_response is not None
        declared = outcome.comparison.dose_response.trends[0].metric
        names = [trend.metric for trend in sort_trends(outcome.comparison.dose_response)]
        start = names.index(declared)
        metrics = [replace_names(name) for name in names[start:] + names[:start]]
        await it.until(lambda: "n next metric" in it.text())
        for metric in [*metrics, metrics[0]]:
            assert re.search(
                rf"{metric} (over|by|rises with|falls with|with|is flat over) cfg scale", it.cells("#curve-cells")
            ), metric
            await it.press("n")
        assert screen.current_view == "effects"

    on("analysis", test, size=size)


def test_figures_are_computed_once_for_the_same_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)
    computed: list[FigureKey] = []

    def count(videos: list[Video], key: FigureKey) -> FigureDone:
        computed.append(key)
        return compute_figure(videos, key)

    monkeypatch.setattr("wantui.tui.screens.analysis_figures.compute_figure", count)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.press("v")
        await it.until(lambda: "(3 each)" in it.cells("#curve-cells"))
        await it.press("v")
        await it.until(lambda: "of the variance" in it.text())
        await it.press("V")
        await it.until(lambda: "(3 each)" in it.cells("#curve-cells"))
        assert [key.view for key in computed] == ["means", "paths"]

    on("analysis", test)


def test_paths_without_projection_are_explained(tmp_path: Path) -> None:
    videos = [
        replace(video, trajectory_path=None) for video in synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)
    ]

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.press("v", "v")
        await it.until(lambda: "cannot compute principal components" in it.cells("#curve-cells"))
        assert "one_0 seed 0: no projection of" in it.cells("#curve-cells")

    on("analysis", test)


def test_forest_plot_has_a_row_for_each_metric_and_a_filled_sign_if_significant(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"wide": 3.0, "narrow": 1.0}, seeds=8, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        outcome = await it.until(lambda: screen.comparison_outcome)
        await it.until(lambda: "95 % interval" in it.cells("#curve-cells"))
        lines = it.cells("#curve-cells").splitlines()
        for difference in outcome.comparison.differences:
            title = difference.metric.replace("_", " ")
            (row,) = [line for line in lines if re.match(rf"{title}( \((not settled|primary)\))? +[^a-z( ]", line)]
            if np.isfinite(difference.relative_difference):
                is_significant = find_decisive_p(outcome.comparison, difference) <= 0.05
                assert ("●" in row) == is_significant
                assert ("○" in row) == (not is_significant)
                assert format_difference_parts(difference)[0] in row
        assert any("●" in line for line in lines if line.startswith("spread "))

    on("analysis", test)


def test_enlarged_view_hides_the_table_until_escape(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("z")
        assert not screen.query_one("#table").display
        assert getattr(screen.focused, "id", "") == "curves"
        await it.press("escape")
        assert screen.query_one("#table").display
        assert getattr(screen.focused, "id", "") == "rows"

    on("analysis", test)


def list_pair_headings(it: AppUnderTest) -> list[str]:
    """Return the headings of the pairs of groups on the screen."""
    return re.findall(r"^(\w+ against \w+)\s*$", it.cells("#curve-cells"), re.MULTILINE)


def test_answers_come_first_in_three_lines(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"wide": 3.0, "narrow": 1.0}, seeds=8, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.press("c")
        await it.until(lambda: "95 % interval" in it.cells("#curve-cells"))
        lines = it.cells("#curve-cells").splitlines()
        assert [line.split()[0] for line in lines[:3]] == ["place", "room", "path"]
        assert "wide_0 takes more room in spread" in lines[1]
        assert lines[0].rstrip().endswith("where the videos end")
        note = "0.008: smallest p with 8 seeds"
        assert " ".join(lines[3].split()) == f"← more in narrow_0 more in wide_0 → {note}"
        assert lines[3].index("wide_0") > lines[4].index(" 0 ") > lines[3].index("narrow_0")
        assert lines[4].startswith("metric")
        assert any(line.startswith("place  distance ") for line in lines[4:])

    on("analysis", test)


@pytest.mark.parametrize(("height", "is_below"), [(60, True), (24, False)])
def test_legend_is_below_a_forest_plot_that_fits_and_above_others(tmp_path: Path, height: int, is_below: bool) -> None:
    videos = synthetic_videos(tmp_path, {"wide": 3.0, "narrow": 1.0}, seeds=8, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: "├─┤ 95 %" in it.cells("#curve-cells"))
        outcome = screen.comparison_outcome
        assert outcome is not None
        assert outcome.comparison is not None
        rows = draw_comparison(outcome.comparison, "wide_0", [], screen.details.get_canvas())[1].values()
        lines = it.cells("#curve-cells").splitlines()
        (legend,) = [index for index, line in enumerate(lines) if line.startswith("● ")]
        assert legend == (max(rows) + 1 if is_below else min(rows) - 3)
        assert lines[min(rows) - 1].startswith("metric")

    on("analysis", test, size=(140, height))


def test_sign_of_further_metrics_has_a_space_before_it_in_every_width(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        headers = [screen.row_list._draw_header(width).plain for width in range(40, 140)]
        assert {header[-3:] for header in headers} == {" › "}

    on("analysis", test)


def test_legend_explains_each_sign_once_in_one_line() -> None:
    assert describe_symbols(["length", "turning*", "straightness ¹"], 130, has_unguided=True) == (
        "● adj. p up to 0.05   ├─┤ 95 % interval   ◇ expected from Gaussian flow   □ cfg scale 1   "
        "¹ % of distance to 1   * mostly the sampler's steps"
    )
    short = "● p ≤ 0.05  ├─┤ 95 %  ◇ Gaussian flow  ¹ % of distance to 1  * unsettled"
    assert describe_symbols(["turning*", "straightness ¹"], 74) == short
    assert describe_symbols(["length"], 130, has_null=False) == "● adj. p up to 0.05   ├─┤ 95 % interval"


def test_pairs_of_the_marked_group_come_first(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "two": 1.0, "three": 1.0}, seeds=3, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: list_pair_headings(it))
        assert list_pair_headings(it)[0] == "one_0 against two_0"
        await it.press("end")
        await it.until(lambda: "three_0" in list_pair_headings(it)[0])
        pairs = list_pair_headings(it)
        assert ["three_0" in line for line in pairs] == [True, True, False]
        assert screen.row_list.cursor == 2

    on("analysis", test)


def test_pairs_beyond_the_maximum_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wantui.tui.analysis.comparison_view.MAX_DRAWN_PAIRS", 1)
    videos = synthetic_videos(tmp_path, {"one": 1.0, "two": 1.0, "three": 1.0}, seeds=3, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.press("c")
        await it.until(lambda: "2 more pairs" in it.cells("#curve-cells"))
        assert len(list_pair_headings(it)) == 1

    on("analysis", test)


@pytest.mark.parametrize(
    ("swept", "header", "values"),
    [
        ({"cfg_scale": (1, 4)}, "cfg scale", ("1", "4")),
        ({"model_id": ("my model", "nano")}, "model id", ("my model", "nano")),
        ({"steps": (8, 9), "cfg_scale": (1, 1)}, "settings", ("steps 8, cfg scale 1", "steps 9, cfg scale 1")),
    ],
)
def test_table_shows_the_cell_of_each_video_of_a_sweep(
    tmp_path: Path, swept: dict[str, tuple[object, object]], header: str, values: tuple[str, str]
) -> None:
    first, *_ = synthetic_videos(tmp_path, {"one": 1.0}, seeds=1, phrasings=1)
    videos = [
        replace(
            first,
            video_index=index,
            swept_axes=tuple((f"model_settings.{name}",) for name in swept),
            setting_values={f"model_settings.{name}": pair[index] for name, pair in swept.items()},
            cell_label=", ".join(f"{name} {pair[index]}" for name, pair in swept.items()),
        )
        for index in (0, 1)
    ]

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.until(lambda: re.search(rf"variation +{header} +seed", it.text()))
        for value in values:
            assert re.search(rf"one_0 +{value} +{first.seed} ", it.text()), it.text()

    on("analysis", test, size=(140, 40))


def test_table_without_a_sweep_has_no_column_of_cells(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.until(lambda: re.search(r"variation +seed +length", it.text()))

    on("analysis", test, size=(140, 40))


def test_refused_comparison_names_the_keys_that_help(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=1, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.press("c")
        await it.until(lambda: "cannot compare" in it.cells("#curve-cells"))
        assert "b to add batches to the analysis" in " ".join(it.cells("#curve-cells").split())

    on("analysis", test)
