"""Which products `speed: fp8` computes in FP8, the size of their weights, and which GPUs can compute them."""

from wantui.models.catalogue import WanModel

MIN_COMPUTE_CAPABILITY = (8, 9)
"""Smallest compute capability of GPUs that multiply in FP8: Ada Lovelace, Hopper and later."""
WIDTH_MULTIPLE = 16
"""Number that must divide the widths of FP8 products."""


def explain_missing_fp8(device: str, compute_capability: tuple[int, int] | None) -> str:
    """Return the refusal of `speed: fp8` on a device without FP8.

    Args:
        device: name of the device.
        compute_capability: compute capability of a GPU; None for a CPU.
    """
    needed = ".".join(map(str, MIN_COMPUTE_CAPABILITY))
    has_text = "" if compute_capability is None else f", which has {'.'.join(map(str, compute_capability))}"
    return (
        f"cannot use model_settings.speed: fp8 on {device}{has_text}: it needs a GPU with compute capability {needed} "
        "or later (Ada Lovelace, Hopper, Blackwell). Choose speed fused, or another model_settings.device"
    )


def is_block_in_fp8(block_index: int, block_count: int) -> bool:
    """Return whether the products of a block are computed in FP8, as in all blocks except the first and the last."""
    return 0 < block_index < block_count - 1


def count_fp8_blocks(block_count: int) -> int:
    """Count the blocks of a transformer whose products are computed in FP8."""
    return sum(is_block_in_fp8(block_index, block_count) for block_index in range(block_count))


def count_fp8_block_parameters(model: WanModel) -> int:
    """Count the weights of a block that are stored in FP8: all except keys and values of the text."""
    d, f = model.transformer_width, model.feed_forward_width
    return 6 * d * d + 2 * d * f


def count_fp8_block_scales(model: WanModel) -> int:
    """Count the float32 scales of a block's FP8 weights, one for each row."""
    return 7 * model.transformer_width + model.feed_forward_width


def count_saved_block_bytes(model: WanModel, dtype_bytes: int) -> int:
    """Count the bytes that FP8 saves in one block."""
    return (dtype_bytes - 1) * count_fp8_block_parameters(model) - 4 * count_fp8_block_scales(model)
