"""Options that many commands share."""

import click

add_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
add_device_option = click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N."
)
add_fetch_option = click.option("--fetch", "may_fetch", is_flag=True, help="Download missing weights.")
add_dry_run_option = click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Print the predicted cost only; load no model."
)
add_detach_option = click.option("--detach", "detaches", is_flag=True, help="Queue the batch and return immediately.")
