"""Guidance on two GPUs: copies of a pipeline's transformers compute the unconditional pass on a second GPU.

Both passes of an evaluation have the same latents and timestep, and neither needs the other's result. The copies hold
the same weights and launch the same kernels as their originals, so the video has the bits of one GPU if both GPUs
are of one kind; `self_check.computes_equal_bits` verifies that.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from wantui.generation.cuda_errors import is_fatal_cuda_error, is_out_of_memory
from wantui.generation.pass_cache import PassCache
from wantui.generation.placement import find_device, free_unused_memory, list_transformers, select_gpu


class SecondGpuError(RuntimeError):
    """Raised if the second GPU of a video fails; the video can continue on one GPU from its checkpoint."""


class GuidanceSplit:
    """Copies of a pipeline's transformers on a second GPU, and the thread that computes with them.

    Args:
        pipeline: placed pipeline whose transformers are complete: not streamed, and without diffusers' hooks.
        device: second GPU; in tests the CPU, on which the copies have tensors of their own.

    Raises:
        RuntimeError: the copies do not fit into the memory of the second GPU.
    """

    def __init__(self, pipeline: WanPipeline, device: torch.device) -> None:
        self.device = device
        self.originals = list_transformers(pipeline)
        self.copies = [copy_to_device(transformer, device) for transformer in self.originals]
        self.pass_cache = PassCache()
        """Values that the unconditional passes of one video share."""
        self._text_copies: dict[int, tuple[Tensor, Tensor]] = {}
        """Text embedding and its copy, by the embedding's `id()`: the pass cache needs the same copy in every pass."""
        self._executor = ThreadPoolExecutor(1, "second-gpu", initializer=select_gpu, initargs=(device,))

    def find_copy(self, transformer: Any) -> Any:
        """Return the copy of a transformer of the pipeline."""
        return self.copies[self.originals.index(transformer)]

    def copy_text(self, text_embeds: Tensor) -> Tensor:
        """Return a text embedding on the second GPU; calls with the same embedding return the same copy."""
        if id(text_embeds) not in self._text_copies:
            self._text_copies[id(text_embeds)] = text_embeds, self.copy_tensor(text_embeds)
        return self._text_copies[id(text_embeds)][1]

    def copy_tensor(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor on the second GPU, queued before the next operations of the first GPU."""
        return tensor.to(self.device, copy=True)

    def start_pass(self, run_pass: Callable[[], Tensor]) -> Future[Tensor]:
        """Start a pass with a copy, in the thread of the second GPU."""
        return self._executor.submit(self._run_pass, run_pass)

    def _run_pass(self, run_pass: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad():  # which a new thread does not inherit
            output = run_pass()
        if self.device.type == "cuda":  # so that errors of this GPU are raised here, and not in the loop
            torch.cuda.synchronize(self.device)
        return output

    def free_shared_values(self) -> None:
        """Free the values that the passes of a video shared."""
        self.pass_cache.close()
        self._text_copies.clear()

    def close(self) -> None:
        """Free the copies, and end the thread."""
        self._executor.shutdown()
        self.free_shared_values()
        self.copies = []
        with suppress(RuntimeError):  # a lost GPU frees nothing
            free_unused_memory()


def copy_to_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a module with its tensors on a device, without a second copy in CPU memory.

    Diffusers' hooks would keep using the original: the module must have none.
    """
    memo: dict[int, Any] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        copied = tensor.detach().to(device, copy=True)
        memo[id(tensor)] = (
            nn.Parameter(copied, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
        )
    copied_module: nn.Module = copy.deepcopy(module, memo)
    return copied_module


def split_guidance(pipeline: WanPipeline, device: torch.device) -> None:
    """Make a pipeline compute the unconditional passes on a second GPU; see `GuidanceSplit`."""
    pipeline.wantui_split = GuidanceSplit(pipeline, device)


def find_guidance_split(pipeline: WanPipeline) -> GuidanceSplit | None:
    """Return the guidance split of a pipeline; None if the pipeline computes on one device."""
    split: GuidanceSplit | None = getattr(pipeline, "wantui_split", None)
    return split


def list_transformers_and_copies(pipeline: WanPipeline) -> list[Any]:
    """Return the transformers of a pipeline and their copies on a second GPU."""
    split = find_guidance_split(pipeline)
    originals = list_transformers(pipeline)
    return originals if split is None else [*originals, *split.copies]


def find_transformer_name(pipeline: WanPipeline, transformer: Any) -> str:
    """Return transformer or transformer_2 for a transformer of a pipeline, or for its copy on a second GPU."""
    split = find_guidance_split(pipeline)
    if split is not None and transformer in split.copies:
        transformer = split.originals[split.copies.index(transformer)]
    return "transformer" if transformer is pipeline.transformer else "transformer_2"


def remove_guidance_split(pipeline: WanPipeline) -> None:
    """Make a pipeline compute on one device again, and free its copies on the second GPU."""
    split = find_guidance_split(pipeline)
    pipeline.wantui_split = None
    if split is not None:
        split.close()


@contextmanager
def clean_up_guidance_split(pipeline: WanPipeline) -> Iterator[None]:
    """Free the values that the unconditional passes of one video shared, at the end of the block."""
    try:
        yield
    finally:
        if (split := find_guidance_split(pipeline)) is not None:
            split.free_shared_values()


def finish_pass(pipeline: WanPipeline, pending: Future[Tensor]) -> Tensor | None:
    """Wait for an unconditional pass, and return its output on the pipeline's device.

    Returns:
        None if the second GPU ran out of memory: the pipeline then computes on one device.

    Raises:
        SecondGpuError: the second GPU, or its connection, failed.
    """
    try:
        return pending.result().to(find_device(pipeline))
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        if is_fatal_cuda_error(error):
            raise SecondGpuError(f"the second GPU failed: {error}") from error
        raise
