"""Reject NaN and infinity and name the tensor that contains them."""

from torch import Tensor


class NotFiniteError(RuntimeError):
    """Raised for NaN or infinity; the message names the tensor."""


def check_finite(values: Tensor, what: str, when: str = "") -> None:
    """Refuse NaN and infinity.

    Args:
        what: subject and verb of the error message, such as "the latents hold".
        when: end of the error message.

    Raises:
        NotFiniteError: a value is NaN or infinity.
    """
    if not bool(values.isfinite().all()):
        raise NotFiniteError(f"{what} NaN or infinity{when and ' '}{when}")
