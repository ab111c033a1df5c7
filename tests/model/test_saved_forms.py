"""Models as people have them: in half precision, in shards, with an attention that is not installed, without extras."""

import json

import pytest
import torch
from tiny_models import EVERY, batch_for, build, extreme_masks, logits_of, random_masks
from transformers import AlbertConfig, BartConfig, BertConfig, T5Config

import fastprune
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.precision import round_as_saved
from fastprune.model.surgery import slice_model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", EVERY)
def test_half_precision_in_shards_with_another_attention(tmp_path, tiny_tokenizer, family, dtype):
    """It is pruned in float32 from all of its shards, and comes out in the precision that it came in."""
    build(family, num_layers=5).to(dtype).save_pretrained(tmp_path / "dense", max_shard_size="10KB")
    assert len(list((tmp_path / "dense").glob("*.safetensors"))) > 2
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    config["attn_implementation"] = "flash_attention_2"
    (tmp_path / "dense" / "config.json").write_text(json.dumps(config))

    dense = checkpoint.load_dense(tmp_path / "dense")
    batch, encoder = batch_for(dense), describe(dense)
    torch.testing.assert_close(logits_of(dense, batch), logits_of(build(family, num_layers=5).to(dtype).float(), batch))
    sliced = slice_model(encoder, extreme_masks(encoder))
    round_as_saved(sliced)
    checkpoint.save(tmp_path / "pruned", sliced, tiny_tokenizer, {})
    assert json.loads((tmp_path / "pruned" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    loaded = fastprune.load(tmp_path / "pruned")
    assert loaded.dtype == torch.float32 and torch.equal(logits_of(loaded, batch), logits_of(sliced, batch))


@pytest.mark.parametrize("options", [{"type_vocab_size": 1}, {"tie_word_embeddings": False}, {"hidden_act": "relu"}])
def test_options_of_a_model_stay(tmp_path, tiny_tokenizer, options):
    build("bert", "question-answering", **options).save_pretrained(tmp_path / "dense")  # this head has no pooler
    dense = checkpoint.load_dense(tmp_path / "dense")
    encoder, batch = describe(dense), batch_for(dense)
    sliced = slice_model(encoder, random_masks(encoder))
    checkpoint.save(tmp_path / "pruned", sliced, tiny_tokenizer, {})
    loaded = fastprune.load(tmp_path / "pruned")
    assert torch.equal(logits_of(loaded, batch), logits_of(sliced, batch))
    assert {name: getattr(loaded.config, name) for name in options} == options


REFUSED = {
    "albert": (AlbertConfig(), "its layers share their weights"),
    "t5": (T5Config(), "it has a decoder"),
    "bart": (BartConfig(), "it has a decoder"),
    "bert as a decoder": (BertConfig(is_decoder=True), "is_decoder=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pruned_is_refused_before_its_weights_are_read(tmp_path, name):
    config, reason = REFUSED[name]
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=reason):
        checkpoint.load_dense(tmp_path / "model")
