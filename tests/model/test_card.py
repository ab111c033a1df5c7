"""The card of a pruned model: what, how, figures with errors, limits, and the source's licence."""

import json

import pytest
import yaml
from reviews import compress
from tiny_releases import NAME, variant

from fastprune.model.card import CARD, about_source, card, write_card
from fastprune.releases import registration
from fastprune.tracking import mlflow_store

MANIFEST = {
    "source_model": "team/min`i\nlm",
    "problem": "classification",
    "versions": {"fastprune": "0.2.0"},
    "selection": "surgeon",
    "tuning": "weights",
    "sample_size": 2048,
    "seed": 3,
    "macs_before": 100,
    "macs_after": 40,
    "max_length": 128,
}
METRICS = {
    "metric": "accuracy",
    "dense": 0.82,
    "pruned": 0.81,
    "standard_error": {"dense": 0.009, "pruned": 0.0095, "drop": 0.004},
    "rows": 1725,
    "latency_ms": {"dense": 33.0, "pruned": 21.0, "batch_size": 8, "seq_len": 27, "device_name": "Xeon"},
}


def test_a_card_says_what_how_how_good_and_how_far():
    text = card({"license": "apache-2.0"}, MANIFEST, METRICS)
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"
    for part in (
        "# `min?i?lm`, pruned to 40.0% of its MACs",
        "2,048 rows drawn with seed 3",
        "- accuracy: **0.8100 +- 0.0095**, dense 0.8200 +- 0.0090",
        "of 1,725 evaluation rows",
        "a batch of 8 rows of 27 tokens on Xeon",
        "## Limits",
        "`apache-2.0`, that of the source",
    ):
        assert part in text
    assert "The source's card states none" in card({}, MANIFEST)


@pytest.mark.parametrize(
    "content, told",
    [
        ("---\nlicense: mit\nlanguage: en\ntags: [x]\n---\n# It\n", {"license": "mit", "language": "en"}),
        ("# no front matter\n", {}),
        ("---\nlicense: [\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nno end", {}),
    ],
)
def test_what_a_source_says_of_its_licence(tmp_path, content, told):
    (tmp_path / CARD).write_text(content)
    assert about_source(tmp_path) == told
    assert about_source(tmp_path / "nowhere") == {} and about_source("a/hub-name") == {}


def test_licence_texts_go_with_the_model(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "source" / "LICENSE.txt").write_text("you may")
    (tmp_path / "source" / "NOTICE").write_text("by us")
    (tmp_path / "source" / CARD).write_text("---\nlicense: mit\n---\n")
    write_card(tmp_path / "out", tmp_path / "source")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"LICENSE.txt", "NOTICE", CARD}
    assert about_source(tmp_path / "out") == {"license": "mit"}


def test_every_saved_folder_has_one(material, tmp_path, folders):
    compress(material, output_dir=tmp_path / "out", num_samples=64)
    text = (tmp_path / "out" / CARD).read_text()
    assert "pruned to" in text and " +- " in text and "(" not in text.split("##")[0].split("\n")[0]
    # The pipeline seals the model before it is measured: its figures stand in the card of the report.
    assert "see `README.md` of its report" in (folders["pruned"] / CARD).read_text()
    metrics = json.loads((folders["report"] / "metrics.json").read_text())
    assert f"- accuracy: **{metrics['pruned']:.4f} +- " in (folders["report"] / CARD).read_text()


def test_a_version_has_a_description_and_metrics_on_its_page(tmp_path, folders, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    folder = variant(folders, tmp_path / "one", "---\nlicense: mit\n---\n")
    registration.register(uri, folder, NAME, json.loads((folder / "metrics.json").read_text()))
    client = mlflow_store.connect(uri)
    version = client.get_model_version(NAME, "1")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert version.description.startswith(f"accuracy {metrics['pruned']:.4f} (dense {metrics['dense']:.4f}) at ")
    assert "# `model`, pruned to" in version.description and f"**{metrics['pruned']:.4f} +- " in version.description
    assert "`mit`, that of the source" in version.description
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert logged.name == NAME and json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": "1"}]
    shown = {metric.key: metric.value for metric in logged.metrics}
    assert shown.keys() >= {"dense", "pruned", "speedup", "megabytes", "standard_error.drop"}
    assert shown["pruned"] == json.loads(version.tags["fastprune.facts"])["pruned"]
