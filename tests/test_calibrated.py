"""Responses of metrics in the calibration, as the command line, screens and report show them."""

import pytest
from synthetic_videos import build_sensitivity

from wantui.analysis.calibrated import (
    GUIDED,
    UNGUIDED,
    describe_measure,
    describe_response,
    describe_responses,
    read_calibration,
)
from wantui.analysis.metrics import METRICS


@pytest.mark.parametrize(("ratio", "response"), [(1.5, "frequency"), (0.7, "both"), (0.3, "appearance")])
def test_a_metric_responds_to_the_larger_of_both_effects(ratio: float, response: str) -> None:
    assert build_sensitivity(-0.3, -0.2, ratio).response == response


def test_frequency_does_not_count_without_the_held_out_sentence() -> None:
    assert build_sensitivity(-0.3, 0.2, 2.0).response == "appearance"
    assert build_sensitivity(-0.3, -0.005, 2.0).response == "appearance"


def test_every_metric_has_a_calibration() -> None:
    table = read_calibration()
    measures = {"spread", "ablation_share", "contribution_share", "kept_range", "decodability", "variance_share"}
    assert set(METRICS) | measures | {"information_gap"} <= set(table.sensitivities)
    for name, rows in table.sensitivities.items():
        assert set(rows) == ({UNGUIDED} if name == "information_gap" else {GUIDED, UNGUIDED})
    square = {"natural", "reversed", "row-3", "row-4", "row-5", "row-6"}
    assert set(table.models) == square | {"natural-again", "uniform"}


def test_stored_intervals_contain_their_slopes() -> None:
    for rows in read_calibration().sensitivities.values():
        for row in rows.values():
            assert row.frequency.low <= row.frequency.slope <= row.frequency.high
            assert row.held_out_frequency.low <= row.held_out_frequency.slope <= row.held_out_frequency.high
            assert 0 < row.p <= 1


def test_response_names_both_conditions_only_where_they_differ() -> None:
    for metric, rows in read_calibration().sensitivities.items():
        is_split = GUIDED in rows and rows[GUIDED].response != rows[UNGUIDED].response
        assert ("cfg_scale" in describe_response(metric)) == is_split


def test_metrics_without_calibration_are_skipped() -> None:
    assert describe_response("brightness") == ""
    assert describe_responses(["brightness"], is_guided=True) == []
    assert describe_responses(["brightness", "spread"], is_guided=False) == [
        "what each metric responds to (calibration on nano without guidance):",
        "appearance: spread",
    ]


def test_measures_of_words_and_concepts_say_what_they_respond_to() -> None:
    text = describe_measure("ablation_share", "the change without a word")
    assert text == (
        "in the calibration on nano, the change without a word responds 3.2 times as much to frequency in training as "
        "to appearance at cfg_scale 4, 5.2 times as much to frequency in training as to appearance at cfg_scale 1"
    )
    assert describe_measure("decodability", "accuracy").endswith("accuracy responds to appearance")
    gap_text = describe_measure("information_gap", "the gap")
    assert gap_text.endswith("the gap responds 4.3 times as much to frequency in training as to appearance")


def test_metrics_are_listed_by_response_in_a_fixed_order() -> None:
    heading, *lines = describe_responses(["chord", "length", "straightness", "detour"], is_guided=True)
    assert heading == "what each metric responds to (calibration on nano with guidance):"
    assert lines == ["frequency in training: straightness, detour", "appearance: chord", "both: length"]
