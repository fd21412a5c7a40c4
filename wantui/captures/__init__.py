"""The registry of captures: everything that can be recorded during denoising. Imports no torch."""

from wantui.captures.attention import ATTENTION
from wantui.captures.base import CaptureKind, CaptureRequest, DenoisingSize, DiskPart
from wantui.captures.contributions import CONTRIBUTIONS
from wantui.captures.guidance_gap import GUIDANCE_GAP
from wantui.captures.trajectory import TRAJECTORY

CAPTURES: tuple[CaptureKind, ...] = (TRAJECTORY, ATTENTION, CONTRIBUTIONS, GUIDANCE_GAP)
"""Captures in the order of their sections in the config file."""

__all__ = ["CAPTURES", "CaptureKind", "CaptureRequest", "DenoisingSize", "DiskPart"]
