"""What is done with a compiled package on a Kubeflow Pipelines service: upload it, run it, schedule it.

What can be checked without the service is checked before the first call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import kfp_server_api

from fastprune.errors import InputError
from fastprune.pipelines.package import Package, check_arguments
from fastprune.pipelines.service import Service, explained, named, pages
from fastprune.sweep.cron import check_cron

MAX_CONCURRENCY = 10
"""The service's own limit of a schedule's runs at the same time."""


@dataclasses.dataclass(frozen=True)
class Version:
    """A pipeline version on the service, and whether it was uploaded just now."""

    name: str
    pipeline_id: str
    version_id: str
    uploaded: bool


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A recurring run on the service; ``enabled`` is None where the service does not say."""

    name: str
    id: str
    cron: str
    enabled: bool | None
    version_id: str
    experiment_id: str
    max_concurrency: int
    catchup: bool
    arguments: dict[str, Any]
    service_account: str

    @property
    def state(self) -> str:
        return {True: "enabled", False: "disabled", None: "unknown"}[self.enabled]


def upload(service: Service, package: Package) -> Version:
    """Make the package a version of the pipeline of its name, unless it is one already."""
    with explained(service):
        pipeline = _pipeline(service, package.name)
        if pipeline is None:
            # With the client's `upload_pipeline` the first version would be called as the pipeline is.
            pipeline = service.client.pipelines.pipeline_service_create_pipeline(
                kfp_server_api.V2beta1Pipeline(display_name=package.name, namespace=service.namespace)
            )
        known = _version(service, pipeline.pipeline_id, package.version)
        version = known or service.client.upload_pipeline_version(
            str(package.path),
            pipeline_version_name=package.version,
            pipeline_id=pipeline.pipeline_id,
            description=f"SHA-256 of the package: {package.digest}",
        )
    return Version(package.version, pipeline.pipeline_id, version.pipeline_version_id, uploaded=not known)


def submit(
    service: Service,
    package: Package,
    *,
    name: str,
    experiment: str,
    arguments: Mapping[str, Any] = {},
    service_account: str = "",
) -> tuple[str, Version]:
    """Upload the package where it is not, and start a run of that version.

    Parameters
    ----------
    name : str
        Of the run.
    experiment : str
        Made where there is none of the name.
    arguments : mapping
        Of the pipeline.
    service_account : str
        Kubernetes service account of the run's pods; by default the service's choice.

    Returns
    -------
    tuple of (str, Version)
        The run's id, and the version that runs.

    Raises
    ------
    InputError
        Before the first call where the arguments do not fit; else where the service refuses.
    """
    check_arguments(package, arguments)
    version = upload(service, package)
    with explained(service):
        within = service.client.create_experiment(experiment, namespace=service.namespace)
        run = service.client.run_pipeline(
            within.experiment_id,
            name,
            params=dict(arguments),
            pipeline_id=version.pipeline_id,
            version_id=version.version_id,
            service_account=service_account or None,
        )
    return run.run_id, version


def schedule(
    service: Service,
    package: Package,
    *,
    name: str,
    cron: str,
    experiment: str,
    arguments: Mapping[str, Any] = {},
    max_concurrency: int = 1,
    catchup: bool = False,
    enabled: bool = True,
    service_account: str = "",
    replace: bool = False,
) -> tuple[Schedule, bool]:
    """Have the service run this package, this very version, at the times of a cron expression.

    Parameters
    ----------
    name : str
        Of the schedule. The service itself would take a second one of the name, and run both.
    cron : str
        See :func:`fastprune.sweep.cron.check_cron`. In UTC, unless the service is set up otherwise.
    max_concurrency : int
        Runs at the same time, 1 to 10.
    catchup : bool
        Whether there are runs for the times that passed while the schedule was disabled.
    enabled : bool
        Whether it begins at once.
    replace : bool
        Delete those of this name, once the new one is made.
    experiment, arguments, service_account
        As for :func:`submit`.

    Returns
    -------
    tuple of (Schedule, bool)
        The schedule, and whether it is new: one that is there and the same stays.

    Raises
    ------
    InputError
        Before the first call where cron, concurrency or arguments are wrong; where there is another schedule of the
        name, and no ``replace``; where the service refuses.
    """
    cron = check_cron(cron)
    if not 1 <= max_concurrency <= MAX_CONCURRENCY:
        raise InputError(f"max_concurrency is {max_concurrency}; the service takes 1 to {MAX_CONCURRENCY}")
    check_arguments(package, arguments)
    former = [schedule for schedule in schedules(service) if schedule.name == name]
    with explained(service):
        ids = _ids(service, package, experiment) if former else None
    wanted = (ids, cron, enabled, max_concurrency, catchup, dict(arguments))
    same = [
        schedule
        for schedule in former
        if wanted
        == (
            (schedule.version_id, schedule.experiment_id),
            schedule.cron,
            schedule.enabled,
            schedule.max_concurrency,
            schedule.catchup,
            schedule.arguments,
        )
        and service_account in ("", schedule.service_account)
    ]
    if same and len(former) == 1:
        return same[0], False
    if former and not replace:
        there = "; ".join(f"{schedule.id}: {schedule.cron}, {schedule.state}" for schedule in former)
        raise InputError(
            f"{service.host} has a schedule {name} that is not the same ({there}). Replace it with "
            "--replace, or give this one another --name"
        )
    version = upload(service, package)
    with explained(service):
        within = service.client.create_experiment(experiment, namespace=service.namespace)
        made = _schedule(
            service.client.create_recurring_run(
                within.experiment_id,
                name,
                cron_expression=cron,
                max_concurrency=max_concurrency,
                no_catchup=not catchup,
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                enabled=enabled,
                service_account=service_account or None,
            )
        )
    for schedule in former:
        try:
            delete_schedule(service, schedule.id)
        except InputError as error:
            raise InputError(
                f"{error}. The new {name} exists and so does the former: delete that with `unschedule "
                f"{schedule.id}`, or both run"
            ) from error
    return made, True


def schedules(service: Service) -> list[Schedule]:
    """Every schedule in the namespace, by name."""
    with explained(service):
        recurring = pages(
            lambda token: service.client.list_recurring_runs(
                page_token=token, page_size=100, namespace=service.namespace
            ),
            "recurring_runs",
        )
        return sorted(map(_schedule, recurring), key=lambda schedule: (schedule.name, schedule.id))


def set_enabled(service: Service, name: str, enabled: bool) -> Schedule:
    """Enable or disable the schedule of a name or an id. Runs that have begun go on."""
    schedule = _one(service, name)
    act = service.client.enable_recurring_run if enabled else service.client.disable_recurring_run
    with explained(service):
        act(schedule.id)
    return dataclasses.replace(schedule, enabled=enabled)


def delete_schedule(service: Service, name: str) -> Schedule:
    """Delete the schedule of a name or an id. Its runs stay."""
    schedule = _one(service, name)
    with explained(service):
        service.client.delete_recurring_run(schedule.id)
    return schedule


def _one(service: Service, name: str) -> Schedule:
    known = schedules(service)
    matching = [schedule for schedule in known if schedule.id == name] or [
        schedule for schedule in known if schedule.name == name
    ]
    if not matching:
        names = ", ".join(sorted({schedule.name for schedule in known})) or "none"
        raise InputError(f"{service.host} has no schedule {name}. There are: {names}")
    if len(matching) > 1:
        raise InputError(
            f"{service.host} has {len(matching)} schedules {name}. Give the id of one: "
            + ", ".join(schedule.id for schedule in matching)
        )
    return matching[0]


def _schedule(run: kfp_server_api.V2beta1RecurringRun) -> Schedule:
    version, trigger, runtime = run.pipeline_version_reference, run.trigger, run.runtime_config
    cron = trigger.cron_schedule.cron if trigger and trigger.cron_schedule else ""
    if not cron and trigger and trigger.periodic_schedule:  # somebody else's: this module makes none
        cron = f"every {trigger.periodic_schedule.interval_second} s"
    return Schedule(
        run.display_name,
        run.recurring_run_id,
        cron,
        {"ENABLED": True, "DISABLED": False}.get(run.status),
        version.pipeline_version_id if version else "",
        run.experiment_id or "",
        int(run.max_concurrency or 1),
        not run.no_catchup,
        dict(runtime.parameters or {}) if runtime else {},
        run.service_account or "",
    )


def _ids(service: Service, package: Package, experiment: str) -> tuple[str, str] | None:
    """The ids of the package's version and of the experiment, where the service has both."""
    pipeline = _pipeline(service, package.name)
    version = pipeline and _version(service, pipeline.pipeline_id, package.version)
    try:
        within = service.client.get_experiment(experiment_name=experiment, namespace=service.namespace)
    except ValueError:  # so the client says that there is none
        return None
    return (version.pipeline_version_id, within.experiment_id) if version else None


def _pipeline(service: Service, name: str) -> kfp_server_api.V2beta1Pipeline | None:
    matching = pages(
        lambda token: service.client.list_pipelines(page_token=token, filter=named(name), namespace=service.namespace),
        "pipelines",
    )
    return matching[0] if matching else None


def _version(service: Service, pipeline_id: str, name: str) -> kfp_server_api.V2beta1PipelineVersion | None:
    matching = pages(
        lambda token: service.client.list_pipeline_versions(pipeline_id, page_token=token, filter=named(name)),
        "pipeline_versions",
    )
    return matching[0] if matching else None
