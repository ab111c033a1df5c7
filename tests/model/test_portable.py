"""Layout portable: a plain model of the source's own class, which any program loads without fastprune's code."""

import copy
import json
import shutil
from operator import attrgetter

import pytest
import torch
import transformers
from naive_systems import ends_of, inputs_of_modules
from safetensors.torch import load_file, save_file
from tiny_models import CASES, batch_for, build, logits_of, random_batches

import fastprune
from fastprune.data.preparation import table_task
from fastprune.errors import InputError
from fastprune.export.runtimes import load_model
from fastprune.model import checkpoint
from fastprune.model.architectures import auto_class, describe
from fastprune.model.families import FAMILIES
from fastprune.model.masks import Masks, masked
from fastprune.model.surgery import slice_model
from fastprune.releases import registration, serving
from fastprune.tuning.layerwise import Teacher, walk
from fastprune.tuning.weights import reconstruct_weights

LENGTHS = [[9, 4, 7], [6], [3, 8]]
LAYERS = 5


def portable_masks(encoder):
    """Two of five layers: layers ahead of them, between them and behind them are removed, where the first one may."""
    masks = Masks(torch.zeros(LAYERS, encoder.num_heads), torch.zeros(LAYERS, encoder.num_filters))
    for layer in [0, 2] if any(encoder.places) else [1, 3]:
        masks.heads[layer] = 1
        masks.filters[layer, layer : layer + 14 : 2] = 1
    return masks


def by_hand(model, masks):
    """A copy of the dense model without the other layers, and with the norms of those that the kept ones stand for."""
    model = copy.deepcopy(model)
    path = FAMILIES[model.config.model_type].as_built(model.base_model).layers
    encoder, modules = describe(model), attrgetter(path)(model.base_model)
    for number, last in masks.spans:
        encoder.layers[number].ffn.after.load_state_dict(encoder.layers[last].ffn.after.state_dict())
    for number in reversed(range(LAYERS)):
        if number not in dict(masks.spans):
            del modules[number]
    return model


@pytest.mark.parametrize("family, problem", CASES)
def test_it_is_the_dense_model_without_the_layers(family, problem, tmp_path):
    """The same logits, of a plain class, saved and loaded by transformers alone."""
    model = build(family, problem, num_layers=LAYERS)
    encoder, batch = describe(model), batch_for(model)
    masks, dense = portable_masks(encoder), logits_of(model, batch)
    sliced, rest, kept = slice_model(encoder, masks, "portable"), by_hand(model, masks), masks.of_kept_layers()
    assert type(sliced) is type(model) and torch.equal(logits_of(model, batch), dense)
    with masked(describe(rest), kept.heads, kept.filters):
        want = logits_of(rest, batch)
    torch.testing.assert_close(logits_of(sliced, batch), want, rtol=0, atol=1e-5)
    assert (want - dense).abs().max() > 1e-2
    sliced.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    assert not [*tmp_path.glob("*.py")] and not document.get("auto_map")
    assert document["architectures"] == [type(model).__name__] and document["model_type"] == model.config.model_type
    again = auto_class(sliced.config).from_pretrained(tmp_path).eval()
    assert type(again) is type(model)
    torch.testing.assert_close(logits_of(again, batch), logits_of(sliced, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "family, problem", [case for case in CASES if case[1] in ("classification", "image-classification")]
)
@pytest.mark.parametrize("alone", [False, True])
def test_a_layer_ahead_of_removed_ones_is_to_give_what_the_last_of_them_gives(family, problem, alone):
    """Each map of the student against what the dense model reads and puts out, whole models run by themselves.

    Of its last layer all tokens are fitted, or the first one alone.
    """
    model = build(family, problem, num_layers=LAYERS)
    encoder, batches = describe(model), random_batches(model, problem, LENGTHS)
    masks = portable_masks(encoder)
    spans, student = masks.spans, slice_model(encoder, masks, "portable")
    places, own, seen = [number for number, _ in spans], describe(student), []
    first = frozenset({(places[-1], "attention"), (places[-1], "ffn")}) if alone else frozenset()
    teacher = Teacher(encoder, batches)
    for system in walk(teacher, student, spans=spans, first_token=first, every_map=True, progress=False):
        if system.kind == "head":
            break
        seen.append((system.kind, system.index))
        place, wanted = places.index(system.index), 0
        for batch in batches:
            keep = batch["attention_mask"].bool()
            if alone and system.index == places[-1] and system.kind in ("attention", "ffn_input", "ffn"):
                keep[:, 1:] = False
            if system.kind in ("attention", "ffn"):
                last = dict(spans)[system.index] if system.kind == "ffn" else system.index
                (target,) = inputs_of_modules(
                    encoder, Masks.ones(encoder), batch, ends_of(encoder, last, system.kind)[1]
                )
                (state,) = inputs_of_modules(own, Masks.ones(own), batch, ends_of(own, place, system.kind)[0])
                wanted += (target - state)[keep].sum(0)
            else:
                dense, small = encoder.layers[system.index], own.layers[place]
                block, cut = (
                    (dense.ffn, small.ffn) if system.kind == "ffn_input" else (dense.attention, small.attention)
                )
                (reads,) = inputs_of_modules(encoder, Masks.ones(encoder), batch, block.reads[system.kind])
                filters = masks.filters[system.index].nonzero().flatten()
                rows = block.rows(filters if block is dense.ffn else torch.arange(encoder.hidden_size))
                wanted += block.reads[system.kind](reads)[keep].sum(0)[rows]
                assert cut.reads[system.kind] is system.projection
        torch.testing.assert_close(system.moments.cross[-1].float(), wanted, rtol=1e-4, atol=1e-3)
        with torch.no_grad():  # what comes later has to see it
            system.projection.weight.mul_(0.7)
    names = list(encoder.layers[1].attention.solved)
    whole = [
        [*((name, index) for name in names), *((kind, index) for kind in ("attention", "ffn_input", "ffn"))]
        for index in places
    ]
    assert seen == (whole[0][len(names) :] if places[0] == 0 else whole[0]) + whole[1]


def test_reconstruction_makes_up_for_removed_layers_on_other_examples():
    model = build("bert", num_layers=LAYERS)
    encoder, masks = describe(model), portable_masks(describe(model))
    teacher = Teacher(encoder, random_batches(model, "classification", LENGTHS * 12), keep=True)
    tuned = reconstruct_weights(teacher, masks, "classification", layout="portable", progress=False).model
    others = random_batches(model, "classification", LENGTHS * 4, seed=1)

    def error(candidate):
        return sum(float((logits_of(candidate, one) - logits_of(model, one)).square().sum()) for one in others)

    assert error(tuned) < 0.5 * error(slice_model(encoder, masks, "portable"))
    again = reconstruct_weights(teacher, masks, "classification", layout="portable", progress=False).model
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tuned.state_dict().items())


@pytest.fixture(scope="module")
def made(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("portable") / "OUT"
    task = table_task(source["source"], ("sentence",), "label")
    tables = {"dataset": source["train_file"], "evaluation": source["eval_file"]}
    options = {"num_samples": 48, "device": "cpu", "progress": False, "output_dir": folder}
    return folder, fastprune.compress(
        source["source"], **tables, task=task, keep_ratio=0.5, layout="portable", **options
    )


def test_the_folder_is_a_plain_model(made):
    folder, result = made
    assert not [*folder.rglob("*.py")]
    config, manifest = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "manifest"))
    assert config["model_type"] == "bert" and "auto_map" not in config and "kept_heads" not in config
    layers, [filters] = [n for n in result.metrics["filters"] if n], {n for n in result.metrics["filters"] if n}
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (len(layers), filters)
    assert manifest["layout"] == "portable" and [len(row) for row in manifest["kept_heads"]] == result.metrics["heads"]
    assert "without `trust_remote_code`" in (folder / "README.md").read_text()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = dict(tokenizer(["the film was good", "dull"], padding=True, return_tensors="pt"))
    want = logits_of(result.model, batch)
    for model in (
        transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False),
        fastprune.load(folder),
        load_model(folder),
    ):
        assert type(model) is transformers.BertForSequenceClassification
        torch.testing.assert_close(logits_of(model.eval(), batch), want, rtol=0, atol=1e-6)


def test_it_is_served_what_it_was_evaluated_as(made):
    folder, _ = made
    serving.check_code(folder)
    serving.check_answers(
        fastprune.load(folder), folder, registration.read_manifest(folder), [["a good film"], ["bad"]]
    )


def test_other_weights_than_the_manifest_names_are_refused(made, tmp_path):
    folder = tmp_path / "OUT"
    shutil.copytree(made[0], folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("intermediate.dense.bias"))
    save_file(weights | {name: weights[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="the weights are not those that manifest.json names"):
        checkpoint.load(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="which is not a model pruned by fastprune; load it with transformers"):
        checkpoint.load(folder)
