"""wantui slurm: a batch as an array of jobs on a Slurm cluster."""

from pathlib import Path
from typing import Any

import click

from wantui.cli.options import batch_options, plan, read_template, resume_option, show_warnings
from wantui.cli.output import echo
from wantui.cli.types import WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import user_path


@click.command("slurm")
@batch_options
@resume_option
@click.option(
    "--jobs",
    type=WholeNumber(1, 1000),
    default=4,
    show_default=True,
    help="Number of jobs; each makes a share of the videos.",
)
@click.option("--at-once", type=WholeNumber(1), help="Maximum number of concurrent jobs.")
@click.option(
    "--time", "limit", default="4:00:00", show_default=True, help="Time limit of a job: minutes, H:MM:SS or D-HH:MM:SS."
)
@click.option("--gpus", type=WholeNumber(0, 16), default=1, show_default=True, help="GPUs per job.")
@click.option("--cpus", type=WholeNumber(1), default=4, show_default=True, help="CPU cores per job.")
@click.option("--mem", type=WholeNumber(1), default=32, show_default=True, metavar="GB", help="Memory per job.")
@click.option("--partition", help="Slurm partition.")
@click.option("--account", help="Slurm account that is charged.")
@click.option("--qos", help="Quality of service.")
@click.option("--constraint", help="Required features of the nodes.")
@click.option("--setup", multiple=True, metavar="COMMAND", help="Shell command to run before wantui; repeatable.")
@click.option("--sbatch", multiple=True, metavar="KEY[=VALUE]", help="Other sbatch option; repeatable.")
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
    """Make the videos of a template on a Slurm cluster.

    Writes the batch folder, which all nodes must see, and submits an array over it; a job that is preempted or reaches
    its time limit resumes from its last step when Slurm runs it again. Prints the batch folder on stdout.
    """
    from wantui.batches.enqueue import missing_videos, new_batch
    from wantui.batches.slurm import Resources, check_slurm, check_submission, minutes_in, submit
    from wantui.cli.follow import shown_path
    from wantui.cli.run import open_batch

    text = read_template(template, template_file)
    if text is None and resume is None:
        raise click.UsageError('give a template: -t "a [red|blue] circle"')
    try:
        minutes = minutes_in(limit)
    except ValueError as error:
        raise click.UsageError(f"--time: {error}") from None
    others = tuple(_pair(one) for one in sbatch)
    resources = Resources(minutes, gpus, cpus, mem, partition, account, qos, constraint, at_once, setup, others)
    check_slurm()
    if resume is not None:
        folder, manifest, _ = open_batch(resume, text, config, options)
    else:
        assert text is not None
        batch = plan(config, text, **options)
        show_warnings(batch.warnings)
        check_submission(user_path(batch.config.settings.output_dir), resources)
        folder, manifest = new_batch(batch)
    missing = format_count(len(missing_videos(folder, manifest)), "video")
    try:
        submitted = submit(folder.root, jobs, resources)
    except UserError:
        if resume is None:
            echo(f"the batch is in {shown_path(folder.root)}; submit it by --resume", err=True)
        raise
    array = submitted[0].split("_")[0]
    echo(
        f"{missing} in {format_count(len(submitted), 'job')}: {array}; logs in {shown_path(folder.root / 'slurm')}",
        err=True,
    )
    echo(f"check its progress with\n  squeue -j {array}\n  wantui library show {shown_path(folder.root)}", err=True)
    echo(shown_path(folder.root))


def _pair(text: str) -> tuple[str, str | bool]:
    key, equals, value = text.partition("=")
    key = key.strip().lstrip("-")
    if not key:
        raise click.UsageError(f"--sbatch: {text!r} is neither KEY=VALUE nor the KEY of a flag")
    return key, value if equals else True
