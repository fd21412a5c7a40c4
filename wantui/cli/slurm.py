"""wantui slurm: submit a batch as an array of jobs to a Slurm cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.options import (
    add_batch_options,
    add_resume_option,
    plan_batch_from_options,
    print_warnings,
    read_template,
)
from wantui.cli.output import echo
from wantui.cli.types import WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import expand_user_path

if TYPE_CHECKING:
    from wantui.batches.slurm_submission import JobResources
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import Manifest


@click.command("slurm", cls=WantuiCommand)
@add_batch_options
@add_resume_option
@click.option(
    "--jobs",
    "job_count",
    type=WholeNumber(1, 1000),
    default=4,
    show_default=True,
    help="Number of jobs that share the videos.",
)
@click.option(
    "--at-once",
    "max_concurrent_jobs",
    type=WholeNumber(1),
    help="Maximum number of concurrent jobs.  [default: all jobs]",
)
@click.option(
    "--time",
    "time_limit",
    default="4:00:00",
    show_default=True,
    help="Time limit per job: minutes, H:MM:SS or D-HH:MM:SS.",
)
@click.option("--gpus", "gpu_count", type=WholeNumber(0, 16), default=1, show_default=True, help="GPUs per job.")
@click.option("--cpus", "cpu_count", type=WholeNumber(1), default=4, show_default=True, help="CPU cores per job.")
@click.option(
    "--mem", "memory_gb", type=WholeNumber(1), default=32, show_default=True, metavar="GB", help="Memory per job in GB."
)
@click.option("--partition", help="Slurm partition.  [default: the cluster's default]")
@click.option("--account", help="Slurm account to charge.  [default: your default account]")
@click.option("--qos", help="Slurm quality of service (QOS).  [default: the account's default]")
@click.option("--constraint", help="Node features that the jobs require, such as h100.  [default: none]")
@click.option(
    "--setup",
    "setup_commands",
    multiple=True,
    metavar="COMMAND",
    help="Shell command that each job runs before wantui; repeatable.",
)
@click.option(
    "--sbatch", "sbatch_texts", multiple=True, metavar="KEY[=VALUE]", help="Additional sbatch option; repeatable."
)
def command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    resume_folder: Path | None,
    job_count: int,
    max_concurrent_jobs: int | None,
    time_limit: str,
    gpu_count: int,
    cpu_count: int,
    memory_gb: int,
    partition: str | None,
    account: str | None,
    qos: str | None,
    constraint: str | None,
    setup_commands: tuple[str, ...],
    sbatch_texts: tuple[str, ...],
    **options: Any,
) -> None:
    """Generate the videos of a template on a Slurm cluster.

    Creates the batch folder, which all nodes must be able to access, and submits an array of jobs. A job that is
    preempted or reaches its time limit resumes from its last checkpoint when Slurm runs it again. Prints the batch
    folder on stdout.
    """
    from wantui.batches.enqueue import find_missing_videos
    from wantui.batches.slurm_submission import JobResources, check_slurm_installation, parse_time_limit_minutes
    from wantui.cli.run import open_batch_to_resume

    template_text = read_template(template, template_file)
    if template_text is None and resume_folder is None:
        raise click.UsageError('--template is missing. Give one: -t "a [red|blue] circle"')
    try:
        limit_minutes = parse_time_limit_minutes(time_limit)
    except ValueError as error:
        raise click.UsageError(f"--time: {error}") from None
    resources = JobResources(
        limit_minutes=limit_minutes,
        gpu_count=gpu_count,
        cpu_count=cpu_count,
        memory_gb=memory_gb,
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        max_concurrent_jobs=max_concurrent_jobs,
        setup_commands=setup_commands,
        sbatch_options=tuple(map(_parse_sbatch_option, sbatch_texts)),
    )
    check_slurm_installation()
    if resume_folder is not None:
        folder, manifest, _ = open_batch_to_resume(resume_folder, template_text, config, options)
    else:
        assert template_text is not None
        folder, manifest = _create_batch(config, template_text, options, resources)
    _warn_about_foreign_arrays(folder.root)
    missing_text = format_count(len(find_missing_videos(folder, manifest)), "video")
    job_ids = _submit_jobs(folder, job_count, resources, is_new_batch=resume_folder is None)
    _print_jobs(missing_text, job_ids, folder)


def _warn_about_foreign_arrays(folder: Path) -> None:
    from wantui.batches.slurm_submission import find_foreign_arrays

    if foreign_arrays := find_foreign_arrays(folder):
        print_warnings(
            [
                f"other users submitted arrays for this batch ({', '.join(foreign_arrays)}); wantui checks only "
                f"whether your own arrays have ended. Check theirs: squeue -j {','.join(foreign_arrays)}"
            ]
        )


def _create_batch(
    config: str | None, template_text: str, options: dict[str, Any], resources: "JobResources"
) -> "tuple[BatchFolder, Manifest]":
    from wantui.batches.batch_folders import create_batch_folder
    from wantui.batches.slurm_submission import check_submission_values
    from wantui.cli.follow import format_relative_path

    batch = plan_batch_from_options(config, template_text, **options)
    print_warnings(batch.warnings)
    check_submission_values(expand_user_path(batch.config.settings.output_dir), resources)
    if (gpus_per_video := batch.config.settings.model_settings.gpus_per_video) > resources.gpu_count:
        raise UserError(
            f"cannot submit this batch: model_settings.gpus_per_video: {gpus_per_video} needs {gpus_per_video} GPUs "
            f"per job, but each job has {resources.gpu_count}. Add --gpus {gpus_per_video}"
        )
    folder, manifest = create_batch_folder(batch)
    echo(f"created {format_relative_path(folder.root)}", err=True)  # known even if this command is killed now
    return folder, manifest


def _submit_jobs(
    folder: "BatchFolder", job_count: int, resources: "JobResources", *, is_new_batch: bool
) -> Sequence[str]:
    """Submit the jobs and return their IDs; name the folder of a new batch if Slurm refuses them."""
    from wantui.batches.slurm_submission import submit_job_array
    from wantui.cli.follow import format_relative_path

    try:
        return submit_job_array(folder.root, job_count, resources)
    except UserError:
        if is_new_batch:
            echo(f"the batch folder is {format_relative_path(folder.root)}. Submit it later with --resume", err=True)
        raise


def _print_jobs(missing_text: str, job_ids: Sequence[str], folder: "BatchFolder") -> None:
    """Print the submitted jobs, how to follow them, and the batch folder."""
    from wantui.cli.follow import format_relative_path

    array_id, folder_text = job_ids[0].split("_")[0], format_relative_path(folder.root)
    echo(
        f"{missing_text} in {format_count(len(job_ids), 'job')}: {array_id}; logs in "
        f"{format_relative_path(folder.root / 'slurm')}",
        err=True,
    )
    echo(f"check the progress with\n  squeue -j {array_id}\n  wantui library show {folder_text}", err=True)
    echo(folder_text)


def _parse_sbatch_option(text: str) -> tuple[str, str | bool]:
    """Return the key and the value of KEY=VALUE; the value of KEY alone is True."""
    key, separator, value = text.partition("=")
    key = key.strip().lstrip("-")
    if not key:
        raise click.UsageError(f"--sbatch: {text!r} has no key. Write KEY=VALUE, or KEY for a flag")
    return key, value if separator else True
