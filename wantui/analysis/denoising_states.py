"""States of one denoising run at chosen moments: the noisy latents, and the clean latents that the model predicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.sampler_response import NoResponseError, compute_clean_weights
from wantui.analysis.stored_steps import MissingStepError, find_stored_step
from wantui.errors import UserError
from wantui.formatting import format_share
from wantui.keyframes import KeyframeError, list_evaluation_steps
from wantui.planning import Recipe
from wantui.samplers import UnknownSamplerError, find_sampler_schedule
from wantui.storage.state_reader import check_stored_states
from wantui.storage.zarr_group import CaptureError, convert_to_capture_error, open_capture

StateKind = Literal["clean", "noisy"]
""""clean": the clean latents that the model predicts at a step. "noisy": the latents that it receives at that step."""
END = "end"
"""Text that stands for the last latents, which are the video."""
MAX_CLEAN_ERROR = 0.01
"""Maximum rounding error of a predicted clean state that is computed from stored states, as a share of its norm."""
ROUNDOFF_BY_DTYPE = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-11}
"""Maximum relative error of rounding to a dtype."""


class MissingStatesError(UserError):
    """Raised if a video has no states at the requested moments; the text says how to store them."""


@dataclass(frozen=True)
class StateMoment:
    """One state of a denoising run."""

    kind: StateKind
    evaluation: int
    """Index of the model evaluation that receives (noisy) or predicts (clean) the state; for the end, the number of
    evaluations."""
    step: int | None
    """Index of the step, from 0; None for the last latents, which are the video."""
    sigma: float
    """Noise level of the evaluation's input; 1 is pure noise."""

    @property
    def label(self) -> str:
        """Return the text of labels."""
        return END if self.step is None else f"step {self.step}, σ {self.sigma:.3g}"

    @property
    def slug(self) -> str:
        """Return the name of the state in file names."""
        return END if self.step is None else f"{self.kind}_step_{self.step:03d}"


class DenoisingStates:
    """The stored states of one video; each state is read when it is requested.

    Args:
        path: zarr group of the trajectory.
        name: name of the video in errors.

    Raises:
        MissingStatesError: the group has no latents.
        CaptureError: the group is missing or damaged.
    """

    def __init__(self, path: Path, recipe: Recipe, name: str) -> None:
        self.path, self.recipe, self.name = path, recipe, name
        self.group = open_capture(path, recipe)
        if "latents" not in self.group:
            raise MissingStatesError(
                f"{name} has no stored latents, only values derived from them. Set latent_analysis_settings."
                "store_latents (--store-latents) for future videos"
            )
        with convert_to_capture_error(path):
            self.sigmas = np.asarray(self.group["sigmas"][:], dtype=np.float64)
            self.latents: Any = self.group["latents"]
            stored_steps = np.asarray(self.group["steps"][:])
            check_stored_states(stored_steps, self.latents, len(self.sigmas))
            self.stored_evaluations: list[int] = stored_steps.tolist()
            self.predicted_clean: Any = self.group.get("predicted_clean")
            self._check_shapes()
        self.evaluation_count = len(self.sigmas) - 1
        self._clean_weights: NDArray[np.float64] | None = None
        self.missing_clean_reason = ""
        """Why the clean states of some or all steps are missing; empty if none is."""
        self.moments_by_kind = {"noisy": self._list_noisy_moments(), "clean": self._list_clean_moments()}

    def _check_shapes(self) -> None:
        rows = len(self.stored_evaluations)
        if self.latents.ndim != 5 or rows == 0 or self.latents.shape[0] != rows:
            raise ValueError(f"its latents have the shape {self.latents.shape}, but it lists {rows} stored states")
        if self.stored_evaluations != sorted(set(self.stored_evaluations)) or not (
            self.stored_evaluations[0] == 0 and self.stored_evaluations[-1] == len(self.sigmas) - 1
        ):
            raise ValueError("its array `steps` does not list states from the first to the last")
        if not np.isfinite(self.sigmas).all():
            raise ValueError("its noise levels are not finite")
        if self.predicted_clean is not None and self.predicted_clean.shape != (rows - 1, *self.latents.shape[1:]):
            raise ValueError("its predicted clean latents do not match its latents")

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Return channels, latent frames, height and width."""
        channels, frames, height, width = self.latents.shape[1:]
        return channels, frames, height, width

    @property
    def end(self) -> StateMoment:
        """Return the moment of the last latents."""
        return StateMoment("noisy", self.evaluation_count, None, float(self.sigmas[-1]))

    def _make_moment(self, kind: StateKind, evaluation: int) -> StateMoment:
        step = list_evaluation_steps(self.evaluation_count, self.recipe.steps)[evaluation]
        return StateMoment(kind, evaluation, step, float(self.sigmas[evaluation]))

    def _list_noisy_moments(self) -> list[StateMoment]:
        return [self._make_moment("noisy", evaluation) for evaluation in self.stored_evaluations[:-1]]

    def _list_clean_moments(self) -> list[StateMoment]:
        if self.predicted_clean is not None:
            return [self._make_moment("clean", evaluation - 1) for evaluation in self.stored_evaluations[1:]]
        remedy = "Set latent_analysis_settings.store_predicted_clean for future videos"
        if len(self.stored_evaluations) != len(self.sigmas):
            self.missing_clean_reason = (
                f"the predicted clean latents are not stored, and computing them needs the states of all evaluations. "
                f"{remedy}"
            )
            return []
        try:
            self._clean_weights = compute_clean_weights(self.recipe.sampler, self.sigmas)
        except (UnknownSamplerError, NoResponseError):
            self.missing_clean_reason = (
                f"the predicted clean latents are not stored, and the states of the sampler {self.recipe.sampler} do "
                f"not determine them. {remedy}"
            )
            return []
        errors = self._estimate_clean_errors(self._clean_weights)
        if not (errors <= MAX_CLEAN_ERROR).all():
            self.missing_clean_reason = (
                f"the predicted clean latents are not stored, and computing them from states in {self.state_dtype} "
                f"would have rounding errors of up to {format_share(np.nanmax(errors))}. {remedy}"
            )
        return [self._make_moment("clean", index) for index in np.flatnonzero(errors <= MAX_CLEAN_ERROR).tolist()]

    @property
    def state_dtype(self) -> str:
        """Return the dtype with the lowest precision in which the states were stored or computed."""
        dtypes = [str(self.latents.dtype)]
        if find_sampler_schedule(self.recipe.sampler).rounds_states:
            dtypes.append(self.recipe.dtype)
        return max(dtypes, key=lambda dtype: ROUNDOFF_BY_DTYPE[dtype])

    def _estimate_clean_errors(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rounding error [S] of each predicted clean state, relative to its norm."""
        with convert_to_capture_error(self.path):
            gram = np.asarray(self.group["gram"][:], dtype=np.float64)
            roundoff = ROUNDOFF_BY_DTYPE[self.state_dtype]
            squared_norms = np.einsum("ij,jk,ik->i", weights, gram, weights)
            squared_errors = (weights * roundoff) ** 2 @ np.diagonal(gram)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.sqrt(squared_errors / np.maximum(squared_norms, 0))

    def choose_moments(self, kind: StateKind, written_moments: Sequence[str]) -> list[StateMoment]:
        """Return the stored moments that users wrote, each once, in the order of the denoising.

        Args:
            written_moments: indices of steps (0, "10"), percentages ("50%"), noise levels ("sigma 0.8") and "end".
                Percentages and noise levels choose a stored step, as in `find_stored_step`.

        Raises:
            MissingStatesError: a step is not stored, or none is.
            UserError: a moment cannot be read.
        """
        chosen = {self._choose_moment(kind, written.strip()) for written in written_moments}
        return sorted(chosen, key=lambda moment: moment.evaluation)

    def list_all_moments(self, kind: StateKind) -> list[StateMoment]:
        """Return every state of one kind, and the last latents.

        Raises:
            MissingStatesError: no state of this kind is stored.
        """
        return [*self._list_known_moments(kind), self.end]

    def _list_known_moments(self, kind: StateKind) -> list[StateMoment]:
        moments = self.moments_by_kind[kind]
        if not moments:
            raise MissingStatesError(f"cannot show the clean states of {self.name}: {self.missing_clean_reason}")
        return moments

    def _choose_moment(self, kind: StateKind, written: str) -> StateMoment:
        if written.lower() == END:
            return self.end
        moments = self._list_known_moments(kind)
        reason = f" ({self.missing_clean_reason})" if kind == "clean" and self.missing_clean_reason else ""
        try:
            index = find_stored_step(
                written,
                [moment.step or 0 for moment in moments],
                [moment.sigma for moment in moments],
                self.recipe.steps,
                f"{self.name} has no {kind} state",
                f", and {END}{reason}",
            )
        except KeyframeError as error:
            raise UserError(f"{error}, or {END}") from None
        except MissingStepError as error:
            raise MissingStatesError(str(error)) from None
        return moments[index]

    def read_state(self, moment: StateMoment) -> NDArray[np.float32]:
        """Return the latents [channels, frames, height, width] of a moment from `choose_moments`.

        Computed clean states are summed in float64, one stored state at a time.

        Raises:
            CaptureError: the files are damaged, or contain NaN or infinity.
        """
        if moment.kind == "noisy" or moment.step is None:
            return self._read_row(self.latents, self.stored_evaluations.index(moment.evaluation))
        if self.predicted_clean is not None:
            return self._read_row(self.predicted_clean, self.stored_evaluations.index(moment.evaluation + 1) - 1)
        assert self._clean_weights is not None
        weights = self._clean_weights[moment.evaluation]
        clean = np.zeros(self.latent_shape)
        for row in np.flatnonzero(np.abs(weights) > np.abs(weights).max() * np.finfo(np.float64).eps).tolist():
            clean += weights[row] * self._read_row(self.latents, row)
        return clean.astype(np.float32)

    def _read_row(self, array: Any, row: int) -> NDArray[np.float32]:
        path = self.path / array.path
        with convert_to_capture_error(path):
            state = np.asarray(array[row], dtype=np.float32)
        if not np.isfinite(state).all():
            raise CaptureError(f"{path} cannot be used: state {row} contains NaN or infinity")
        return state
