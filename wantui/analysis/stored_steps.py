"""Choose stored steps of a denoising run by moments as users write them."""

from collections.abc import Sequence

from wantui.errors import UserError
from wantui.formatting import join_and_shorten
from wantui.keyframes import find_first_step, parse_keyframes

MAX_LISTED_STEPS = 12
"""Maximum number of stored steps that an error lists."""


class MissingStepError(UserError):
    """Raised for a step that is not stored; the text lists the stored steps."""


def find_stored_step(
    written: str, steps: Sequence[int], sigmas: Sequence[float], step_count: int, description: str, note: str = ""
) -> int:
    """Return the index of the stored step at a written moment.

    Args:
        written: index of a step, which must be stored; a percentage, which chooses the stored step nearest to the step
            at which a schedule reaches it; or a noise level, which chooses the nearest stored one.
        steps, sigmas: stored steps, from 0, and their noise levels; at least one.
        step_count: number of steps of the denoising.
        description: what is stored, such as "red seed 42 has no noisy state".
        note: end of the error about a step that is not stored.

    Raises:
        KeyframeError: the moment cannot be read.
        MissingStepError: the step is not stored.
    """
    times, _ = parse_keyframes({written: None})
    moment = times.moments[0]
    if times.unit == "sigma":
        return min(range(len(steps)), key=lambda index: abs(sigmas[index] - moment))
    if times.unit == "fraction":
        first_step = find_first_step(moment, step_count)
        return min(range(len(steps)), key=lambda index: abs(steps[index] - first_step))
    if moment in steps:
        return list(steps).index(int(moment))
    if moment >= step_count:
        raise MissingStepError(f"{description} of step {written}: the video has the steps 0 to {step_count - 1}")
    listed = join_and_shorten(steps, MAX_LISTED_STEPS)
    raise MissingStepError(f"{description} of step {written}. Stored steps: {listed}{note}")
