"""Size of an effect beside what the calibration measured: frequency in training, or appearance?

The calibration fits `y = model + shape + slope * ln(frequency)`. Its shape effects are what appearance alone does at
equal frequency, and its slope is what frequency alone does. An effect between two words is compared with both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wantui.analysis.calibrated import Sensitivity, find_sensitivity
from wantui.analysis.differences import Difference
from wantui.analysis.group_names import find_grouping_parts
from wantui.analysis.metrics import describe_ratio_base, get_metric_unit, get_ratio_origin
from wantui.analysis.setting_values import to_number
from wantui.analysis.statistics import compute_t_quantile
from wantui.analysis.verdicts import Verdict
from wantui.analysis.video_guidance import GUIDANCE_PATH
from wantui.formatting import format_share

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

QUESTION = "frequency or appearance?"
SHAPE_COUNT = 6
"""Number of shapes whose effects give the calibration's standard deviation of appearance."""
MAX_FREQUENCY_RATIO = 1000.0
"""Ratio of two frequencies above which frequency is no explanation: the calibration exchanged ratios up to 15."""
CALIBRATED_MODEL = "nano"
CALIBRATED_SCALES = {True: 4.0, False: 1.0}
"""Guidance scale of the calibration, of guided and of unguided videos."""


@dataclass(frozen=True)
class CalibratedEffect:
    """Effect of a metric between two groups, and what appearance and frequency alone did in calibration."""

    effect: float
    """Share of the mean of both groups (of its distance from `ratio_origin`), as the calibration takes shares of the
    mean of all shapes, or nats."""
    sensitivity: Sensitivity

    @property
    def appearance_difference(self) -> float:
        """Return the root mean square difference between two of the shapes at equal frequency."""
        return compute_appearance_difference(self.sensitivity)

    @property
    def appearance_ratio(self) -> float:
        """Return the size of the effect divided by `appearance_difference`."""
        return abs(self.effect) / self.appearance_difference

    @property
    def is_within_appearance(self) -> bool:
        """Return whether the effect is in the 95 % range of differences of appearance between two more shapes."""
        return abs(self.effect) <= compute_appearance_bound(self.sensitivity)

    @property
    def frequency_ratios(self) -> tuple[float, float] | None:
        """Return the frequencies of the first group over that of the second one which would cause the effect, by the
        slopes of both sentence forms, nearest to 1 first; None if frequency had no reproduced effect on the metric."""
        if not self.sensitivity.has_frequency_effect:
            return None
        slopes = (self.sensitivity.frequency.slope, self.sensitivity.held_out_frequency.slope)
        logarithms = sorted((self.effect / slope for slope in slopes), key=abs)
        return _exponentiate(logarithms[0]), _exponentiate(logarithms[1])

    @property
    def is_within_frequency(self) -> bool:
        """Return whether a ratio of frequencies up to MAX_FREQUENCY_RATIO would cause the effect in a sentence form."""
        ratios = self.frequency_ratios
        return ratios is not None and 1 / MAX_FREQUENCY_RATIO <= ratios[0] <= MAX_FREQUENCY_RATIO

    @property
    def answer(self) -> str:
        """Return which of the two can explain the effect."""
        if self.is_within_appearance:
            return "either can explain it" if self.is_within_frequency else "appearance alone can explain it"
        if self.is_within_frequency:
            return "more than appearance explains; frequency can"
        return "more than the calibration explains"


def compute_appearance_difference(sensitivity: Sensitivity) -> float:
    """Return the root mean square difference between two different shapes at equal frequency.

    `appearance` is the standard deviation (with n) of the effects of SHAPE_COUNT shapes.
    """
    return sensitivity.appearance * math.sqrt(2 * SHAPE_COUNT / (SHAPE_COUNT - 1))


def compute_appearance_bound(sensitivity: Sensitivity) -> float:
    """Return the end of the 95 % range of differences between two more shapes, by Student's t of the six effects."""
    return float(compute_t_quantile(0.975, SHAPE_COUNT - 1)) * compute_appearance_difference(sensitivity)


def _exponentiate(logarithm: float) -> float:
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf


def find_calibrated_effect(comparison: "Comparison", difference: Difference) -> CalibratedEffect | None:
    """Return an effect beside the calibration; None without a calibration, or if a share of the mean has no meaning."""
    sensitivity = find_sensitivity(difference.metric, is_guided=comparison.is_guided)
    if sensitivity is None:
        return None
    if get_metric_unit(difference.metric) == "nats":
        return CalibratedEffect(difference.paired_effect.mean, sensitivity)
    if not math.isfinite(difference.relative_difference):
        return None
    summaries = comparison.summaries_by_metric[difference.metric]
    sign = math.copysign(1, summaries[difference.second_group].mean - get_ratio_origin(difference.metric))
    return CalibratedEffect(
        difference.relative_difference / (1 + sign * difference.relative_difference / 2), sensitivity
    )


def compares_words(comparison: "Comparison") -> bool:
    """Return whether words form the groups, and not batches or settings."""
    if comparison.grouping in ("variation", "prompt"):
        return True
    videos = [video for group in comparison.groups for video in group.videos]
    parts = find_grouping_parts(videos, comparison.grouping)
    return bool(parts.brackets) and not parts.setting_paths


def explain_effect(comparison: "Comparison", verdict: Verdict) -> str:
    """Return a sentence on whether frequency or appearance can explain the effect of a verdict.

    Empty for groups of settings, for metrics that were not calibrated, and if no effect is shown.
    """
    if verdict.kind != "differs" or not compares_words(comparison):
        return ""
    (difference,) = [
        item
        for item in comparison.differences
        if (item.metric, item.first_group, item.second_group)
        == (verdict.metric, verdict.first_group, verdict.second_group)
    ]
    if find_sensitivity(verdict.metric, is_guided=comparison.is_guided) is None:
        return ""
    effect = find_calibrated_effect(comparison, difference)
    if effect is None:
        return f"{QUESTION} cannot tell: the effect in {verdict.metric} is no share of the mean"
    size_text = f"{effect.appearance_ratio:.2g} times the typical difference of appearance"
    if (ratios := effect.frequency_ratios) is None:
        frequency_text = "no effect of frequency is known"
    else:
        frequency_text = (
            f"as if {verdict.first_group} were {_describe_frequency(ratios)} {verdict.second_group} in training"
        )
    return f"{QUESTION} {effect.answer}. {size_text}; {frequency_text}"


def _describe_frequency(ratios: Sequence[float]) -> str:
    """Describe the ratios of two frequencies, such as "4.4 to 12 times rarer than"."""
    word = "rarer" if ratios[0] < 1 else "more frequent"
    factors = [ratio if ratio >= 1 else math.inf if ratio == 0 else 1 / ratio for ratio in ratios]
    rounded = [float(f"{factor:.2g}") for factor in factors if factor <= MAX_FREQUENCY_RATIO]
    texts = list(dict.fromkeys(f"{factor:,.4g}" for factor in rounded))
    if not texts:
        return f"more than {MAX_FREQUENCY_RATIO:,.0f} times {word} than"
    if factors[1] > MAX_FREQUENCY_RATIO:
        texts.append(f"more than {MAX_FREQUENCY_RATIO:,.0f}")
    return f"{' to '.join(texts)} times {word} than"


def describe_calibrated_scale(comparison: "Comparison") -> str:
    """Return what appearance and frequency did to the declared metric in calibration; empty for groups of settings.

    If no effect is shown, the sentence also answers the question.
    """
    metric = comparison.primary_metric
    if not compares_words(comparison):
        return ""
    sensitivity = find_sensitivity(metric, is_guided=comparison.is_guided)
    if sensitivity is None:
        return f"{QUESTION} cannot tell: {metric} was not calibrated"
    typical, bound = (
        _format_size(metric, value)
        for value in (compute_appearance_difference(sensitivity), compute_appearance_bound(sensitivity))
    )
    if sensitivity.has_frequency_effect:
        slope, held_out = (
            _format_change(metric, fit.slope) for fit in (sensitivity.frequency, sensitivity.held_out_frequency)
        )
        frequency_text = f"a word 2.7 times as frequent changes it by {slope} ({held_out} in another sentence)"
    else:
        frequency_text = "frequency has no effect that both sentence forms show"
    is_shown = any(verdict.kind == "differs" for verdict in comparison.verdicts)
    start = "calibration" if is_shown else f"{QUESTION} no effect in {metric} is shown. Calibration"
    return (
        f"{start} on {CALIBRATED_MODEL} at "
        f"guidance {CALIBRATED_SCALES[comparison.is_guided]:g}: two shapes of equal frequency differ in {metric} by "
        f"{typical}{describe_ratio_base(metric)} (root mean square; 95 % up to {bound}); {frequency_text}"
        f"{_describe_transfer(comparison)}"
    )


def _describe_transfer(comparison: "Comparison") -> str:
    """Return how the videos differ from those of the calibration; empty if in neither model nor guidance."""
    videos = [video for group in comparison.groups for video in group.videos]
    models = {str(video.setting_values.get("model_settings.model_id", "")) for video in videos} - {"", CALIBRATED_MODEL}
    scales = {to_number(video.setting_values.get(GUIDANCE_PATH)) for video in videos} - {None}
    others = sorted(scale for scale in scales if scale is not None and scale != CALIBRATED_SCALES[comparison.is_guided])
    parts = [f"of {', '.join(sorted(models))}"] if models else []
    parts += [f"at guidance {', '.join(f'{scale:g}' for scale in others)}"] if others else []
    return f". These videos are {' '.join(parts)}: the figures are no forecast for them" if parts else ""


def _format_size(metric: str, value: float) -> str:
    return f"{value:.3g} nats" if get_metric_unit(metric) == "nats" else format_share(value, 1)


def _format_change(metric: str, value: float) -> str:
    return f"{value:+.3g} nats" if get_metric_unit(metric) == "nats" else f"{100 * value:+.1f} %"
