"""What there is: the versions of a model, how the model stands, and two versions side by side. Nothing is changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fastprune.data.outcomes import Difference, check_comparable, fall
from fastprune.errors import InputError
from fastprune.releases import record
from fastprune.releases.evidence import Evidence
from fastprune.releases.ledger import Event, open_ledger
from fastprune.releases.promotion import CONFIDENCE
from fastprune.releases.record import CHAMPION, PREVIOUS, State
from fastprune.releases.tags import facts_of
from fastprune.releases.verification import read_evidence, read_outcomes
from fastprune.releases.words import model_name, version_number
from fastprune.tracking import mlflow_store

_FIGURES = ("dense", "pruned", "speedup", "megabytes", "keep_ratio")


@dataclass(frozen=True)
class Version:
    """A version by its tags and the record.

    Attributes
    ----------
    version : str
    standing : str
        ``champion``, ``previous``, ``rolled back``, ``refused``, or empty.
    metric : str
    dense, pruned, speedup, megabytes, keep_ratio : float
        None where it was not recorded.
    approved_by : tuple of str
    registered_by, registered_at : str
    """

    version: str
    standing: str
    metric: str
    dense: float | None
    pruned: float | None
    speedup: float | None
    megabytes: float | None
    keep_ratio: float | None
    approved_by: tuple[str, ...]
    registered_by: str
    registered_at: str


@dataclass(frozen=True)
class Standing:
    """How a model stands.

    Attributes
    ----------
    champion, previous : str
    frozen : str
        By whom, when and why; empty where it is not.
    policy_sha256 : str
        Empty where none is set.
    rolled_back : dict
        By version: by whom, when and why.
    last : str
        The last event, in words.
    versions : int
    aliases_follow : bool
        Whether the aliases in MLflow are those of the record.
    """

    model: str
    champion: str | None
    previous: str | None
    frozen: str
    policy_sha256: str
    rolled_back: dict[str, str]
    last: str
    versions: int
    aliases_follow: bool


def models(uri: str) -> list[str]:
    """The registered models that hold versions of fastprune's."""
    with mlflow_store.explained(uri):
        client, found, token = mlflow_store.connect(uri), set(), None
        while token is None or token:
            page = client.search_model_versions("tags.evidence_sha256 != ''", page_token=token)
            found |= {version.name for version in page}
            token = page.token or ""
        return sorted(found)


def versions(uri: str, name: str) -> list[Version]:
    """Every version of a model, the newest first."""
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        state = record.look(client, open_ledger(uri), model_name(name))
        return [_version(one, state) for one in _all(client, name)]


def _all(client, name: str) -> list:
    found, token = [], None
    while token is None or token:
        page = client.search_model_versions(f"name='{name}'", page_token=token)
        found += page
        token = page.token or ""
    return sorted(found, key=lambda version: -int(version.version))


def _version(one, state: State) -> Version:
    number, tags = str(one.version), facts_of(one.tags)
    if number in (state.champion, state.previous):
        standing = CHAMPION if number == state.champion else PREVIOUS
    else:
        standing = "refused" if tags.get("promotion.verdict") == "failed" else ""
    if state.quarantine(number, tags.get("weights_sha256")):
        standing = "rolled back"
    return Version(
        version=number,
        standing=standing,
        metric=tags.get("metric", ""),
        **{name: float(tags[name]) if name in tags else None for name in _FIGURES},
        approved_by=tuple(sorted({event.by for event in state.approvals.get(number, ())})),
        registered_by=tags.get("registered_by", ""),
        registered_at=record.utc(one.creation_timestamp),
    )


def status(uri: str, name: str) -> Standing:
    """How a model stands, by its record and by MLflow's aliases."""
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        state = record.look(client, open_ledger(uri), model_name(name))
        model = client.get_registered_model(name)
        expected = {CHAMPION: state.champion, PREVIOUS: state.previous}
        there = {alias: number for alias, number in expected.items() if number and record.exists(client, name, number)}
        aliases = record.aliases_of(model)
        return Standing(
            model=name,
            champion=state.champion,
            previous=state.previous,
            frozen=str(state.frozen) if state.frozen else "",
            policy_sha256=(state.policy and state.policy.policy_sha256) or "",
            rolled_back={key: str(event) for key, event in state.rolled_back.items() if key.isdecimal()},
            last=_told(state.events[-1]) if state.events else "",
            versions=len(_all(client, name)),
            aliases_follow=all(aliases.get(alias) == number for alias, number in there.items()),
        )


@dataclass(frozen=True)
class RecordCheck:
    """What holds of a record that reads as it was written.

    Attributes
    ----------
    events : int
    anchor : int
        The event that the tag of the registered model names; 0 where there is none.
    signed : dict
        Numbers of events, by the public key that has signed them.
    unsigned : list of int
    """

    events: int
    anchor: int
    signed: dict[str, list[int]]
    unsigned: list[int]

    def __str__(self) -> str:
        named = f"names event {self.anchor}" if self.anchor else "names none"
        return "\n".join(
            [
                f"{self.events} events, each after the one before it; MLflow's tag of the model {named}",
                *(f"signed by {key}: {_listed(numbers)}" for key, numbers in self.signed.items()),
                *([f"not signed: {_listed(self.unsigned)}"] if self.unsigned else []),
            ]
        )


def check_record(uri: str, name: str) -> RecordCheck:
    """Hold the record of a model against itself, its signatures and MLflow's tag.

    Raises
    ------
    InputError
        An event was rewritten or is gone: the message names it.
    """
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        told = record.look(client, open_ledger(uri), model_name(name)).events
        anchor = client.get_registered_model(name).tags.get(record.ANCHOR, "").partition(" ")[0]
    signed: dict[str, list[int]] = {}
    for event in told:
        if event.signed_by:
            signed.setdefault(event.signed_by, []).append(event.number)
    unsigned = [event.number for event in told if not event.signed_by]
    return RecordCheck(len(told), int(anchor or 0), signed, unsigned)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _told(event: Event) -> str:
    to = f" version {event.to_version}" if event.to_version else ""
    return f"{event.action}{to} {event}"


@dataclass(frozen=True)
class Comparison:
    """Two versions side by side.

    Attributes
    ----------
    one, other : Evidence
    fall : Difference
        By how much the metric falls from the first to the second, on the same rows; None where that cannot be told.
    why_not : str
        Why it cannot.
    """

    versions: tuple[str, str]
    one: Evidence
    other: Evidence
    fall: Difference | None
    why_not: str

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """What is told of each: name, first, second."""
        figures = [(name, getattr(self.one, name), getattr(self.other, name)) for name in ("metric", *_FIGURES[:4])]
        speed = [("timed", self.one.speed, self.other.speed)]
        names = sorted(self.one.lineage.keys() | self.other.lineage.keys())
        lineage = [(name, self.one.lineage.get(name), self.other.lineage.get(name)) for name in names]
        return [
            (name, _shown(left), _shown(right))
            for name, left, right in [*figures, *speed, *(row for row in lineage if row[1] != row[2])]
        ]

    def told(self) -> dict[str, Any]:
        """For programs."""
        sides = zip(self.versions, (self.one, self.other), strict=True)
        return {
            "versions": {version: evidence.model_dump(mode="json", exclude={"probe"}) for version, evidence in sides},
            "fall": asdict(self.fall) if self.fall else None,
            "why_not": self.why_not,
        }


def compare(uri: str, name: str, one: str, other: str, confidence: float = CONFIDENCE) -> Comparison:
    """Two versions side by side, with the paired difference of their metric.

    Raises
    ------
    InputError
        No such version, or one without evidence.
    """
    name, pair = model_name(name), (version_number(one), version_number(other))
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        first, second = (read_evidence(client, name, version) for version in pair)
        left, right = read_outcomes(client, name, pair[0], first), read_outcomes(client, name, pair[1], second)
    if left is None or right is None:
        return Comparison(pair, first, second, None, "one was registered without the outcomes of its evaluation rows")
    try:
        check_comparable(left, right)
    except InputError as error:
        return Comparison(pair, first, second, None, str(error))
    return Comparison(pair, first, second, fall(left.values[first.judged], right.values[second.judged], confidence), "")


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
