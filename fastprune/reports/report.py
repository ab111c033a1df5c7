"""One self-contained HTML page that shows what pruning did to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from fastprune.reports import page
from fastprune.reports.page import KEPT, MUTED, PRUNED, RULE, STYLE, svg


def render(metrics: Mapping, manifest: Mapping) -> str:
    """The report of one compression.

    Parameters
    ----------
    metrics : mapping
        The content of ``metrics.json``. Rows and sections for which it has no figures are left out.
    manifest : mapping
        The content of ``manifest.json``.

    Returns
    -------
    str
        HTML that needs no other file.
    """
    figures = plots(metrics, manifest)
    return page.render(
        "report.html",
        title=f"{Path(manifest['source_model']).name} at {_budget(metrics)}",
        subtitle=_subtitle(manifest),
        metric_name=_words(metrics["metric"]),
        rows=_rows(metrics, manifest),
        rows_evaluated=metrics.get("rows"),
        cards=_cards(metrics),
        exported=_exported(metrics),
        steps=_steps(metrics),
        seconds=_bars(metrics.get("seconds", {})),
        total_seconds=sum(metrics.get("seconds", {}).values()),
        curve=svg(figures["curve"]) if "curve" in figures else None,
        tried=[(f"{ratio:.3f}", f"{100 * value:.2f}") for ratio, value in metrics.get("curve", {}).get("points", ())],
        heads=svg(figures["heads"]),
        filters=svg(figures["filters"]),
        form=metrics.get("curve", {}).get("form", ""),
        layers=_layers(metrics, manifest),
        provenance=_flatten(manifest),
    )


def plots(metrics: Mapping, manifest: Mapping) -> dict[str, Figure]:
    """The pictures of the report: ``heads`` and ``filters`` kept per layer, and ``curve`` where a budget was sought."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "heads": _head_figure(manifest["kept_heads"], metrics["num_heads"]),
            "filters": _filter_figure(metrics["filters"], metrics["num_filters"]),
        }
        if curve := metrics.get("curve"):
            figures["curve"] = _curve_figure(curve, _words(metrics["metric"]))
        return figures


def _layers(metrics: Mapping, manifest: Mapping) -> list[tuple[str, str, str, str]]:
    """Of each layer its number, how many heads and filters it keeps, and which heads."""
    kept = zip(manifest["kept_heads"], metrics["filters"], strict=True)
    return [
        (str(layer), str(len(heads)), f"{filters:,}", ", ".join(map(str, sorted(heads))))
        for layer, (heads, filters) in enumerate(kept)
    ]


def _exported(metrics: Mapping) -> list[tuple[str, str]]:
    """What is told of the exported model, each with its value; nothing where there is none."""
    if not (exported := metrics.get("exported")):
        return []
    lost, drop = 100 * (exported["metric"] - metrics["dense"]), exported.get("standard_error_of_drop")
    told = [
        ("form", f"{exported['format']} {exported['quantize'] or 'float32'}"),
        (f"{_words(metrics['metric'])}, %", f"{100 * exported['metric']:.2f}{_plus(exported.get('standard_error'))}"),
        ("points more than the dense model", f"{lost:+.2f}".replace("-", "\N{MINUS SIGN}") + _plus(drop)),
        ("megabytes", f"{exported['megabytes']:.1f}"),
    ]
    if (same := exported["agreement"]) is not None:
        told.insert(3, ("agreement with the dense model, %", f"{100 * same:.2f}"))
    for batch, times in exported["latency_ms"].items():
        told.append((f"times faster than dense PyTorch, {_words(batch)}", f"{times['dense'] / times['exported']:.2f}"))
    return told


def _curve_figure(curve: Mapping, metric: str) -> Figure:
    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    axes = figure.subplots()
    ratios, values = zip(*sorted(curve["points"]), strict=True)
    axes.plot(ratios, [100 * value for value in values], color=KEPT, marker="o", markersize=4, linewidth=1)
    axes.axhline(100 * curve["dense"], color=MUTED, linewidth=0.8, linestyle=":")
    axes.axvline(curve["keep_ratio"], color=RULE, linewidth=3, zorder=0)
    axes.text(0.01, 100 * curve["dense"], " dense", va="bottom", color=MUTED)
    axes.set_xlim(0, 1)
    axes.set_xlabel("keep ratio tried")
    axes.set_ylabel(f"{metric}, %")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _head_figure(kept: Sequence[Sequence[int]], num_heads: int) -> Figure:
    figure, axes = _layer_axes(len(kept))
    for layer, row in enumerate(kept):
        colours = [KEPT if head in row else PRUNED for head in range(num_heads)]
        axes.barh(
            [layer] * num_heads,
            [0.82] * num_heads,
            left=[head - 0.41 for head in range(num_heads)],
            height=0.74,
            color=colours,
        )
        axes.text(num_heads - 0.1, layer, f"{len(row)}", va="center", ha="left")
    axes.set_xlim(-0.6, num_heads + 0.9)
    axes.set_xticks(range(0, num_heads, max(1, num_heads // 6)))
    axes.set_xlabel(f"head (the number kept of {num_heads} at the right)")
    return figure


def _filter_figure(counts: Sequence[int], num_filters: int) -> Figure:
    figure, axes = _layer_axes(len(counts))
    layers = range(len(counts))
    axes.barh(layers, [num_filters] * len(counts), height=0.74, color=PRUNED)
    axes.barh(layers, counts, height=0.74, color=KEPT)
    for layer, count in enumerate(counts):
        axes.text(num_filters * 1.02, layer, f"{count:,}", va="center", ha="left")
    axes.set_xlim(0, num_filters * 1.15)
    axes.set_xticks([0, num_filters // 2, num_filters], ["0", f"{num_filters // 2:,}", f"{num_filters:,}"])
    axes.set_xlabel(f"filters (the number kept of {num_filters:,} at the right)")
    return figure


def _layer_axes(num_layers: int):
    figure = Figure(figsize=(4.2, 0.62 + 0.26 * num_layers), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(num_layers - 0.4, -0.6)
    axes.set_yticks(range(num_layers))
    axes.set_ylabel("layer")
    axes.spines[:].set_visible(False)
    return figure, axes


def _budget(metrics: Mapping) -> str:
    if "latency_kept" in metrics:
        return f"{100 * metrics['latency_kept']:.0f}% of its latency"
    return f"{100 * metrics['macs_kept']:.0f}% of its MACs"


def _divergence(metrics: Mapping) -> list[tuple[str, str, str, str]]:
    """Where there were no labels: how far the predictions are from the dense model's."""
    if "divergence" not in metrics:
        return []
    return [("divergence from the dense model's predictions", "0", f"{metrics['divergence']:.4g}", "")]


def _other_metrics(metrics: Mapping) -> list[tuple[str, str, str, str]]:
    """What the problem measures beside the metric that it is judged by, as it is: some of these are no fractions."""
    named = metrics.get("all_metrics", {})
    dense, pruned = named.get("dense", {}), named.get("pruned", {})
    return [
        (_words(name), f"{dense[name]:.4f}", f"{value:.4f}", f"{value - dense[name]:+.4f}")
        for name, value in pruned.items()
        if name in dense and name not in (metrics["metric"], "divergence")
    ]


def _subtitle(manifest: Mapping) -> str:
    return (
        f"Pruned without retraining, on {manifest['sample_size']:,} examples of {manifest['seq_len']:.0f} tokens "
        f"on average; seed {manifest['seed']}."
    )


def _rows(metrics: Mapping, manifest: Mapping) -> list[tuple[str, str, str, str]]:
    """Rows of the comparison: name, dense, pruned, change."""
    rows = [
        (
            f"{_words(metrics['metric'])}, %",
            f"{100 * metrics['dense']:.2f}{_error(metrics, 'dense')}",
            f"{100 * metrics['pruned']:.2f}{_error(metrics, 'pruned')}",
            f"{_points(metrics, '.2f')}{_error(metrics, 'drop')}",
        ),
        *_divergence(metrics),
        *_other_metrics(metrics),
        (
            "MACs of the encoder, per example",
            _large(manifest["macs_before"]),
            _large(manifest["macs_after"]),
            f"{100 * metrics['macs_kept']:.1f}% kept",
        ),
    ]
    if params := metrics.get("params"):
        rows.append(
            (
                "parameters",
                _large(params["dense"]),
                _large(params["pruned"]),
                f"{100 * metrics['params_kept']:.1f}% kept",
            )
        )
    if size := metrics.get("megabytes"):
        rows.append(
            (
                "weights on disk, MB",
                f"{size['dense']:.1f}",
                f"{size['pruned']:.1f}",
                f"{100 * size['pruned'] / size['dense']:.1f}% kept",
            )
        )
    if latency := metrics.get("latency_ms"):
        rows.append(
            (
                f"latency, ms (batch of {latency['batch_size']}, {latency['seq_len']} tokens{_on(latency)})",
                f"{latency['dense']:.1f}",
                f"{latency['pruned']:.1f}",
                f"{latency['dense'] / latency['pruned']:.2f} times as fast",
            )
        )
        if "predicted_pruned" in latency:
            rows.append(
                (
                    "as predicted by the look-up table, ms",
                    f"{latency['predicted_dense']:.1f}",
                    f"{latency['predicted_pruned']:.1f}",
                    f"{100 * metrics['latency_kept']:.1f}% kept",
                )
            )
    return rows


def _on(latency: Mapping) -> str:
    """The device of a latency, where it was recorded."""
    if "device_name" not in latency:
        return ""
    threads = f", {latency['threads']} threads" if latency["device"] == "cpu" else ""
    return f", {latency['device_name']}{threads}"


def _cards(metrics: Mapping) -> list[tuple[str, str, str]]:
    """The figures to remember: value, unit, what it is."""
    cards = [
        (f"{100 * metrics['pruned']:.1f}", "%", f"{_words(metrics['metric'])} ({_points(metrics, '.1f')})"),
        (f"{100 * metrics['macs_kept']:.0f}", "%", "of the MACs kept"),
        (f"{100 * metrics['params_kept']:.0f}", "%", "of the parameters kept"),
    ]
    if latency := metrics.get("latency_ms"):
        cards.insert(2, (f"{latency['dense'] / latency['pruned']:.2f}", "\N{MULTIPLICATION SIGN}", "as fast as dense"))
    return cards


def _steps(metrics: Mapping) -> list[tuple[str, str]]:
    """The metric from dense through each stage of the method, in per cent."""
    stages = metrics.get("stages")
    if not stages:
        return []
    return [(name, f"{100 * value:.2f}") for name, value in {"dense": metrics["dense"], **stages}.items()]


def _error(metrics: Mapping, name: str) -> str:
    """The standard error of a metric, in per cent, where it was measured."""
    return _plus(metrics.get("standard_error", {}).get(name))


def _plus(error: float | None) -> str:
    return "" if error is None else f" \N{PLUS-MINUS SIGN} {100 * error:.2f}"


def _points(metrics: Mapping, form: str) -> str:
    change = format(100 * (metrics["pruned"] - metrics["dense"]), "+" + form)
    return change.replace("-", "\N{MINUS SIGN}") + " points"


def _bars(seconds: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Name, seconds and length of each bar in per cent of the longest."""
    longest = max(seconds.values(), default=0) or 1
    return [(_words(name), f"{value:.1f}", 100 * value / longest) for name, value in seconds.items()]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _flatten(document: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """Plain values of nested mappings by dotted name; lists (masks) are left out."""
    rows: list[tuple[str, str]] = []
    for name, value in document.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple):
            text = f"{value:,.6g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
            rows.append((_words(f"{prefix}{name}"), text))
    return rows


def _large(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
