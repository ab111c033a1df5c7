"""A name from outside never leads out of the folder that it is joined to."""

import json
import shutil

import pytest
from tiny_artifacts import numbers
from tiny_config import SWEEP

from fastprune.errors import InputError
from fastprune.releases import ledger
from fastprune.stages.run_node import run_node
from fastprune.store import storage
from fastprune.store.paths import inside
from fastprune.sweep.graph import nodes
from fastprune.sweep.reading import parse_config

HOSTILE = ["", "/etc/x", "..", "../x", "a/../../x", "a//b", "a/", ".", "a\0b", "..\\x", "a\\b", "C:x", "c:/x"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="not a name inside"):
        inside(tmp_path, name)
    with pytest.raises(InputError, match="not a name inside"):
        inside(tmp_path, "a", name)
    store = storage.open_store(tmp_path / "store")
    for act in (store.read, store.delete, lambda key: store.create(key, b""), lambda key: store.download(key, "x")):
        with pytest.raises(InputError, match="not a name inside"):
            act(name)


@pytest.mark.parametrize("name", ["a", "a/b.txt", "a..b/..c", "a b", ".hidden", "ä:b"])
def test_a_plain_name_is_joined(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name and inside(tmp_path, "x", name) == tmp_path / "x" / name


@pytest.mark.parametrize("name", ["../../out.pth", "/tmp/fastprune-out.pth", "a/../../out"])
def test_a_hostile_manifest_writes_nothing(tmp_path, monkeypatch, name):
    root = tmp_path / "store"
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(root))
    numbers(tmp_path / "made" / "a")
    shutil.rmtree(tmp_path / "made")
    [path] = (root / "artifacts").rglob("*.json")
    manifest = json.loads(path.read_text())
    manifest["files"][name] = next(iter(manifest["files"].values()))
    path.write_text(json.dumps(manifest))
    before = {found for found in tmp_path.rglob("*") if found.is_file()}
    with pytest.raises(InputError, match="not a name inside"):
        numbers(tmp_path / "made" / "a")
    assert {found for found in tmp_path.rglob("*") if found.is_file()} == before


@pytest.mark.parametrize("root", ["", " "])
def test_a_run_without_a_root_is_refused(tmp_path, monkeypatch, root):
    monkeypatch.setattr("fastprune.store.storage.open_store", lambda place: pytest.fail(f"opens {place}"))
    sweep = parse_config(SWEEP, tmp_path / "sweep.yaml")
    with pytest.raises(InputError, match="--root is empty"):
        run_node(sweep, nodes(sweep)[0], root)


@pytest.mark.parametrize("model", ["", ".", ".."])
def test_a_record_of_a_model_without_a_name_is_refused(tmp_path, model):
    held = ledger.StoreLedger(storage.open_store(tmp_path / "releases"), tmp_path / "releases")
    with pytest.raises(InputError, match="no name of a registered model"):
        held.contents(model)
