"""A throughput model that is fitted to blocks with known times."""

from wantui.planning.throughput import (
    MeasuredBlock,
    Throughput,
    _compute_cost_terms,
    fit_throughput,
)

ATTENTION, PRODUCT, VALUE = 1.7e-15, 1.5e-15, 2.0e-11


CARD = "a card"


def block(dim: int, feed_forward: int, tokens: int) -> MeasuredBlock:
    attention, products, values = _compute_cost_terms(dim, feed_forward, tokens)
    return MeasuredBlock(dim, feed_forward, tokens, ATTENTION * attention + PRODUCT * products + VALUE * values)


BLOCKS = [block(dim, wide, tokens) for dim, wide in ((1536, 8960), (5120, 13824)) for tokens in (4_680, 14_040, 32_760)]


def fit_known_throughput() -> Throughput:
    return fit_throughput(BLOCKS, 1e-7, CARD, "reference", "2.11")
