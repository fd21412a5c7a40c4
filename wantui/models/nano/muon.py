"""Muon: momentum with an orthogonalised update for matrices, AdamW for everything else.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024. Updates are scaled to the size of those
of Adam, as in Liu et al., arXiv 2502.16982. Convolution kernels are treated as matrices [out, in * taps], which
torch.optim.Muon does not support.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalise_matrices(matrices: Tensor) -> Tensor:
    """Run five Newton-Schulz steps toward the nearest semi-orthogonal matrices: [n, rows, columns], rows <= columns."""
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.to(matrices.dtype)


class Muon:
    """Optimiser for named parameters. AdamW updates vectors, and parameters with an `adam_name_parts` in the name."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        weight_decay: float,
        adam_name_parts: tuple[str, ...] = (),
        momentum: float = 0.95,
    ) -> None:
        self.weight_decay, self.momentum = weight_decay, momentum
        self.parameters_by_size: dict[tuple[int, int], list[nn.Parameter]] = {}
        adam_parameters = []
        for name, parameter in named_parameters:
            row_count, column_count = (parameter.shape[0], parameter[0].numel()) if parameter.ndim > 1 else (1, 1)
            if min(row_count, column_count) < 4 or any(name_part in name for name_part in adam_name_parts):
                adam_parameters.append(parameter)
            else:
                # Matrices of the same size are orthogonalised as one batch.
                self.parameters_by_size.setdefault(
                    (min(row_count, column_count), max(row_count, column_count)), []
                ).append(parameter)
        self.momenta_by_size = {
            size: [torch.zeros_like(p) for p in group] for size, group in self.parameters_by_size.items()
        }
        self.adam_optimizer = torch.optim.AdamW(
            adam_parameters,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            capturable=all(parameter.is_cuda for parameter in adam_parameters),
        )

    @torch.no_grad()
    def apply_update(self, learning_rate: float | Tensor) -> None:
        """Apply one update from the current gradients, then clear them.

        Args:
            learning_rate: a number, or a tensor without dimensions on the device, which a CUDA graph reads at each
                replay.
        """
        self.adam_optimizer.param_groups[0]["lr"] = learning_rate
        self.adam_optimizer.step()
        self.adam_optimizer.zero_grad()
        for matrix_size, group in self.parameters_by_size.items():
            updates = []
            for parameter, momentum in zip(group, self.momenta_by_size[matrix_size], strict=True):
                gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                momentum.lerp_(gradient, 1 - self.momentum)
                update = gradient.lerp(momentum, self.momentum).flatten(1)
                updates.append(update if update.shape[0] <= update.shape[1] else update.mT)
                parameter.grad = None
            orthogonal_steps = orthogonalise_matrices(torch.stack(updates)) * (
                -learning_rate * 0.2 * matrix_size[1] ** 0.5
            )
            for parameter, parameter_step in zip(group, orthogonal_steps, strict=True):
                is_wide = parameter.shape[0] <= parameter[0].numel()
                parameter.mul_(1 - learning_rate * self.weight_decay)
                parameter.add_((parameter_step if is_wide else parameter_step.mT).reshape(parameter.shape))
