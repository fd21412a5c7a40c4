"""The supported samplers, with all arguments of their diffusers schedulers.

Always build schedulers here: `from_config` with another scheduler's config silently changes the prediction type or
drops the shift. `wantui.schedule.REFUSED_SAMPLERS` has the reasons against the other samplers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from wantui.schedule import SamplerName

_FLOW_OPTIONS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_UNIPC_STATE_ATTRIBUTES = frozenset(
    {"_step_index", "model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order"}
)
_DPM_STATE_ATTRIBUTES = frozenset({"_step_index", "model_outputs", "lower_order_nums"})


@dataclass(frozen=True)
class Sampler:
    """A sampler, implemented by a diffusers scheduler."""

    build_scheduler: Callable[[float], Any]
    """Function that returns a new scheduler for a flow shift."""
    state_attributes: frozenset[str]
    """Attributes that the scheduler's steps change, which a checkpoint stores."""


SAMPLERS_BY_NAME: dict[SamplerName, Sampler] = {
    "unipc": Sampler(lambda shift: UniPCMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift), _UNIPC_STATE_ATTRIBUTES),
    "unipc-3": Sampler(
        lambda shift: UniPCMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift, solver_order=3),
        _UNIPC_STATE_ATTRIBUTES,
    ),
    "dpm++2m": Sampler(
        lambda shift: DPMSolverMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift), _DPM_STATE_ATTRIBUTES
    ),
    "dpm++3m": Sampler(
        lambda shift: DPMSolverMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift, solver_order=3),
        _DPM_STATE_ATTRIBUTES,
    ),
    "euler": Sampler(lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift), frozenset({"_step_index"})),
    "heun": Sampler(
        lambda shift: FlowMatchHeunDiscreteScheduler(shift=shift),
        frozenset({"_step_index", "prev_derivative", "dt", "sample"}),
    ),
}


def build_scheduler(sampler: SamplerName, flow_shift: float) -> Any:
    """Return a new diffusers scheduler for a sampler."""
    return SAMPLERS_BY_NAME[sampler].build_scheduler(flow_shift)
