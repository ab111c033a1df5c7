"""Tiny folders of sentence-transformers, as its old and new versions write them, and data to prune them on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

MEAN = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
OLD = "sentence_transformers.models"
"""Of module names; ``NEW`` in version 6."""
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


def modules(*kinds: str, names=None) -> list[dict]:
    names = names or {}
    return [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{kind}" if place else "",
            "type": names.get(kind, f"{OLD}.{kind}"),
        }
        for place, kind in enumerate(kinds)
    ]


def write(folder: Path, **documents) -> Path:
    """Write JSON documents, by their paths with ``__`` for a slash and without their ending."""
    for name, document in documents.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
    return folder


def sentence_folder(folder: Path, tokenizer, *, pooling=None, normalize: bool = True, seed: int = 0, **sizes) -> Path:
    """A random BERT of hidden size 16 as sentence-transformers saves it."""
    options = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    options |= {"intermediate_size": 24, "max_position_embeddings": 64, "initializer_range": 0.2}
    config = AutoConfig.for_model("bert", **options | sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = ("Transformer", "Pooling", "Normalize")[: 3 if normalize else 2]
    return write(
        folder,
        modules=modules(*kinds),
        sentence_bert_config={"max_seq_length": 32, "do_lower_case": False},
        **{"1_Pooling__config": pooling or MEAN},
    )


PAIRS = [
    {"first": "the film was good", "second": "a very good movie", "score": 4.0},
    {"first": "the film was good", "second": "the king won", "score": 0.5},
    {"first": "a dull movie", "second": "the film is dull and bad", "score": 4.5},
    {"first": "who won it", "second": "the king won", "score": 3.0},
    {"first": "what is it", "second": "a dull movie", "score": 1.0},
    {"first": "not very good", "second": "bad and dull", "score": 3.5},
]


def texts(count: int = 40) -> list[str]:
    """Texts of the tiny tokenizer's words, none of them of ``PAIRS``."""
    words = ["the", "a", "film", "movie", "was", "is", "good", "bad", "dull", "great", "king", "won", "who", "it"]
    return [f"{words[row % 14]} {words[row // 14 % 14]} {' '.join(words[: row % 7])}".strip() for row in range(count)]


def write_rows(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
