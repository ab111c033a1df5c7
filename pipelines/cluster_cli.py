"""The commands of a cluster: ``fastprune submit | schedule | schedules | enable | disable | unschedule``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from fastprune.cli.group import command
from fastprune.errors import InputError

_config = click.argument("config", type=click.Path(path_type=Path))
_experiment = click.option("--experiment", help="Kubeflow experiment; by default the name of the config.")
_arguments = click.option(
    "--argument",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of the pipeline, VALUE as JSON or plain text; may be given several times.",
)
_no_cache = click.option("--no-cache", is_flag=True, help="Use no cache of Kubeflow's, whatever the config says.")
_account = click.option(
    "--service-account", default="", show_default=False, help="Of the pods, instead of the service's choice."
)


def _connected(command: Callable) -> Callable:
    """Options to reach the service; the command gets them as ``service``, a function that connects."""

    @click.option(
        "--host",
        default="",
        show_default=False,
        help="The service; by default KF_PIPELINES_ENDPOINT, the pod's, or the kubeconfig's. Who you are "
        "say KF_PIPELINES_TOKEN, KF_PIPELINES_SA_TOKEN_PATH (a file) or KF_PIPELINES_COOKIES.",
    )
    @click.option(
        "--namespace",
        default="",
        show_default=False,
        envvar="KF_PIPELINES_NAMESPACE",
        show_envvar=True,
        help="Your namespace, on a service with several users.",
    )
    @click.option(
        "--ca-cert",
        default="",
        show_default=False,
        envvar="KF_PIPELINES_CA_CERT",
        show_envvar=True,
        help="File with the certificate of the service's authority.",
    )
    @wraps(command)
    def connected(host: str, namespace: str, ca_cert: str, **options):
        def service():
            from fastprune.pipelines.service import connect

            return connect(
                host,
                namespace,
                os.environ.get("KF_PIPELINES_TOKEN", ""),
                os.environ.get("KF_PIPELINES_COOKIES", ""),
                ca_cert,
            )

        return command(service=service, **options)

    return connected


@contextmanager
def _compiled(config: Path, no_cache: bool) -> Iterator[tuple]:
    """The sweep of a config file, and its compiled package; whatever is wrong in the file is refused here."""
    from fastprune.pipelines.kubeflow import compile_pipeline
    from fastprune.pipelines.package import read_package, without_caching
    from fastprune.sweep.reading import read_config

    sweep = read_config(config, here=False)
    with TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        compile_pipeline(sweep, path)
        if no_cache:
            without_caching(path, path)
        yield sweep, read_package(path)


@command()
@_config
@click.option("--name", help="Of the run; by default the config's and the time.")
@_experiment
@_arguments
@_no_cache
@_account
@_connected
def submit(
    service,
    config: Path,
    name: str | None,
    experiment: str | None,
    arguments: tuple[str, ...],
    no_cache: bool,
    service_account: str,
) -> None:
    """Compile CONFIG, upload it where it has changed, and run it on the cluster."""
    from fastprune.pipelines import cluster
    from fastprune.pipelines.package import parse_arguments

    with _compiled(config, no_cache) as (sweep, package):
        values = parse_arguments(package, arguments)
        connection = service()
        run_id, version = cluster.submit(
            connection,
            package,
            name=name or f"{sweep.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            experiment=experiment or sweep.name,
            arguments=values,
            service_account=service_account,
        )
    click.echo(
        f"version   {version.name} ({'uploaded' if version.uploaded else 'there already'})\n"
        f"run       {run_id}\n"
        f"see       {connection.host}/#/runs/details/{run_id}"
    )


@command()
@_config
@click.option("--cron", help="Six fields, seconds first, instead of the config's schedule.cron.")
@click.option("--name", help="Of the schedule; by default the config's.")
@click.option("--replace", is_flag=True, help="Replace the schedule of this name that is there.")
@_experiment
@_arguments
@_no_cache
@_account
@_connected
def schedule(
    service,
    config: Path,
    cron: str | None,
    name: str | None,
    replace: bool,
    experiment: str | None,
    arguments: tuple[str, ...],
    no_cache: bool,
    service_account: str,
) -> None:
    """Compile CONFIG, upload it where it has changed, and have this version run at the times of a cron expression."""
    from fastprune.pipelines import cluster
    from fastprune.pipelines.package import parse_arguments
    from fastprune.sweep.cron import EXAMPLE, check_cron

    if cron:
        check_cron(cron)
    with _compiled(config, no_cache) as (sweep, package):
        timing = sweep.schedule
        if not (cron or timing):
            raise InputError(
                f'{config} has no schedule: add one, such as `schedule: {{cron: "{EXAMPLE}"}}`, or give --cron'
            )
        settings = (
            {}
            if timing is None
            else {"max_concurrency": timing.max_concurrency, "catchup": timing.catchup, "enabled": timing.enabled}
        )
        values = parse_arguments(package, arguments)
        made, new = cluster.schedule(
            service(),
            package,
            name=name or sweep.name,
            cron=cron or timing.cron,
            experiment=experiment or sweep.name,
            arguments=values,
            service_account=service_account,
            replace=replace,
            **settings,
        )
    click.echo(f"{'new' if new else 'unchanged'}: {_line(made)}\nversion {package.version}")


@command()
@click.option("--json", "as_json", is_flag=True, help="One schedule a line.")
@_connected
def schedules(service, as_json: bool) -> None:
    """The schedules on the cluster: name, id, cron, and whether they are enabled."""
    from fastprune.pipelines import cluster

    schedules = cluster.schedules(service())
    if not schedules:
        click.echo("there is no schedule", err=True)
    for known in schedules:
        click.echo(json.dumps(asdict(known)) if as_json else _line(known))


@command()
@click.argument("name")
@_connected
def disable(service, name: str) -> None:
    """Stop the schedule NAME (a name or an id) from beginning runs, until it is enabled again."""
    from fastprune.pipelines import cluster

    click.echo(f"disabled {cluster.set_enabled(service(), name, False).name}")


@command()
@click.argument("name")
@_connected
def enable(service, name: str) -> None:
    """Let the schedule NAME (a name or an id) begin runs again."""
    from fastprune.pipelines import cluster

    click.echo(f"enabled {cluster.set_enabled(service(), name, True).name}")


@command()
@click.argument("name")
@_connected
def unschedule(service, name: str) -> None:
    """Delete the schedule NAME (a name or an id); its runs stay."""
    from fastprune.pipelines import cluster

    click.echo(f"deleted {cluster.delete_schedule(service(), name).name}")


def _line(known) -> str:
    return f"{known.name}  {known.id}  {known.cron}  {known.state}"
