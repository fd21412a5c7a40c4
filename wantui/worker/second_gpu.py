"""The second GPU of a worker: whether the loaded pipeline can use it for a video, and the report if it cannot."""

import logging
from dataclasses import dataclass

from wantui.generation.attention_backends import PROCESS_WIDE_KERNELS
from wantui.generation.cuda_errors import is_fatal_cuda_error, is_out_of_memory
from wantui.generation.errors import NoSuchDeviceError
from wantui.generation.fuse import find_attention_kernel
from wantui.generation.guidance_split import SecondGpuError, find_guidance_split, remove_guidance_split, split_guidance
from wantui.generation.load import resolve_device
from wantui.generation.placement import find_device, find_device_name, query_free_gpu_bytes
from wantui.generation.self_check import computes_equal_bits
from wantui.models.catalogue import find_model
from wantui.planning import Recipe
from wantui.planning.guidance_plan import uses_unconditional_pass
from wantui.planning.second_gpu import allows_second_gpu, explain_missing_memory
from wantui.queue.events import VideoOnOneGpu
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.worker.pipelines import LoadedPipeline


@dataclass(frozen=True)
class SecondGpu:
    """The second GPU that the engine assigned to a worker.

    Attributes:
        device_name: device name for torch; None if the worker has one device.
        missing_reason: why the worker has one device; empty if no second GPU was free.
    """

    device_name: str | None
    missing_reason: str = ""

    def prepare(self, loaded_pipeline: LoadedPipeline, recipe: Recipe) -> str | None:
        """Let a pipeline use the second GPU for a recipe that has guided steps.

        Returns:
            Reason why the video is rendered on one GPU; None if it uses two, or has no step with two passes.

        Raises:
            SecondGpuError: the second GPU failed.
        """
        if not uses_unconditional_pass(recipe):
            return None
        pipeline = loaded_pipeline.pipeline
        try:
            reason = self._find_reason_for_one_gpu(loaded_pipeline, recipe)
            if reason is None and find_guidance_split(pipeline) is None:
                assert self.device_name is not None
                split_guidance(pipeline, resolve_device(self.device_name))
                if not computes_equal_bits(pipeline):
                    reason = "the results of the two GPUs differ"
        except NoSuchDeviceError:
            reason = "the second GPU is no longer available"
        except Exception as error:  # kernels raise errors of many kinds on a device that they do not support
            if is_fatal_cuda_error(error):
                raise SecondGpuError(f"the second GPU failed: {error}") from error
            reason = (
                "the second GPU ran out of memory"
                if is_out_of_memory(error)
                else f"the second GPU failed a test pass ({type(error).__name__}: {error})"
            )
        if reason is not None:
            remove_guidance_split(pipeline)
        return reason

    def _find_reason_for_one_gpu(self, loaded_pipeline: LoadedPipeline, recipe: Recipe) -> str | None:
        if self.device_name is None:
            return self.missing_reason or "no second GPU of the same kind is free"
        if not allows_second_gpu(loaded_pipeline.plan):
            return f"the memory plan {loaded_pipeline.plan.slug} streams the weights"
        attention_kernel = find_attention_kernel(loaded_pipeline.pipeline.transformer)
        if attention_kernel in PROCESS_WIDE_KERNELS:
            return f"the attention kernel {attention_kernel} sets process-wide flags, which two threads would share"
        device, second_device = find_device(loaded_pipeline.pipeline), resolve_device(self.device_name)
        if second_device.type != "cuda" or find_guidance_split(loaded_pipeline.pipeline) is not None:
            return None
        names = find_device_name(device), find_device_name(second_device)
        if names[0] != names[1]:
            return f"the GPUs are of different kinds ({names[0]}, {names[1]}), and their results may differ"
        free_bytes = query_free_gpu_bytes(second_device)
        return explain_missing_memory(loaded_pipeline.plan, find_model(recipe.model), recipe, free_bytes)


def report_one_gpu(queue: Queue, claim: Claim, reason: str, log: logging.Logger) -> None:
    """Report that a video for two GPUs is rendered on one."""
    log.warning("%s is rendered on one GPU, with the same result: %s", claim.title, reason)
    queue.emit_video_event(claim, VideoOnOneGpu(reason=reason))
