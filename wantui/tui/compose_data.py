"""Preview of Compose's draft, computed in a thread: variations, costs, and reasons why the batch cannot run here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from textual.message import Message

from wantui.config import Config
from wantui.errors import UserError
from wantui.gpu.monitor import GpuSample
from wantui.json_files import describe_first_validation_error
from wantui.queue.queue import Queue
from wantui.queue.state_dir import StateDirectory

if TYPE_CHECKING:
    from wantui.batches.batch_cost import CostLine
    from wantui.planning import BatchPreview, TimedVideo

MAX_TEMPLATE_LENGTH = 200_000
"""Maximum characters of a template that is expanded on every key; a million take seconds, and quitting waits for it."""


@dataclass
class BatchPreviewed(Message):
    """The preview of the draft, or the reason why there is none."""

    preview: "BatchPreview | None" = None
    error: str = ""
    """Reason of a failure; otherwise empty."""
    error_position: int | None = None
    """Index of the template's invalid character."""
    tokenizer_path: Path | None = None
    cost_lines: "Sequence[CostLine]" = ()
    cell_texts: Mapping[str, str] = field(default_factory=dict)
    """Videos and predicted time of each cell of a sweep, by its label."""


@dataclass
class MachineExamined(Message):
    """The reasons why this machine cannot run the previewed batch were determined."""

    preview: "BatchPreview"
    refusals: list[str]


@dataclass
class BatchQueued(Message):
    """The attempt to queue a batch has finished; `error` is empty if the batch was queued."""

    template: str
    is_demo: bool
    error: str = ""
    """Reason of a failure; otherwise empty."""
    batch_number: int = 0
    video_count: int = 0
    folder: str = ""


def read_timed_videos(state_dir: StateDirectory) -> "list[TimedVideo]":
    """Return the finished videos in the queue with their times."""
    from wantui.planning import parse_timed_videos  # slow to import, like the others below

    with Queue(state_dir.directory) as queue:
        return parse_timed_videos(queue.list_finished_videos())


def compute_preview(
    config: Config,
    template: str,
    timed_videos: "list[TimedVideo]",
    gpu_sample: GpuSample | None,
    state_dir: StateDirectory,
) -> BatchPreviewed:
    """Expand a draft and predict its cost; an error becomes part of the message."""
    from wantui.batches.batch_cost import estimate_batch_costs
    from wantui.batches.batch_gpus import keep_batch_gpus, read_visible_devices
    from wantui.batches.cell_cost import describe_cells, estimate_cell_costs
    from wantui.models.tokenizer import find_tokenizer_file
    from wantui.planning import preview_batch
    from wantui.prompts import TemplateError

    try:
        if len(template) > MAX_TEMPLATE_LENGTH:
            raise UserError(
                f"cannot expand the template: it has {len(template):,} characters, and at most "
                f"{MAX_TEMPLATE_LENGTH:,} are expanded while you type. Shorten it, or save it as a file for "
                "`wantui run`."
            )
        preview = preview_batch(config, template)
        tokenizer_path = find_tokenizer_file(preview.model, preview.first_recipe.revision)
        if gpu_sample is not None:
            visible_devices = read_visible_devices(state_dir.directory)
            gpu_sample = keep_batch_gpus(gpu_sample, visible_devices, config.settings.model_settings.device)
        cost_lines = estimate_batch_costs(preview, timed_videos, gpu_sample, state_dir.directory)
        cell_texts = describe_cells(estimate_cell_costs(preview, timed_videos, gpu_sample, state_dir.directory))
    except TemplateError as error:
        return BatchPreviewed(error=error.message, error_position=error.position)
    except UserError as error:
        return BatchPreviewed(error=str(error))
    except Exception as error:  # an error that only ends the thread would leave an outdated preview
        return BatchPreviewed(error=describe_unexpected_error(error))
    return BatchPreviewed(preview, tokenizer_path=tokenizer_path, cost_lines=cost_lines, cell_texts=cell_texts)


def describe_unexpected_error(error: Exception) -> str:
    """Describe a planning error that is wantui's fault, in one sentence."""
    if isinstance(error, ValidationError):
        reason = f"the recipe does not accept {describe_first_validation_error(error)}"
    else:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"cannot plan the batch: {' '.join(reason.split())}. Undo the last change to the settings or the template"


def examine_machine(preview: "BatchPreview", state_dir: StateDirectory) -> MachineExamined:
    """Find the reasons why this machine cannot run a batch; a folder on a network file system may be slow."""
    from wantui.batches.enqueue import find_machine_refusals  # slow to import

    return MachineExamined(preview, [str(error) for error in find_machine_refusals(state_dir, preview)])


def list_remarks(preview: "BatchPreview") -> list[str]:
    """Return the refusals and warnings of a preview, and the words that nano knows if it is the model."""
    from wantui.models.catalogue import NANO  # slow to import
    from wantui.models.nano.attributes import CAPTION_WORDS

    remarks = [f"✗ {refusal}" for refusal in preview.refusals]
    remarks += [f"! {warning}" for warning in preview.warnings]
    if preview.model is NANO:
        remarks.append(f"the model nano knows only these {len(CAPTION_WORDS)} words: {', '.join(CAPTION_WORDS)}")
    return remarks
