"""A tiny tokenizer and tiny random models, made on the spot."""

import string

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

# On models this small a second thread only waits, for a long time where other programs want the cores.
torch.set_num_threads(1)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the a and of in was is it not very good bad film movie dull great who what won king".split()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer of BERT's form that knows a few words and every ASCII character."""
    letters = string.ascii_lowercase + string.digits
    pieces = [*SPECIAL, *WORDS, *letters, *("##" + letter for letter in letters), *string.punctuation]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@pytest.fixture(scope="session")
def tiny_bert(tiny_tokenizer):
    """A function that makes a random BERT (3 layers, hidden 32, 4 heads, 64 filters) in evaluation mode."""

    def make(num_labels: int = 2, problem: str = "classification", seed: int = 1, **overrides):
        sizes = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            # ten times BERT's, so that an untrained model's outputs differ from row to row
            "initializer_range": 0.2,
        }
        config = BertConfig(**sizes | {"num_labels": num_labels} | overrides)
        kind = BertForQuestionAnswering if problem == "question-answering" else BertForSequenceClassification
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return kind(config).eval()

    return make
