"""A compiled sweep holds no password: whoever can see the pipeline could read it."""

import pytest
from tiny_config import SWEEP

from fastprune.errors import InputError
from fastprune.pipelines import kubeflow
from fastprune.pipelines.package import check_arguments, read_package
from fastprune.sweep.reading import parse_config

SECRET = "pl4nted"
PLAIN = SWEEP[: SWEEP.index("cluster:")]


@pytest.mark.parametrize(
    "section, place",
    [
        (f"tracking: {{uri: 'http://ann:{SECRET}@mlflow:5000'}}", "tracking.uri"),
        (f"cluster: {{env: {{MLFLOW_TRACKING_PASSWORD: {SECRET}}}}}", "cluster.env.MLFLOW_TRACKING_PASSWORD"),
        (f"cluster: {{env: {{FASTPRUNE_LEDGER: 'postgresql://a:{SECRET}@db/r'}}}}", "cluster.env.FASTPRUNE_LEDGER"),
    ],
)
def test_a_secret_is_refused_and_not_told(tmp_path, section, place):
    sweep = parse_config(f"{PLAIN}{section}\n", tmp_path / "sweep.yaml")
    with pytest.raises(InputError, match=f"^{place}: holds a password") as refused:
        kubeflow.compile_pipeline(sweep, tmp_path / "pipeline.yaml")
    assert SECRET not in str(refused.value) and not (tmp_path / "pipeline.yaml").exists()


def test_an_argument_of_a_run_holds_none_either(tmp_path):
    sweep = parse_config(PLAIN, tmp_path / "sweep.yaml")
    kubeflow.compile_pipeline(sweep, tmp_path / "pipeline.yaml")
    package = read_package(tmp_path / "pipeline.yaml")
    check_arguments(package, {"tracking_uri": "http://mlflow:5000"})
    with pytest.raises(InputError, match="^argument tracking_uri: holds a password") as refused:
        check_arguments(package, {"tracking_uri": f"http://ann:{SECRET}@mlflow:5000"})
    assert SECRET not in str(refused.value)
