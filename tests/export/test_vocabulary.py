"""Tokenizer and embeddings cut together: exact where pieces are kept, and spelled where they are not."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from fastprune.errors import InputError
from fastprune.export.vocabulary import trim, trim_folder
from fastprune.model import checkpoint

TRAFFIC = ["the film was good", "a dull movie", "who won"]
OTHERS = ["the king was great", "Привет the film", "zebra!", ""]


def trained(kind) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of this kind with some hundred pieces."""
    special = ["<pad>", "<unk>", "<cls>", "<sep>"]
    model, trainer = {
        "BPE": (models.BPE(unk_token="<unk>"), trainers.BpeTrainer),
        "WordPiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer),
        "Unigram": (models.Unigram(), trainers.UnigramTrainer),
        "WordLevel": (models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer),
    }[kind]
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    options = {"unk_token": "<unk>"} if kind == "Unigram" else {}
    texts = [*TRAFFIC, *OTHERS, "greatness of kings and movies, dullness of films", "goodness wonders whose"] * 4
    tokenizer.train_from_iterator(texts, trainer(vocab_size=120, special_tokens=special, **options))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[(token, special.index(token)) for token in ("<cls>", "<sep>")]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def logits(model, tokenizer, text):
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits


@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "Unigram", "WordLevel"])
def test_texts_of_kept_pieces_are_answered_as_before(kind, tiny_bert):
    tokenizer = trained(kind)
    model = tiny_bert(vocab_size=len(tokenizer), num_hidden_layers=1)
    before = {text: (tokenizer.tokenize(text), logits(model, tokenizer, text)) for text in [*TRAFFIC, *OTHERS]}
    trimmed, kept = trim(model, tokenizer, iter(TRAFFIC))
    assert len(trimmed) == len(kept) == model.config.vocab_size == len(model.get_input_embeddings().weight)
    assert len(kept) < len(tokenizer)
    known, exact = set(trimmed.get_vocab()), 0
    for text, (pieces, answer) in before.items():
        if set(pieces) <= known:
            assert trimmed.tokenize(text) == pieces and torch.equal(logits(model, trimmed, text), answer)
            exact += 1
        else:
            assert logits(model, trimmed, text).isfinite().all()
    assert len(TRAFFIC) <= exact < len(before)


def test_a_folder_is_trimmed_and_another_script_stays_readable(material, tmp_path):
    kept, before = trim_folder(material / "model", ["the film was good"], tmp_path / "small")
    model, tokenizer = checkpoint.load_dense(tmp_path / "small"), checkpoint.load_tokenizer(tmp_path / "small")
    assert (kept, before) == (model.config.vocab_size, checkpoint.load_config(material / "model").vocab_size)
    assert tokenizer.tokenize("the film was bad") == ["the", "film", "was", "b", "##a", "##d"]
    assert tokenizer.tokenize("фильм") == ["[UNK]"]  # as before: no piece of it was known
    whole = checkpoint.load_dense(material / "model"), checkpoint.load_tokenizer(material / "model")
    text = "the film was not a good film".replace("not a ", "")
    assert torch.equal(logits(model, tokenizer, text), logits(*whole, text))


def test_bytes_are_kept_and_tokens_without_a_row_are_not(tiny_bert):
    """A Unigram tokenizer that spells the unknown by its bytes, with a token more than the model has rows."""
    pieces = ["<pad>", "<unk>", "<cls>", "<sep>", "▁film", "▁good", "▁", "f", "i", "l", "m"]
    pieces += [f"<0x{number:02X}>" for number in range(256)]
    given = [(piece, -float(place)) for place, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(given, unk_id=1, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    tokenizer.add_tokens(["<more>"])
    model = tiny_bert(vocab_size=len(pieces), num_hidden_layers=1)
    before = {text: tokenizer.tokenize(text) for text in ("film", "ж film", "é")}
    trimmed, kept = trim(model, tokenizer, ["film"])
    assert "<0xD0>" in before["ж film"] and len(kept) == len(pieces) - 1 == model.config.vocab_size
    assert {text: trimmed.tokenize(text) for text in before} == before
    assert max(trimmed(["film <more> good ж"])["input_ids"][0]) < len(kept)


def test_a_slow_tokenizer_is_refused(tiny_bert):
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="Slow has no tokenizer.json"):
        trim(tiny_bert(), Slow(), [])
