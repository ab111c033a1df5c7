"""A vocabulary cut to what the traffic says: tokenizer and embeddings together.

A text all of whose pieces are kept is cut into the same pieces as before, and gets the same answer. Single characters
are all kept, so that any other word is spelled by shorter pieces; what the tokenizer did not know stays unknown.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from fastprune.errors import InputError
from fastprune.export.runtimes import load_model
from fastprune.model import checkpoint
from fastprune.model.images import ImageReader
from fastprune.store.output import new_folder

KINDS = ("WordPiece", "WordLevel", "BPE", "Unigram")
"""Of tokenizers that can be cut: all choose among known pieces only, so that pieces never chosen are not missed."""

_ROWS_AT_ONCE = 1_000


def trim_folder(folder: str | Path, texts: Iterable[str], output_dir: str | Path) -> tuple[int, int]:
    """Write a dense or a pruned folder with the pieces of ``texts`` alone.

    Returns
    -------
    tuple of int
        Pieces that are kept, and that there were.

    Raises
    ------
    InputError
        A tokenizer that cannot be cut, a model of images, or a folder of no model.
    """
    model, tokenizer = load_model(folder), checkpoint.load_tokenizer(folder)
    if isinstance(tokenizer, ImageReader):
        raise InputError(f"{folder}: reads images and has no vocabulary to trim; leave --trim-vocabulary out")
    before = model.config.vocab_size
    trimmed, kept = trim(model, tokenizer, texts)
    manifest = Path(folder) / checkpoint.MANIFEST
    if manifest.is_file():
        told = checkpoint.read_object(manifest) | {"vocabulary": len(kept), checkpoint.WEIGHTS_DIGEST: ""}
        told[checkpoint.WEIGHTS_DIGEST] = checkpoint.digest(model)
        checkpoint.save(output_dir, model, trimmed, told)
    else:
        with new_folder(output_dir) as made:
            checkpoint.write_model(made, model, trimmed)
    return len(kept), before


def trim(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase, texts: Iterable[str]
) -> tuple[transformers.PreTrainedTokenizerBase, list[int]]:
    """Cut a model's embeddings, in place, to the pieces of texts; its new tokenizer, and the ids that were kept."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} has no tokenizer.json, which is what is cut; use a fast tokenizer"
        )
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    if document["model"]["type"] not in KINDS:
        raise InputError(
            f"a tokenizer of the kind {document['model']['type']} cannot be cut; those that can: {', '.join(KINDS)}"
        )
    kept = sorted(_wanted(tokenizer, document, texts, model.config.vocab_size))
    numbers = {old: new for new, old in enumerate(kept)}
    _cut(document, numbers)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        (Path(scratch) / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        for file in Path(scratch).iterdir():  # lists of pieces in other forms, which say the same
            if file.name in ("vocab.txt", "vocab.json", "merges.txt") or file.suffix == ".model":
                file.unlink()
        settings = checkpoint.read_object(Path(scratch) / "tokenizer_config.json")
        if decoder := settings.pop("added_tokens_decoder", None):
            settings["added_tokens_decoder"] = {
                str(numbers[int(old)]): token for old, token in decoder.items() if int(old) in numbers
            }
            (Path(scratch) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        trimmed = transformers.AutoTokenizer.from_pretrained(scratch, trust_remote_code=False)
    _cut_embeddings(model, kept, numbers)
    return trimmed, kept


def _wanted(tokenizer: Any, document: dict, texts: Iterable[str], rows: int) -> set[int]:
    """Ids of the texts' pieces, of single characters, of special tokens, and of what BPE makes the pieces from."""
    vocabulary = tokenizer.get_vocab()
    # The padding's id does not move: some models count positions from it.
    wanted = set(range(tokenizer.pad_token_id + 1)) | set(tokenizer.all_special_ids)
    wanted |= {token["id"] for token in document["added_tokens"]}
    prefix = document["model"].get("continuing_subword_prefix") or ""
    wanted |= {number for piece, number in vocabulary.items() if len(piece.removeprefix(prefix)) <= 1}
    if document["model"].get("byte_fallback"):  # what no piece spells is spelled by its bytes
        wanted |= {number for piece, number in vocabulary.items() if re.fullmatch("<0x[0-9A-F]{2}>", piece)}
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == _ROWS_AT_ONCE:
            wanted.update(*tokenizer(some, add_special_tokens=False)["input_ids"])
            some = []
    if some:
        wanted.update(*tokenizer(some, add_special_tokens=False)["input_ids"])
    if document["model"]["type"] == "BPE":
        parts = {"".join(pair): pair for pair in map(_pair, document["model"]["merges"])}
        pieces, left = {number: piece for piece, number in vocabulary.items()}, list(wanted)
        while left:
            for part in parts.get(pieces[left.pop()], ()):
                if vocabulary[part] not in wanted:
                    wanted.add(vocabulary[part])
                    left.append(vocabulary[part])
    return {number for number in wanted if number < rows}


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    one, other = merge.split(" ") if isinstance(merge, str) else merge
    return one, other


def _cut(document: dict, numbers: dict[int, int]) -> None:
    """Leave the pieces of ``numbers`` in a tokenizer.json, with their new ids."""
    model = document["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in numbers if old < len(model["vocab"])]
        if model.get("unk_id") is not None:
            model["unk_id"] = numbers[model["unk_id"]]
    else:
        model["vocab"] = {piece: numbers[old] for piece, old in model["vocab"].items() if old in numbers}
    if "merges" in model:
        model["merges"] = [
            merge
            for merge in model["merges"]
            if all(piece in model["vocab"] for piece in (*_pair(merge), "".join(_pair(merge))))
        ]
    # A tokenizer may have more tokens than the model has rows: a text with one of them could not be answered.
    document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] in numbers]
    for token in document["added_tokens"]:
        token["id"] = numbers[token["id"]]
    if document.get("padding"):
        document["padding"]["pad_id"] = numbers[document["padding"]["pad_id"]]
    for processor in _processors(document.get("post_processor")):
        for name in ("sep", "cls"):
            if isinstance(processor.get(name), list):
                processor[name][1] = numbers[processor[name][1]]
        for special in (processor.get("special_tokens") or {}).values():
            special["ids"] = [numbers[old] for old in special["ids"]]


def _processors(processor: dict | None) -> list[dict]:
    if not processor:
        return []
    return (
        [part for one in processor["processors"] for part in _processors(one)]
        if "processors" in processor
        else [processor]
    )


@torch.no_grad()
def _cut_embeddings(model: transformers.PreTrainedModel, kept: list[int], numbers: dict[int, int]) -> None:
    table: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    padding = table.padding_idx
    small = nn.Embedding(len(kept), table.embedding_dim, None if padding is None else numbers[padding])
    small.weight.copy_(table.weight[kept])
    model.set_input_embeddings(small)
    model.config.vocab_size = len(kept)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id"):
        if getattr(model.config, name, None) in numbers:
            setattr(model.config, name, numbers[getattr(model.config, name)])
