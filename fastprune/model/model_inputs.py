"""Texts and images into what a model reads, and scores into the span of an answer.

The one place for evaluation, registration and serving. A copy of this file is registered beside each model, and is run
where fastprune is not installed: it needs numpy alone, and Pillow for images.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

STRIDE = 128
"""Tokens that two windows of one long context share."""

N_BEST = 20
"""First and last tokens of an answer that are tried, the best of each."""

MAX_ANSWER_TOKENS = 30

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""That Pillow may try: some of its other readers run programs."""


def longest_input(config: Any) -> int:
    """Tokens that the model has positions for."""
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
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


def tokenize_words(
    tokenizer: Any, config: Any, words: Sequence[Sequence[str]], max_length: int
) -> tuple[dict[str, list], list[list[int]]]:
    """Rows of words as the model's inputs, without padding, and the place of each word's first token [words].

    The place is -1 where a word is cut off or makes no token.
    """
    longest = longest_text(tokenizer, config, max_length)
    encoded = tokenizer(
        list(map(list, words)),
        is_split_into_words=True,
        truncation=True,
        max_length=longest,
        return_attention_mask=True,
    )
    firsts = []
    for row, of in enumerate(words):
        places = [-1] * len(of)
        for place, word in reversed(list(enumerate(encoded.word_ids(row)))):
            if word is not None:
                places[word] = place
        firsts.append(places)
    return inputs_of(encoded, config), firsts


def inputs_of(encoded: Mapping[str, list], config: Any) -> dict[str, list]:
    """What the model reads of what a tokenizer gives; types only where the model tells one type from another."""
    typed = getattr(config, "type_vocab_size", 1) > 1
    return {name: encoded[name] for name in MODEL_INPUTS if name in encoded and (typed or name != "token_type_ids")}


def pad(inputs: Mapping[str, Any], pad_token_id: int) -> dict[str, np.ndarray]:
    """Stack rows as int64 arrays [rows, longest of them], padded on the right whatever the tokenizer's side.

    Pixels, which an array has, stay as they are.
    """
    padded = {}
    for name, rows in inputs.items():
        if isinstance(rows, np.ndarray):
            padded[name] = rows
            continue
        padded[name] = np.full((len(rows), max(map(len, rows))), pad_token_id if name == "input_ids" else 0, np.int64)
        for row, tokens in enumerate(rows):
            padded[name][row, : len(tokens)] = tokens
    return padded


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def read_image(content: bytes) -> Any:
    """The image in the bytes of a file, as Pillow has it. Raises ValueError in words where there is none."""
    from PIL import Image  # models of texts are served without it

    try:
        image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read as an image ({error})") from error
    return image


def pixels_of(processor: Any, config: Any, images: Sequence[Any]) -> np.ndarray:
    """Pixels [images, channels, height, width] float32 of images of Pillow, by a model's image processor."""
    colours = "L" if config.num_channels == 1 else "RGB"
    pixels = processor([image.convert(colours) for image in images], return_tensors="np")["pixel_values"]
    return np.asarray(pixels, dtype=np.float32)


def best_span(scores: np.ndarray, offsets: np.ndarray) -> tuple[float, int, int] | None:
    """The best answer in one window: its score, and where it begins and ends in the context, in characters.

    The ``N_BEST`` best first tokens and the ``N_BEST`` best last tokens are paired; a pair is an answer if it lies in
    the context, in order, in at most ``MAX_ANSWER_TOKENS`` tokens.

    Parameters
    ----------
    scores
        Of each token as the first and as the last, [2, length or more].
    offsets
        Begin and end of each token in the context [length, 2]; negative outside the context.

    Returns
    -------
    tuple or None
        None where no pair is an answer.
    """
    first, last = np.argsort(-scores[:, : len(offsets)], axis=1, kind="stable")[:, :N_BEST]
    tokens = last[None, :] - first[:, None] + 1
    in_context = (offsets[first, 0] >= 0)[:, None] & (offsets[last, 0] >= 0)
    allowed = in_context & (tokens >= 1) & (tokens <= MAX_ANSWER_TOKENS)
    sums = np.where(allowed, scores[0, first][:, None] + scores[1, last], -np.inf)
    i, j = np.unravel_index(sums.argmax(), sums.shape)
    return (float(sums[i, j]), int(offsets[first[i], 0]), int(offsets[last[j], 1])) if allowed[i, j] else None


def best_answers(served: Any, rows: Sequence[tuple[str, str]]) -> tuple[list, np.ndarray, list[int]]:
    """The best span over all windows of each row's context.

    Parameters
    ----------
    served
        With the ``tokenizer``, the ``config``, its ``settings`` and ``run``.
    rows
        Question and context.

    Returns
    -------
    answers : list
        Text and score of each row; the empty text and minus infinity where no window has a span.
    scores : ndarray [windows, 2, length]
        Of each token as the first and as the last.
    owners : list of int
        The row of each window.
    """
    questions, contexts = zip(*rows)
    length = served.settings["max_length"]
    encoded = tokenize_windows(served.tokenizer, served.config, questions, contexts, length)
    output = served.run(inputs_of(encoded, served.config))
    scores = np.stack([output.start_logits, output.end_logits], axis=1)
    answers, owners = [("", -np.inf)] * len(rows), encoded["overflow_to_sample_mapping"]
    for window, row in enumerate(owners):
        offsets = np.asarray(encoded["offset_mapping"][window])
        outside = [part != 1 for part in encoded.sequence_ids(window)]
        offsets[outside] = -1
        span = best_span(scores[window], offsets)
        if span and span[0] > answers[row][1]:
            answers[row] = (rows[row][1][span[1] : span[2]], span[0])
    return answers, scores, owners


def entities_of(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities that a row of tags names: type, first and last word. By the rules of conlleval, as seqeval has them.

    Tags are ``O`` or a type behind ``B-`` (begins), ``I-`` (goes on), ``E-`` (ends) or ``S-`` (alone). An ``I-`` or
    ``E-`` that goes on from nothing of its type begins an entity. A tag without any of these is a type that goes on.
    """
    entities, first, before = set(), 0, ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        part, _, kind = tag.partition("-")
        here = (part, kind) if part in ("B", "I", "E", "S", "O") else ("I", tag)
        if before[0] != "O" and (before[0] in "ES" or here[0] in "OBS" or here[1] != before[1]):
            entities.add((before[1], first, place - 1))
            begins = here[0] != "O"
        else:
            begins = before[0] == "O" and here[0] != "O"
        first, before = place if begins else first, here
    return entities
