"""Tokenizer files beyond what any tokenizer holds are refused before the library reads them."""

import json

import pytest

from fastprune.errors import InputError
from fastprune.model import checkpoint, tokenizer_files


@pytest.fixture
def folder(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path)
    return tmp_path


def split_by(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


CHANGES = {
    "a vocabulary": (
        "tokenizer.json",
        {"model": {"type": "BPE", "vocab": {f"{n}": n for n in range(31)}, "merges": []}},
        "tokenizer.json: has 31 vocab of the model, and at most 30 are read",
    ),
    "merges": (
        "tokenizer.json",
        {"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]] * 31}},
        "has 31 merges of the model",
    ),
    "added tokens": ("tokenizer.json", {"added_tokens": [{"id": n} for n in range(21)]}, "has 21 added_tokens"),
    "named tokens": (
        "tokenizer_config.json",
        {"added_tokens_decoder": {f"{n}": {} for n in range(21)}},
        "tokenizer_config.json: has 21 added_tokens_decoder",
    ),
    "a long pattern": (
        "tokenizer.json",
        {"pre_tokenizer": split_by("a" * 501)},
        "has 501 characters in a regular expression of pre_tokenizer, and at most 500",
    ),
    "many steps": (
        "tokenizer.json",
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 501}},
        "values in normalizer, and at most 1,000",
    ),
    "no object": ("tokenizer.json", None, "tokenizer.json: is not a JSON object"),
    "a text for a model": ("tokenizer.json", {"model": "BPE"}, "cannot be read as a model with a tokenizer"),
}


@pytest.mark.parametrize("file, change, message", CHANGES.values(), ids=CHANGES)
def test_a_tokenizer_beyond_the_bounds_is_refused_by_name(folder, monkeypatch, file, change, message):
    if "vocab" in message or "merges" in message:
        monkeypatch.setattr(tokenizer_files, "VOCABULARY", 30)
    if "added" in message:
        monkeypatch.setattr(tokenizer_files, "ADDED", 20)
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(change and document | change))
    with pytest.raises(InputError) as refused:
        checkpoint.load_tokenizer(folder)
    assert message in str(refused.value)


def test_a_vocabulary_of_lines_is_counted(folder, monkeypatch):
    (folder / "vocab.txt").write_text("piece\n" * 31)
    checkpoint.load_tokenizer(folder)
    monkeypatch.setattr(tokenizer_files, "VOCABULARY", 30)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"vocab\.txt: has 31 lines, and at most 30 are read"):
        checkpoint.load_tokenizer(folder)
