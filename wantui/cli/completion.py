"""wantui completion: scripts that complete commands, options, batches and files in a shell."""

import click
from click.shell_completion import get_completion_class

from wantui.cli.commands import WantuiCommand
from wantui.cli.output import echo

SHELLS = ("bash", "zsh", "fish")
COMPLETE_VARIABLE = "_WANTUI_COMPLETE"
"""Environment variable with which the scripts ask wantui for completions."""


@click.command("completion", cls=WantuiCommand)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: wantui completion bash > ~/.local/share/bash-completion/completions/wantui
    zsh:  wantui completion zsh > "${fpath[1]}/_wantui"
    fish: wantui completion fish > ~/.config/fish/completions/wantui.fish
    """
    completion_class = get_completion_class(shell)
    assert completion_class is not None  # click supports all SHELLS
    completion = completion_class(context.find_root().command, {}, "wantui", COMPLETE_VARIABLE)
    # `source` runs bash to warn about old versions; the script itself needs only bash 4.4.
    script = completion.source_template % completion.source_vars()
    # The script of click for fish drops the rest of a value or a description after its first comma.
    echo(script.replace('string split ","', 'string split --max 1 ","'))
