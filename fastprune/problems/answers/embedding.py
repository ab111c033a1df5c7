"""A vector for each text, pooled as the model's folder says."""

import torch

COLUMNS = ()
EXAMPLE = ()
OUTPUTS = {"embedding": "double[]"}


def answer(served, rows):
    how = served.model.config.sentence_embedding
    encoded = served.encode([(how["prompt"] + text,) for (text,) in rows])
    mask = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in encoded["attention_mask"]], batch_first=True)
    return {"embedding": embed(served.run(encoded).last_hidden_state, mask, how).double().tolist()}


def embed(states, mask, how):
    """The vectors [B, D] of texts from the last layer's states [B, T, D] of their tokens, which ``mask`` [B, T] marks.

    ``how`` has ``pooling`` ("mean", "cls" or "max") and ``normalize``. Padding stands on the right.
    """
    if how["pooling"] == "cls":
        vectors = states[:, 0]
    elif how["pooling"] == "max":
        vectors = states.masked_fill(mask[..., None] == 0, float("-inf")).max(1).values
    else:
        weights = mask[..., None].to(states)
        vectors = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(vectors, dim=-1) if how["normalize"] else vectors
