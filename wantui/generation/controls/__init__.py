"""Apply the controls of a recipe.

A control is declared in `wantui.controls`, and applied by the module of the same name here, which has a function
`apply_control(request, preparation)`.
"""

from importlib import import_module

from wantui.controls import CONTROLS
from wantui.generation.preparation import DenoisingPreparation


def apply_controls(preparation: DenoisingPreparation) -> None:
    """Apply every control in the recipe to the preparation, in the order of the registry."""
    for kind in CONTROLS:
        if kind.changes_only_guidance:
            continue
        if (request := preparation.recipe.find_control_request(kind.name)) is not None:
            import_module(f"{__name__}.{kind.name}").apply_control(request, preparation)
