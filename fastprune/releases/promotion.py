"""Promotion under a policy.

Every promotion ends in a verdict: all that was checked, what was required and what was found. It is written into the
version's run and tags, passed or not, and one that did not pass is in the record too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastprune.data.outcomes import Difference, check_comparable, fall
from fastprune.errors import InputError, Refused
from fastprune.releases import record
from fastprune.releases.evidence import Evidence
from fastprune.releases.identity import Actor, actor, refuse_unless_manager
from fastprune.releases.ledger import Event, Ledger, events, open_ledger
from fastprune.releases.measuring import measure_again
from fastprune.releases.policy import Check, Policy, Verdict, judge, parse_policy
from fastprune.releases.record import CHAMPION, ChampionMoved, State
from fastprune.releases.tags import facts
from fastprune.releases.verification import Stored, check_stored, read_evidence, read_outcomes
from fastprune.releases.words import model_name, sentence, version_number
from fastprune.store import keys
from fastprune.store.secrets import shown
from fastprune.tracking import mlflow_store

CONFIDENCE = 0.95
"""Of the comparison with the champion, where the policy says nothing."""

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
    policy: Policy | None = None,
    *,
    why: str,
    by: str = "",
    expected: str | None = None,
    reinstate: bool = False,
    override: bool = False,
    dry_run: bool = False,
    remeasure: str | Path = "",
    source: str | Path = "",
) -> Verdict:
    """Make a version the champion, if the policy allows it; the former champion becomes ``previous``.

    Parameters
    ----------
    uri, name, version : str
        Of the MLflow store, the registered model and the version.
    policy : Policy, optional
        By default the model's. Of a model that has none it becomes that, if the version is promoted.
    why : str
        For the record.
    by : str
        Who promotes, where no server says it.
    expected : str, optional
        The version that the caller takes for the champion; by default the one read now.
    reinstate : bool
        The version was rolled back, and shall be the champion all the same.
    override : bool
        Judge by ``policy`` though the model has another one; for who manages the registered model.
    dry_run : bool
        Only judge: nothing is written, and a verdict that did not pass is given back too.
    remeasure : str or Path
        The table that the version was evaluated on: its figures are measured again, here, and judged instead of those
        that were registered.
    source : str or Path
        The dense model to measure it against; by default from where the manifest names it.

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
    Refused
        No right to promote, or a file of the version in the store is not what was registered.
    Unreachable
        MLflow, its store or the record does not answer.
    InputError
        No such version, no policy, no record of releases.
    """
    name, version, why = model_name(name), version_number(version), sentence(why, "the reason (--why)")
    with mlflow_store.explained(uri):
        who = actor(uri, by)
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.look(client, ledger, name) if dry_run else record.settle(client, ledger, name)
        if expected is not None and version_number(expected) != state.champion:
            raise ChampionMoved(name, expected, state.champion)
        candidate = client.get_model_version(name, version)
        if state.champion == version:
            raise ChampionAlready(f"{name} version {version} is the champion already")
        applied = _applied(name, state, policy)
        binds = state.policy is None
        if binds or override:
            refuse_unless_manager(client, uri, name, who)
        note = _Note(client, ledger, state, name, version, who, why)
        evidence, stored = _proved(client, candidate, note, dry_run, remeasure, source)
        champion = _champion(client, name, state, applied)
        verdict = Verdict(
            model=name,
            version=version,
            champion=state.champion,
            by=who.name,
            at=record.now_utc(),
            why=why,
            policy=applied,
            evidence_sha256=evidence.digest,
            checks=[
                *_standing(name, state, version, evidence, reinstate),
                *_policy_checks(uri, state, version, evidence, applied, override, who),
                *_recorded_by(applied, state),
                *_measured_by(applied, stored, bool(remeasure)),
                *judge(
                    applied,
                    stored.evidence,
                    champion,
                    {**candidate.tags, **{name: str(value) for name, value in facts(evidence).items()}},
                    who.name,
                    _against(client, name, state, applied, stored, champion),
                ),
            ],
        )
        if dry_run:
            return verdict
        _publish(client, candidate, verdict)
        if not verdict.passed:
            note.refused(verdict.failed, verdict.digest)
            raise PolicyNotMet(verdict)
        record.write(
            client,
            ledger,
            name,
            state,
            unless=("promote", "rollback", "freeze", "policy"),
            by=who,
            action="promote",
            to_version=version,
            why=why,
            verdict_sha256=verdict.digest,
            weights_sha256=evidence.weights_sha256,
            reinstates=True if reinstate else None,
            overrides=True if override else None,
            **(bound(applied.content.decode()) if binds else {}),
        )
    return verdict


def bound(text: str) -> dict[str, str]:
    """The fields of an event that makes a policy the model's."""
    return {"policy": text, "policy_sha256": hashlib.sha256(text.encode()).hexdigest()}


def policy_of(state: State) -> Policy | None:
    """The model's own policy, by its record."""
    event = state.policy
    if event is None or event.policy is None:
        return None
    return parse_policy(event.policy, f"the policy of {event.model}, set {event}")


def _applied(name: str, state: State, policy: Policy | None) -> Policy:
    applied = policy or policy_of(state)
    if applied is None:
        raise InputError(f"{name} has no policy yet; set one: fastprune policy set {name} FILE")
    return applied


def _proved(
    client, version, note: _Note, dry_run: bool, remeasure: str | Path, source: str | Path
) -> tuple[Evidence, Stored]:
    """The evidence of a version whose files are what was registered, and what it is judged by.

    The two differ where it is measured again. A refusal is put on record.
    """
    try:
        with check_stored(client, version.name, str(version.version)) as stored:
            return stored.evidence, measure_again(stored, remeasure, source) if remeasure else stored
    except Refused as error:
        if not dry_run:  # who may not write tags has no right to promote, and leaves no event
            told = f"by {note.by.name} at {record.now_utc()}: {note.why}; {error}"
            set_tags(client, version.name, version.version, {"promotion.verdict": "failed", "promotion": told})
            note.refused(str(error))
        raise


def _recorded_by(policy: Policy, state: State) -> list[Check]:
    """Whether all that was recorded since the policy was set was signed by a key of the policy's, and this will be."""
    if not policy.record_signed_by:
        return []
    own = policy_of(state) == policy and state.policy
    counts = [event for event in state.events if own and event.number >= own.number and event.action != "refused"]
    others = [f"event {event.number}" for event in counts if event.signed_by not in policy.record_signed_by]
    if keys.public_key() not in policy.record_signed_by:
        others.append("this promotion")
    return [
        Check(
            name="record_signed_by",
            required=" or ".join(policy.record_signed_by),
            found=f"not so: {', '.join(others)}" if others else f"all {len(counts)} events, and this promotion",
            passed=not others,
        )
    ]


def _measured_by(policy: Policy, stored: Stored, again: bool) -> list[Check]:
    """Whether the figures were signed by a key of the policy's, or measured again."""
    found = f"signed by {stored.signed_by} at {stored.signed_at}" if stored.signed_by else "not signed"
    passed = not policy.signed_by or stored.signed_by in policy.signed_by or again
    if again:
        found += ", and measured again by who promotes"
    elif not policy.signed_by:
        return []
    required = " or ".join([*policy.signed_by, "measured again"]) if policy.signed_by else "nothing"
    return [Check(name="signed_by", required=required, found=found, passed=passed)]


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


def _policy_checks(
    uri: str, state: State, version: str, evidence: Evidence, applied: Policy, override: bool, who: Actor
) -> list[Check]:
    """Whether the policy is the model's, and enough users have approved the version."""
    checks = []
    own = policy_of(state)
    if own is not None and state.policy is not None and own != applied:
        checks.append(
            Check(
                name="policy",
                required=f"the model's, set {state.policy}; or --override-policy",
                found=f"another one{f', applied by {who.name}' if override else ''}",
                passed=override,
            )
        )
    elif override:
        raise InputError("the policy is the model's own; leave out --override-policy")
    if applied.approvals:
        events = state.approvals.get(version, ())
        names = sorted({event.by for event in events if event.evidence_sha256 == evidence.digest})
        found = f"{len(names)} ({', '.join(names)})" if names else "none"
        checks.append(
            Check(
                name="approvals",
                required=f"{applied.approvals} by users that MLflow authenticates",
                found=found if who.authenticated else f"{found}; MLflow at {shown(uri)} authenticates nobody",
                passed=who.authenticated and len(names) >= applied.approvals,
            )
        )
    return checks


def _champion(client, name: str, state: State, policy: Policy) -> Evidence | None:
    """The champion's evidence, where the policy compares with it and the champion was not deleted."""
    compares = policy.same_evaluation_data or policy.not_worse_than_champion is not None
    if state.champion and compares and record.exists(client, name, state.champion):
        return read_evidence(client, name, state.champion)
    return None


def _against(
    client, name: str, state: State, policy: Policy, stored: Stored, champion: Evidence | None
) -> Difference | str:
    """How much the metric falls from the champion to a version on the same rows, or why that cannot be told."""
    if policy.not_worse_than_champion is None or champion is None or state.champion is None:
        return "not compared"
    theirs, own = read_outcomes(client, name, state.champion, champion), stored.outcomes
    if theirs is None or own is None:
        which = f"the champion, version {state.champion}," if theirs is None else "the version"
        return f"{which} was registered without what it made of each evaluation row; evaluate and register it again"
    try:
        check_comparable(theirs, own)
    except InputError as error:
        return str(error)
    return fall(theirs.values[champion.judged], own.values[stored.evidence.judged], policy.confidence or CONFIDENCE)


@dataclass(frozen=True)
class _Note:
    """A promotion that failed, for the record; who may not write there is refused all the same."""

    client: Any
    ledger: Ledger
    state: State
    name: str
    version: str
    by: Actor
    why: str

    def refused(self, failed: str, verdict_sha256: str | None = None) -> None:
        try:
            record.write(
                self.client,
                self.ledger,
                self.name,
                self.state,
                unless=(),
                by=self.by,
                action="refused",
                to_version=self.version,
                why=self.why,
                failed=failed,
                verdict_sha256=verdict_sha256,
            )
        except InputError as error:
            _log.warning("the refusal is not in the record: %s", error)


def history(uri: str, name: str) -> tuple[Event, ...]:
    """Every event of the record, oldest first; MLflow need not be there."""
    return tuple(events(open_ledger(uri), model_name(name)))


def _publish(client, version, verdict: Verdict) -> None:
    """Write the verdict into the version's run and tags: who may not do that may not move the alias either."""
    if version.run_id:
        client.log_text(version.run_id, verdict.content.decode(), f"promotion/{verdict.digest}.json")
    failed = f"; {verdict.failed}" if verdict.failed else ""
    # Those that earlier versions of fastprune gave; to delete a tag takes more rights than to promote.
    old = {key: f"see promotion/{verdict.digest}.json" for key in version.tags if key.startswith("promotion.")}
    tags = {
        "promotion.verdict": "passed" if verdict.passed else "failed",
        "promotion.verdict_sha256": verdict.digest,
        "promotion": f"by {verdict.by} at {verdict.at}: {verdict.why}{failed}",
    }
    set_tags(client, version.name, version.version, old | tags)


def set_tags(client, name: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
