import shutil

import pytest
from tiny_artifacts import numbers
from tiny_stages import algorithm_stages

from fastprune.errors import InputError
from fastprune.stages.evaluate_pruned import evaluate_pruned
from fastprune.stages.prepare import prepare
from fastprune.stages.tune import tune
from fastprune.store import artifacts, storage
from fastprune.store.artifacts import makes


def double(folder, output, other=None):
    return _double(searched=folder, rearranged=other or folder, importance=output)


@makes("importance")
def _double(*, searched, rearranged, importance):
    importance.mkdir()
    (importance / "double.txt").write_text(2 * (searched / "numbers.txt").read_text())
    (importance / "stage.json").write_text("{}")
    return {}


def test_the_manifest_proves_what_it_was_made_from(tmp_path):
    numbers(tmp_path / "a", seed=3)
    double(tmp_path / "a", tmp_path / "b")
    first, second = artifacts.read(tmp_path / "a"), artifacts.read(tmp_path / "b", "importance")
    assert first.kind == "masks" and first.origin == second.origin == {"seed": 3, "sample_sha256": "of 3"}
    assert second.inputs["searched"] == first.digest == storage.sha256_of(tmp_path / "a" / "artifact.json")
    assert first.files["numbers.txt"].sha256 == storage.sha256_of(tmp_path / "a" / "numbers.txt")
    assert first.settings == {"seed": 3, "count": 4} and first.device and "torch" in first.code


def test_work_that_is_there_and_whole_is_skipped(tmp_path):
    calls = []
    first = numbers(tmp_path / "a", calls=calls)
    assert numbers(tmp_path / "a", calls=calls) == first and len(calls) == 1
    with pytest.raises(InputError, match="other inputs, settings or code"):
        numbers(tmp_path / "a", seed=1)
    (tmp_path / "a" / "numbers.txt").write_text("9\n" * 4)
    with pytest.raises(InputError, match="damaged"):
        numbers(tmp_path / "a")


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        numbers(tmp_path / "a")
    assert (tmp_path / "a" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda folder: (folder / "numbers.txt").write_text("9\n"), "damaged"),
        (lambda folder: (folder / "numbers.txt").unlink(), "missing"),
        (lambda folder: (folder / "more").write_text("9"), "not in the manifest"),
        (lambda folder: (folder / "artifact.json").unlink(), "no whole artifact"),
        (lambda folder: (folder / "artifact.json").write_text("{}"), "schema version"),
    ],
)
def test_a_damaged_input_is_refused(tmp_path, harm, message):
    numbers(tmp_path / "a")
    harm(tmp_path / "a")
    with pytest.raises(InputError, match=message):
        double(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_inputs_of_another_kind_or_compression_are_refused(tmp_path):
    numbers(tmp_path / "one", seed=1)
    numbers(tmp_path / "two", seed=2)
    double(tmp_path / "one", tmp_path / "doubled")
    with pytest.raises(InputError, match="'importance' where 'masks' belongs"):
        double(tmp_path / "doubled", tmp_path / "x")
    refused = "rearranged is of another compression than searched: .* is of 2 here and of 1 there"
    with pytest.raises(InputError, match=refused):
        double(tmp_path / "one", tmp_path / "x", other=tmp_path / "two")


def test_what_is_published_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(tmp_path / "store"))
    calls = []
    first = numbers(tmp_path / "a", calls=calls)
    shutil.rmtree(tmp_path / "a")
    assert numbers(tmp_path / "a", calls=calls) == first and len(calls) == 1
    for path in (tmp_path / "store" / "objects").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="store/objects/[0-9a-f]{64}: fetched twice, .*; remove it there, and"):
        numbers(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    for path in (tmp_path / "store" / "objects").iterdir():
        path.unlink()
    numbers(tmp_path / "c", calls=calls)
    assert numbers(tmp_path / "d", calls=calls) and len(calls) == 2


def test_damage_on_the_way_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(tmp_path / "store"))
    calls, copied, copy = [], [], shutil.copyfile
    first = numbers(tmp_path / "a", calls=calls)

    def damages_the_first(source, target):
        copied.append(source)
        copy(source, target)
        if len(copied) == 1:
            target.write_bytes(b"damaged")

    monkeypatch.setattr("fastprune.store.storage.shutil.copyfile", damages_the_first)
    assert numbers(tmp_path / "b", calls=calls) == first and len(calls) == 1
    assert len(copied) == 1 + len({*copied}) == 3


def test_what_has_lost_a_file_in_the_store_is_made_and_published_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(tmp_path / "store"))
    calls = []
    numbers(tmp_path / "a", calls=calls)
    for path in (tmp_path / "store" / "objects").iterdir():
        path.unlink()
    second = numbers(tmp_path / "b", calls=calls)
    assert len(calls) == 2
    assert numbers(tmp_path / "c", calls=calls) == second and len(calls) == 2


@pytest.mark.parametrize("root", ["file", "file/root", "link/root"])
def test_a_root_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, root):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(tmp_path / root))
    with pytest.raises(InputError, match=f"{root}.* no folder; .*FASTPRUNE_ARTIFACT_ROOT"):
        numbers(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_key_is_written_once(tmp_path):
    store = storage.open_store(tmp_path)
    assert store.create("a/key", b"first") and not store.create("a/key", b"second")
    assert store.read("a/key") == b"first" and store.read("other") is None
    assert store.keys("a/") == ["a/key"]
    store.delete("a/key")
    store.delete("a/key")
    assert not store.download("a/key", tmp_path / "copy") and not (tmp_path / "copy").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/root/a: cannot be written"):
        storage.open_store(tmp_path / "file" / "root").create("a", b"")


@pytest.mark.parametrize("settings", [{"AWS_PROFILE": "nobody"}, {"AWS_ENDPOINT_URL": "nonsense"}])
def test_settings_for_s3_that_make_no_sense(monkeypatch, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"settings for S3 .*{next(iter(settings.values()))}"):
        storage.open_store("s3://bucket/prefix")


def test_every_stage_makes_artifacts_of_one_origin(folders):
    found = {name: artifacts.read(folder, artifacts.KINDS[name]) for name, folder in folders.items()}
    assert set(found) == {name for stage in algorithm_stages() for name in stage.outputs}
    origin = artifacts.common_origin(found)
    assert set(origin) == {"source_sha256", "sample_sha256", "evaluation_sha256", "seed"}
    assert found["report"].origin == origin and found["pruned"].inputs["importance"] == found["importance"].digest
    assert found["pruned"].origin["seed"] == 0


@pytest.mark.parametrize(
    "change, foreign, differs",
    [
        ({"seed": 1}, "sample", "sample_sha256|seed"),
        ({"num_samples": 40}, "sample", "sample_sha256"),
        ({"source": "untrained"}, "model", "source_sha256"),
        ({"source": "untrained"}, "sample", "source_sha256"),
        ({"source": "untrained"}, "evaluation", "source_sha256"),
    ],
)
def test_an_artifact_of_another_model_sample_or_seed_is_refused(
    folders, source, material, tmp_path, change, foreign, differs
):
    if "source" in change:
        change = {"source": str(material / change["source"])}
    paths = {name: tmp_path / name for name in ("model", "sample", "evaluation")}
    prepare(**paths, **source | change)
    given = {name: folders[name] for name in ("model", "sample", "evaluation", "importance", "chosen", "rearranged")}
    with pytest.raises(InputError, match=f"is of another compression than .*: ({differs}) is"):
        tune(**given | {foreign: paths[foreign]}, pruned=tmp_path / "pruned", tuned=tmp_path / "tuned")
    assert not (tmp_path / "pruned").exists()


def test_evaluation_data_of_another_compression_are_refused(folders, source, tmp_path):
    paths = {name: tmp_path / name for name in ("model", "sample", "evaluation")}
    prepare(**paths, **source | {"eval_file": source["train_file"]})
    given = {name: folders[name] for name in ("model", "chosen", "searched", "rearranged", "pruned")}
    with pytest.raises(InputError, match="is of another compression than .*: evaluation_sha256 is"):
        evaluate_pruned(**given, evaluation=paths["evaluation"], measured=tmp_path / "measured")
    assert not (tmp_path / "measured").exists()
