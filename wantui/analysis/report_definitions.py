"""Section of a report that defines its metrics, tests and terms."""

import html
from collections.abc import Sequence

from wantui.analysis.calibrated import describe_response
from wantui.analysis.comparison import Comparison
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.metrics import METRICS, describe_ratio_base

SPREAD_MEANING = "distance of the final latents from the spatial median of their group"
LABEL_MEANING = "external label, from the table named below"
CODE_MEANING = "1 for the videos with this code in the table named below, 0 for others; its mean is a share"
REMARKS = {"commitment": "not what `wantui commitment` measures"}
"""Note on metrics that could be mistaken for something else."""
CURVE_MEANINGS = {
    "norm": "size of the latents, root mean square of their values",
    "velocity": "distance travelled per unit of noise level, in each step",
    "turning": "angle between successive steps, in radians",
    "acceleration": "change of velocity per unit of noise level",
    "curvature": "bend of the path in each step",
    "clean_distance": "distance of the predicted clean latents from the final latents",
}
"""Meaning of each curve in CURVES."""
TERMS = {
    "sigma, noise level": "share of noise in the latents: 1 is pure noise, 0 is the video",
    "seed": "number that fixes the initial noise. Videos of one seed are paired; the seed is the unit of tests",
    "phrasing": "one of several wordings of the same prompts; the values of a seed are averaged over them",
    "p": "probability of a difference at least as large if the groups could be exchanged within each seed",
    "95 % interval": "range that contains the true mean difference in 95 % of such experiments; not corrected for "
    "other metrics",
    "d_z": "mean of the seeds' differences divided by their standard deviation, with Hedges' correction",
    "random walk": "null model: steps of the same lengths as the video's, in independent random directions",
    "Gaussian flow": "null model: paths from noise to a normal distribution with the mean and covariance of the videos",
    "cluster": "neighbouring noise levels at which two curves differ in one direction by more than a threshold of |t|",
}
"""Terms of the report."""


def render_definition_section(comparison: Comparison) -> list[str]:
    """Return the HTML that explains all metrics, curves and terms on the page."""
    meanings = {name: _describe_metric(name) for name in comparison.summaries_by_metric}
    for name in meanings:
        if response := describe_response(name):
            meanings[name] += f"; responds to {response} (calibration on nano)"
    return [
        "<h2>Definitions</h2>",
        '<p class="note">Lengths are divided by the square root of the number of values per state; angles are in '
        "radians. docs/analysis.md of wantui has every formula with its source.</p>",
        "<h3>Metrics</h3>",
        _render_list(meanings),
        "<h3>Curves</h3>",
        _render_list(CURVE_MEANINGS),
        "<h3>Terms</h3>",
        _render_list(TERMS),
    ]


def _describe_metric(name: str) -> str:
    if name == SPREAD_METRIC:
        return SPREAD_MEANING
    if name not in METRICS:
        return CODE_MEANING if "=" in name else LABEL_MEANING
    unit = f" ({METRICS[name].unit})" if METRICS[name].unit else ""
    base = describe_ratio_base(name)
    remark = f"; {REMARKS[name]}" if name in REMARKS else ""
    return f"{METRICS[name].meaning}{unit}{f'; percentages are{base}' if base else ''}{remark}"


def _render_list(meanings: dict[str, str]) -> str:
    items: Sequence[str] = [
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>" for name, meaning in meanings.items()
    ]
    return f"<dl>{''.join(items)}</dl>"
