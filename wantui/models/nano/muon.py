"""Muon: momentum with an orthogonalised update for matrices, AdamW for everything else.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024. Updates are scaled to the size of those
of Adam, as in Liu et al., arXiv 2502.16982. Convolution kernels are treated as matrices [out, in * taps], which
torch.optim.Muon does not support.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor) -> Tensor:
    """Run five Newton-Schulz steps toward the nearest semi-orthogonal matrices: [n, rows, columns], rows <= columns."""
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.to(matrices.dtype)


class Muon:
    """Optimiser for named parameters. Vectors, and parameters with a word of `adam` in their name, use AdamW."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        weight_decay: float,
        adam: tuple[str, ...] = (),
        momentum: float = 0.95,
    ) -> None:
        self.weight_decay, self.momentum = weight_decay, momentum
        self.groups: dict[tuple[int, int], list[nn.Parameter]] = {}
        adam_parameters = []
        for name, parameter in named_parameters:
            rows, columns = (parameter.shape[0], parameter[0].numel()) if parameter.ndim > 1 else (1, 1)
            if min(rows, columns) < 4 or any(word in name for word in adam):
                adam_parameters.append(parameter)
            else:
                # Matrices of the same size are orthogonalised as one batch.
                self.groups.setdefault((min(rows, columns), max(rows, columns)), []).append(parameter)
        self.buffers = {size: [torch.zeros_like(p) for p in group] for size, group in self.groups.items()}
        self.adam = torch.optim.AdamW(adam_parameters, betas=(0.9, 0.98), weight_decay=0.0)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply one update from the current gradients, then clear them."""
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()
        self.adam.zero_grad()
        for size, group in self.groups.items():
            updates = []
            for parameter, buffer in zip(group, self.buffers[size], strict=True):
                gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                buffer.lerp_(gradient, 1 - self.momentum)
                update = gradient.lerp(buffer, self.momentum).flatten(1)
                updates.append(update if update.shape[0] <= update.shape[1] else update.mT)
                parameter.grad = None
            steps = orthogonalise(torch.stack(updates)) * (-learning_rate * 0.2 * size[1] ** 0.5)
            for parameter, step in zip(group, steps, strict=True):
                is_wide = parameter.shape[0] <= parameter[0].numel()
                parameter.mul_(1 - learning_rate * self.weight_decay)
                parameter.add_((step if is_wide else step.mT).reshape(parameter.shape))
