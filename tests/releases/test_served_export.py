"""A version that serves an export: without torch, judged by its own figures, and proved like any other."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from tiny_releases import NAME, command, copied
from tokenizers import Tokenizer

from fastprune.errors import InputError, Refused
from fastprune.releases import promotion, registration, serving, verification
from fastprune.releases.policy import Policy
from fastprune.stages.export import export
from fastprune.stages.register import register
from fastprune.stages.report import report
from fastprune.store import keys
from fastprune.tracking import mlflow_store

TEXTS = ["the film was good", "dull", "not very bad and not great, it was a film of the king " * 3]
ALONE = """
import importlib.metadata, json, sys

class Without:
    # finds every module but torch's and fastprune's
    finders, find_distributions = sys.meta_path[:], importlib.metadata.MetadataPathFinder.find_distributions
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("torch", "fastprune"):
            return next(filter(None, (finder.find_spec(name, path, target) for finder in self.finders)), None)

sys.meta_path[:] = [Without()]
for name in ("torch", "fastprune"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is here")
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
answers = [model.predict([text]).to_dict("records")[0] for text in json.loads(sys.argv[3])]
print(json.dumps([answers, "torch" in str(model.metadata.get_model_info().flavors)]))
"""


@pytest.fixture(scope="module")
def compressed(folders, tmp_path_factory):
    """Folders of a compression with an int8 export, and its report, signed."""
    root = tmp_path_factory.mktemp("exported")
    made = {**folders, "exported": root / "exported", "report": root / "report"}
    names = ("model", "sample", "evaluation", "pruned", "exported")
    export(**{name: made[name] for name in names}, quantize="int8")
    inputs = ("model", "dense", "importance", "chosen", "searched", "rearranged", "pruned", "measured", "exported")
    with pytest.MonkeyPatch.context() as patch:
        keys.make_key(root / "key.pem")
        patch.setenv("FASTPRUNE_SIGNING_KEY", str(root / "key.pem"))
        report(**{name: made[name] for name in inputs}, report=made["report"])
    return made


@pytest.fixture(scope="module")
def released(compressed, tmp_path_factory):
    """A store in which version 1 serves the model itself and version 2 its export."""
    root = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{root}/mlflow.db"
    figures = json.loads((compressed["report"] / "metrics.json").read_text())
    unsigned = shutil.copytree(compressed["report"], root / "unsigned")  # what was signed has the export in it
    (unsigned / "signature.json").unlink()
    assert registration.register(uri, compressed["pruned"], NAME, figures, measured=unsigned) == "1"
    stage = {name: compressed[name] for name in ("evaluation", "pruned", "exported", "report")}
    register(**stage, released=root / "released", model_name=NAME, tracking_uri=uri)
    assert json.loads((root / "released" / "released.json").read_text())["version"] == "2"
    return root


@pytest.fixture
def store(released, tmp_path, monkeypatch):
    """The store, whose files are the test's own."""
    return copied(released, tmp_path, monkeypatch)


def files_of(store, version="2"):
    """Where MLflow keeps a version."""
    client = mlflow_store.connect(store)
    uri = client.get_model_version_download_uri(NAME, version)
    uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location if "models:/" in uri else uri
    return Path(uri.removeprefix("file://"))


@pytest.fixture
def spoiled(store):
    """The files of version 2, put back when the test ends."""
    root = files_of(store)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    yield root
    for path, content in before.items():
        path.write_bytes(content)


def test_it_is_served_without_torch_and_fastprune(store, compressed, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, store, f"models:/{NAME}/2", json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answers, torch_is_named = json.loads(done.stdout.splitlines()[-1])
    assert not torch_is_named
    folder = compressed["exported"]
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for text, answer in zip(TEXTS, answers):
        row = tokenizer.encode(text)
        parts = {"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
        [logits] = session.run(["logits"], {name: np.array([parts[name]]) for name in parts})
        expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
        assert list(json.loads(answer["probabilities"]).values()) == pytest.approx(expected.tolist(), abs=1e-6)
        assert answer["label"] == config["id2label"][str(logits[0].argmax())]
    requirements = (files_of(store) / "requirements.txt").read_text()
    assert f"onnxruntime=={onnxruntime.__version__}" in requirements and "torch" not in requirements


def test_it_is_judged_by_the_figures_of_the_export(store, compressed):
    told = json.loads((compressed["report"] / "metrics.json").read_text())
    client, exported = mlflow_store.connect(store), told["exported"]
    evidence = verification.read_evidence(client, NAME, "2")
    assert (evidence.serves, evidence.lineage["quantize"]) == ("onnx", "int8")
    assert evidence.pruned == exported["metric"]
    assert evidence.standard_error["pruned"] == exported["standard_error"]
    assert evidence.megabytes == exported["megabytes"] == (compressed["exported"] / "model.onnx").stat().st_size / 1e6
    times = exported["latency_ms"]["batch_8"]
    assert evidence.speedup == times["dense"] / times["exported"] and evidence.speed.threads == 1
    assert "ONNX Runtime, int8" in client.get_model_version(NAME, "2").description
    verdict = promotion.promote(
        store, NAME, "2", Policy(min_speedup=evidence.speedup * 1.01), why="a try", dry_run=True
    )
    assert not verdict.passed and f"{evidence.speedup:.4g}" in verdict.checks[-1].found
    assert verification.read_evidence(client, NAME, "1").serves == "pytorch"


def test_it_is_compared_with_a_champion_that_serves_the_model_itself(store):
    promotion.promote(store, NAME, "1", Policy(max_accuracy_drop=1), why="the first")
    policy = Policy(not_worse_than_champion=0.5)
    verdict = promotion.promote(store, NAME, "2", policy, why="int8", override=True)
    assert verdict.passed and any("40 rows" in check.found for check in verdict.checks)
    assert command(store, "compare", NAME, "1", "2").count("onnx")


def test_it_is_proved_and_signed(store):
    proof = verification.verify(store, NAME, "2")
    assert proof.serves == "onnx" and proof.difference < 1e-5 and proof.signed_by


def test_it_is_measured_again_as_it_is_served(store, source):
    verdict = promotion.promote(
        store, NAME, "2", Policy(max_accuracy_drop=1), why="again", dry_run=True, remeasure=source["eval_file"]
    )
    assert verdict.passed and "measured again" in str(verdict)


def other_form(root):
    document = yaml.safe_load((root / "MLmodel").read_text())
    assert document["flavors"]["python_function"]["config"]["serves"] == "onnx"
    document["flavors"]["python_function"]["config"]["serves"] = "pytorch"
    (root / "MLmodel").write_text(yaml.safe_dump(document))


def flip(root):
    [file] = root.rglob("model.onnx")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm, words", [(flip, "model.onnx: SHA-256"), (other_form, "served otherwise than it was")])
def test_what_is_served_otherwise_than_it_was_judged_is_neither_proved_nor_promoted(store, spoiled, harm, words):
    harm(spoiled)
    with pytest.raises(Refused, match=words):
        verification.verify(store, NAME, "2")
    with pytest.raises(verification.NotAsRegistered, match=words):
        promotion.promote(store, NAME, "2", Policy(max_accuracy_drop=1), why="a try")


def other_weights(folder, metrics):
    record = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps(record | {"weights_sha256": "0" * 64}))


def trimmed(folder, metrics):
    record = json.loads((folder / "export.json").read_text())
    vocabulary = {"vocabulary": {"kept": 20, "of": 90}, "weights_sha256": "0" * 64}
    (folder / "export.json").write_text(json.dumps(record | vocabulary))


def other_file(folder, metrics):
    with open(folder / "model.onnx", "ab") as file:
        file.write(b"\n")


def named_code(folder, metrics):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "a/b--c.D"}}))


@pytest.mark.parametrize(
    "harm, words",
    [
        (other_weights, "other weights than those"),
        (trimmed, "has a trimmed vocabulary"),
        (other_file, "is not the file that the metrics are of"),
        (named_code, "auto_map names code"),
        (lambda folder, metrics: metrics.pop("exported"), "no figures of an exported model"),
        (lambda folder, metrics: (folder / "export.json").unlink(), "is no exported model"),
        (lambda folder, metrics: (folder / "more.py").write_text("print('hostile')"), "not of fastprune's own"),
    ],
)
def test_an_export_that_is_not_the_models_is_refused(store, compressed, tmp_path, harm, words):
    folder = tmp_path / "onnx"
    shutil.copytree(compressed["exported"], folder)
    (folder / "artifact.json").unlink()
    metrics = json.loads((compressed["report"] / "metrics.json").read_text())
    harm(folder, metrics)
    with pytest.raises(InputError, match=words) as refused:
        registration.register(store, compressed["pruned"], "other", metrics, exported=folder)
    assert str(Path(tempfile.gettempdir(), "tmp")) not in str(refused.value), "a copy is named, which is gone"


def test_an_export_of_another_compression_is_refused(store, compressed, tmp_path):
    folder = tmp_path / "onnx"
    shutil.copytree(compressed["exported"], folder)
    known = json.loads((folder / "artifact.json").read_text())
    (folder / "artifact.json").write_text(json.dumps(known | {"origin": {**known["origin"], "seed": 7}}))
    with pytest.raises(InputError, match="seed is 7"):
        registration.register(store, compressed["pruned"], "other", {}, exported=folder)


def test_answers_that_differ_are_refused(store, compressed, tmp_path, monkeypatch):
    source = serving.SERVED.read_text()
    assert "session.run(outputs, given)" in source
    (tmp_path / "other.py").write_text(
        source.replace("session.run(outputs, given)", "[-1 * session.run(outputs, given)[0]]")
    )
    monkeypatch.setitem(sys.modules, "fastprune.releases.pyfunc_model", _module(tmp_path / "other.py"))
    metrics = json.loads((compressed["report"] / "metrics.json").read_text())
    with pytest.raises(InputError, match="what would be served differs by"):
        registration.register(store, compressed["pruned"], "other", metrics, exported=compressed["exported"])


def _module(file):
    from fastprune.releases.pyfunc_model import load_code

    return load_code("other", file)
