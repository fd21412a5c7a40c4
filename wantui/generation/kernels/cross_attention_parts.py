"""Functions that the cross-attention kernels share: loading of one head, and the numerators of the softmax."""

import triton
import triton.language as tl


@triton.jit
def load_head(tensor, head, rows, dims, row_count, head_dim, row_stride, head_stride):
    """Return one head of a tensor [rows, heads, head_dim], 0 outside; rows and dims are broadcast to its shape."""
    return tl.load(
        tensor + rows * row_stride + head * head_stride + dims,
        mask=(rows < row_count) & (dims < head_dim),
        other=0.0,
    )


@triton.jit
def exponentiate_logits(logits, columns, column_count, log_padding_count):
    """Return the numerators of the softmax; `log_padding_count` is added to the logits of the last column."""
    logits = tl.where(columns == column_count - 1, logits + log_padding_count, logits)
    logits = tl.where(columns < column_count, logits, float("-inf"))
    return tl.exp(logits - tl.max(logits, 1)[:, None])
