"""The HTML report of a comparison: complete, self-contained, and readable on light and dark screens and on paper."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from synthetic_videos import make_videos_of_two_words, synthetic_videos

from wantui.analysis.calibrated import find_response
from wantui.analysis.compare import compare_groups
from wantui.analysis.comparison import Comparison
from wantui.analysis.correlation_data import correlate_videos
from wantui.analysis.correlation_text import describe_correlations
from wantui.analysis.curve_comparison import compare_curves
from wantui.analysis.interaction import measure_interaction
from wantui.analysis.interaction_text import describe_interaction
from wantui.analysis.label_table import read_label_table
from wantui.analysis.labels import join_labels
from wantui.analysis.metrics import CURVES, METRICS
from wantui.analysis.report import write_report
from wantui.analysis.report_curves import draw_curves
from wantui.analysis.report_definitions import CURVE_MEANINGS
from wantui.analysis.report_page import GROUP_COLOURS, render_page
from wantui.analysis.report_provenance import ReportProvenance
from wantui.analysis.video import Video

pytestmark = pytest.mark.slow
LOADING_ATTRIBUTES = {"src", "href", "xlink:href", "srcset", "data", "action"}


class PageReader(HTMLParser):
    """Collects what a page would load, its text, and tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.open_tags: list[str] = []
        self.mismatches: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value or "" for name, value in attrs if name in LOADING_ATTRIBUTES]
        if tag not in ("meta", "br", "img"):
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value or "" for name, value in attrs if name in LOADING_ATTRIBUTES]

    def handle_endtag(self, tag: str) -> None:
        if not self.open_tags or self.open_tags.pop() != tag:
            self.mismatches.append(tag)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    videos = synthetic_videos(tmp_path_factory.mktemp("data"), {"wide": 2.0, "narrow": 1.0}, seeds=6, phrasings=1)
    return compare_groups(videos, grouping="1")


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    """The report of the comparison."""
    return write_page(comparison)


def write_page(comparison: Comparison, provenance: ReportProvenance | None = None) -> str:
    path = comparison.groups[0].videos[0].folder / "page.html"
    write_report(path, comparison, provenance)
    return path.read_text(encoding="utf-8")


def test_report_loads_nothing_and_is_well_formed(page: str) -> None:
    reader = PageReader()
    reader.feed(page)
    assert all(target.startswith(("#", "data:image/")) for target in reader.targets)
    assert reader.mismatches == []
    assert reader.open_tags == []
    assert not re.search(r"@import|<script|<link|url\((?!#)", page)


def test_report_starts_with_place_room_and_path(page: str) -> None:
    answers = re.findall(r'<p class="verdict[^"]*"><b>(\w+)</b>', page)
    assert answers == ["place", "room", "path"]
    assert page.index("do the groups lie in different places") < page.index("<b>place</b> ")
    assert "By chance: 95 % of the distances are smaller" in page
    assert page.index("<b>place</b>") < page.index("Verdict on a single metric</h2>") < page.index("Videos</h2>")


def test_report_defines_every_metric_and_curve(comparison: Comparison, page: str) -> None:
    defined = re.findall("<dt>(.*?)</dt>", page)
    assert {*comparison.summaries_by_metric, *CURVES} <= {*defined}
    assert CURVES.keys() <= CURVE_MEANINGS.keys()


def test_report_names_command_seeds_and_labels(tmp_path: Path, comparison: Comparison) -> None:
    table_path = tmp_path / "labels.csv"
    table_path.write_text("variation,seed,<code>\nwide_0,1,x\n")
    table = read_label_table(table_path)
    page = write_page(comparison, ReportProvenance("wantui analyze 'a & b' --html page.html", table))
    assert "<code>wantui analyze &#x27;a &amp; b&#x27; --html page.html</code>" in page
    assert "0, 1, 2, 3, 4, 5" in page
    assert table.sha256 in page
    assert "&lt;code&gt;=x" in page
    assert "<code>=x" not in page


def test_report_without_a_command_names_an_equivalent_one(comparison: Comparison, page: str) -> None:
    folder = comparison.groups[0].videos[0].folder
    assert f"wantui analyze {folder} --compare --by 1 --primary spread --html report.html" in page


def test_figures_have_the_colours_of_the_page(page: str) -> None:
    figures = re.findall("<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) >= 4
    for figure in figures:
        assert not any(colour in figure for colour in GROUP_COLOURS)
        assert "var(--group0)" in figure
        assert "var(--text)" in figure
        colours = {*re.findall(r"(?:fill|stroke): (#\w+)", figure)}
        assert not colours, colours
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_equal_comparisons_have_equal_figures(comparison: Comparison, page: str) -> None:
    figures = [re.findall("<svg.*?</svg>", written, re.DOTALL) for written in (page, write_page(comparison))]
    assert figures[0] == figures[1]


def test_curves_are_drawn_with_bands_of_means_and_of_videos(comparison: Comparison) -> None:
    curve_comparisons = compare_curves(comparison.matched_groups)
    figure = draw_curves(comparison, curve_comparisons)
    group_axes, difference_axes = figure.axes[2:4]
    velocity = next(curves for curves in curve_comparisons if curves.curve_name == "velocity")
    drawn = [np.asarray(line.get_ydata()) for line in group_axes.get_lines()]
    for curve in velocity.curves:
        for values in (curve.mean, curve.videos_low, curve.videos_high):
            assert any(np.array_equal(line, values) for line in drawn)
    assert len(group_axes.collections) == len(velocity.curves)
    band = np.asarray(difference_axes.collections[0].get_paths()[0].vertices)[:, 1]
    (difference,) = velocity.differences
    assert (band.min(), band.max()) == pytest.approx((difference.low.min(), difference.high.max()))


def test_sections_are_linked_at_the_top() -> None:
    page = render_page("a < b", ["<header><h1>x</h1></header>", "<h2>One</h2>", "<h2>Two &amp; three</h2>"])
    assert "<title>a &lt; b</title>" in page
    assert '<nav><a href="#section1">One</a><a href="#section2">Two &amp; three</a></nav>' in page
    assert '<h2 id="section2">Two &amp; three</h2>' in page


def test_report_shows_what_each_metric_responds_to(page: str) -> None:
    table = page[page.index("Effects in all metrics") :]
    headers = re.findall(r"<th>(.*?)</th>", table[: table.index("</table>")])
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in table[: table.index("</table>")].split("<tr>")[2:]]
    metric_column, response_column = headers.index("metric"), headers.index("responds to")
    responses = {row[metric_column]: row[response_column] for row in rows}
    assert responses == {metric: find_response(metric, is_guided=True) for metric in responses}
    assert {metric: responses[metric] for metric in ("straightness", "turning", "spread")} == {
        "straightness": "frequency",
        "turning": "both",
        "spread": "both",
    }
    assert "responds to: frequency in training, appearance, or both" in table


def test_report_shows_outside_labels_without_percentages(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path / "data", {"a": 1.0, "b": 1.0}, seeds=6, phrasings=1)
    table_path = tmp_path / "labels.csv"
    rows = "".join(f"{name}_0,{seed},{seed + (name == 'a')}\n" for name in "ab" for seed in range(6))
    table_path.write_text("variation,seed,rating\n" + rows)
    videos = join_labels(videos, read_label_table(table_path))
    result = compare_groups(videos, grouping="1", primary_metric="rating")
    page = write_page(replace(result, warnings=("a < b",)))
    assert "<td>rating</td><td>-</td><td>+1</td><td>-</td>" in page  # all seeds differ by 1: no scatter, no interval
    assert "Note: a &lt; b" in page
    assert "<dt>rating</dt><dd>external label" in page


@pytest.fixture(scope="module")
def videos_of_two_words(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    return make_videos_of_two_words(tmp_path_factory.mktemp("two-words"))


@pytest.mark.parametrize("grouping", ["1,2", "1", "variation"])
def test_report_shows_the_interaction_of_two_factors(videos_of_two_words: list[Video], grouping: str) -> None:
    page = write_page(compare_groups(videos_of_two_words, grouping, "length"))
    section = page[page.index(">Interaction</h2>") :]
    section = section[: section.index("<h2")]
    assert "Does the difference between red, blue depend on circle, ring?" in section
    for question, text in describe_interaction(measure_interaction(videos_of_two_words, "1,2")).items():
        assert f"<b>{question}</b> {text}" in section


def test_report_without_two_factors_has_no_interaction(page: str) -> None:
    assert ">Interaction</h2>" not in page
    assert ">Correlations with attention and labels</h2>" not in page


def test_report_correlates_metrics_with_labels(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path / "data", {"wide": 2.0, "narrow": 1.0}, seeds=6, phrasings=1)
    videos = [replace(video, labels={"rating <1>": float(video.seed % 4)}) for video in videos]
    page = write_page(compare_groups(videos, grouping="1"))
    section = page[page.index(">Correlations with attention and labels</h2>") :]
    for kind, items in correlate_videos(videos, list(METRICS), ["rating <1>"]).correlations_by_kind.items():
        assert html.escape(describe_correlations(items, kind)[1:]) in section


def test_all_curves_draw_the_same_pairs_of_groups(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path / "data", dict.fromkeys("abcd", 1.0), seeds=6, phrasings=1)
    result = compare_groups(videos, grouping="1", primary_metric="length", metrics=["length"])
    figure = draw_curves(result, compare_curves(result.matched_groups))
    drawn = [
        [line.get_label() for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        for axes in figure.axes[1::2]
    ]
    assert len(drawn[0]) == 3
    assert all(labels == drawn[0] for labels in drawn)
