"""Promotion of the cheapest compression that the policy accepts."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from fastprune.errors import InputError, with_remedy
from fastprune.stages.folders import read_json, record_of, write_json
from fastprune.store.output import new_folder
from fastprune.tracking import channel, mlflow_store, runs, sync

_log = logging.getLogger(__name__)


def gate(
    *, summary: Path, verdict: Path, model_name: str, policy: str, run_id: str = "", tracking_uri: str = ""
) -> dict:
    """Promote the first of the summary's candidates that the whole policy accepts; each that it refuses is on record.

    Parameters
    ----------
    summary : Path
    verdict : Path
        Output: ``verdict.json``, with the ``version`` that was promoted, or else the first that was judged; its
        ``promotion``: ``champion``, or why there is none; and ``refused``: why, by version. Whether a run without a
        promotion has failed is for the conclusion to say.

    Raises
    ------
    NotAsRegistered
        What the store holds of the version is damaged: nothing was judged.
    InputError
        MLflow or the record of releases is away, or refuses for want of rights: nothing was judged.
    """
    begin = time.perf_counter()
    summed_up = read_json(summary / "summary.json")
    versions = [summed_up["compressions"][index]["version"] for index in summed_up["candidates"]]
    made = _first_that_passes(runs.store_of(tracking_uri), run_id, model_name, versions, policy)
    with new_folder(verdict) as folder:
        write_json(folder / "verdict.json", made)
    runs.end(tracking_uri, run_id, "FAILED" if summed_up["failed"] else "FINISHED")
    return record_of("gate", begin, {}, {name: value for name, value in made.items() if value != {}})


def _first_that_passes(uri: str, run: str, name: str, versions: Sequence[str], policy: str) -> dict:
    """The content of ``verdict.json``."""
    refused: dict[str, str] = {}
    for version in dict.fromkeys(versions):  # two budgets that came to the same weights are one version
        if not uri or not version:
            refused[version] = "it was not registered; see what register says"
            continue
        why, another_may = _promote(uri, run, name, version, policy)
        if not why:
            return {"version": version, "promotion": "champion", "refused": refused}
        refused[version] = why
        if not another_may:
            break
    told = "; ".join(refused.values()) or "every compression has failed"
    return {"version": versions[0] if versions else "", "promotion": f"not promoted: {told}", "refused": refused}


def _why(uri: str, name: str, version: str, run_id: str) -> str:
    """For the record: the MLflow run, and Kubeflow's where there is one."""
    with mlflow_store.explained(uri):
        job = mlflow_store.connect(uri).get_model_version(name, version).tags.get(runs.PIPELINE_JOB)
    kubeflow = f", Kubeflow run {job}" if job and len(job) == len(str(uuid.UUID(int=0))) else ""  # not a local one
    return (f"compression {run_id}" if run_id else "an untracked compression") + kubeflow


def _promote(uri: str, run: str, name: str, version: str, policy: str) -> tuple[str, bool]:
    """Why a version was not promoted, empty where it is the champion now; and whether another may be."""
    from fastprune.releases import promotion
    from fastprune.releases.policy import parse_policy
    from fastprune.releases.verification import NotAsRegistered

    try:
        run_id = sync.settle(uri, run)
        promotion.promote(uri, name, version, parse_policy(policy), why=_why(uri, name, version, run_id))
    except promotion.ChampionAlready:  # the next night's run with unchanged inputs
        return "", False
    except NotAsRegistered as error:
        raise with_remedy(
            error, f"not promoted, and not judged: the store holds another {name} {version} than was registered"
        ) from error
    except InputError as error:
        if error.__cause__ is None:  # the policy, or another promotion: it was judged
            _log.warning("%s", error)
            if isinstance(error, promotion.PolicyNotMet):
                told = f"version {version} does not meet the policy ({error.verdict.failed})"
                return told, error.verdict.of_the_version
            return str(error).splitlines()[0], False
        channel.give_up(uri, run, error.__cause__)
        raise with_remedy(
            error,
            f"not promoted; when that is mended, run this step again, or `fastprune promote {name} {version} "
            "--policy FILE --why WHY`",
        ) from error
    return "", False
