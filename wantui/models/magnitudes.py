"""Load the magnitudes of a model, measured here or published; `speed: cached` uses them to select passes to skip.

The magnitude at a noise level is the norm of what the blocks add to the hidden states there. MagCache (Ma et al. 2025,
arXiv 2506.09045): the ratio of the magnitudes of consecutive steps is nearly the same for every prompt. Its logarithm
is summed from the first step, so the sums give the ratio between any two noise levels, for any number of steps.
"""

import hashlib
import math
from functools import cache
from itertools import accumulate
from pathlib import Path

from platformdirs import user_data_path

from wantui.json_files import UnreadableFileError, read_json
from wantui.models.catalogue import NANO, WanModel
from wantui.samplers import compute_noise_levels

Magnitudes = tuple[tuple[float, float], ...]
"""Pairs (noise level, logarithm of the magnitude there relative to the first noise level), in descending noise
level."""
NANO_MAGNITUDES_PATH = Path(__file__).with_name("nano") / "magnitudes.json"
PUBLISHED_MAGNITUDES_PATH = Path(__file__).with_name("published_magnitudes.json")
"""File with the ratios of consecutive steps that the authors of MagCache published, by model and pass.

The authors state no sampler: the noise levels are the defaults of their program.
"""


def find_magnitudes_path(model: WanModel, revision: str) -> Path:
    """Return the path of the magnitudes that were measured on this machine.

    Args:
        revision: commit or fingerprint of the weights.
    """
    file_stem = hashlib.sha256(f"{model.location}\n{revision}".encode()).hexdigest()[:16]
    return user_data_path("wantui") / "magnitudes" / f"{file_stem}.json"


def load_magnitudes(model: WanModel, revision: str | None) -> Magnitudes:
    """Return a model's magnitudes; empty if none were measured with these weights or published.

    Args:
        revision: commit or fingerprint of the weights; None if they are not on this machine.

    Raises:
        UnreadableFileError: the measured magnitudes cannot be read or are damaged.
    """
    return _load_measured_magnitudes(model, revision) or read_published_magnitudes().get(model.name, ())


@cache
def read_published_magnitudes() -> dict[str, Magnitudes]:
    """Return the published magnitudes by model; passes with and without the prompt are averaged."""
    published = read_json(PUBLISHED_MAGNITUDES_PATH)
    noise_levels = compute_noise_levels(published["sampler"], published["steps"], published["flow_shift"])
    magnitudes_by_model = {}
    for model_name, ratios_by_pass in published["ratios_by_model"].items():
        mean_ratios = [sum(ratios) / len(ratios) for ratios in zip(*ratios_by_pass, strict=True)]
        log_magnitudes = accumulate(map(math.log, mean_ratios))
        magnitudes_by_model[model_name] = extend_to_zero(tuple(zip(noise_levels, log_magnitudes, strict=True)))
    return magnitudes_by_model


def extend_to_zero(magnitudes: Magnitudes) -> Magnitudes:
    """Return the magnitudes with a point at noise level 0, extrapolated from the last two points.

    Denoisings with another number of steps may end at a lower noise level than the measured one.
    """
    (second_last_level, second_last_log), (last_level, last_log) = magnitudes[-2:]
    slope = (second_last_log - last_log) / (second_last_level - last_level)
    return (*magnitudes, (0.0, last_log - last_level * slope))


def _load_measured_magnitudes(model: WanModel, revision: str | None) -> Magnitudes:
    if revision is None:
        return ()
    paths = [find_magnitudes_path(model, revision), *([NANO_MAGNITUDES_PATH] if model is NANO else [])]
    for path in paths:
        try:
            stored_values = read_json(path)
            if stored_values["revision"] == revision:
                return _parse_magnitudes(stored_values["magnitudes"])
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableFileError(
                f"the measured magnitudes in {path} are damaged. Delete this file, or measure them again with "
                "`wantui models calibrate`"
            ) from error
    return ()


def _parse_magnitudes(pairs: list[tuple[float, float]]) -> Magnitudes:
    """Return stored pairs of noise level and logarithm.

    Raises:
        ValueError, TypeError: a pair does not consist of two finite numbers.
    """
    magnitudes = tuple((float(noise_level), float(log_magnitude)) for noise_level, log_magnitude in pairs)
    if not all(math.isfinite(value) for pair in magnitudes for value in pair):
        raise ValueError("not all magnitudes are finite")
    return magnitudes
