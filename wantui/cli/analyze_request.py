"""The options of one `wantui analyze` call."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from wantui.cli.analyze_modes import MODES_WITH_METRICS, reject_unused_options
from wantui.errors import UserError


@dataclass(frozen=True)
class AnalyzeRequest:
    """Values of the options, by the names of their parameters."""

    batches: tuple[Path, ...]
    list_videos: bool
    id_prefixes: tuple[str, ...]
    conditions: tuple[str, ...]
    metrics: str | None
    show_groups: bool
    show_comparison: bool
    show_decodability: bool
    show_shares: bool
    show_correlations: bool
    grouping: str
    primary_metric: str | None
    tests_interaction: bool
    shows_details: bool
    equivalence_margin: float
    stride: int | None
    scores_path: Path | None
    show_attention: bool
    show_contributions: bool
    overlay_word: str | None
    from_latents: bool
    as_json: bool
    csv_path: Path | None
    html_path: Path | None
    overlay_path: Path | None

    @property
    def mode(self) -> str:
        """Return the option that selects the output; empty for the metrics of videos."""
        return next(iter(self._list_chosen_modes()), "")

    @property
    def has_details(self) -> bool:
        """Return whether a comparison is printed with its tables: on request, or for chosen metrics."""
        return self.shows_details or self.metrics is not None

    @property
    def has_metrics(self) -> bool:
        """Return whether the mode measures metrics of trajectories."""
        return self.mode in MODES_WITH_METRICS

    def _list_chosen_modes(self) -> list[str]:
        is_chosen_by_mode = {
            "--list-videos": self.list_videos,
            "--overlay": self.overlay_word is not None,
            "--attention": self.show_attention,
            "--contributions": self.show_contributions,
            "--compare": self.show_comparison or self.html_path is not None,
            "--groups": self.show_groups,
            "--decodability": self.show_decodability,
            "--shares": self.show_shares,
            "--correlate": self.show_correlations,
        }
        return [mode for mode, is_chosen in is_chosen_by_mode.items() if is_chosen]

    def reject_unused_options(self) -> None:
        """Reject options without effect in the chosen mode, and more than one mode.

        Raises:
            click.UsageError: names the options.
        """
        reject_unused_options(self._list_chosen_modes(), self.as_json)

    def check_output_files(self) -> None:
        """Reject output files that cannot be written, or that would replace other files.

        Raises:
            UserError, click.UsageError: names the file or the option.
        """
        from wantui.cli.analyze_output import check_csv_file, reject_unfit_output_files
        from wantui.storage.layout import check_command_output

        check_csv_file(self.csv_path)
        if self.html_path is not None:
            check_command_output(self.html_path)
        if self.overlay_path is not None:
            if self.overlay_path.exists():
                raise UserError(f"cannot write {self.overlay_path}: it already exists. Choose another name")
            check_command_output(self.overlay_path)
        reject_unfit_output_files(self.csv_path, self.html_path, self.scores_path)

    def parse_metrics(self, known_metrics: list[str]) -> list[str] | None:
        """Return the names in --metrics, in their current spelling; None if the option is not given.

        Raises:
            UserError: a metric is unknown or not measured in this mode, or none is named.
        """
        from wantui.analysis.final_states import SPREAD_METRIC
        from wantui.analysis.metrics import RENAMED_METRICS

        if self.metrics is None:
            return None
        if self.metrics == "all":
            return known_metrics
        if self.mode == "--compare":
            known_metrics = [SPREAD_METRIC, *known_metrics]
        metric_names = list(dict.fromkeys(word.strip() for word in self.metrics.split(",") if word.strip()))
        if not metric_names:
            raise UserError(f"--metrics: {self.metrics!r} contains no metric. Choose from: {', '.join(known_metrics)}")
        metric_names = list(dict.fromkeys(RENAMED_METRICS.get(word, word) for word in metric_names))
        for word in metric_names:
            if word == SPREAD_METRIC and word not in known_metrics:
                reason = (
                    "it is always correlated. Omit it"
                    if self.mode == "--correlate"
                    else "it needs the final states of compared groups. Use --compare"
                )
                raise UserError(f"--metrics: cannot choose {SPREAD_METRIC} here: {reason}")
            if word not in known_metrics:
                near = difflib.get_close_matches(word, known_metrics, 1)
                suggestion = f"Did you mean {near[0]}? " if near else ""
                raise UserError(
                    f"--metrics: unknown metric {word!r}. {suggestion}Choose from: {', '.join(known_metrics)}"
                )
        return metric_names

    @property
    def requested_metric(self) -> str | None:
        """Return the metric of --primary in its current spelling."""
        from wantui.analysis.metrics import RENAMED_METRICS

        return None if self.primary_metric is None else RENAMED_METRICS.get(self.primary_metric, self.primary_metric)
