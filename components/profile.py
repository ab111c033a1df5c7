from kfp import dsl

from components import component


@component
def profile(
    model: dsl.Input[dsl.Model],
    table: dsl.Output[dsl.Artifact],
    lut: str,
    lut_store: str,
    latency_batch_size: int,
    latency_seq_len: int,
    device: str,
    run_id: str,
    tracking_uri: str,
):
    """Get the look-up table of this device: a given one, the store's, or one that is measured now."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "profile") as log:
        from fastprune import stages

        log.record(stages.profile(
            model=Path(model.path), table=Path(table.path), lut=lut, lut_store=lut_store,
            latency_batch_size=latency_batch_size, latency_seq_len=latency_seq_len, device=device,
        ))
        log.artifacts.append(f"{table.path}/lut.json")
