"""A candidate against the champion, a drop with its standard error, and speed on the device that is meant."""

import json
import shutil

import numpy as np
import pytest
from tiny_releases import NAME, aliases, command, variant

from fastprune.data.outcomes import OUTCOMES, Outcomes
from fastprune.errors import InputError
from fastprune.releases import promotion, registration
from fastprune.releases.evidence import Evidence, Speed, figures_of
from fastprune.releases.policy import Policy, judge, parse_policy
from fastprune.tracking import mlflow_store

ROWS = 400
V100, XEON = "Tesla V100", "Xeon"


def right(share, rows=ROWS):
    """Outcomes of a model that is right on the first rows."""
    return (np.arange(rows) < share * rows).astype(float)


@pytest.fixture(scope="module")
def base(folders, tmp_path_factory):
    """A store with versions of one model, evaluated as told: champion 0.90, worse 0.85, like it, other rows, none."""
    root = tmp_path_factory.mktemp("against")
    uri, manifest = f"sqlite:///{root}/mlflow.db", json.loads((folders["pruned"] / "manifest.json").read_text())
    for number, (share, sha) in enumerate([(0.9, ""), (0.85, ""), (0.9, ""), (0.95, ""), (0.9, None)], start=1):
        told = {"dense": 0.95, "pruned": share, "standard_error": {"dense": 0.01, "pruned": 0.01, "drop": 0.004}}
        folder = variant(folders, root / str(number), str(number), **told)
        if sha is not None:
            digest = manifest["evaluation_sha256"]
            Outcomes("accuracy", digest, {"dense": right(0.95), "pruned": right(share)}).save(folder)
        registration.register(uri, folder, NAME, json.loads((folder / "metrics.json").read_text()))
    promotion.promote(uri, NAME, "1", Policy(not_worse_than_champion=0.01), why="the first")
    return root


@pytest.fixture
def uri(base, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(base / "mlflow.db", tmp_path / "mlflow.db")
    shutil.copytree(base / "releases", tmp_path / "releases")
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_worse_candidate_within_the_absolute_limits_does_not_replace_the_champion(uri):
    with pytest.raises(promotion.PolicyNotMet, match=r"worse by 0.05 \+- 0.011, at most 0.06.* \(400 rows\)"):
        promotion.promote(uri, NAME, "2", why="smaller")
    assert aliases(uri)["champion"] == "1"
    assert "not_worse_than_champion" in promotion.history(uri, NAME)[-1].failed


def test_one_that_is_as_good_or_better_replaces_it(uri):
    promotion.promote(uri, NAME, "3", why="as good, row by row")
    promotion.promote(uri, NAME, "4", why="better")
    assert aliases(uri)["champion"] == "4"


def test_without_outcomes_nothing_is_compared(uri):
    with pytest.raises(promotion.PolicyNotMet, match="the version was registered without what it made of each"):
        promotion.promote(uri, NAME, "5", why="please")


def test_a_champion_on_other_rows_is_not_compared(uri, monkeypatch):
    read = promotion.read_outcomes

    def of_other_rows(*given):
        known = read(*given)
        return Outcomes(known.metric, "0" * 64, known.values)

    monkeypatch.setattr(promotion, "read_outcomes", of_other_rows)
    with pytest.raises(
        promotion.PolicyNotMet, match="they were evaluated on other rows .evaluation_sha256 000000000000"
    ):
        promotion.promote(uri, NAME, "4", why="please")


def test_outcomes_that_were_changed_in_the_store_are_refused(uri, base, tmp_path):
    client = mlflow_store.connect(uri)
    source = client.get_model_version(NAME, "4")
    [stored] = [
        path
        for path in base.rglob(OUTCOMES)
        if path.parent.name == "record" and Outcomes.load(path).values["pruned"].mean() == 0.95
    ]
    content = stored.read_bytes()
    try:
        Outcomes("accuracy", Outcomes.load(stored).evaluation_sha256, {"pruned": right(1)}).save(stored.parent)
        assert command(uri, "promote", NAME, source.version, "--why", "x", status=3).count("not what was registered")
    finally:
        stored.write_bytes(content)


@pytest.mark.parametrize("change", [{"values": {"pruned": right(0.9), "dense": right(0.5)}}, {"sha": "0" * 64}])
def test_outcomes_that_are_not_those_of_the_metrics_are_not_registered(folders, tmp_path, change):
    folder = variant(folders, tmp_path / "one", "one", dense=0.95, pruned=0.9)
    manifest = json.loads((folder / "manifest.json").read_text())
    values = change.get("values", {"dense": right(0.95), "pruned": right(0.9)})
    Outcomes("accuracy", change.get("sha", manifest["evaluation_sha256"]), values).save(folder)
    with pytest.raises(InputError, match="evaluate it again"):
        registration.register(
            f"sqlite:///{tmp_path}/mlflow.db", folder, NAME, json.loads((folder / "metrics.json").read_text())
        )


def evidence(**changes):
    known = {"metric": "accuracy", "dense": 0.9, "pruned": 0.893, "speedup": 2.0, "megabytes": 10.0, "lineage": {}}
    digests = dict.fromkeys(("artifact_sha256", "weights_sha256", "serving_sha256"), "a")
    return Evidence(**known | digests | {"probe": {"texts": [], "logits": []}} | changes)


def one(policy, candidate):
    [check] = judge(policy, candidate, None, {}, "")
    return check


def test_a_drop_is_judged_with_its_margin_where_that_is_asked():
    limit, sure = Policy(max_accuracy_drop=0.01), Policy(max_accuracy_drop=0.01, confidence=0.95)
    measured = evidence(standard_error={"drop": 0.004})
    assert one(limit, measured).passed and "0.007 +- 0.004" in one(limit, measured).found
    assert not one(sure, measured).passed and "at most 0.01358" in one(sure, measured).found
    assert one(sure, evidence(standard_error={"drop": 0.001})).passed
    assert not one(sure, evidence()).passed and "standard error was not recorded" in one(sure, evidence()).found


def test_speed_is_that_of_the_device_that_is_meant():
    def speed(device, predicted_on=None, predicted=None):
        told = {"ratio": 1.9, "spread": (1.8, 2.0), "threads": 2, "batch_size": 8, "seq_len": 40}
        return evidence(speed=Speed(device=device, predicted_on=predicted_on, predicted=predicted, **told))

    on_v100 = Policy(min_speedup=1.5, speed_on=V100)
    assert one(on_v100, speed(V100)).passed
    elsewhere = one(on_v100, speed(XEON))
    assert not elsewhere.passed
    assert elsewhere.found == f"1.9 (1.8 to 2) on {XEON}, 2 threads, batch 8 of 40 tokens: not timed on {V100}"
    assert one(on_v100, speed(XEON, V100, 1.6)).passed and not one(on_v100, speed(XEON, V100, 1.4)).passed
    assert not one(on_v100, speed(V100, V100, 1.6).model_copy(update={"speed": None})).passed
    assert one(Policy(min_speedup=1.5), speed(XEON)).passed


def test_figures_are_read_with_device_threads_and_spread(folders):
    metrics = json.loads((folders["report"] / "metrics.json").read_text())
    told = figures_of(metrics)
    assert told["speed"].device == metrics["latency_ms"]["device_name"] and told["speed"].threads >= 1
    assert told["speed"].spread[0] <= told["speed"].ratio <= told["speed"].spread[1]
    assert set(told["standard_error"]) == {"dense", "pruned", "drop"} and metrics["rows"] == 40
    kept = Outcomes.load(folders["report"] / OUTCOMES)
    assert kept.values["pruned"].mean() == pytest.approx(metrics["pruned"])
    assert kept.values["dense"].mean() == pytest.approx(metrics["dense"])


@pytest.mark.parametrize("text, words", [("speed_on: V100", "goes with min_speedup"), ("confidence: 0.9", "goes with")])
def test_a_field_that_would_do_nothing_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_policy(text)
