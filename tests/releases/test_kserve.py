"""The manifest of KServe, by the record of releases."""

import pytest
import yaml
from kubernetes import client as kubernetes
from tiny_releases import LENIENT, NAME, command

from fastprune.releases import control, promotion

SERVER = ("--image", "registry.example.com/served:1", "--server", "http://mlflow.mlops:5000")
FIELDS = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": {}},
    "spec": {"predictor": {"minReplicas": int, "canaryTrafficPercent": int, "containers": list}},
}
"""Those of the custom resource (v1beta1, KServe 0.21) that are used, with their types; ``{}`` is a map of strings."""


def check(given, known, what=""):
    for name, value in given.items():
        assert name in known or known == {}, f"{what}{name}"
        if known == {}:
            assert isinstance(value, str)
        elif isinstance(known[name], dict):
            check(value, known[name], f"{what}{name}.")
        else:
            assert type(value) is known[name], f"{what}{name}"


def check_kubernetes(given, kind):
    """A part of a manifest has no field but those of its kind in Kubernetes' own client."""
    fields, types = kind.attribute_map.items(), kind.openapi_types
    known = {outside: types[inside] for inside, outside in fields}
    for name, value in given.items():
        assert name in known, f"{kind.__name__}.{name}"
        inner = known[name].removeprefix("list[").rstrip("]")
        if inner.startswith("V1"):
            for one in value if isinstance(value, list) else [value]:
                check_kubernetes(one, getattr(kubernetes, inner))


def manifest(store, *arguments, status=0):
    found = command(store, "kserve", NAME, *arguments, *SERVER, status=status)
    return yaml.safe_load(found) if status == 0 else found


def told(found):
    predictor = found["spec"]["predictor"]
    return predictor["containers"][0]["command"][4], predictor.get("canaryTrafficPercent")


def test_canary_promotion_and_rollback_follow_the_record(store):
    assert "no champion yet" in manifest(store, status=2)
    promotion.promote(store, NAME, "1", LENIENT, why="first")
    assert told(manifest(store)) == (f"models:/{NAME}/1", None)
    assert "not the champion and would get all requests" in manifest(store, "2", status=3)
    assert told(manifest(store, "2", "--canary", "10")) == (f"models:/{NAME}/2", 10)
    control.freeze(store, NAME, why="a fair")
    assert "promotions are frozen" in manifest(store, "2", "--canary", "10", status=3)
    assert told(manifest(store)) == (f"models:/{NAME}/1", None)
    control.unfreeze(store, NAME, why="over")
    promotion.promote(store, NAME, "2", why="second")
    assert told(manifest(store)) == (f"models:/{NAME}/2", None)
    control.rollback(store, NAME, why="wrong answers")
    assert told(manifest(store)) == (f"models:/{NAME}/1", None)
    assert "was rolled back" in manifest(store, "2", "--canary", "10", status=3)


def test_every_field_is_one_of_the_published_schema(store):
    promotion.promote(store, NAME, "1", LENIENT, why="first")
    found = manifest(store, "1", "--canary", "20", "--secret", "mlflow", "--service", "tiny-reviews")
    check(found, FIELDS)
    check_kubernetes(found["spec"]["predictor"]["containers"][0], kubernetes.V1Container)
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert found["metadata"]["annotations"]["fastprune/version"] == "1"
    [container] = found["spec"]["predictor"]["containers"]
    assert container["env"] == [{"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow.mlops:5000"}]
    assert container["envFrom"] == [{"secretRef": {"name": "mlflow"}}]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--service", "Reviews_1"), "no name of a service"),
        (("--server", "sqlite:///here.db"), "pods cannot reach it"),
        (("--server", "http://ann:secret@mlflow:5000"), "a manifest holds no password"),
    ],
)
def test_what_kserve_or_pods_do_not_take_is_refused(store, arguments, words):
    promotion.promote(store, NAME, "1", LENIENT, why="first")
    given = {"--image": "served:1", "--server": "http://mlflow:5000", arguments[0]: arguments[1]}
    found = command(store, "kserve", NAME, *(word for pair in given.items() for word in pair), status=2)
    assert words in found and "secret@" not in found
