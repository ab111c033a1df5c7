"""A model's compressions side by side: the Pareto front of accuracy and cost, and what a policy accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import matplotlib
from matplotlib.figure import Figure

from fastprune.releases.policy import Evidence, Probe, judge, parse_policy
from fastprune.reports import page
from fastprune.reports.page import INK, KEPT, MUTED, RULE, STYLE, svg


@dataclass(frozen=True)
class Compression:
    """One of them.

    Attributes
    ----------
    label : str
        Its budget, such as ``MACs 0.6``.
    metric, dense, pruned : str, float, float
    macs, latency, params : float
        Fractions of the dense model's that it has; the latency as measured.
    megabytes : float
    version : str
        Of the registered model; empty where it was not registered.
    """

    label: str
    metric: str
    dense: float
    pruned: float
    macs: float
    latency: float
    params: float
    megabytes: float
    version: str

    @classmethod
    def of(cls, metrics: Mapping, version: str) -> Compression:
        """From ``metrics.json``."""
        latency, what = metrics["latency_ms"], "latency" if "latency_kept" in metrics else "MACs"
        sought = " (sought)" if "curve" in metrics else ""
        return cls(
            f"{what} {metrics['keep_ratio']:.3g}{sought}",
            metrics["metric"],
            metrics["dense"],
            metrics["pruned"],
            metrics["macs_kept"],
            latency["pruned"] / latency["dense"],
            metrics["params_kept"],
            metrics["megabytes"]["pruned"],
            version,
        )


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats: as cheap and better, or as good and cheaper; cheapest first."""
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -values[index])):
        if not front or values[index] > values[front[-1]]:
            front.append(index)
    return front


def sum_up(compressions: Sequence[Compression], policy: str = "") -> dict:
    """The content of ``summary.json``.

    The cost is the measured latency where any budget was latency, else MACs. ``picked`` is the number of the cheapest
    compression that the policy accepts by its own figures (what a policy asks of tags, approvers and the champion is
    for the promotion), or else of the most accurate one, so that the promotion puts the refusal on record; without a
    policy, none.
    """
    cost = "latency" if any(one.label.startswith("latency") for one in compressions) else "macs"
    costs, values = [getattr(one, cost) for one in compressions], [one.pruned for one in compressions]
    front = pareto_front(costs, values)
    refused = [_refusals(one, policy) if policy else [] for one in compressions]
    accepted = [index for index, reasons in enumerate(refused) if not reasons]
    picked = None
    if policy:
        picked = min(accepted, key=costs.__getitem__) if accepted else max(range(len(values)), key=values.__getitem__)
    return {
        "cost": cost,
        "picked": picked,
        "compressions": [
            asdict(one) | {"on_front": index in front, "refused": refused[index]}
            for index, one in enumerate(compressions)
        ],
    }


def _refusals(one: Compression, policy: str) -> list[str]:
    own = parse_policy(policy).model_copy(update={"same_evaluation_data": False, "required_tags": {}, "approvers": []})
    evidence = Evidence(
        metric=one.metric,
        dense=one.dense,
        pruned=one.pruned,
        speedup=1 / one.latency,
        megabytes=one.megabytes,
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


def plot(summary: Mapping) -> Figure:
    """The accuracy of every compression against its cost, with the front as a line."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes, found = figure.subplots(), summary["compressions"]
        front = sorted((one[summary["cost"]], one["pruned"]) for one in found if one["on_front"])
        axes.plot(*([100 * value for value in values] for values in zip(*front)), color=KEPT, linewidth=1)
        for number, one in enumerate(found):
            place = (100 * one[summary["cost"]], 100 * one["pruned"])
            axes.plot(
                *place, "o", color=KEPT if one["on_front"] else RULE, markersize=9 if number == summary["picked"] else 5
            )
            axes.annotate(one["label"], place, xytext=(5, -11), textcoords="offset points", color=INK, fontsize=8)
        axes.axhline(100 * found[0]["dense"], color=MUTED, linewidth=0.8, linestyle=":")
        axes.text(
            0.01, 100 * found[0]["dense"], " dense", va="bottom", color=MUTED, transform=axes.get_yaxis_transform()
        )
        axes.margins(x=0.15, y=0.15)
        axes.set_xlabel({"macs": "MACs kept, %", "latency": "latency, % of the dense model's"}[summary["cost"]])
        axes.set_ylabel(f"{found[0]['metric'].replace('_', ' ')}, %")
        axes.spines[["top", "right"]].set_visible(False)
        return figure


def render(summary: Mapping) -> str:
    """A page of its own."""
    found = summary["compressions"]
    return page.render(
        "summary.html",
        title="Accuracy against cost",
        found=found,
        picked=summary["picked"],
        picture=svg(plot(summary)),
        metric=found[0]["metric"].replace("_", " "),
    )
