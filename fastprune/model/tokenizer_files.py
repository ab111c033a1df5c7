"""What the files of a tokenizer may hold, before the library that reads them takes memory and time for it.

And what is written of them: no names of code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastprune.errors import InputError
from fastprune.store.bounded import read_bytes

FILE_BYTES = 64 << 20
"""No file of a tokenizer is longer."""

VOCABULARY = 1 << 20
"""Pieces, and rules that join two of them."""

ADDED = 10_000
"""Tokens beside the vocabulary: each is searched for in every text."""

STEPS = 1_000
"""Values in what is done to a text before and after it is cut into pieces."""

PATTERN = 500
"""Characters of a regular expression."""

PIPELINES = "custom_pipelines"

POINTERS = ("auto_map", PIPELINES)
"""Keys of transformers' files whose values name code, which it runs with ``trust_remote_code=True``."""

_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a tokenizer beyond these bounds. Raises InputError that names the file and what is too much."""
    for name in ("vocab.txt", "merges.txt"):
        if (file := folder / name).is_file():
            _check_count(file, "lines", read_bytes(file, FILE_BYTES).count(b"\n"), VOCABULARY)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
    ):
        if (file := folder / name).is_file():
            _check_document(file, _read(file))


def _read(file: Path) -> dict:
    try:
        document = json.loads(read_bytes(file, FILE_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({str(error)[:200]}); save the tokenizer again") from error
    if not isinstance(document, dict):
        raise InputError(f"{file}: is not a JSON object; save the tokenizer again")
    return document


def _check_document(file: Path, document: dict) -> None:
    for part in ("added_tokens", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
        _check_count(file, part, _length(document.get(part)), ADDED)
    for name, most in (("added_tokens.json", ADDED), ("vocab.json", VOCABULARY)):
        if file.name == name:
            _check_count(file, "tokens", len(document), most)
    model = document.get("model")
    for part in ("vocab", "merges"):
        _check_count(
            file, f"{part} of the model", _length(model.get(part) if isinstance(model, dict) else None), VOCABULARY
        )
    for part in _STEPS:
        for count, (key, value) in enumerate(_values(document.get(part)), 1):
            _check_count(file, f"values in {part}", count, STEPS)
            if key == "Regex" and isinstance(value, str):
                _check_count(file, f"characters in a regular expression of {part}", len(value), PATTERN)


def _check_count(file: Path, what: str, count: int, most: int) -> None:
    if count > most:
        raise InputError(f"{file}: has {count:,} {what}, and at most {most:,} are read; is it the right tokenizer?")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _values(document: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a document, with the key that it has."""
    yield key, document
    if isinstance(document, list | dict):
        for name, value in document.items() if isinstance(document, dict) else ((key, one) for one in document):
            yield from _values(value, name)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer, or an image processor in its place, without the names of code that is not here."""
    tokenizer.save_pretrained(folder)
    for file in folder.glob("*_config.json"):
        edit_document(file, lambda settings: [settings.pop(name, None) for name in POINTERS])


def edit_document(file: Path, change: Callable[[dict], object]) -> None:
    """Change the object in a JSON file that was written just now."""
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document)
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
