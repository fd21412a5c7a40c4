"""Reject NaN and infinity and name the tensor that contains them."""

from torch import Tensor

from wantui.generation.errors import NotFiniteError


def check_finite(values: Tensor, message_start: str, message_end: str = "") -> None:
    """Reject NaN and infinity.

    Args:
        message_start: subject and verb of the error message, such as "the latents hold".
        message_end: end of the error message.

    Raises:
        NotFiniteError: a value is NaN or infinity.
    """
    if not bool(values.isfinite().all()):
        raise NotFiniteError(f"{message_start} NaN or infinity{message_end and ' '}{message_end}")
