import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    CASES,
    FAMILIES,
    TAGS,
    VECTORS,
    batch_for,
    build,
    extreme_masks,
    logits_of,
    random_batches,
    unsupported,
)
from transformers import BertForMaskedLM, BertModel

import fastprune
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.losses import inputs_of
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model

BATCH = random_batches(build(), "classification", [[9, 4, 1]])[0]


def pruned(family="bert", problem="classification"):
    """One head left; no heads; no filters; neither; uneven."""
    encoder = describe(build(family, problem, num_layers=5))
    return slice_model(encoder, extreme_masks(encoder))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_tokenizer):
    """A folder of saved models, and the logits that each should give."""
    folder = tmp_path_factory.mktemp("saved")
    logits = {}
    for family, problem in CASES + TAGS + VECTORS:
        name, model = f"{family}_{problem}", pruned(family, problem)
        checkpoint.save(folder / name, model, tiny_tokenizer, {"seed": 3}, metrics={"dense": 0.5})
        logits[name] = logits_of(model, batch_for(model))
        save_file(inputs_of(batch_for(model), "cpu"), folder / name / "batch.safetensors")
    return folder, logits


@pytest.fixture
def one_saved(tmp_path, tiny_tokenizer):
    return checkpoint.save(tmp_path / "pruned", pruned(), tiny_tokenizer, {})


@pytest.mark.parametrize("family, problem", CASES + TAGS + VECTORS)
def test_load(saved, family, problem):
    folder, logits = saved
    name = f"{family}_{problem}"
    model = fastprune.load(folder / name)
    assert type(model).__module__ == "fastprune.model.modeling_fastprune" and not model.training
    torch.testing.assert_close(logits_of(model, batch_for(model)), logits[name], rtol=0, atol=1e-6)


WITHOUT_FASTPRUNE = """
import json, sys
from pathlib import Path
sys.modules["fastprune"] = None  # makes `import fastprune` fail
import torch
from safetensors.torch import load_file, save_file
import transformers
from transformers.utils.logging import set_verbosity_error

set_verbosity_error()
folder = Path(sys.argv[1])
logits, refused = {}, []
for path in sorted(folder.iterdir()):
    batch, (auto,) = load_file(path / "batch.safetensors"), json.loads((path / "config.json").read_text())["auto_map"]
    auto = getattr(transformers, auto)
    model = auto.from_pretrained(path, trust_remote_code=True)
    assert not model.training
    with torch.no_grad():
        outputs = model(**batch)
    if "logits" in outputs:
        logits[path.name] = outputs.logits
    elif "last_hidden_state" in outputs:
        logits[path.name] = outputs.last_hidden_state[batch["attention_mask"].bool()]
    else:
        spans = torch.stack([outputs.start_logits, outputs.end_logits])
        logits[path.name] = spans[:, batch["attention_mask"].bool()]
    for options in ({}, {"trust_remote_code": False}):
        try:
            auto.from_pretrained(path, **options)
        except (ValueError, RuntimeError):
            refused.append(path.name)
save_file(logits, sys.argv[2])
print(json.dumps(refused))
"""


@pytest.fixture(scope="module")
def loaded_elsewhere(saved, tmp_path_factory):
    """Logits of every saved model in a process without fastprune, and which refuse a plain loading."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_FASTPRUNE, saved[0], folder / "logits.safetensors"],
        cwd=folder,
        env=environment | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return load_file(folder / "logits.safetensors"), json.loads(result.stdout.splitlines()[-1])


def test_loads_without_fastprune(saved, loaded_elsewhere):
    logits, _ = loaded_elsewhere
    assert logits.keys() == saved[1].keys()
    for name, want in saved[1].items():
        torch.testing.assert_close(logits[name], want, rtol=0, atol=1e-6)


def test_plain_loading_fails_rather_than_giving_random_weights(saved, loaded_elsewhere):
    _, refused = loaded_elsewhere
    assert sorted(refused) == sorted([*saved[1], *saved[1]])


def test_the_folder_holds_no_pickle(saved):
    for folder in saved[0].iterdir():
        files = {path.name for path in folder.iterdir()}
        assert {
            "config.json",
            "model.safetensors",
            "manifest.json",
            "metrics.json",
            "modeling_fastprune.py",
            "tokenizer.json",
        } <= files
        for path in folder.iterdir():
            assert path.suffix in (".json", ".safetensors", ".py")
            assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")


def test_documents(saved):
    folder = next(saved[0].iterdir())
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 3
    assert json.loads((folder / "metrics.json").read_text()) == {"dense": 0.5}


def test_same_digest_after_saving_and_loading(one_saved):
    assert checkpoint.digest(checkpoint.load(one_saved)) == checkpoint.digest(pruned())


def test_digest_sees_every_weight():
    model = build()
    digests = {checkpoint.digest(model)}
    for parameter in (model.classifier.bias, model.bert.encoder.layer[1].output.LayerNorm.weight):
        with torch.no_grad():
            parameter[0] += 1e-6
        digests.add(checkpoint.digest(model))
    assert len(digests) == 3 and checkpoint.digest(build()) in digests


def test_an_existing_folder_is_left_alone(tmp_path, tiny_tokenizer):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="out: the output folder exists"):
        checkpoint.save(tmp_path / "out", pruned(), tiny_tokenizer, {})
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_nothing_is_left_of_a_save_that_failed(tmp_path, tiny_tokenizer):
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "deep" / "out", pruned(), tiny_tokenizer, {"not JSON": object()})
    assert not list((tmp_path / "deep").iterdir())


# Damaged or unfit folders


@pytest.mark.parametrize("kept_bytes", [0, 4, 300, -1])
def test_truncated_weights_of_a_pruned_model(one_saved, kept_bytes):
    file = one_saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match="pruned: its safetensors file is truncated or damaged.*copy it again"):
        checkpoint.load(one_saved)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kept_filters": [24] * 5}, "the shapes of its weights"),
        ({"kept_heads": [1] * 5}, "the shapes of its weights"),
        ({"vocab_size": 51}, "the shapes of its weights"),
        ({"kept_filters": [24] * 4}, "kept_filters .*; it must be a list of 5 whole numbers from 0 to 24"),
        ({"architectures": ["BertForSequenceClassification"]}, "'BertForSequenceClassification', which is not a model"),
        ({"architectures": None}, "'', which is not a model"),
    ],
)
def test_a_configuration_that_does_not_fit(one_saved, change, message):
    file = one_saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=f"pruned: .*{message}"):
        checkpoint.load(one_saved)


def test_a_damaged_configuration(one_saved):
    file = one_saved / "config.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(InputError, match="pruned/config.json: not JSON"):
        checkpoint.load(one_saved)


def test_load_needs_a_pruned_model(tmp_path):
    with pytest.raises(InputError, match="nowhere: no config.json here"):
        checkpoint.load(tmp_path / "nowhere")
    build().save_pretrained(tmp_path / "dense")
    with pytest.raises(InputError, match="not a model pruned by fastprune"):
        checkpoint.load(tmp_path / "dense")


@pytest.fixture
def dense(tmp_path):
    build().save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.mark.parametrize("family, problem", CASES)
def test_load_dense(tmp_path, family, problem):
    model = build(family, problem)
    model.half().save_pretrained(tmp_path / "dense")
    loaded = checkpoint.load_dense(tmp_path / "dense")
    assert type(loaded) is type(model) and loaded.dtype == torch.float32 and not loaded.training
    batch = batch_for(model)
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model.float(), batch))


@pytest.mark.parametrize("kept_bytes", [0, 4, 300, -1])
def test_truncated_weights(dense, kept_bytes):
    file = dense / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match="dense: its safetensors file is truncated or damaged"):
        checkpoint.load_dense(dense)


def test_a_shard_that_is_missing(tmp_path):
    build().save_pretrained(tmp_path / "dense", max_shard_size="10KB")
    sorted((tmp_path / "dense").glob("*.safetensors"))[1].unlink()
    with pytest.raises(InputError, match="dense: .*model-00002"):
        checkpoint.load_dense(tmp_path / "dense")


def test_pickled_weights_are_not_read(dense):
    torch.save(build().state_dict(), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    with pytest.raises(InputError, match="dense: .*model.safetensors"):
        checkpoint.load_dense(dense)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(dense, value):
    model = build()
    with torch.no_grad():
        model.bert.encoder.layer[2].attention.self.key.weight[3, 4] = value
    model.save_pretrained(dense)
    with pytest.raises(InputError, match=r"layer\.2\.attention\.self\.key\.weight of shape \[16, 16\] holds NaN"):
        checkpoint.load_dense(dense)


def test_a_task_head_without_weights(dense):
    weights = load_file(dense / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if not name.startswith("classifier")},
        dense / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(InputError, match="dense: .*no weights for classifier.bias, classifier.weight"):
        checkpoint.load_dense(dense)
    assert checkpoint.load_dense(dense, allow_untuned=True)


def test_weights_of_other_shapes_than_the_configuration(dense):
    other = build(num_filters=30)
    other.config.save_pretrained(dense)
    with pytest.raises(InputError, match="dense: the shapes of its weights"):
        checkpoint.load_dense(dense)


def test_unsupported_models_are_refused_by_name(tmp_path):
    for model, message in (
        (unsupported(), "'albert' cannot be pruned: its layers share their weights"),
        (BertModel(build().config), "a BertModel cannot be pruned"),
        (BertForMaskedLM(build().config), "a BertForMaskedLM cannot be pruned"),
        (pruned(), "already pruned"),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        (folder / "model.safetensors").unlink()  # refused before the weights are read
        with pytest.raises(InputError, match=message):
            checkpoint.load_dense(folder)


@pytest.mark.parametrize("content", ["", "not JSON", "{}", '{"model_type": "nonesuch"}'])
def test_no_configuration(tmp_path, content):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="odd"):
        checkpoint.load_dense(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_that_is_missing(tmp_path, family):
    build(family).save_pretrained(tmp_path / "dense")
    with pytest.raises(InputError, match="dense: there are no tokenizer files"):
        checkpoint.load_tokenizer(tmp_path / "dense")


def test_tokenizer(dense, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(dense)
    assert checkpoint.load_tokenizer(dense)("good film").input_ids == tiny_tokenizer("good film").input_ids


def test_everything_kept_loads_too(tmp_path, tiny_tokenizer):
    encoder = describe(build())
    model = slice_model(encoder, Masks.ones(encoder))
    folder = checkpoint.save(tmp_path / "whole", model, tiny_tokenizer, {})
    torch.testing.assert_close(logits_of(checkpoint.load(folder), BATCH), logits_of(encoder.model, BATCH))
