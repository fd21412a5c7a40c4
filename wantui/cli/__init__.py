"""The command line: click commands, one file for each group of verbs. stdout is data, stderr is narration.

Commands are imported when they are called, so that `--help` stays quick.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import click

from wantui import __version__
from wantui.cli.output import echo
from wantui.cli.streams import describe_os_error, discard_on_closed_pipe, output_may_close, prepare_streams
from wantui.environment import prepare_for_torch
from wantui.errors import UserError
from wantui.formatting import shorten_repeated

COMMANDS = {
    "run": ("wantui.cli.run", "Make the videos of a template."),
    "slurm": ("wantui.cli.slurm", "Make the videos of a template on a Slurm cluster."),
    "watch": ("wantui.cli.watch", "Follow a batch that is on the queue."),
    "queue": ("wantui.cli.queue", "List, pause, order, cancel and retry what is on the queue."),
    "engine": ("wantui.cli.engine", "Manage the background process that runs the queue."),
    "logs": ("wantui.cli.logs", "Show the logs of the engine, its workers, or a batch."),
    "preview": ("wantui.cli.preview", "Show the variations of a template and what they need; makes nothing."),
    "library": ("wantui.cli.library", "List, show and trash the batches that were made."),
    "analyze": ("wantui.cli.analyze", "Geometry of trajectories, comparisons of groups, attention of words."),
    "export": ("wantui.cli.export", "Stored latents as .npy, .pt, safetensors or the older system's folders."),
    "gpu": ("wantui.cli.gpu", "What the GPUs hold and do."),
    "serve": ("wantui.cli.serve", "The terminal application in a browser."),
    "rerun": ("wantui.cli.rerun", "Make a clip again from the recipe in it, and compare."),
    "config": ("wantui.cli.config", "Validate, show and describe configs."),
    "models": ("wantui.cli.models", "The models that wantui knows, and fetching their weights."),
    "bench": ("wantui.cli.bench", "Measure how fast this machine is, for estimates."),
    "doctor": ("wantui.cli.doctor", "Check this machine; each line says what to do."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        finally:
            with output_may_close(sys.stdout):
                sys.stdout.flush()  # while its errors can still become a sentence

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wantui")
@click.option("--low-bandwidth", is_flag=True, help="Terminal application: update less, draw pictures on a key.")
@click.option("--no-mouse", is_flag=True, help="Terminal application: leave the mouse to the terminal.")
@click.pass_context
def cli(context: click.Context, low_bandwidth: bool, no_mouse: bool) -> None:
    """Generate Wan videos from one prompt template: variations, paired seeds, and latents for analysis.

    Without a command, open the terminal application.

    \b
    Try it: eight videos, on any machine, without a network:
      wantui run -t "a [red|blue] circle moving [left|up] over a dark background"
    """
    if context.invoked_subcommand is None:
        from wantui.cli.tui import start

        start(low_bandwidth, mouse=not no_mouse)


def main(arguments: list[str] | None = None) -> None:
    """Run the program: a fault that a user can correct becomes a sentence, with the exit code of its kind.

    Unexpected exceptions keep their traceback.
    """
    prepare_streams()
    prepare_for_torch()
    sys.excepthook = _print_traceback
    code: int | None = None
    with discard_on_closed_pipe():
        code = _call(arguments)
    if code is not None:
        sys.exit(code)


def _call(arguments: list[str] | None) -> int | None:
    """Run a command and report its error; returns the exit code, or None where the command set none."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _provide_home()
        cli.main(args=arguments, prog_name="wantui", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except UserError as error:
        return _fail(f"wantui: {error}", error.exit_code, given)
    except click.ClickException as error:
        return _fail(_usage(error) + f"Error: {error.format_message()}", error.exit_code, given)
    except (click.Abort, KeyboardInterrupt):
        return _fail("wantui: interrupted", 130, given)
    except click.exceptions.Exit as end:
        return end.exit_code
    except UnicodeEncodeError as error:
        # A word of the command line that is not UTF-8 reaches us as characters that cannot be written.
        return _fail(f"wantui: text that is not UTF-8: {error.object!r}", 2, given)
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        return _fail(f"wantui: {message}", 2, given)
    except Exception as error:
        if type(error).__module__ != "sqlite3":  # not imported for its name: most commands have no use for it
            raise
        import sqlite3

        from wantui.queue.database import is_damage

        advice = "Make room on its disk, end what keeps it locked, or have its files made writable; then try again."
        if isinstance(error, sqlite3.Error) and is_damage(error):
            advice = "It is damaged: wantui engine stop, then wantui engine start, which begins a new one."
        return _fail(f"wantui: cannot use the queue: {error}. {advice}", 3, given)
    return None


def _provide_home() -> None:
    if os.environ.get("HOME", "") in ("", "/") or not os.environ.get(
        "LOGNAME"
    ):  # not imported where nothing can be missing
        from wantui.queue.state_dir import provide_home

        provide_home()


def _fail(message: str, code: int, arguments: Sequence[str]) -> int:
    """Print an error and return the exit code, which holds where nobody reads stderr any more."""
    with discard_on_closed_pipe():
        echo(shorten_repeated(message, arguments), err=True)
    return code


def _usage(error: click.ClickException) -> str:
    """Return the lines above a usage error, which name the command and its help."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    return f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n\n"


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    with discard_on_closed_pipe():
        echo("".join(traceback.format_exception(kind, error, trace)), err=True, nl=False)
