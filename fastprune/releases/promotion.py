"""Promotion under a policy.

Every promotion ends in a verdict: all that was checked, what was required and what was found. It is written into the
version's run and tags, passed or not, and one that did not pass is in the record too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastprune.errors import InputError, Refused
from fastprune.releases import record
from fastprune.releases.ledger import Event, Ledger, events, open_ledger
from fastprune.releases.policy import Check, Evidence, Policy, Verdict, judge
from fastprune.releases.record import CHAMPION, ChampionMoved, State
from fastprune.releases.verification import read_evidence
from fastprune.releases.words import model_name, sentence, version_number
from fastprune.tracking import mlflow_store

_log = logging.getLogger(__name__)

__all__ = ["CHAMPION", "ChampionMoved", "PolicyNotMet", "history", "promote"]


class PolicyNotMet(Refused):
    """The version may not be the champion; ``verdict`` says which checks failed."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(
            f"{verdict.model} version {verdict.version} does not meet the policy and was not promoted "
            f"({verdict.failed}):\n{verdict}"
        )
        self.verdict = verdict


class ChampionAlready(Refused):
    """The version is the champion: there is nothing to do."""


def promote(
    uri: str,
    name: str,
    version: str,
    policy: Policy,
    *,
    why: str,
    by: str = "",
    expected: str | None = None,
    reinstate: bool = False,
    dry_run: bool = False,
) -> Verdict:
    """Make a version the champion, if the policy allows it; the former champion becomes ``previous``.

    Parameters
    ----------
    uri, name, version : str
        Of the MLflow store, the registered model and the version.
    policy : Policy
    why : str
        For the record.
    by : str
        Who promotes; by default the user that MLflow knows.
    expected : str, optional
        The version that the caller takes for the champion; by default the one read now.
    reinstate : bool
        The version was rolled back, and shall be the champion all the same.
    dry_run : bool
        Only judge: nothing is written, and a verdict that did not pass is given back too.

    Returns
    -------
    Verdict
        With every check, all passed. It is also an artifact of the version's run, and in the version's tags.

    Raises
    ------
    PolicyNotMet
        The verdict is written all the same, and the record has it as ``refused``.
    ChampionMoved
        Of promotions at once, all but one.
    ChampionAlready
        It is the champion.
    InputError
        No such version, no right to promote, no record of releases.
    """
    name, version, why = model_name(name), version_number(version), sentence(why, "the reason (--why)")
    by = sentence(mlflow_store.actor(uri, by), "who promotes (--by)")
    with mlflow_store.explained(uri):
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.look(client, ledger, name) if dry_run else record.settle(client, ledger, name)
        if expected is not None and version_number(expected) != state.champion:
            raise ChampionMoved(name, expected, state.champion)
        found = client.get_model_version(name, version)
        if state.champion == version:
            raise ChampionAlready(f"{name} version {version} is the champion already")
        evidence = read_evidence(client, name, version)
        standing = _standing(name, state, version, evidence, reinstate)
        verdict = Verdict(
            model=name,
            version=version,
            champion=state.champion,
            by=by,
            at=record.now_utc(),
            why=why,
            policy=policy,
            evidence_sha256=evidence.digest,
            checks=standing + judge(policy, evidence, _champion(client, name, state, policy), found.tags, by),
        )
        if dry_run:
            return verdict
        _publish(client, found, verdict)
        if not verdict.passed:
            _note_refusal(client, ledger, state, verdict)
            raise PolicyNotMet(verdict)
        record.write(
            client,
            ledger,
            name,
            state,
            unless=("promote", "rollback", "freeze"),
            action="promote",
            by=by,
            to_version=version,
            why=why,
            verdict_sha256=verdict.digest,
            weights_sha256=evidence.weights_sha256,
            reinstates=True if reinstate else None,
        )
    return verdict


def _standing(name: str, state: State, version: str, evidence: Evidence, reinstate: bool) -> list[Check]:
    """What stands for or against a version whatever its policy: a freeze, and a rollback."""
    checks = []
    if state.frozen:
        checks.append(Check(name="frozen", required="no freeze", found=f"frozen {state.frozen}", passed=False))
    quarantine = state.quarantine(version, evidence.weights_sha256)
    if quarantine:
        same = "" if quarantine.from_version == version else f" as version {quarantine.from_version}, the same weights"
        checks.append(
            Check(
                name="rolled_back",
                required="never rolled back, or --reinstate",
                found=f"rolled back{same} {quarantine}",
                passed=reinstate,
            )
        )
    elif reinstate:
        raise InputError(f"{name} version {version} was not rolled back; leave out --reinstate")
    return checks


def _champion(client, name: str, state: State, policy: Policy) -> Evidence | None:
    """The champion's evidence, where the policy compares with it and the champion was not deleted."""
    if state.champion and policy.same_evaluation_data and record.exists(client, name, state.champion):
        return read_evidence(client, name, state.champion)
    return None


def _note_refusal(client, ledger: Ledger, state: State, verdict: Verdict) -> None:
    """Put a promotion that failed on record; who may not write there is refused all the same."""
    try:
        record.write(
            client,
            ledger,
            verdict.model,
            state,
            unless=(),
            action="refused",
            by=verdict.by,
            to_version=verdict.version,
            why=verdict.why,
            failed=verdict.failed,
            verdict_sha256=verdict.digest,
        )
    except InputError as error:
        _log.warning("the refusal is not in the record: %s", error)


def history(uri: str, name: str) -> tuple[Event, ...]:
    """Every event of the record, oldest first; MLflow need not be there."""
    return tuple(events(open_ledger(uri), name))


def _publish(client, version, verdict: Verdict) -> None:
    """Write the verdict into the version's run and tags: who may not do that may not move the alias either."""
    if version.run_id:
        client.log_text(version.run_id, verdict.content.decode(), f"promotion/{verdict.digest}.json")
    tags = {
        "promotion.verdict": "passed" if verdict.passed else "failed",
        "promotion.by": verdict.by,
        "promotion.at": verdict.at,
        "promotion.verdict_sha256": verdict.digest,
    }
    # Those of an earlier promotion under another policy; to delete a tag takes more rights than to promote.
    tags |= {key: "not checked" for key in version.tags if key.startswith("promotion.check.")}
    for check in verdict.checks:
        told = f"{'passed' if check.passed else 'failed'}: required {check.required}, found {check.found}"
        tags[f"promotion.check.{check.name}"] = told
    set_tags(client, version.name, version.version, tags)


def set_tags(client, name: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
