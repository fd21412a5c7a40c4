"""Refuse numbers that are no numbers, with the name of what holds them."""

from torch import Tensor


class NotFiniteError(RuntimeError):
    """NaN or infinity where a video needs numbers; the text says where."""


def check_finite(values: Tensor, what: str, when: str = "") -> None:
    """Refuse NaN and infinity.

    Args:
        what: subject and verb of the message.
        when: its end.

    Raises:
        NotFiniteError: says what holds them.
    """
    if not bool(values.isfinite().all()):
        raise NotFiniteError(f"{what} NaN or infinity{when and ' '}{when}")
