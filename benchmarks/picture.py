"""The picture of accuracy against latency in the README, drawn from measured figures.

    python -m benchmarks.picture                    # draw accuracy_latency.svg from accuracy_latency.json
    python -m benchmarks.picture --model DIR --train-file F --text-column A --label-column Y --name MRPC

The first form only draws. The second measures first: it slices the model by the masks of a quick search (64 samples;
latency does not depend on weights) at every keep ratio of the data set NAME in the file, times all of them in turn with
the dense model, and writes the medians as fractions of the dense model's. The accuracies in the file are those of
``benchmarks.accuracy``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

FOLDER = Path(__file__).parent
SELECTIONS = {"default": "surgeon", "paper": "fisher"}
NAMES = {"default": "default", "paper": "paper, per_sample"}
WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 880, 380, 62, 62, 350, 250
LATENCIES = (0.2, 1.0)
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .card { fill: #ffffff } .grid { stroke: #d0d7de } .title { font-weight: 600; font-size: 15px }
  .band { fill: #8c959f; opacity: .18 } .dense { stroke: #57606a; stroke-dasharray: 2 3; stroke-width: 1.5 }
  .default { stroke: #0969da; fill: #0969da } .paper { stroke: #bc4c00; fill: #bc4c00 }
  .line { fill: none; stroke-width: 2 } .line.paper { stroke-dasharray: 7 4 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .card { fill: #0d1117 } .grid { stroke: #30363d } .dense { stroke: #8b949e }
    .default { stroke: #58a6ff; fill: #58a6ff } .paper { stroke: #f0883e; fill: #f0883e } .line { fill: none }
  }
"""


@click.command(context_settings={"show_default": True})
@click.option("--figures", type=click.Path(path_type=Path), default=FOLDER / "accuracy_latency.json")
@click.option("--output", type=click.Path(path_type=Path), default=FOLDER / "accuracy_latency.svg")
@click.option("--name", help="Measure for this data set of the figures; without it, only draw.")
@click.option("--model", help="A fine-tuned model of that data set.")
@click.option("--train-file", type=click.Path(path_type=Path))
@click.option("--text-column", "text_columns", multiple=True)
@click.option("--label-column")
@click.option("--batch-size", type=int, default=8)
@click.option("--tokens", type=int, default=64)
@click.option("--rounds", type=int, default=21)
def main(figures: Path, output: Path, name: str | None, **options) -> None:
    """Draw accuracy against latency; with --name, measure the latency first."""
    sets = json.loads(figures.read_text())
    if name:
        chosen = next((one for one in sets if one["name"] == name), None)
        if chosen is None:
            raise click.UsageError(f"--name {name}: the figures have {', '.join(one['name'] for one in sets)}")
        chosen["latency"] = measure(chosen["accuracy"], **options)
        figures.write_text(to_text(sets))
    output.write_text(draw([one for one in sets if "latency" in one]))
    click.echo(f"wrote {output}")


def measure(
    accuracy: dict[str, dict[str, float]],
    *,
    model: str,
    train_file: Path,
    text_columns: tuple[str, ...],
    label_column: str,
    batch_size: int,
    tokens: int,
    rounds: int,
) -> dict[str, dict[str, float]]:
    """Median latency of every sliced model, timed in turn, as a fraction of the dense model's."""
    import fastprune
    from fastprune.data import read_table
    from fastprune.data.preparation import table_task
    from fastprune.latency.timing import full_batch, measure_latency
    from fastprune.model import checkpoint

    rows = read_table(train_file)
    few = rows.select(range(min(64, len(rows))))  # the dense model's metric on them is not used
    task = table_task(model, text_columns, label_column)
    dense = checkpoint.load_dense(model)
    sliced = {
        (method, ratio): fastprune.compress(
            model,
            dataset=rows,
            evaluation=few,
            task=task,
            keep_ratio=float(ratio),
            num_samples=64,
            selection=SELECTIONS[method],
            device="cpu",
            allow_untuned=True,
            dry_run=True,
            progress=False,
        ).model
        for method, ratios in accuracy.items()
        for ratio in ratios
    }
    times = measure_latency({"dense": dense} | sliced, full_batch(batch_size, tokens), repeats=rounds)
    return {
        method: {ratio: round(times[method, ratio].median_ms / times["dense"].median_ms, 3) for ratio in ratios}
        for method, ratios in accuracy.items()
    }


def to_text(sets: list[dict]) -> str:
    """JSON with a line for each row of figures."""
    blocks = []
    for one in sets:
        lines = []
        for key, value in one.items():
            if isinstance(value, dict):
                rows = ",\n".join(f"      {json.dumps(method)}: {json.dumps(row)}" for method, row in value.items())
                value = "{\n" + rows + "\n    }"
            else:
                value = json.dumps(value)
            lines.append(f"    {json.dumps(key)}: {value}")
        blocks.append("  {\n" + ",\n".join(lines) + "\n  }")
    return "[\n" + ",\n".join(blocks) + "\n]\n"


def draw(sets: list[dict]) -> str:
    """An SVG with a panel for each data set, readable on light and dark pages."""
    panels = "\n".join(panel(one, LEFT + index * (WIDTH - 10) // 2) for index, one in enumerate(sets))
    legend = "".join(
        f'<line class="line {method}" x1="{x}" y1="22" x2="{x + 34}" y2="22"/>{mark(method, x + 17, 22, text)}'
        f'<text x="{x + 42}" y="27">{text}</text>'
        for (method, text), x in zip(NAMES.items(), (62, 190), strict=True)
    )
    legend += (
        '<line class="dense" x1="372" y1="22" x2="406" y2="22"/><text x="414" y="27">dense ± standard error</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="Accuracy against latency">\n<style>{STYLE}</style>\n'
        f'<rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="8"/>\n{legend}\n{panels}\n</svg>\n'
    )


def panel(one: dict, left: float) -> str:
    """The axes, the dense model's line and a line for each method of one data set."""
    values = [value for row in one["accuracy"].values() for value in row.values()]
    low = int(min([*values, one["dense"] - one["standard_error"]]) * 50) / 50
    high = -int(-max([*values, one["dense"] + one["standard_error"]]) * 50 - 1) / 50

    def x(latency: float) -> float:
        return round(left + (latency - LATENCIES[0]) / (LATENCIES[1] - LATENCIES[0]) * PLOT_WIDTH, 1)

    def y(accuracy: float) -> float:
        return round(TOP + (high - accuracy) / (high - low) * PLOT_HEIGHT, 1)

    right, bottom, middle = left + PLOT_WIDTH, TOP + PLOT_HEIGHT, left + PLOT_WIDTH / 2
    parts = [
        f'<text class="title" x="{middle}" y="{TOP - 12}" text-anchor="middle">{one["name"]}</text>',
        f'<text x="{middle}" y="{bottom + 42}" text-anchor="middle">latency / dense latency</text>',
    ]
    step = 2 if high - low < 0.09 else 4
    for percent in range(round(low * 100), round(high * 100) + 1, step):
        height = y(percent / 100)
        parts.append(f'<line class="grid" x1="{left}" y1="{height}" x2="{right}" y2="{height}"/>')
        parts.append(f'<text x="{left - 8}" y="{height + 4}" text-anchor="end">{percent / 100:.2f}</text>')
    for tenth in range(round(LATENCIES[0] * 10), round(LATENCIES[1] * 10) + 1, 2):
        parts.append(f'<text x="{x(tenth / 10)}" y="{bottom + 20}" text-anchor="middle">{tenth / 10:.1f}</text>')
    dense, error = one["dense"], one["standard_error"]
    parts.append(
        f'<rect class="band" x="{left}" y="{y(dense + error)}" width="{PLOT_WIDTH}" '
        f'height="{round(y(dense - error) - y(dense + error), 1)}"/>'
    )
    parts.append(f'<line class="dense" x1="{left}" y1="{y(dense)}" x2="{right}" y2="{y(dense)}"/>')
    for method, row in one["accuracy"].items():
        points = {ratio: (x(one["latency"][method][ratio]), y(value)) for ratio, value in row.items()}
        line = " ".join(f"{across},{down}" for across, down in points.values())
        parts.append(f'<polyline class="line {method}" points="{line}"/>')
        parts += [
            mark(method, *point, f"{NAMES[method]}, keep ratio {ratio}: {row[ratio]:.4f}")
            for ratio, point in points.items()
        ]
    return "\n".join(parts)


def mark(method: str, across: float, down: float, title: str) -> str:
    """A circle for the default, a square for the paper's method."""
    shape = (
        f'circle class="{method}" cx="{across}" cy="{down}" r="4"'
        if method == "default"
        else f'rect class="{method}" x="{round(across - 4, 1)}" y="{round(down - 4, 1)}" width="8" height="8"'
    )
    return f"<{shape}><title>{title}</title></{shape.split()[0]}>"


if __name__ == "__main__":
    main()
