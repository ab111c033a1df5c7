"""Texts into what a model reads: the one place for evaluation, registration and serving.

A copy of this file is registered beside each model, and is run where fastprune is not installed: it needs torch alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

STRIDE = 128
"""Tokens that two windows of one long context share."""


def longest_input(config: Any) -> int:
    """Tokens that the model has positions for."""
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return config.max_position_embeddings - config.pad_token_id - 1  # positions count from behind the padding index
    return config.max_position_embeddings


def longest_text(tokenizer: Any, config: Any, max_length: int) -> int:
    """Tokens at which texts are cut: the least of the task's, the tokenizer's and the model's limits."""
    return min(max_length, tokenizer.model_max_length, longest_input(config))


def tokenize(tokenizer: Any, config: Any, texts: Sequence[Sequence[str]], max_length: int) -> dict[str, list]:
    """Turn texts into the model's inputs by name, a list of numbers a row, without padding.

    Parameters
    ----------
    tokenizer, config
        The model's.
    texts
        One column of texts [rows], or two for pairs.
    max_length
        Of the task, in tokens.
    """
    longest = longest_text(tokenizer, config, max_length)
    return inputs_of(
        tokenizer(*map(list, texts), truncation=True, max_length=longest, return_attention_mask=True), config
    )


def tokenize_windows(
    tokenizer: Any, config: Any, questions: Sequence[str], contexts: Sequence[str], max_length: int
) -> Any:
    """Questions with windows of their contexts, which overlap, as the tokenizer gives them, without padding.

    Blanks before a question say nothing, and a long run of them leaves the context no room.
    """
    longest = longest_text(tokenizer, config, max_length)
    return tokenizer(
        [question.lstrip() for question in questions],
        list(contexts),
        truncation="only_second",
        max_length=longest,
        stride=min(STRIDE, longest // 3),
        return_attention_mask=True,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def inputs_of(encoded: Mapping[str, list], config: Any) -> dict[str, list]:
    """What the model reads of what a tokenizer gives; types only where the model tells one type from another."""
    typed = getattr(config, "type_vocab_size", 1) > 1
    return {name: encoded[name] for name in MODEL_INPUTS if name in encoded and (typed or name != "token_type_ids")}


def pad(inputs: Mapping[str, Sequence[Sequence[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Stack rows as int64 CPU tensors [rows, longest of them], padded on the right whatever the tokenizer's side."""
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(tokens, dtype=torch.int64) for tokens in rows],
            batch_first=True,
            padding_value=pad_token_id if name == "input_ids" else 0,
        )
        for name, rows in inputs.items()
    }
