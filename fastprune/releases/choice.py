"""Which of a model's compressions to promote: the Pareto front of accuracy and cost, and what a policy accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fastprune.releases.evidence import Evidence, Probe, Speed, figures_of
from fastprune.releases.policy import judge, parse_policy

_FOR_THE_PROMOTION: dict[str, Any] = {
    "same_evaluation_data": False,
    "not_worse_than_champion": None,
    "required_tags": {},
    "signed_by": [],
    "record_signed_by": [],
    "approvers": [],
    "approvals": 0,
}
"""What a compression's own figures cannot tell."""


@dataclass(frozen=True)
class Compression:
    """One of them.

    Attributes
    ----------
    label : str
        Its budget in words, such as ``MACs 0.6``; for people alone.
    constraint : str
        What the budget bounded: ``macs`` or ``latency``.
    metric, dense, pruned : str, float, float
    macs, latency, params : float
        Fractions of the dense model's that it has; the latency as measured.
    megabytes : float
    version : str
        Of the registered model; empty where it was not registered.
    standard_error : mapping
        Of ``dense``, ``pruned`` and ``drop``.
    speed : mapping, optional
        The fields of :class:`fastprune.releases.evidence.Speed`.
    exported : mapping, optional
        The same model as it was exported: its ``form``, ``metric`` with its standard ``error``, ``agreement`` with the
        dense model, ``megabytes``, and ``latency``, a fraction of the dense PyTorch model's by a batch of 8.
    served : mapping, optional
        Where the version serves that export, its figures by the names of :class:`Evidence`: a policy judges these.
    """

    label: str
    constraint: Literal["macs", "latency"]
    metric: str
    dense: float
    pruned: float
    macs: float
    latency: float
    params: float
    megabytes: float
    version: str
    standard_error: Mapping[str, float] | None = None
    speed: Mapping | None = None
    exported: Mapping | None = None
    served: Mapping | None = None

    @classmethod
    def of(cls, metrics: Mapping, version: str) -> Compression:
        """From ``metrics.json``."""
        latency, figures = metrics["latency_ms"], figures_of(metrics)
        constraint: Literal["macs", "latency"] = "latency" if "latency_kept" in metrics else "macs"
        sought = " (sought)" if "curve" in metrics else ""
        return cls(
            label=f"{'latency' if constraint == 'latency' else 'MACs'} {metrics['keep_ratio']:.3g}{sought}",
            constraint=constraint,
            metric=metrics["metric"],
            dense=metrics["dense"],
            pruned=metrics["pruned"],
            macs=metrics["macs_kept"],
            latency=latency["pruned"] / latency["dense"],
            params=metrics["params_kept"],
            megabytes=metrics["megabytes"]["pruned"],
            version=version,
            standard_error=figures["standard_error"],
            speed=figures["speed"] and figures["speed"].model_dump(),
            exported=_exported(metrics["exported"]) if "exported" in metrics else None,
            served=_served(metrics) if metrics.get("exported", {}).get("format") == "onnx" else None,
        )

    @property
    def judged(self) -> dict:
        """Form, metric with its standard error, and latency of what the version serves: a policy judges this."""
        if self.served and self.exported:
            metric, errors, latency = self.served["pruned"], self.served["standard_error"], 1 / self.served["speedup"]
            form = self.exported["form"]
        else:
            metric, errors, latency, form = self.pruned, self.standard_error, self.latency, "PyTorch"
        return {"form": form, "metric": metric, "error": (errors or {}).get("pruned"), "latency": latency}


def _exported(told: Mapping) -> dict:
    """From ``exported`` of ``metrics.json``."""
    times = told["latency_ms"]["batch_8"]
    return {
        "form": f"{told['format']} {told['quantize'] or 'float32'}",
        "metric": told["metric"],
        "error": told.get("standard_error"),
        "agreement": told["agreement"],
        "megabytes": told["megabytes"],
        "latency": times["exported"] / times["dense"],
    }


def _served(metrics: Mapping) -> dict:
    figures = figures_of(metrics, "onnx")
    return figures | {"speed": figures["speed"].model_dump(), "megabytes": metrics["exported"]["megabytes"]}


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats: as cheap and better, or as good and cheaper; cheapest first."""
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -values[index])):
        if not front or values[index] > values[front[-1]]:
            front.append(index)
    return front


def choose(compressions: Sequence[Compression], policy: str = "") -> dict:
    """Hold compressions of one model against each other and a policy: the content of ``summary.json``.

    Each counts as it is served (:attr:`Compression.judged`): where that is a quantised export, by the export's metric.
    The cost is the measured latency where any budget was latency, else MACs. ``candidates`` are the numbers of the
    compressions that the policy accepts by their own figures (what a policy asks of tags, approvers and the champion
    is for the promotion), cheapest first; where it accepts none, of the most accurate one, so that the promotion puts
    the refusal on record; without a policy, or of no compressions, none. ``picked`` is the first of them.
    """
    cost = "latency" if any(one.constraint == "latency" for one in compressions) else "macs"
    judged = [one.judged | {"macs": one.macs} for one in compressions]
    costs, values = [one[cost] for one in judged], [one["metric"] for one in judged]
    front = pareto_front(costs, values)
    refused = [_refusals(one, policy) if policy else [] for one in compressions]
    candidates: list[int] = []
    if policy and compressions:
        accepted = [index for index, reasons in enumerate(refused) if not reasons]
        candidates = sorted(accepted, key=costs.__getitem__) or [max(range(len(values)), key=values.__getitem__)]
    return {
        "cost": cost,
        "candidates": candidates,
        "picked": next(iter(candidates), None),
        "compressions": [
            asdict(one) | {"judged": one.judged, "on_front": index in front, "refused": refused[index]}
            for index, one in enumerate(compressions)
        ],
    }


def _refusals(one: Compression, policy: str) -> list[str]:
    own = parse_policy(policy).model_copy(update=_FOR_THE_PROMOTION)
    figures: Mapping = one.served or {
        "metric": one.metric,
        "dense": one.dense,
        "pruned": one.pruned,
        "speedup": 1 / one.latency,
        "speed": one.speed,
        "standard_error": one.standard_error,
        "megabytes": one.megabytes,
    }
    evidence = Evidence(
        **{**figures, "speed": figures["speed"] and Speed.model_validate(figures["speed"])},
        lineage={},
        artifact_sha256="",
        weights_sha256="",
        serving_sha256="",
        probe=Probe(texts=[], logits=[]),
    )
    return [
        f"{check.name}: {check.found}, required {check.required}"
        for check in judge(own, evidence, None, {}, "")
        if not check.passed
    ]
