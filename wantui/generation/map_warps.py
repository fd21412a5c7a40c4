"""The transforms of attention bending on maps: each map [..., height, width] is transformed separately, in its dtype.

Rows and columns are independent in most transforms, which then are two matrix products: unlike convolutions on a GPU,
they are never rounded to TF32 by default.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.controls.bend_settings import Border
from wantui.controls.bend_transforms import (
    Amplify,
    BendTransform,
    Blur,
    Flip,
    Frequency,
    Region,
    Rotate,
    Scale,
    Sharpen,
    Translate,
)

MapWarp = Callable[[Tensor], Tensor]
BLUR_TRUNCATION = 4.0
"""Length of the Gaussian kernel to each side in standard deviations, as in scipy.ndimage."""
GRID_SAMPLE_PADDING: dict[Border, str] = {"edge": "border", "zero": "zeros", "reflect": "reflection"}


def build_warp(
    transform: BendTransform, border: Border, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> MapWarp:
    """Return the function that transforms maps [..., height, width] of a dtype on a device."""

    def move(values: Tensor) -> Tensor:
        return values.to(device, dtype)

    match transform:
        case Amplify(amplify_factor=factor):
            return lambda maps: maps * factor
        case Scale(scale_factor=factor):
            rows, columns = (
                _build_sampling_matrix((torch.arange(size).double() - (size - 1) / 2) / factor + (size - 1) / 2, border)
                for size in (height, width)
            )
            return _build_separable_warp(move(rows), move(columns))
        case Translate(translate_x=x, translate_y=y):
            rows, columns = (
                _build_sampling_matrix(torch.arange(size).double() - shift * size, border)
                for size, shift in ((height, y), (width, x))
            )
            return _build_separable_warp(move(rows), move(columns))
        case Flip(flip_horizontal=horizontal, flip_vertical=vertical):
            flipped_dims = [dim for dim, is_flipped in ((-1, horizontal), (-2, vertical)) if is_flipped]
            return lambda maps: maps.flip(flipped_dims)
        case Blur(blur_sigma=sigma):
            return _build_blur(sigma, border, height, width, move)
        case Sharpen(sharpen_amount=amount, sharpen_sigma=sigma):
            blur = _build_blur(sigma, border, height, width, move)
            return lambda maps: (maps + amount * (maps - blur(maps))).clamp_min(0)
        case Rotate(rotate_degrees=degrees):
            return _build_rotation(degrees, border, height, width, move)
        case Region():
            mask = move(build_region_mask(transform, height, width))
            return lambda maps: maps * mask
        case Frequency():
            band = move(build_frequency_band(transform, height, width))
            return lambda maps: torch.fft.irfft2(torch.fft.rfft2(maps) * band, (height, width))
    raise TypeError(f"unknown transform {transform!r}")


def build_region_mask(region: Region, height: int, width: int) -> Tensor:
    """Return the factors [height, width] of a region, float64."""
    row_factors, column_factors = (
        _build_interval_mask(size, first, last, region.region_feather)
        for size, first, last in (
            (height, region.region_y1, region.region_y2),
            (width, region.region_x1, region.region_x2),
        )
    )
    mask = row_factors[:, None] * column_factors
    return mask if region.region_part == "keep" else 1 - mask


def build_frequency_band(band: Frequency, height: int, width: int) -> Tensor:
    """Return the factors [height, width // 2 + 1] for the frequencies of a real Fourier transform, float64: 0 or 1."""
    vertical, horizontal = torch.fft.fftfreq(height, 1 / height).double(), torch.arange(width // 2 + 1).double()
    cycles_squared = (vertical[:, None] ** 2 + horizontal**2).round()
    high = math.inf if band.frequency_high is None else band.frequency_high
    return ((cycles_squared >= band.frequency_low**2) & (cycles_squared <= high**2)).double()


def _build_interval_mask(size: int, first: float, last: float, feather: float) -> Tensor:
    """Return the factors of positions along one side of the frame: 1 between two shares, with linear ramps."""
    centres = (torch.arange(size).double() + 0.5) / size
    mask = torch.ones(size, dtype=torch.float64)
    for distance, is_inside_frame in ((centres - first, first > 0), (last - centres, last < 1)):
        if is_inside_frame:
            mask *= (distance / feather + 0.5).clamp(0, 1) if feather > 0 else (distance >= 0).double()
    return mask


def _build_separable_warp(row_matrix: Tensor, column_matrix: Tensor) -> MapWarp:
    """Return the function that multiplies maps by a matrix from each side; identity matrices are skipped."""
    matrices = [
        None if torch.equal(matrix, torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype)) else matrix
        for matrix in (row_matrix, column_matrix.T.contiguous())
    ]

    def warp(maps: Tensor) -> Tensor:
        if matrices[1] is not None:
            maps = maps @ matrices[1]
        return maps if matrices[0] is None else matrices[0] @ maps

    return warp


def _build_blur(sigma: float, border: Border, height: int, width: int, move: Callable[[Tensor], Tensor]) -> MapWarp:
    radius = int(BLUR_TRUNCATION * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-9)) ** 2)
    kernel /= kernel.sum()
    matrices = []
    for size in (height, width):
        matrix = torch.zeros(size, size, dtype=torch.float64)
        for offset, factor in zip(offsets.tolist(), kernel.tolist(), strict=True):
            _add_samples(matrix, torch.arange(size) + offset, torch.full((size,), factor, dtype=torch.float64), border)
        matrices.append(move(matrix))
    return _build_separable_warp(*matrices)


def _build_sampling_matrix(coordinates: Tensor, border: Border) -> Tensor:
    """Return the matrix that samples a line at coordinates, in positions from 0, with linear interpolation."""
    matrix = torch.zeros(len(coordinates), len(coordinates), dtype=torch.float64)
    rounded = coordinates.round()
    # Without this, a shift by a whole number of positions would mix in its neighbours by a rounding error.
    coordinates = torch.where((coordinates - rounded).abs() < 1e-9, rounded, coordinates)
    lower = coordinates.floor()
    _add_samples(matrix, lower.long(), 1 - (coordinates - lower), border)
    _add_samples(matrix, lower.long() + 1, coordinates - lower, border)
    return matrix


def _add_samples(matrix: Tensor, sources: Tensor, factors: Tensor, border: Border) -> None:
    """Add factors to a matrix, row by row at the columns `sources`, which may be outside of the frame."""
    size = matrix.shape[1]
    is_inside = (sources >= 0) & (sources < size)
    match border:
        case "edge":
            sources = sources.clamp(0, size - 1)
        case "zero":
            factors, sources = factors * is_inside, sources.clamp(0, size - 1)
        case "reflect":
            sources = sources.remainder(2 * size)
            sources = torch.where(sources < size, sources, 2 * size - 1 - sources)
    matrix.scatter_add_(1, sources[:, None], factors[:, None])


def _build_rotation(
    degrees: float, border: Border, height: int, width: int, move: Callable[[Tensor], Tensor]
) -> MapWarp:
    """Return the rotation about the centre, counter-clockwise as seen, in positions: a position is a square."""
    quarter, remainder = divmod(degrees, 90)
    cosine, sine = (
        ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarter) % 4]
        if remainder == 0
        else (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    )
    y = (torch.arange(height).double() - (height - 1) / 2)[:, None].expand(height, width)
    x = (torch.arange(width).double() - (width - 1) / 2).expand(height, width)
    sources = torch.stack([(cosine * x - sine * y) * 2 / width, (sine * x + cosine * y) * 2 / height], 2)
    grid = move(sources)[None]

    def rotate(maps: Tensor) -> Tensor:
        flat_maps = maps.reshape(1, -1, height, width)
        rotated = F.grid_sample(flat_maps, grid, "bilinear", GRID_SAMPLE_PADDING[border], align_corners=False)
        return rotated.reshape(maps.shape)

    return rotate
