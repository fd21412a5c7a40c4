"""Base class of all captures' recorders."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from wantui.generation.denoising_state import DenoisingInputs, DenoisingStep
from wantui.planning import Recipe
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.zarr_group import PartialCaptureError


class CaptureWriter(Protocol):
    """Writer of a capture's files."""

    @property
    def checksums(self) -> Sequence[int]:
        """CRC-32 of each stored part."""
        ...


class CaptureRecorder(ABC):
    """Recorder of one capture for one video; a recorder never changes the inputs and steps that it receives.

    Args:
        path: zarr group, which appears once complete.
        background_writer: writer thread.
        earlier_checksums: CRC-32 of each part that an earlier process stored.
        is_resumable: whether another process may resume this video.
    """

    writer: CaptureWriter
    """Writer of the group, which `on_start` opens."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        background_writer: BackgroundWriter,
        earlier_checksums: Sequence[int],
        is_resumable: bool,
    ) -> None:
        self.path, self.recipe, self.background_writer = path, recipe, background_writer
        self.earlier_checksums, self.is_resumable = earlier_checksums, is_resumable

    @abstractmethod
    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None:
        """Start recording, or resume the recording after some completed steps.

        Raises:
            PartialCaptureError: parts that an earlier process stored are missing.
        """

    @abstractmethod
    def on_step(self, step: DenoisingStep) -> None:
        """Record one step."""

    @abstractmethod
    def on_end(self) -> None:
        """Publish the recorded values."""

    def compute_checksums(self) -> tuple[int, ...]:
        """Return the CRC-32 of each stored part."""
        self.background_writer.wait_for_writes()
        return tuple(self.writer.checksums)

    def check_stored_steps(self, description: str, evaluations: Iterable[int], steps_done: int) -> None:
        """Refuse to resume unless exactly the evaluations of the completed steps are stored.

        Args:
            description: what is stored, in the plural.
            evaluations: indices of all evaluations that are stored.

        Raises:
            PartialCaptureError: names both numbers.
        """
        if len(self.earlier_checksums) != sum(evaluation < steps_done for evaluation in evaluations):
            raise PartialCaptureError(
                f"{steps_done} steps are complete, but {description} of {len(self.earlier_checksums)} steps are stored"
            )
