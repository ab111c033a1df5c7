"""A tiny tokenizer, tiny random models, a classifier trained in a second, and encoded data, made on the spot."""

import string
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from reviews import TASK, reviews, write_tsv
from tiny_data import LONG, SINGLE, squad_file, texts
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification, PreTrainedTokenizerFast

from fastprune.data import encode, make_batches, read_table

pytest_plugins = ("tiny_stages", "tiny_releases", "tiny_images", "faults", "listening")

# On models this small a second thread only waits, for a long time where other programs want the cores.
torch.set_num_threads(1)

DATA = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What a test copies from S3, or cannot tell MLflow, is not the user's, nor another test's."""
    monkeypatch.setenv("FASTPRUNE_CACHE", str(tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex))


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "a",
    "and",
    "of",
    "in",
    "was",
    "is",
    "it",
    "not",
    "very",
    "good",
    "bad",
    "film",
    "movie",
    "dull",
    "great",
    "who",
    "what",
    "won",
    "king",
]


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


@pytest.fixture(scope="session")
def config(tiny_tokenizer):
    """A function that makes the configuration of a BERT that knows the tiny tokenizer."""

    def make(num_labels=2, **options):
        return BertConfig(vocab_size=len(tiny_tokenizer), num_labels=num_labels, **options)

    return make


@pytest.fixture
def split(tiny_tokenizer, config):
    table = Dataset.from_dict({"text": texts(50), "label": np.random.default_rng(1).integers(0, 2, 50)})
    return encode(table, tiny_tokenizer, SINGLE, config())


@pytest.fixture
def questions(tmp_path):
    rng = np.random.default_rng(0)
    starts = [0] + [i + 1 for i, letter in enumerate(LONG) if letter == " "]
    asked = []
    for number, start in enumerate([0, *map(int, rng.choice(starts[1:-3], 33, replace=False))]):
        answer = " ".join(LONG[start:].split()[:3])
        asked.append((f"q{number}", "  who won ?", [(answer, start), ("x", LONG.index("x"))]))
    short = ("The King was very good.", [("short", "who was good", [("King", 4)])])
    return read_table(squad_file(tmp_path / "dev.json", [(LONG, asked), short]))


@pytest.fixture(scope="session")
def material(tmp_path_factory, tiny_tokenizer, tiny_bert):
    """A folder with a trained model, an untrained one, and data."""
    folder = tmp_path_factory.mktemp("material")
    model = tiny_bert(initializer_range=0.1)
    model.save_pretrained(folder / "untrained")
    tiny_tokenizer.save_pretrained(folder / "untrained")
    batches = make_batches(encode(reviews(1200, 0), tiny_tokenizer, TASK, model.config), 64, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()
        for batch in batches * 3:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    write_tsv(reviews(300, 1), folder / "train.tsv")
    write_tsv(reviews(200, 2), folder / "eval.tsv")
    return folder


@pytest.fixture(scope="session")
def golden():
    """By file, the arrays computed by the published code (see golden/README.md), as tensors."""
    arrays = {path.stem: dict(np.load(path, allow_pickle=False)) for path in DATA.glob("golden_*.npz")}
    return {
        name: {key: torch.from_numpy(np.asarray(value)) for key, value in content.items()}
        for name, content in arrays.items()
    }
