"""What is not what it seems is refused by name, and a model in memory is left as it was."""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import build, extreme_masks, logits_of, random_batches

import fastprune
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.images import ImageReader
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.model.tokenizer_files import save_tokenizer

BATCH = random_batches(build(), "classification", [[9, 4, 1]])[0]


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def dense(tmp_path):
    build().save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    encoder = describe(build(num_layers=5))
    return checkpoint.save(tmp_path / "pruned", slice_model(encoder, extreme_masks(encoder)), tiny_tokenizer, {})


@pytest.mark.parametrize("value", [None, 0, -4, "16", 1.5, True, [16]])
@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"])
def test_sizes_that_are_none(dense, field, value):
    edit(dense, **{field: value})
    with pytest.raises(InputError, match=f"dense: config.json has {field} "):
        checkpoint.load_dense(dense)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers '1000000'; it must be a whole number from 1 to 1000"),
        ({"hidden_size": 18}, "hidden_size '18'; it must be a multiple of num_attention_heads, which is 4"),
        ({"pad_token_id": -1}, "pad_token_id '-1'"),
        ({"id2label": ["no", "yes"]}, "id2label"),
        ({"architectures": "Bert"}, "architectures"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.*quantise after"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"problem_type": "regression"}, "problem_type 'regression' with 3 outputs"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "with 1 outputs"),
    ],
)
def test_values_that_do_not_fit(dense, change, message):
    edit(dense, **change)
    with pytest.raises(InputError, match=message):
        checkpoint.load_dense(dense)


@pytest.mark.parametrize("content", ["[]", "3", "[" * 100_000], ids=["list", "number", "deep"])
def test_a_configuration_of_another_form(dense, content):
    (dense / "config.json").write_text(content)
    with pytest.raises(InputError, match="dense(/config.json)?: "):
        checkpoint.load_dense(dense)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_hidden_layers": 1000}, "or config.json is another model's, of a model of "),
        ({"vocab_size": 1 << 25}, "copy it again, both together"),
        ({"intermediate_size": 1 << 20}, "its safetensors file is truncated or damaged, with "),
    ],
)
def test_a_configuration_of_more_than_the_weights(dense, change, message):
    """Without a bound of their product, sizes that are each possible fill the memory before anything is compared."""
    edit(dense, **change)
    with pytest.raises(InputError, match=message):
        checkpoint.load_dense(dense)


@pytest.mark.parametrize("counts", ["all", [4] * 4, [4] * 6, [1 << 30] * 5, [-1] * 5, [1.5] * 5, [[4]] * 5])
def test_counts_of_kept_units_that_are_none(saved, counts):
    edit(saved, kept_filters=counts)
    with pytest.raises(InputError, match="config.json has kept_filters .* it must be a list of 5 whole numbers from 0"):
        fastprune.load(saved)


@pytest.mark.parametrize("name", ["./modle", "/no/where", "~/modle", "a/b/c"])
def test_a_path_is_no_hub_name(name):
    with pytest.raises(InputError, match="there is no such folder"):
        checkpoint.load_dense(name)


def test_weights_without_a_place(dense):
    weights = load_file(dense / "model.safetensors")
    harmless = {"bert.embeddings.position_ids": torch.arange(4), "cls.predictions.bias": torch.zeros(3)}
    save_file(weights | harmless, dense / "model.safetensors", {"format": "pt"})
    checkpoint.load_dense(dense)
    lost = {"bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.zeros(3)}
    save_file(weights | harmless | lost, dense / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="no place for the weights .*distance_embedding.weight,"):
        checkpoint.load_dense(dense)


def test_adapters_beside_the_weights(dense):
    (dense / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter_config.json.*merge first"):
        checkpoint.load_dense(dense)


def adapted(model):
    layer = type("Linear", (torch.nn.Linear,), {"__module__": "peft.tuners.lora.layer"})(16, 16)
    model.bert.encoder.layer[1].attention.self.query = layer
    return model


def shared(model):
    model.bert.encoder.layer[2] = model.bert.encoder.layer[1]
    return model


def short(model):
    model.bert.encoder.layer[0].attention.self.key = torch.nn.Linear(16, 12)
    return model


@pytest.mark.parametrize(
    "change, message",
    [
        (torch.nn.DataParallel, "DataParallel; pass the model inside: model.module"),
        (torch.compile, "torch.compile"),
        (adapted, "layer.1.attention.self.query is a Linear.*merge first"),
        (shared, "layer 2's query and layer 1's query share their weights"),
        (short, r"layer 0's key has the weight \[12, 16\]"),
        (lambda model: torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}), "no torch.nn.Linear"),
        (lambda model: torch.nn.Linear(2, 2), "is not a model that can be pruned"),
        (lambda model: 3, "builtins.int is not a model"),
    ],
)
def test_modules_that_are_not_what_they_seem(change, message):
    with pytest.raises(InputError, match=message):
        checkpoint.adopt(change(build()))


def test_a_model_in_memory_is_left_as_it_was():
    model = build(chunk_size_feed_forward=1).train()
    model.config.output_hidden_states = True
    model.bert.embeddings.requires_grad_(False)
    calls = []
    model.classifier.register_forward_hook(lambda *args: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    twin = checkpoint.adopt(model)
    assert not twin.training and model.training and model.bert.encoder.layer[0].training
    assert not twin.config.output_hidden_states and model.config.output_hidden_states
    assert twin.bert.encoder.layer[0].chunk_size_feed_forward == 0
    assert model.bert.encoder.layer[0].chunk_size_feed_forward == 1
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad and model.classifier.weight.requires_grad
    assert twin.classifier.weight.data_ptr() == model.classifier.weight.data_ptr()
    assert len(model.classifier._forward_hooks) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_run_time_switches(dense, tmp_path, tiny_tokenizer):
    edit(dense, chunk_size_feed_forward=1, output_attentions=True, return_dict=False)
    model = checkpoint.load_dense(dense)
    assert torch.equal(logits_of(model, BATCH), logits_of(build(), BATCH))
    encoder = describe(model)
    folder = checkpoint.save(tmp_path / "out", slice_model(encoder, Masks.ones(encoder)), tiny_tokenizer, {})
    config = json.loads((folder / "config.json").read_text())
    assert config["chunk_size_feed_forward"] == 1 and "source_switches" not in config
    torch.testing.assert_close(logits_of(fastprune.load(folder), BATCH), logits_of(build(), BATCH))


# A pruned folder


def test_other_weights_than_the_manifest_names(saved):
    weights = load_file(saved / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="pruned: the weights are not those that manifest.json names"):
        fastprune.load(saved)
    (saved / "manifest.json").write_text("{}")  # as version 0.1.0 wrote it
    assert fastprune.load(saved)


@pytest.mark.parametrize("how", ["missing", "unexpected", "infinite", "absent"])
def test_weights_of_a_pruned_folder(saved, how):
    file = saved / "model.safetensors"
    weights = load_file(file)
    if how == "missing":
        del weights["classifier.bias"]
    elif how == "unexpected":
        weights["classifier.other"] = torch.zeros(2)
    elif how == "infinite":
        weights["classifier.bias"][0] = torch.inf
    save_file(weights, file, {"format": "pt"})
    if how == "absent":
        file.unlink()
    message = {"missing": "no weights for classifier.bias", "unexpected": "without a place: classifier.other"}
    with pytest.raises(InputError, match=message.get(how, "holds NaN|model.safetensors")):
        fastprune.load(saved)


def test_code_of_the_source_is_not_named(saved, tmp_path, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": ["theirs.Tokenizer", None]}
    model = fastprune.load(saved)
    model.config.custom_pipelines = {"theirs": {"impl": "theirs.Pipeline"}}
    folder = checkpoint.save(tmp_path / "again", model, tokenizer, {})
    assert all("theirs" not in file.read_text() for file in folder.glob("*.json"))
    assert "Pruned" in json.dumps(json.loads((folder / "config.json").read_text())["auto_map"])


def test_code_of_an_image_processor_is_not_named(tmp_path):
    processor = transformers.ViTImageProcessor(auto_map={"AutoImageProcessor": "theirs.Processor"})
    processor.save_pretrained(tmp_path)
    assert "theirs" in (tmp_path / "preprocessor_config.json").read_text()
    save_tokenizer(ImageReader(processor), tmp_path)
    assert "theirs" not in (tmp_path / "preprocessor_config.json").read_text()
