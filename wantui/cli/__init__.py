"""The command line: click commands, one file per command or group. Results go to stdout, messages to stderr.

A command is imported when it is called, so that `--help` stays fast.
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
from wantui.cli.commands import WantuiGroup
from wantui.cli.output import echo
from wantui.cli.signals import TerminatedError, raise_on_termination
from wantui.cli.streams import (
    OutputWriteError,
    allow_closed_output,
    describe_os_error,
    discard_output_on_closed_pipe,
    prepare_standard_streams,
)
from wantui.environment import prepare_for_torch
from wantui.errors import INTERRUPTED_EXIT_CODE, UserError, find_shortage
from wantui.formatting import shorten_echoed_arguments

MODULE_AND_HELP_BY_COMMAND = {
    "demo": ("wantui.cli.demo", "Generate, analyse and open a first batch, in about a minute."),
    "run": ("wantui.cli.run", "Generate the videos of a template."),
    "slurm": ("wantui.cli.slurm", "Generate the videos of a template on a Slurm cluster."),
    "watch": ("wantui.cli.watch", "Follow the progress of a queued batch."),
    "queue": ("wantui.cli.queue", "List, pause, reorder, cancel and retry queued batches."),
    "engine": ("wantui.cli.engine", "Manage the background process that runs the queue."),
    "logs": ("wantui.cli.logs", "Show the logs of the engine, its workers, or a batch."),
    "preview": ("wantui.cli.preview", "Show the variations and predicted cost of a template."),
    "library": ("wantui.cli.library", "List, show, verify and trash batch folders."),
    "sheet": ("wantui.cli.sheet", "Draw the clips of a batch in a labelled grid, as a PNG and an MP4."),
    "decode": ("wantui.cli.decode", "Decode stored latents, to see a video at each step."),
    "similarity": ("wantui.cli.similarity", "Measure how similar the videos of a batch are to a baseline."),
    "score": ("wantui.cli.score", "Measure how much a word tells the model (the information gap)."),
    "gallery": ("wantui.cli.gallery", "Write a page that plays the clips of a batch in sync."),
    "analyze": ("wantui.cli.analyze", "Analyse trajectories, groups of videos, and attention maps."),
    "ablate": ("wantui.cli.ablate", "Measure how removing a word changes the velocity, step by step."),
    "commitment": ("wantui.cli.commitment", "Measure when a video commits to its concept."),
    "generic": ("wantui.cli.generic", "Measure what a model draws if the prompt leaves a concept open."),
    "attention": ("wantui.cli.attention", "Draw attention maps by step, block or head, as a PNG and an MP4."),
    "open": ("wantui.cli.open", "Open a batch in the terminal application."),
    "export": ("wantui.cli.export", "Export stored latents as .npy, .pt or safetensors files."),
    "gpu": ("wantui.cli.gpu", "Show the memory, load and processes of each GPU."),
    "serve": ("wantui.cli.serve", "Serve the terminal application to a browser."),
    "rerun": ("wantui.cli.rerun", "Regenerate a clip from its stored recipe, and compare."),
    "config": ("wantui.cli.config", "Validate, show and describe configs."),
    "models": ("wantui.cli.models", "List, fetch and calibrate models."),
    "bench": ("wantui.cli.bench", "Measure the speed of a GPU for time estimates."),
    "completion": ("wantui.cli.completion", "Print the completion script of a shell."),
    "doctor": ("wantui.cli.doctor", "Check this machine, with advice for each problem."),
}


class LazyGroup(WantuiGroup):
    """A group that imports the module of a command when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULE_AND_HELP_BY_COMMAND)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULE_AND_HELP_BY_COMMAND:
            return None
        command: click.Command = importlib.import_module(MODULE_AND_HELP_BY_COMMAND[cmd_name][0]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        finally:
            with allow_closed_output(sys.stdout):
                sys.stdout.flush()  # here, where `_run_command` still reports its errors

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in MODULE_AND_HELP_BY_COMMAND.items()])


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wantui")
@click.option(
    "--low-bandwidth", is_flag=True, help="Terminal application: redraw less often; show pictures only on a key press."
)
@click.option("--no-mouse", is_flag=True, help="Terminal application: do not capture the mouse.")
@click.pass_context
def cli(context: click.Context, low_bandwidth: bool, no_mouse: bool) -> None:
    """Generate Wan videos from one prompt template: variations, paired seeds, and latents for analysis.

    Without a command, open the terminal application.

    \b
    Example (eight videos, on any machine, without a network):
      wantui run -t "a [red|blue] circle moving [left|up] over a dark background"
    """
    if context.invoked_subcommand is None:
        from wantui.cli.tui import run_application

        run_application(low_bandwidth, captures_mouse=not no_mouse)


def main(arguments: list[str] | None = None) -> None:
    """Run the program; print a user error as a message, and exit with its exit code.

    Unexpected exceptions keep their traceback.
    """
    exit_code: int | None = None
    try:
        prepare_standard_streams()
        prepare_for_torch()
        sys.excepthook = _print_traceback
        with raise_on_termination(), discard_output_on_closed_pipe():
            exit_code = _run_command(arguments)
    except KeyboardInterrupt:  # Ctrl-C before the command, or while its error is reported
        exit_code = _report_error("wantui: interrupted", INTERRUPTED_EXIT_CODE, ())
    if exit_code is not None:
        sys.exit(exit_code)


def _run_command(arguments: list[str] | None) -> int | None:
    """Run a command and report its error; return the exit code, or None if the command set none."""
    shown_arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _set_missing_home()
        cli.main(args=arguments, prog_name="wantui", standalone_mode=False, obj=tuple(shown_arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except UserError as error:
        return _report_error(f"wantui: {error}", error.exit_code, shown_arguments)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command: its message is the help
        return _report_error(error.format_message(), error.exit_code, shown_arguments)
    except click.ClickException as error:
        return _report_error(
            _format_usage(error) + f"Error: {error.format_message()}", error.exit_code, shown_arguments
        )
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ or error  # click raises Abort from KeyboardInterrupt
        cause_text = f"ended by {cause}" if isinstance(cause, TerminatedError) else "interrupted"
        return _report_error(f"wantui: {cause_text}", INTERRUPTED_EXIT_CODE, shown_arguments)
    except click.exceptions.Exit as end:
        return end.exit_code
    except OutputWriteError as error:
        return _report_error(f"wantui: cannot write the output: {error}", 2, shown_arguments)
    except UnicodeEncodeError as error:
        # Python passes an argument that is not UTF-8 as surrogate characters, which cannot be encoded.
        return _report_error(f"wantui: cannot write text that is not UTF-8: {error.object!r}", 2, shown_arguments)
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        return _report_error(f"wantui: {message}", 2, shown_arguments)
    except Exception as error:
        if (shortage := find_shortage(error)) is not None:
            return _report_error(f"wantui: {describe_os_error(shortage)}", 2, shown_arguments)
        if type(error).__module__ != "sqlite3":  # compared by name: most commands never import sqlite3
            raise
        import sqlite3

        from wantui.queue.database import is_database_damage

        advice = "Free disk space, end the process that is locking the queue, or make its files writable. Try again."
        if isinstance(error, sqlite3.Error) and is_database_damage(error):
            advice = "It is damaged. To create a new one, run `wantui engine stop`, then `wantui engine start`."
        return _report_error(f"wantui: cannot use the queue: {error}. {advice}", 3, shown_arguments)
    return None


def _set_missing_home() -> None:
    """Set HOME if the environment lacks it, as in some containers."""
    if os.environ.get("HOME", "") in ("", "/") or not os.environ.get("LOGNAME"):
        from wantui.queue.state_dir import ensure_home_folder

        ensure_home_folder()


def _report_error(message: str, exit_code: int, arguments: Sequence[str]) -> int:
    """Print an error and return its exit code, even if the reader of stderr is gone."""
    with discard_output_on_closed_pipe():
        echo(shorten_echoed_arguments(message, arguments), err=True)
    return exit_code


def _format_usage(error: click.ClickException) -> str:
    """Return the lines above a usage error: the usage of the command, and how to get its help."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    return f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n\n"


def _print_traceback(
    error_type: type[BaseException], error: BaseException, error_traceback: TracebackType | None
) -> None:
    with discard_output_on_closed_pipe():
        echo("".join(traceback.format_exception(error_type, error, error_traceback)), err=True, nl=False)
