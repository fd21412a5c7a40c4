"""Actions of the dialogs that show how a video forms, and a recipe."""

from wantui.tui.action import Action

FORMING_ACTIONS = (
    Action("forming.earlier", "left,h", "pick_step(-1)", "Earlier", "Show an earlier step."),
    Action("forming.later", "right,l", "pick_step(1)", "Later", "Show a later step."),
    Action("forming.play", "space", "play", "Play", "Play the latent frames of the step, or pause."),
    Action(
        "forming.frame_back",
        "comma",
        "move_frame(-1)",
        "Previous frame",
        "Show the latent frame before.",
        is_in_footer=False,
    ),
    Action("forming.frame", "full_stop", "move_frame(1)", "Frame", "Show the next latent frame."),
    Action("forming.state", "v", "switch_kind", "State", "Switch between predicted clean states and noisy states."),
    Action("forming.close", "escape,q,s", "close", "Close", "Return to the library."),
    Action("forming.help", "question_mark,f1", "help", "Help", "Show the keys of this screen, and explain terms."),
)

RECIPE_ACTIONS = (
    Action("recipe.json", "j", "toggle_json", "JSON", "Show the JSON, or the table."),
    Action("recipe.close", "escape,q,enter,i,d", "dismiss", "Close", "Return to the screen below."),
)
