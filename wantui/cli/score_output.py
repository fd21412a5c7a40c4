"""Text, JSON and CSV of the information gap."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wantui.cli.output import echo, print_columns, print_wrapped_line
from wantui.formatting import format_count, format_duration, format_interval

if TYPE_CHECKING:
    from wantui.analysis.information_gap import InformationTable, ScoredVideo, WordInformation
    from wantui.analysis.statistics import Effect
    from wantui.batches.score import ScoreStarted
    from wantui.batches.score_plan import ScorePlan
    from wantui.storage.information_file import InformationFile


def format_cost(plan: "ScorePlan", cost: "ScoreStarted") -> str:
    """Return the predicted cost of a measurement: passes through the transformer, and time."""
    kept_text = f" ({format_count(cost.kept_count, 'video')} already measured)" if cost.kept_count else ""
    if cost.video_count == 0:
        return f"nothing to measure{kept_text}"
    seconds = cost.seconds.value
    time_text = (
        f"unknown time ({cost.seconds.basis})"
        if seconds is None
        else (f"about {format_duration(seconds)} ({cost.seconds.basis})")
    )
    draws_text = f" x {format_count(plan.draw_count, 'draw')}" if plan.draw_count > 1 else ""
    return (
        f"{format_count(cost.video_count, 'video')} x {format_count(len(plan.levels), 'noise level')}{draws_text} x 2 "
        f"passes = {format_count(cost.pass_count, 'pass', 'passes')}, {time_text}{kept_text}"
    )


def print_score_table(plan: "ScorePlan", table: "InformationTable") -> None:
    """Print the information of each word, its calibration, and the paired differences."""
    from wantui.analysis.calibrated import describe_measure
    from wantui.analysis.differences import P_HEADER

    seeds_text = format_count(len(table.seeds), "seed")
    sentences_text = format_count(table.phrasing_count, "sentence")
    print_wrapped_line(
        f'information gap: what a word tells the model beyond "{plan.generic}", in nats, with 95 % intervals over seeds'
    )
    rows = [_format_word_row(word) for word in table.words]
    print_columns(
        ("word", "videos", "pointwise", "gap", "exp(-pointwise)", "pointwise, whole range", "gap, whole range"), *rows
    )
    print_wrapped_line(
        f"sum of exp(-pointwise): {table.probability_sum:.3g}. For a perfect model, exp(-information) is the "
        f'probability that "{plan.generic}" yields the word, so the sum is at most 1'
    )
    print_wrapped_line(describe_measure("information_gap", "the information gap"))
    if table.disagreement is not None:
        print_wrapped_line(_describe_disagreement(table.disagreement))
    if not table.differences:
        print_wrapped_line("no differences: two words must share at least two seeds")
        return
    echo()
    unpaired_text = f"; {format_count(table.unpaired_count, 'video')} without a partner" if table.unpaired_count else ""
    print_wrapped_line(
        f"differences, paired by {seeds_text} and {sentences_text}{unpaired_text}; p is corrected for "
        f"all pairs of words and both forms (max-T); smallest p possible with {seeds_text}: "
        f"{table.min_attainable_p:.3g}"
    )
    print_columns(
        ("words", "form", "difference", "95 %", "d_z", P_HEADER),
        *(
            (
                f"{difference.first_word} - {difference.second_word}",
                difference.quantity,
                f"{difference.effect.mean:+.3g}",
                format_interval(difference.effect.interval_low, difference.effect.interval_high),
                f"{difference.effect.d_z:z.2f}" if math.isfinite(difference.effect.d_z) else "-",
                f"{difference.family_p:.3g}",
            )
            for difference in table.differences
        ),
    )


def _format_word_row(word: "WordInformation") -> tuple[str, ...]:
    from wantui.analysis.information_gap import convert_to_probability

    means = word.mean_by_quantity
    return (
        word.word,
        str(word.video_count),
        _format_with_interval(means["pointwise"], word.half_width_by_quantity["pointwise"]),
        _format_with_interval(means["gap"], word.half_width_by_quantity["gap"]),
        f"{convert_to_probability(means['pointwise']):.3g}",
        f"{means['pointwise_whole']:.3g}",
        f"{means['gap_whole']:.3g}",
    )


def _format_with_interval(mean: float, half_width: float) -> str:
    if not math.isfinite(half_width):
        return f"{mean:z.2f}"
    return f"{mean:z.2f} ({mean - half_width:z.2f} to {mean + half_width:z.2f})"


def _describe_disagreement(effect: "Effect") -> str:
    interval_text = format_interval(effect.interval_low, effect.interval_high, "+.2f")
    text = f"pointwise - gap: {effect.mean:+z.2f} ({interval_text}). "
    if not math.isfinite(effect.interval_low) or effect.interval_low <= 0 <= effect.interval_high:
        return text + "The two forms do not differ significantly"
    return (
        text + "The two forms differ: the model is not calibrated on these videos, so its information is not -ln p. "
        "Compare only the order of the words"
    )


def build_score_rows(videos: "Sequence[ScoredVideo]") -> list[list[str]]:
    """Return the rows of the CSV file: one for each video."""
    from wantui.analysis.information_gap import QUANTITIES

    header = ["word", "generic_prompt", "condition", "seed", *QUANTITIES]
    return [
        header,
        *(
            [video.word, video.generic_prompt, video.condition, str(video.seed), *map(repr, video.information.values)]
            for video in videos
        ),
    ]


def build_score_record(
    plan: "ScorePlan",
    content: "InformationFile",
    table: "InformationTable",
    videos: "Sequence[ScoredVideo]",
    left_out: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Return the result for JSON output.

    Args:
        left_out: name and reason of each video that was not measured.
    """
    return {
        "generic": plan.generic,
        "draws": content.draws,
        "levels": [level.model_dump() for level in content.levels],
        "words": [
            {
                "word": word.word,
                "videos": word.video_count,
                **word.mean_by_quantity,
                "half_widths": word.half_width_by_quantity,
            }
            for word in table.words
        ],
        "probability_sum": table.probability_sum,
        "disagreement": None if table.disagreement is None else _build_effect_record(table.disagreement),
        "seeds": list(table.seeds),
        "sentences": table.phrasing_count,
        "unpaired_videos": table.unpaired_count,
        "min_attainable_p": table.min_attainable_p,
        "differences": [
            {
                "first_word": difference.first_word,
                "second_word": difference.second_word,
                "form": difference.quantity,
                **_build_effect_record(difference.effect),
                "family_p": difference.family_p,
            }
            for difference in table.differences
        ],
        "videos": [
            {
                "word": video.word,
                "generic_prompt": video.generic_prompt,
                "condition": video.condition,
                "seed": video.seed,
                **vars(video.information),
            }
            for video in videos
        ],
        "left_out": [{"video": name, "reason": reason} for name, reason in left_out],
        "warnings": list(plan.warnings),
    }


def _build_effect_record(effect: "Effect") -> dict[str, Any]:
    return {
        "mean": effect.mean,
        "interval": [effect.interval_low, effect.interval_high],
        "d_z": effect.d_z,
        "p": effect.p,
    }
