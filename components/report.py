from typing import Optional

from kfp import dsl

from components import component


@component
def report(
    model: dsl.Input[dsl.Model],
    dense: dsl.Input[dsl.Metrics],
    fisher: dsl.Input[dsl.Artifact],
    chosen: dsl.Input[dsl.Artifact],
    searched: dsl.Input[dsl.Artifact],
    rearranged: dsl.Input[dsl.Artifact],
    pruned: dsl.Input[dsl.Model],
    measured: dsl.Input[dsl.Metrics],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    run_id: str,
    tracking_uri: str,
    table: Optional[dsl.Input[dsl.Artifact]] = None,
):
    """Sum the compression up in a report."""
    import shutil
    from pathlib import Path

    from fastprune import tracking

    folder = Path(report.path)
    with tracking.stage(tracking_uri, run_id, "report"):
        from fastprune import stages

        stages.report(
            model=Path(model.path), dense=Path(dense.path), fisher=Path(fisher.path),
            table=table and Path(table.path), chosen=Path(chosen.path), searched=Path(searched.path),
            rearranged=Path(rearranged.path), pruned=Path(pruned.path), measured=Path(measured.path), report=folder,
        )
        shutil.copyfile(folder / "report.html", page.path)
