"""Repeat a function on the GPU as a CUDA graph: launching its many small kernels takes longer than running them."""

from collections.abc import Callable

import torch

EAGER_CALL_COUNT = 3
"""Calls before the capture, in which kernels are compiled and optimisers allocate their state."""


class GraphedFunction:
    """A function without arguments that replays a CUDA graph after the third call.

    The function may only read and write tensors that keep their memory between calls, and may not read values back.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.eager_calls_left = EAGER_CALL_COUNT
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run the function once."""
        if self.graph is not None:
            self.graph.replay()
        elif self.eager_calls_left > 0:
            self.eager_calls_left -= 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.function()
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.function()
            self.graph.replay()
