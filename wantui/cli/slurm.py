"""wantui slurm: submit a batch as an array of jobs to a Slurm cluster."""

from pathlib import Path
from typing import Any

import click

from wantui.cli.commands import Command
from wantui.cli.options import batch_options, plan_from_options, read_template, resume_option, show_warnings
from wantui.cli.output import echo
from wantui.cli.types import WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import expand_user_path


@click.command("slurm", cls=Command)
@batch_options
@resume_option
@click.option(
    "--jobs",
    type=WholeNumber(1, 1000),
    default=4,
    show_default=True,
    help="Number of jobs that share the videos.",
)
@click.option("--at-once", type=WholeNumber(1), help="Maximum number of concurrent jobs.")
@click.option(
    "--time", "limit", default="4:00:00", show_default=True, help="Time limit per job: minutes, H:MM:SS or D-HH:MM:SS."
)
@click.option("--gpus", type=WholeNumber(0, 16), default=1, show_default=True, help="GPUs per job.")
@click.option("--cpus", type=WholeNumber(1), default=4, show_default=True, help="CPU cores per job.")
@click.option("--mem", type=WholeNumber(1), default=32, show_default=True, metavar="GB", help="Memory per job in GB.")
@click.option("--partition", help="Slurm partition.")
@click.option("--account", help="Slurm account to charge.")
@click.option("--qos", help="Slurm quality of service.")
@click.option("--constraint", help="Node features that the jobs require.")
@click.option("--setup", multiple=True, metavar="COMMAND", help="Shell command to run before wantui; repeatable.")
@click.option("--sbatch", multiple=True, metavar="KEY[=VALUE]", help="Additional sbatch option; repeatable.")
def command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    resume: Path | None,
    jobs: int,
    at_once: int | None,
    limit: str,
    gpus: int,
    cpus: int,
    mem: int,
    partition: str | None,
    account: str | None,
    qos: str | None,
    constraint: str | None,
    setup: tuple[str, ...],
    sbatch: tuple[str, ...],
    **options: Any,
) -> None:
    """Generate the videos of a template on a Slurm cluster.

    Creates the batch folder, which all nodes must be able to access, and submits an array of jobs. A job that is
    preempted or reaches its time limit resumes from its last checkpoint when Slurm runs it again. Prints the batch
    folder on stdout.
    """
    from wantui.batches.enqueue import create_batch, find_missing_videos
    from wantui.batches.slurm import JobResources, check_slurm, check_submission, parse_time_limit, submit_array
    from wantui.cli.follow import format_path
    from wantui.cli.run import open_batch

    text = read_template(template, template_file)
    if text is None and resume is None:
        raise click.UsageError('--template is missing. Give one: -t "a [red|blue] circle"')
    try:
        minutes = parse_time_limit(limit)
    except ValueError as error:
        raise click.UsageError(f"--time: {error}") from None
    sbatch_options = tuple(map(_parse_sbatch_option, sbatch))
    resources = JobResources(
        minutes, gpus, cpus, mem, partition, account, qos, constraint, at_once, setup, sbatch_options
    )
    check_slurm()
    if resume is not None:
        folder, manifest, _ = open_batch(resume, text, config, options)
    else:
        assert text is not None
        batch = plan_from_options(config, text, **options)
        show_warnings(batch.warnings)
        check_submission(expand_user_path(batch.config.settings.output_dir), resources)
        folder, manifest = create_batch(batch)
    missing = format_count(len(find_missing_videos(folder, manifest)), "video")
    try:
        submitted = submit_array(folder.root, jobs, resources)
    except UserError:
        if resume is None:
            echo(f"the batch folder is {format_path(folder.root)}. Submit it later with --resume", err=True)
        raise
    array = submitted[0].split("_")[0]
    echo(
        f"{missing} in {format_count(len(submitted), 'job')}: {array}; logs in {format_path(folder.root / 'slurm')}",
        err=True,
    )
    echo(f"check the progress with\n  squeue -j {array}\n  wantui library show {format_path(folder.root)}", err=True)
    echo(format_path(folder.root))


def _parse_sbatch_option(text: str) -> tuple[str, str | bool]:
    """Return the key and value of KEY=VALUE; the value of a bare KEY is True."""
    key, equals, value = text.partition("=")
    key = key.strip().lstrip("-")
    if not key:
        raise click.UsageError(f"--sbatch: {text!r} has no key. Write KEY=VALUE, or KEY for a flag")
    return key, value if equals else True
