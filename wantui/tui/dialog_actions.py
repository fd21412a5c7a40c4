"""Actions of the player, and of the dialogs that show how a video forms, and a recipe."""

from wantui.tui.action import Action

PLAYER_ACTIONS = (
    Action("player.pause", "space,p", "pause", "Pause", "Play or pause."),
    Action("player.previous", "up,k", "next(-1)", "Clip", "Play the previous video of the batch.", footer_keys="↑ ↓"),
    Action("player.next", "down,j", "next(1)", "Next", "Play the next video of the batch.", is_in_footer=False),
    Action("player.back", "left,h", "step(-1)", "Frame", "Show the previous frame.", footer_keys="← →"),
    Action("player.forward", "right,l", "step(1)", "Forward", "Show the next frame.", is_in_footer=False),
    Action("player.star", "asterisk", "mark('star')", "Star", "Star the video, or remove its star."),
    Action("player.reject", "x", "mark('reject')", "Reject", "Reject the video, or accept it again."),
    Action("player.difference", "d", "difference", "Difference", "Show or hide the difference of two compared clips."),
    Action("player.recipe", "i", "recipe", "Recipe", "Show the recipe, or the differences of the recipes."),
    Action("player.close", "escape,q", "close", "Back", "Return to the library."),
    Action(
        "player.back_ten",
        "left_square_bracket,shift+left",
        "step(-10)",
        "10 frames",
        "Go back by ten frames.",
        footer_keys="[ ]",
    ),
    Action(
        "player.forward_ten",
        "right_square_bracket,shift+right",
        "step(10)",
        "Forward 10",
        "Go forward by ten frames.",
        is_in_footer=False,
    ),
    Action("player.first", "g,home", "first", "First", "Show the first frame.", is_in_footer=False),
    Action("player.last", "G,end", "last", "Last", "Show the last frame.", is_in_footer=False),
    Action("player.faster", "plus,equals_sign", "speed(1)", "Speed", "Play faster, up to 4 times.", footer_keys="+ -"),
    Action("player.slower", "minus", "speed(-1)", "Slower", "Play slower, down to a quarter.", is_in_footer=False),
    Action("player.loop", "o", "loop", "Loop", "Repeat the clip, or stop at its end."),
    Action("player.bare", "f", "bare", "Full", "Show or hide labels and controls."),
    Action("player.pixels", "P", "pixels", "Pixels", "Play in pixels (Kitty protocol or Sixel).", is_in_footer=False),
    Action("player.help", "question_mark,f1", "help", "Help", "Show the keys of the player."),
)

FORMING_ACTIONS = (
    Action("forming.earlier", "left,h", "pick_step(-1)", "Earlier", "Show an earlier step."),
    Action("forming.later", "right,l", "pick_step(1)", "Later", "Show a later step."),
    Action("forming.play", "space", "play", "Play", "Play the latent frames of the step, or pause."),
    Action(
        "forming.frame_back",
        "comma",
        "move_frame(-1)",
        "Previous frame",
        "Show the previous latent frame.",
        is_in_footer=False,
    ),
    Action("forming.frame", "full_stop", "move_frame(1)", "Frame", "Show the next latent frame."),
    Action("forming.state", "v", "switch_kind", "State", "Switch between predicted clean states and noisy states."),
    Action("forming.close", "escape,q,s", "close", "Close", "Return to the library."),
    Action("forming.help", "question_mark,f1", "help", "Help", "Show the keys of this screen, and explain terms."),
)

RECIPE_ACTIONS = (
    Action("recipe.json", "j", "toggle_json", "JSON", "Show the JSON, or the table."),
    Action("recipe.copy", "y", "copy_json", "Copy", "Copy the JSON to the clipboard."),
    Action("recipe.play", "p,c", "play", "Play", "Play the compared clips side by side."),
    Action("recipe.equal", "e", "toggle_equal", "Equal fields", "List the fields that are equal in all recipes."),
    Action("recipe.close", "escape,q,enter,i,d", "dismiss", "Close", "Return to the previous screen."),
)
