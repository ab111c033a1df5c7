"""What other servers are given: ``fastprune kserve | triton``."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from fastprune.cli.answers import Answer, release_command
from fastprune.cli.group import command


@release_command
@click.argument("name")
@click.argument("version", default="")
@click.option("--image", required=True, help="Has mlflow and what the version's requirements.txt names.")
@click.option("--canary", type=click.IntRange(1, 99), help="Percent of the requests; the rest stay where they are.")
@click.option("--server", default="", help="MLflow as pods reach it, by default the tracking URI.")
@click.option("--service", default="", help="Name of the service, by default NAME.")
@click.option("--secret", default="", help="Kubernetes secret with MLFLOW_TRACKING_USERNAME and _PASSWORD.")
@click.option("--cpu", default="1", help="Of a pod.")
@click.option("--memory", default="1Gi", help="Of a pod.")
def kserve(name: str, uri: str, **given) -> Answer:
    """Print the InferenceService of the champion of NAME; of another VERSION with --canary."""
    from fastprune.releases.kserve import inference_service

    manifest = inference_service(uri, name, **given)
    return Answer(manifest, yaml.safe_dump(manifest, sort_keys=False).rstrip())


@command()
@click.argument("export", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the model in Triton.")
@click.option("--max-batch-size", type=click.IntRange(min=1), default=32, help="Rows that Triton may run at once.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="Model repository.")
def triton(export: Path, name: str, max_batch_size: int, output_dir: Path) -> None:
    """Put EXPORT, a folder with a model for ONNX Runtime, into a model repository of Triton."""
    from fastprune.export.triton import write_repository

    place = write_repository(export, output_dir, name, max_batch_size=max_batch_size)
    click.echo(f"saved in {place}; start Triton with --model-repository={output_dir}")
