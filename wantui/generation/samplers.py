"""The samplers that are offered, each with every argument spelled out.

`Scheduler.from_config` of another scheduler's config silently changes the prediction type or drops the shift, so
schedulers are always built from here. Why others are refused stands in `wantui.config.settings.REFUSED_SAMPLERS`.
"""

from collections.abc import Callable
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}

_SAMPLERS: dict[str, Callable[[float], Any]] = {
    "unipc": lambda shift: UniPCMultistepScheduler(**_FLOW, flow_shift=shift),
    "unipc-3": lambda shift: UniPCMultistepScheduler(**_FLOW, flow_shift=shift, solver_order=3),
    "dpm++2m": lambda shift: DPMSolverMultistepScheduler(**_FLOW, flow_shift=shift),
    "dpm++3m": lambda shift: DPMSolverMultistepScheduler(**_FLOW, flow_shift=shift, solver_order=3),
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "heun": lambda shift: FlowMatchHeunDiscreteScheduler(shift=shift),
}


def build_scheduler(sampler: str, flow_shift: float) -> Any:
    """A fresh scheduler of diffusers for one of the names in `SamplerName`."""
    return _SAMPLERS[sampler](flow_shift)
