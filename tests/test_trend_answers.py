"""Place, room and path over a numeric setting: the three lines name the slope per unit, with interval and p."""

import html
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.simulated_answers import simulate_trend_answer
from benchmarks.simulated_nulls import NullCase, collect_metrics, use_fewer_exchanges
from conftest import Wantui
from rich.style import Style
from scipy import stats
from synthetic_videos import cfg_batches, set_values, synthetic_videos, use_videos

from wantui.analysis.answer import Answer
from wantui.analysis.answer_evidence import CANNOT_TELL, DIFFERS, PATH, PLACE, ROOM
from wantui.analysis.compare import compare_groups
from wantui.analysis.correlation_text import CORRELATION_HEADERS
from wantui.analysis.differences import P_HEADER
from wantui.analysis.dose_response import Doses
from wantui.analysis.final_states import FinalStates
from wantui.analysis.group import Group
from wantui.analysis.interaction import EFFECT_HEADERS
from wantui.analysis.p_values import explain_declared_p
from wantui.analysis.places import compute_contrast_gram, measure_contrast
from wantui.analysis.report_answers import render_answer_section
from wantui.analysis.serialize import build_answer_record
from wantui.analysis.statistics import compute_paired_effect, run_sign_flip_test
from wantui.analysis.video import Video
from wantui.tui.analysis.answers_view import draw_answer_details, draw_answer_verdicts
from wantui.tui.analysis.views import Canvas

pytestmark = pytest.mark.slow
SCALES = (1.0, 2.0, 4.0, 6.0)
EFFECT = compute_paired_effect(np.arange(8.0))


def find_scale(video: Video) -> float:
    return float(video.folder.name.removeprefix("cfg"))


def make_growing_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scales: tuple[float, ...]) -> list[Video]:
    """Videos all of whose metrics grow by 0.3 per unit of cfg_scale, with scatter between seeds and videos."""
    videos = cfg_batches(tmp_path, scales, seeds=8)

    def grow(video: Video) -> float:
        noise = np.random.default_rng([video.seed, int(10 * find_scale(video)), len(video.variation)]).normal()
        return 5 + 0.3 * find_scale(video) + 0.05 * noise + 0.1 * video.seed

    set_values(monkeypatch, grow)
    return videos


def find_answer(answers: tuple[Answer, ...], question: str) -> Answer:
    return next(answer for answer in answers if answer.question == question)


@pytest.mark.parametrize("scales", [SCALES, (1.0, 4.0)])
def test_three_lines_give_the_slope_per_unit_with_interval_and_p(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scales: tuple[float, ...]
) -> None:
    comparison = compare_groups(make_growing_videos(tmp_path, monkeypatch, scales), "cfg_scale", "length")
    room = find_answer(comparison.answers[:3], ROOM)
    assert [answer.question for answer in comparison.answers[:3]] == [PLACE, ROOM, PATH]
    assert all(not answer.first_group for answer in comparison.answers[:3])
    values = np.array(
        [
            [[video.compute_metric("log_volume") for video in group.videos if video.seed == seed] for seed in range(8)]
            for group in comparison.groups
        ]
    ).mean(2)
    slopes = np.polyfit(scales, values, 1)[0]
    interval = stats.ttest_1samp(slopes, 0).confidence_interval()
    evidence = next(item for item in room.evidence if item.metric == "log_volume")
    assert evidence.effect == pytest.approx(slopes.mean())
    assert (evidence.low, evidence.high) == pytest.approx((interval.low, interval.high))
    assert evidence.p == pytest.approx(2 / 2**8)
    assert evidence.p >= run_sign_flip_test(slopes)
    limits = f"(95 %: {interval.low:+.3g} to {interval.high:+.3g})"
    assert f"room grows with cfg_scale from 1 to {scales[-1]:g} in log_volume" in room.verdict
    assert f"Per unit of cfg_scale: log_volume {slopes.mean():+.3g} nats {limits}, p 0.00781" in room.text
    path = find_answer(comparison.answers[:3], PATH)
    assert path.verdict.startswith(f"paths change with cfg_scale from 1 to {scales[-1]:g} in length, bend")
    assert "Per unit of cfg_scale: length: " in path.text


def move_states(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Move the final states along the first axis by `step` per unit of cfg_scale, with small scatter."""
    load, random = FinalStates.load, np.random.default_rng(5)

    def load_moved(groups: Sequence[Group]) -> FinalStates:
        states = load(groups)
        moved = 0.02 * random.normal(size=states.scaled_states.shape)
        for g, group in enumerate(groups):
            moved[g, :, 0] += step * find_scale(group.videos[0])
        return replace(states, scaled_states=moved)

    monkeypatch.setattr(FinalStates, "load", load_moved)


def test_place_names_the_shift_per_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move_states(monkeypatch, 0.25)
    place = compare_groups(cfg_batches(tmp_path, SCALES, seeds=8), "cfg_scale", "length").answers[0]
    assert place.verdict == "the final latents shift with cfg_scale from 1 to 6"
    (evidence,) = place.evidence
    assert evidence.effect == pytest.approx(0.25, rel=0.02)
    assert evidence.low < 0.25 < evidence.high
    assert place.text.startswith(
        f"place: {place.verdict}. Per unit of cfg_scale: distance {evidence.effect:.3g} (95 %: {evidence.low:.3g} to "
        f"{evidence.high:.3g}; by chance up to "
    )
    assert ", p 0.00781; smallest possible p 0.00781" in place.text


def test_slope_of_place_equals_that_of_all_sign_flips() -> None:
    states = np.random.default_rng(3).normal(size=(3, 7, 12)) + np.array([0.0, 0.3, 0.9])[:, None, None]
    doses = np.array([1.0, 2.0, 4.0])
    weights = (doses - doses.mean()) / ((doses - doses.mean()) ** 2).sum()
    slopes = np.array([np.polyfit(doses, states[:, s], 1)[0] for s in range(7)])
    measured = measure_contrast(compute_contrast_gram(states, weights))
    products = slopes @ slopes.T
    assert measured.distance**2 == pytest.approx((products.sum() - np.trace(products)) / (7 * 6))
    lengths = [np.linalg.norm(np.array(signs) @ slopes) for signs in itertools.product((1, -1), repeat=7)]
    assert measured.p == np.mean(np.array(lengths) >= np.linalg.norm(slopes.sum(0)) * (1 - 1e-12))


def test_response_that_rises_and_falls_is_named_as_no_slope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = cfg_batches(tmp_path, (1, 2, 3), seeds=8)

    def peak(video: Video) -> float:
        return (
            5 + (find_scale(video) == 2) + 0.05 * np.random.default_rng([video.seed, int(find_scale(video))]).normal()
        )

    set_values(monkeypatch, peak)
    comparison = compare_groups(videos, "cfg_scale", "length")
    room = find_answer(comparison.answers[:3], ROOM)
    assert room.kind == CANNOT_TELL
    assert room.verdict.endswith("Cannot tell in log_volume, effective_dimension of each path")
    assert min(room.p_by_metric.values()) > 0.05 >= max(p for m, p in room.any_difference_p.items() if m != "spread")
    p_texts = [f"{metric} (p {room.any_difference_p[metric]:.3g})" for metric in ("log_volume", "effective_dimension")]
    note = (
        f"the 3 groups differ without a clear slope in {', '.join(p_texts)}, by a separate test for any difference, "
        "which the verdict does not count"
    )
    assert note in room.notes
    assert build_answer_record(room)["any_difference_p"] == room.any_difference_p
    lines = draw_answer_details([room], Canvas(200, 20, lambda _: Style()))
    assert note.replace("_", " ") in " ".join(line.plain for line in lines)
    assert html.escape(note) in " ".join(render_answer_section(comparison))


def test_five_seeds_and_a_short_range_are_noted(tmp_path: Path) -> None:
    videos = cfg_batches(tmp_path, (0.2, 0.6), seeds=5)
    answers = compare_groups(videos, "cfg_scale", "length").answers[:3]
    for answer in answers:
        assert "5 seeds cannot give a p of 0.05: generate at least 6" in answer.notes
        assert any("so a slope per unit extrapolates beyond this range" in note for note in answer.notes)
        assert "cannot tell" in answer.verdict.lower()


def test_close_values_are_written_with_the_digits_that_differ() -> None:
    assert Doses("shift", (3.0, 3.00000001), (0, 1)).range_text == "shift from 3 to 3.00000001"
    assert "from 3 to 3.00000001, so" in Doses("shift", (3.0, 3.00000001), (0, 1)).describe_extrapolation()
    assert Doses("shift", (0.1, 0.30000000000000004), (0, 1)).range_text == "shift from 0.1 to 0.3"


def test_false_answers_on_slopes_do_not_exceed_the_level() -> None:
    """Only the slopes decide: with the test for any difference as a second chance, 7 % of the answers were false."""
    random, runs, answers = np.random.default_rng(1), 300, []
    with use_fewer_exchanges():
        for _ in range(runs):
            states = NullCase("4 groups", 4, 1).draw(random, seed_count=20)
            values = collect_metrics(states, 9)
            answers += [simulate_trend_answer(states, values, question) for question in (PLACE, ROOM, PATH)]
    for answer in answers:
        assert (answer.kind == DIFFERS) <= (min(answer.p_by_metric.values()) <= 0.05)
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
    for question in (PLACE, ROOM, PATH):
        assert np.mean([answer.kind == DIFFERS for answer in answers if answer.question == question]) <= limit
    assert any("which the verdict does not count" in note for answer in answers for note in answer.notes)


def test_screen_and_report_show_the_slope_in_the_three_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_groups(make_growing_videos(tmp_path, monkeypatch, SCALES), "cfg_scale", "length")
    lines = [line.plain for line in draw_answer_verdicts(comparison.find_answers(), Canvas(78, 20, lambda _: Style()))]
    text = " ".join(" ".join(lines).split())
    slope = r"log volume \+0\.\d+ nats \(95 %: .*\) per unit, p 0\.008"
    assert re.search(f"room +room grows with cfg scale from 1 to 6 in log volume.*: {slope}", text)
    assert re.search(r"path +paths change with cfg scale from 1 to 6 in length.*: length .* per unit, p 0\.008", text)
    assert len(lines) <= 8
    low_lines = [
        line.plain for line in draw_answer_verdicts(comparison.find_answers(), Canvas(78, 9, lambda _: Style()))
    ]
    assert [line.split()[0] for line in low_lines] == ["place", "room", "path"]
    assert re.match(r"room +log volume \+0\.\d+ nats \(95 %: .*\) per cfg scale, p 0\.008$", low_lines[1])
    assert re.match(r"path +length \+4\.7 % \(95 %: .*\) per cfg scale, p 0\.008$", low_lines[2])
    narrow = Canvas(len(low_lines[1]) - 2, 9, lambda _: Style())
    narrow_lines = [line.plain for line in draw_answer_verdicts(comparison.find_answers(), narrow)]
    assert [line.split()[0] for line in narrow_lines] == ["place", "room", "path"]
    assert narrow_lines[1] == low_lines[1].removesuffix(", p 0.008")
    section = " ".join(render_answer_section(comparison))
    assert "Per unit of cfg_scale: log_volume +0." in section
    assert section.index("Per unit of cfg_scale") < section.index("against")


@pytest.mark.parametrize("scales", [SCALES, (1.0, 4.0)])
def test_command_prints_the_slopes_last(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch, scales: tuple[float, ...]
) -> None:
    use_videos(monkeypatch, make_growing_videos(tmp_path, monkeypatch, scales))
    shown = wantui("analyze", "batch", "--compare", "--by", "cfg_scale", "--primary", "length")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert [line.split(":")[0] for line in lines[-3:]] == ["place", "room", "path"]
    assert "Per unit of cfg_scale: log_volume +0." in lines[-2]
    assert "slope per unit" not in shown.out
    details = wantui("analyze", "batch", "--compare", "--by", "cfg_scale", "--primary", "length", "--details")
    assert details.out.splitlines()[-3:] == lines[-3:]
    assert "slope per unit" in details.out


def test_words_have_no_slopes(tmp_path: Path) -> None:
    comparison = compare_groups(synthetic_videos(tmp_path, {"one": 1.0, "two": 1.0, "three": 1.0}, seeds=6), "1")
    assert not any("Per unit" in answer.text for answer in comparison.answers)


def test_each_table_has_one_p_and_says_that_it_is_corrected(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_videos(monkeypatch, cfg_batches(tmp_path, (1, 4, 8), seeds=8, effect=1.0))
    shown = wantui("analyze", "batch", "--compare", "--by", "cfg_scale", "--primary", "length", "--details").out
    starts = ("groups ", "metric ", "curve ")
    headers = [re.split(r" {2,}", line) for line in shown.splitlines() if line.startswith(starts)]
    headers += [list(CORRELATION_HEADERS), list(EFFECT_HEADERS)]
    assert len(headers) == 5
    for header in headers:
        assert [cell for cell in header if re.match(r"p\b|max-T|BH", cell)] == [P_HEADER]


def test_declared_slope_whose_p_decides_otherwise_alone_is_explained(tmp_path: Path) -> None:
    comparison = compare_groups(cfg_batches(tmp_path, (1, 2, 4), seeds=8), "cfg_scale", "length")
    assert comparison.dose_response is not None
    trend = replace(comparison.dose_response.trends[0], permutation_p=0.01, slope=replace(EFFECT, p=0.01))
    dose_response = replace(comparison.dose_response, trends=(trend, *comparison.dose_response.trends[1:]))
    (note,) = explain_declared_p(replace(comparison, dose_response=dose_response, verdicts=()))
    path = find_answer(comparison.answers[:3], PATH)
    assert note == (
        "length, slope over cfg_scale: p 0.01 as the declared metric, without correction for other metrics; "
        f"{path.p_by_metric['length']:.3g} as one of several metrics"
    )


def test_tables_of_slopes_show_the_p_of_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(video: Video, metric: str) -> float:
        return 5 + float(np.random.default_rng([video.seed, int(find_scale(video)), *metric.encode()]).normal())

    monkeypatch.setattr(Video, "compute_metric", draw)
    comparison = compare_groups(cfg_batches(tmp_path, (1, 4, 8), seeds=8), "cfg_scale", "length")
    p_by_metric = {metric: p for answer in comparison.answers[:3] for metric, p in answer.p_by_metric.items()}
    assert comparison.dose_response is not None
    trends = {trend.metric: trend for trend in comparison.dose_response.trends}
    assert any(trends[metric].family_p > p for metric, p in p_by_metric.items() if metric in trends)
    for metric, trend in trends.items():
        assert trend.answer_or_family_p == p_by_metric.get(metric, trend.family_p)
