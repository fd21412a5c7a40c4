"""Apply the controls of a recipe.

A control is declared in `wantui.controls`, and applied by the module of the same name here, which has a function
`apply_control(request, preparation)`.
"""

from importlib import import_module

from wantui.generation.preparation import DenoisingPreparation


def apply_controls(preparation: DenoisingPreparation) -> None:
    """Apply every control in the recipe to the preparation, in the order of the registry."""
    for kind, request in preparation.recipe.control_requests:
        if not kind.changes_only_guidance:
            import_module(f"{__name__}.{kind.name}").apply_control(request, preparation)
