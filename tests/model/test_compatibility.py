"""What other programs do with a pruned model: save it again, quantise, trace, export, pickle, copy, train."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from tiny_models import EVERY, batch_for, build, extreme_masks, logits_of, random_batches
from transformers import AutoModelForSequenceClassification

import fastprune
from fastprune.model.architectures import describe, layers_of
from fastprune.model.surgery import slice_model

BATCH = random_batches(build(), "classification", [[9, 4, 1]])[0]


def pruned(family="bert"):
    """One head left; no heads; no filters; neither; uneven."""
    encoder = describe(build(family, num_layers=5))
    return slice_model(encoder, extreme_masks(encoder))


def test_saved_again_it_loads_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = pruned()
    model.save_pretrained(tmp_path / "once")
    fastprune.load(tmp_path / "once").save_pretrained(tmp_path / "twice")
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "twice", trust_remote_code=True)
    other.save_pretrained(tmp_path / "thrice")
    for name in ("once", "twice", "thrice"):
        assert (tmp_path / name / "modeling_fastprune.py").is_file()
        assert torch.equal(logits_of(fastprune.load(tmp_path / name), BATCH), logits_of(model, BATCH))


@pytest.mark.parametrize("family", EVERY)
def test_int8_of_layers_that_keep_nothing(family):
    model = pruned(family)
    batch = batch_for(model)
    small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    assert (logits_of(small, batch) - logits_of(model, batch)).abs().max() < 0.4


def test_no_product_over_nothing():
    """An empty block is its output's bias to the last bit."""
    layer = layers_of(pruned())[3]
    states = torch.randn(2, 5, 16)
    activation = layer.ffn.mix(states)
    assert torch.equal(layer.ffn.writes(activation), layer.ffn.writes.bias.expand(2, 5, 16))
    assert torch.equal(layer.attention.writes(states), layer.attention.writes.bias.expand(2, 5, 16))
    assert not [kind for kind in map(type, layer.module.modules()) if kind is torch.nn.Linear]


@pytest.mark.parametrize("family", EVERY)
def test_each_attention_knows_its_heads(family):
    """transformers 4 splits the heads by these numbers."""
    for module in pruned(family).modules():
        query = next(
            (
                getattr(module, name)
                for name in ("query", "q_lin", "q", "query_proj", "q_proj")
                if hasattr(module, name)
            ),
            None,
        )
        if query is not None and query.out_features:
            heads = module.n_heads if family == "distilbert" else module.num_attention_heads
            width = module.dim if family == "distilbert" else module.all_head_size
            assert (heads * 4, width) == (query.out_features, query.out_features)


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def test_traced_and_exported():
    model = pruned()
    inputs = BATCH["input_ids"], BATCH["attention_mask"]
    want = logits_of(model, BATCH)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(Logits(model), inputs)(*inputs), want)
        exported = torch.export.export(Logits(model), inputs).module()
        torch.testing.assert_close(exported(*inputs), want)


def test_copied_and_pickled_to_another_process(tmp_path):
    model = pruned()
    assert torch.equal(logits_of(copy.deepcopy(model), BATCH), logits_of(model, BATCH))
    (tmp_path / "model.pickle").write_bytes(pickle.dumps((model, BATCH, logits_of(model, BATCH))))
    program = (
        "import pickle, sys, torch; model, batch, want = pickle.load(open(sys.argv[1], 'rb'));"
        "got = model(input_ids=batch['input_ids'], attention_mask=batch['attention_mask']).logits;"
        "assert torch.allclose(got, want, atol=1e-6)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "model.pickle"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_trained_further():
    model = pruned().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses.append(model(**BATCH).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_empty_blocks_under_transformers_4():
    """Its DistilBERT hands the states on as ``query``."""
    attention = layers_of(pruned("distilbert"))[1].module.attention
    states = torch.randn(2, 5, 16)
    want = attention.out_lin.bias.expand(2, 5, 16)
    assert torch.equal(attention(query=states, key=states, value=states)[0], want)
