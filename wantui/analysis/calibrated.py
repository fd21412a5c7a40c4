"""What each metric responds to according to the calibration: frequency in training, or appearance.

`calibration.json` is written by `tests/benchmarks/calibration.py --write-table`, from nano models that were trained
with exchanged frequencies; docs/calibration.md describes the design. The figures hold for nano, and rank metrics for
other models.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE_PATH = Path(__file__).parent / "calibration.json"
GUIDED, UNGUIDED = "guidance-4", "guidance-1"
"""Conditions of the table: guidance scales 4 and 1, both with 50 Euler steps."""
MIN_RATIO_FOR_FREQUENCY = 1.0
"""Smallest ratio of frequency effect to appearance effect at which a metric responds mostly to frequency."""
MIN_RATIO_FOR_BOTH = 0.5
"""Smallest ratio at which a metric responds to both."""
RESPONSE_NAMES = {"frequency": "frequency in training", "appearance": "appearance", "both": "both"}
"""Name of each response in a list of metrics."""


@dataclass(frozen=True)
class Slope:
    """Change of a metric per factor of e in frequency, as a share of the metric's mean, or in nats."""

    slope: float
    low: float
    """Lower end of the 95 % interval."""
    high: float

    @property
    def is_clear(self) -> bool:
        """Return True if the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Sensitivity:
    """Response of a metric to frequency and to appearance, under one condition."""

    frequency: Slope
    held_out_frequency: Slope
    """Slope over frequency in the second sentence form."""
    p: float
    """p of the first slope over random reassignments of frequencies to shapes within the models."""
    appearance: float
    """Standard deviation of the shapes' effects: a share of the mean, or nats."""
    ratio: float
    """Standard deviation that frequency causes between nano's shapes, divided by `appearance`."""

    @property
    def slopes(self) -> tuple[float, float]:
        """Return the slopes of both sentence forms."""
        return self.frequency.slope, self.held_out_frequency.slope

    @property
    def has_frequency_effect(self) -> bool:
        """Return True if both sentence forms have clear slopes over frequency, with the same sign."""
        return self.frequency.is_clear and self.held_out_frequency.is_clear and math.prod(self.slopes) > 0

    @property
    def response(self) -> str:
        """Return "frequency", "both" or "appearance"; a slope counts only if both sentence forms show it."""
        if not self.has_frequency_effect or self.ratio < MIN_RATIO_FOR_BOTH:
            return "appearance"
        return "frequency" if self.ratio >= MIN_RATIO_FOR_FREQUENCY else "both"


@dataclass(frozen=True)
class CalibrationTable:
    """Sensitivities of metrics with and without guidance, and the models from which they come."""

    models: tuple[str, ...]
    sensitivities: dict[str, dict[str, Sensitivity]]
    """Metric -> GUIDED or UNGUIDED -> sensitivity. The information gap is only measured without guidance."""


@cache
def read_calibration() -> CalibrationTable:
    """Read the table of the calibration."""
    stored = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
    sensitivities = {
        metric: {
            condition: Sensitivity(
                Slope(*row["frequency"]), Slope(*row["held_out_frequency"]), row["p"], row["appearance"], row["ratio"]
            )
            for condition, row in rows.items()
        }
        for metric, rows in stored["metrics"].items()
    }
    return CalibrationTable(tuple(stored["models"]), sensitivities)


def find_sensitivity(metric: str, *, is_guided: bool) -> Sensitivity | None:
    """Return the response of a metric with or without guidance; None for a metric that was not calibrated."""
    return read_calibration().sensitivities.get(metric, {}).get(GUIDED if is_guided else UNGUIDED)


def find_response(metric: str, *, is_guided: bool) -> str:
    """Return what a metric responds to with or without guidance; empty for a metric that was not calibrated."""
    sensitivity = find_sensitivity(metric, is_guided=is_guided)
    return "" if sensitivity is None else sensitivity.response


def describe_response(metric: str) -> str:
    """Return what a metric responds to; empty if the metric was not calibrated.

    If the responses at cfg_scale 4 and 1 differ, the text names both.
    """
    return _join_conditions(*(find_response(metric, is_guided=is_guided) for is_guided in (True, False)))


def describe_measure(measure: str, name: str) -> str:
    """Return how much a calibrated measure responds to frequency and appearance, as a sentence.

    Args:
        measure: name in the table, such as "ablation_share".
        name: name in the sentence, such as "the change without a word".
    """
    ends = (_describe_ratio(find_sensitivity(measure, is_guided=is_guided)) for is_guided in (True, False))
    return f"in the calibration on nano, {name} responds {_join_conditions(*ends)}"


def _describe_ratio(sensitivity: Sensitivity | None) -> str:
    """Return the ratio of the two effects in words; empty for an uncalibrated measure."""
    if sensitivity is None:
        return ""
    if not sensitivity.has_frequency_effect:
        return "to appearance"
    ratio_text = f"{sensitivity.ratio:.2g}"
    amount = "as much" if ratio_text == "1" else f"{ratio_text} times as much"
    return f"{amount} to frequency in training as to appearance"


def _join_conditions(guided: str, unguided: str) -> str:
    """Return two responses as one text; the guided response is empty for a measure that uses no guidance."""
    return unguided if guided in ("", unguided) else f"{guided} at cfg_scale 4, {unguided} at cfg_scale 1"


def describe_responses(metrics: Sequence[str], *, is_guided: bool) -> list[str]:
    """Return what metrics respond to: a heading, and a line for each response; empty if no metric was calibrated."""
    metrics_by_response: dict[str, list[str]] = {}
    for metric in metrics:
        if response := find_response(metric, is_guided=is_guided):
            metrics_by_response.setdefault(response, []).append(metric)
    lines = [
        f"{name}: {', '.join(metrics_by_response[response])}"
        for response, name in RESPONSE_NAMES.items()
        if response in metrics_by_response
    ]
    guidance = "with" if is_guided else "without"
    return [f"what each metric responds to (calibration on nano {guidance} guidance):", *lines] if lines else []
