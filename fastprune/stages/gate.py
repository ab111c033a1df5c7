"""Promotion of what the summary picked, if the policy accepts it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from fastprune.errors import InputError, with_remedy
from fastprune.stages.folders import read_json, record_of, write_json
from fastprune.store.output import new_folder
from fastprune.tracking import channel, mlflow_store, runs, sync

_log = logging.getLogger(__name__)


def gate(
    *, summary: Path, verdict: Path, model_name: str, policy: str, run_id: str = "", tracking_uri: str = ""
) -> dict:
    """Promote the compression that the summary picked, if the whole policy accepts it.

    Parameters
    ----------
    summary : Path
    verdict : Path
        Output: ``verdict.json``, with ``version`` and ``promotion``: ``champion``, or why not. Whether a run without
        a promotion has failed is for the conclusion to say.

    Raises
    ------
    NotAsRegistered
        What the store holds of the version is damaged: nothing was judged.
    InputError
        MLflow or the record of releases is away, or refuses for want of rights: nothing was judged.
    """
    begin = time.perf_counter()
    summed_up = read_json(summary / "summary.json")
    picked = None if summed_up["picked"] is None else summed_up["compressions"][summed_up["picked"]]
    made = {
        "version": picked["version"] if picked else "",
        "promotion": _promotion(runs.store_of(tracking_uri), run_id, model_name, picked, policy),
    }
    with new_folder(verdict) as folder:
        write_json(folder / "verdict.json", made)
    runs.end(tracking_uri, run_id, "FAILED" if summed_up["failed"] else "FINISHED")
    return record_of("gate", begin, {}, made)


def _promotion(uri: str, run: str, name: str, picked: Mapping | None, policy: str) -> str:
    """``champion``, or why there is none."""
    if picked is None:
        return "not promoted: every compression has failed"
    if not uri or not picked["version"]:
        return "not promoted: it was not registered; see what register says"
    return _promote(uri, run, name, picked["version"], policy)


def _why(uri: str, name: str, version: str, run_id: str) -> str:
    """For the record: the MLflow run, and Kubeflow's where there is one."""
    with mlflow_store.explained(uri):
        job = mlflow_store.connect(uri).get_model_version(name, version).tags.get(runs.PIPELINE_JOB)
    kubeflow = f", Kubeflow run {job}" if job and len(job) == len(str(uuid.UUID(int=0))) else ""  # not a local one
    return (f"compression {run_id}" if run_id else "an untracked compression") + kubeflow


def _promote(uri: str, run: str, name: str, version: str, policy: str) -> str:
    """``champion``, or why the version was not promoted."""
    from fastprune.releases import promotion
    from fastprune.releases.policy import parse_policy
    from fastprune.releases.verification import NotAsRegistered

    try:
        run_id = sync.settle(uri, run)
        promotion.promote(uri, name, version, parse_policy(policy), why=_why(uri, name, version, run_id))
    except promotion.ChampionAlready:  # the next night's run with unchanged inputs
        return promotion.CHAMPION
    except NotAsRegistered as error:
        raise with_remedy(
            error, f"not promoted, and not judged: the store holds another {name} {version} than was registered"
        ) from error
    except InputError as error:
        if error.__cause__ is None:  # the policy, or another promotion: it was judged
            _log.warning("%s", error)
            return f"not promoted: {str(error).splitlines()[0]}"
        channel.give_up(uri, run, error.__cause__)
        raise with_remedy(
            error,
            f"not promoted; when that is mended, run this step again, or `fastprune promote {name} {version} "
            "--policy FILE --why WHY`",
        ) from error
    return promotion.CHAMPION
