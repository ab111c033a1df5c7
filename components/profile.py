from kfp import dsl

from fastprune.components import component


@component
def profile(
    model: dsl.Input[dsl.Model],
    run: dsl.Input[dsl.Artifact],
    table: dsl.Output[dsl.Artifact],
    lut: str,
    lut_store: str,
    latency_batch_size: int,
    latency_seq_len: int,
    latency_dtype: str,
    device: str,
    tracking_uri: str,
    retries: int,
):
    """Get the look-up table of this device: a given one, the store's, or one that is measured now."""
    from fastprune.stages.steps import attempt

    attempt(
        "profile",
        {"model": model.path, "table": table.path},
        {
            "lut": lut,
            "lut_store": lut_store,
            "latency_batch_size": latency_batch_size,
            "latency_seq_len": latency_seq_len,
            "latency_dtype": latency_dtype,
            "device": device,
        },
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
