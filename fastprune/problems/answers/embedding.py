"""A vector for each text, pooled as the model's folder says."""

import numpy as np

COLUMNS = ()
EXAMPLE = ()
OUTPUTS = {"embedding": "double[]"}


def answer(served, rows):
    how = served.config.sentence_embedding
    encoded = served.encode([(how["prompt"] + text,) for (text,) in rows])
    mask = served.inputs.pad({"attention_mask": encoded["attention_mask"]}, 0)["attention_mask"]
    return {"embedding": embed(served.run(encoded).last_hidden_state, mask, how).astype(float).tolist()}


def embed(states, mask, how):
    """The vectors [B, D] of texts from the last layer's states [B, T, D] of their tokens, which ``mask`` [B, T] marks.

    ``how`` has ``pooling`` ("mean", "cls" or "max") and ``normalize``. Padding stands on the right. That of the
    evaluation is :func:`fastprune.problems.embedding.embed`, which has gradients: a registration compares the two.
    """
    if how["pooling"] == "cls":
        vectors = states[:, 0]
    elif how["pooling"] == "max":
        vectors = np.where(mask[..., None] == 0, -np.inf, states).max(1)
    else:
        weights = mask[..., None].astype(states.dtype)
        vectors = (states * weights).sum(1) / weights.sum(1).clip(min=1e-9)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True).clip(min=1e-12)
    return vectors / length if how["normalize"] else vectors
