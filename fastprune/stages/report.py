"""A compression summed up: its metrics and its page."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune.data.outcomes import OUTCOMES, Outcomes
from fastprune.model import checkpoint
from fastprune.model.card import write_card
from fastprune.stages.folders import read_json, served_by, table_of_budget, write_json, write_record
from fastprune.store import signatures
from fastprune.store.artifacts import RECORD, makes
from fastprune.store.output import new_folder


@makes("report", signs=True)
def report(
    *,
    model: Path,
    dense: Path,
    importance: Path,
    chosen: Path,
    searched: Path,
    rearranged: Path,
    pruned: Path,
    measured: Path,
    report: Path,
    table: Path | None = None,
    exported: Path | None = None,
) -> dict:
    """Sum the compression up.

    Parameters
    ----------
    model, dense, importance, chosen, searched, rearranged, pruned, measured, exported : Path
    report : Path
        Output: ``metrics.json``, ``outcomes.parquet``, their ``signature.json`` where there is a key to sign
        with, ``report.html`` and the pictures in it; the model's card, with the figures that were not known when the
        model was sealed.
    """
    from fastprune.reports.report import plots, render  # matplotlib: only this stage draws

    begin = time.perf_counter()
    profiled = [table] if table is not None and table_of_budget(table, chosen) else []
    folders = (model, dense, *profiled, importance, chosen, searched, rearranged, pruned, measured)
    records = [read_json(folder / RECORD) for folder in folders]
    metrics_of = {record["stage"]: record["metrics"] for record in records}
    outcomes = Outcomes.load(dense / OUTCOMES) | Outcomes.load(measured / OUTCOMES)
    figures, latency = metrics_of["evaluate_pruned"], records[-1]["settings"]["latency"]

    def pair(name: str) -> dict:
        return {side: figures[f"{name}_{side}"] for side in ("dense", "pruned")}

    metrics = {
        "metric": records[0]["settings"]["metric"],
        "dense": metrics_of["evaluate_dense"]["metric"],
        "pruned": figures["pruned"],
        "all_metrics": {
            "dense": records[1]["settings"]["all_metrics"],
            "pruned": records[-1]["settings"]["all_metrics"],
        },
        "standard_error": outcomes.standard_errors,
        "rows": metrics_of["evaluate_dense"]["n"],
        **metrics_of["tune"],
        "latency_ms": {**pair("latency_ms"), **latency},
        "params": pair("params"),
        "megabytes": pair("megabytes"),
        "seconds": {record["stage"]: record["seconds"] for record in records},
    }
    if "divergence" in figures:
        metrics["divergence"] = figures["divergence"]
    if "curve" in metrics_of["budget"]:
        metrics["curve"] = metrics_of["budget"]["curve"]
    if exported is not None:
        outcomes |= Outcomes.load(exported / OUTCOMES)
        record = read_json(exported / RECORD)
        metrics["exported"] = record["settings"]["exported"]
        metrics["seconds"]["export"] = record["seconds"]
    if "search" in figures:
        metrics["stages"] = {name: figures[name] for name in ("search", "rearrange") if name in figures}
        metrics["stages"]["tuning"] = figures["pruned"]
    manifest = read_json(pruned / checkpoint.MANIFEST)
    with new_folder(report) as folder:
        write_json(folder / "metrics.json", metrics)
        outcomes.save(folder)
        signatures.sign(folder, metrics, pruned, served_by(exported))
        write_card(folder, pruned, manifest, metrics)
        (folder / "report.html").write_text(render(metrics, manifest), encoding="utf-8")
        for name, figure in plots(metrics, manifest).items():
            figure.savefig(folder / f"{name}.png", dpi=150)
        return write_record(folder, "report", begin, metrics)
