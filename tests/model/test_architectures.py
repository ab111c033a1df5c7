import re
from pathlib import Path

import pytest
import torch
from tiny_models import CASES, EVERY, build, logits_of, random_batches, random_masks, unsupported
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from fastprune.errors import InputError
from fastprune.model import architectures
from fastprune.model.architectures import describe, layers_of
from fastprune.model.families import FAMILIES as DESCRIPTIONS
from fastprune.model.masks import Masks, masked
from fastprune.model.surgery import slice_model
from fastprune.search.macs import MacModel


@pytest.mark.parametrize("family, problem", CASES)
def test_describe(family, problem):
    model = build(family, problem, num_layers=2, num_filters=20)
    encoder = describe(model)
    assert (encoder.num_layers, encoder.num_heads, encoder.num_filters) == (2, 4, 20)
    assert (encoder.hidden_size, encoder.head_size) == (16, 4)
    # Every linear layer of the encoder's layers is accounted for, once, by the role its name tells.
    roles = {
        "query": ("query", "query_proj", "q_lin", "attn.q", "q_proj"),
        "key": ("key", "key_proj", "k_lin", "attn.k", "k_proj"),
        "value": ("value", "value_proj", "v_lin", "attn.v", "v_proj"),
        "query_key_value": ("attn.Wqkv",),
        "follows": ("pos_key_proj", "pos_query_proj"),
        "attention": ("attention.output.dense", "out_lin", "attn.o", "attn.Wo", "o_proj"),
        "ffn_input": ("intermediate.dense", "lin1", "mlp.Wi", "fc1"),
        "ffn": ("output.dense", "lin2", "mlp.Wo", "fc2"),
    }
    names = {id(module): name for name, module in model.named_modules()}
    for index, layer in enumerate(encoder.layers):
        found = []
        for block in layer.blocks:
            maps = [*block.reads.items(), (block.kind, block.writes), *(("follows", one) for one in block.follows)]
            for role, linear in maps:
                assert names[id(linear)].endswith(roles[role]) and f".{index}." in names[id(linear)]
                found.append(id(linear))
            assert block.cut == (*block.reads.values(), *block.follows)
        before = ("attn_norm", "layernorm_before", "mlp_norm", "layernorm_after")
        norms = {
            "attention": ("attention.output.LayerNorm", "attention.LayerNorm", "sa_layer_norm", *before[:2]),
            "ffn": ("output.LayerNorm", "output_layer_norm", *before[2:]),
        }
        for block in layer.blocks:
            (norm,) = [names[id(module)] for module in (block.before, block.after) if id(module) in names]
            assert norm.endswith(norms[block.kind]) and (id(block.before) in names) == norm.endswith(before)
        linears = [id(module) for module in layer.module.modules() if isinstance(module, torch.nn.Linear)]
        assert sorted(found) == sorted(linears)


def gpt2():
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )


@pytest.mark.parametrize(
    "make, named", [(unsupported, "'albert' cannot be pruned: its layers share"), (gpt2, "'gpt2' is not supported")]
)
def test_unsupported_architecture_is_named(make, named):
    with pytest.raises(InputError, match=f"{named}.*; supported: bert, roberta"):
        describe(make())


def bert_config(**options):
    return BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, **options
    )


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_refuses_a_model_without_a_task_head(kind):
    with pytest.raises(InputError, match=f"a {kind.__name__} cannot be pruned"):
        describe(kind(bert_config()))


def test_refuses_a_decoder():
    with pytest.raises(InputError, match="is_decoder"):
        describe(BertForSequenceClassification(bert_config(is_decoder=True)))


def test_refuses_a_pruned_model():
    encoder = describe(build())
    with pytest.raises(InputError, match="already pruned"):
        describe(slice_model(encoder, Masks.ones(encoder)))


# Masks


@pytest.mark.parametrize("family", EVERY)
def test_masks_scale_what_the_projections_read(family):
    """The same as scaling the columns of the two output projections."""
    model, scaled = build(family), build(family)
    encoder = describe(model)
    masks = random_masks(encoder, scaled=True)
    batch = random_batches(model, "classification", [[9, 5]])[0]
    plain = logits_of(model, batch)
    with masked(encoder, masks.heads, masks.filters):
        got = logits_of(model, batch)
    with torch.no_grad():
        for layer, heads, filters in zip(layers_of(scaled), masks.heads, masks.filters, strict=True):
            for head, value in enumerate(heads):
                layer.attention.writes.weight[:, 4 * head : 4 * head + 4] *= value
            layer.ffn.writes.weight *= filters
    torch.testing.assert_close(got, logits_of(scaled, batch), rtol=0, atol=1e-5)
    assert (got - plain).abs().max() > 1e-2
    assert torch.equal(logits_of(model, batch), plain)


def test_masks_of_each_example():
    model = build()
    encoder = describe(model)
    batch = random_batches(model, "classification", [[7, 7]])[0]
    first, second = random_masks(encoder, 0), random_masks(encoder, 1)
    with masked(encoder, torch.stack([first.heads, second.heads]), torch.stack([first.filters, second.filters])):
        together = logits_of(model, batch)
    for row, masks in enumerate((first, second)):
        with masked(encoder, masks.heads, masks.filters):
            torch.testing.assert_close(logits_of(model, batch)[row], together[row])


def test_masks_come_off_after_an_error():
    model = build()
    encoder = describe(model)
    with pytest.raises(ZeroDivisionError), masked(encoder, *vars(Masks.ones(encoder)).values()):
        raise ZeroDivisionError
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_counts_and_file_of_masks(tmp_path):
    masks = Masks(torch.tensor([[0, 0.5, -2.0], [0, 0, 0]]), torch.tensor([[1.0, 0], [0, 1]]))
    assert masks.kept_heads == [[1, 2], []] and masks.kept_filters == [[0], [1]]
    assert masks.head_counts == [2, 0] and masks.filter_counts == [1, 1]
    masks.save(tmp_path / "masks.safetensors")
    loaded = Masks.load(tmp_path / "masks.safetensors")
    assert torch.equal(loaded.heads, masks.heads) and torch.equal(loaded.filters, masks.filters)


def test_every_architecture_has_its_row_in_the_page():
    page = (Path(architectures.__file__).parent / "README.md").read_text()
    table = page.split("## What is tested")[1].split("\n1. ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)[1:] == list(DESCRIPTIONS)
    for file, names in re.findall(r"`(tests/[\w/]+\.py)`:\s+(`\w+`(?:,\s+`\w+`)*)", page):
        text = (Path(__file__).parents[2] / file).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert f"def test_{name}(" in text, (file, name)


# MACs


@pytest.mark.parametrize("kept", ["all", "some"])
def test_macs_are_those_that_torch_counts(kept):
    """Of one example of seq_len tokens, by the shapes of the matrices that torch really multiplies."""
    encoder = describe(build(num_layers=2, attn_implementation="eager"))
    masks = Masks.ones(encoder) if kept == "all" else random_masks(encoder)
    model = slice_model(encoder, masks)
    batch = random_batches(model, "classification", [[11]])[0]
    with FlopCounterMode(display=False) as counter:
        logits_of(model, batch)
    flops = counter.get_flop_counts()["PrunedBertForSequenceClassification.bert.encoder"]
    macs = MacModel.of(encoder, 11.0)
    assert sum(flops.values()) / 2 == macs.of_masks(masks)
    assert macs.of_masks(Masks.ones(encoder)) == macs.total
    assert macs.kept(masks) == macs.of_masks(masks) / macs.total


@pytest.mark.parametrize("tokens", [3, 11])
@pytest.mark.parametrize("family", EVERY)
def test_macs_by_hand(family, tokens):
    """Of the sliced model's own matrices: linear maps read all tokens, and a token attends to a window or to all."""
    encoder = describe(build(family, num_layers=4))
    masks = random_masks(encoder)
    count = 0
    for index, layer in enumerate(layers_of(slice_model(encoder, masks))):
        for name, linear in layer.module.named_modules():
            if isinstance(linear, torch.nn.Linear) and "pos_" not in name:  # positions are the same for all texts
                count += tokens * linear.in_features * linear.out_features
        sliding = family.startswith("modernbert") and index in (1, 2)
        count += 2 * tokens * (min(tokens, 5) if sliding else tokens) * layer.attention.writes.in_features
    assert MacModel.of(encoder, float(tokens)).of_masks(masks) == count
