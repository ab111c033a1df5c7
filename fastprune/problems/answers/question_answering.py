"""The best span over all windows of each context, by the rule of the evaluation, and its score."""

import numpy as np
import torch

AUTO = "AutoModelForQuestionAnswering"
COLUMNS = ("question", "context")
EXAMPLE = ("Who pruned it?", "It was pruned by the gardener.")
OUTPUTS = {"answer": "string", "score": "double"}


def answer(served, rows):
    inputs, config = served.inputs, served.model.config
    encoded = inputs.tokenize_windows(served.tokenizer, config, *zip(*rows), served.settings["max_length"])
    output = served.run(inputs.inputs_of(encoded, config))
    scores = torch.stack([output.start_logits, output.end_logits], dim=1).numpy()
    answers = [("", -np.inf)] * len(rows)
    for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = np.asarray(encoded["offset_mapping"][window])
        outside = [part != 1 for part in encoded.sequence_ids(window)]
        offsets[outside] = -1
        span = inputs.best_span(scores[window], offsets)
        if span and span[0] > answers[row][1]:
            answers[row] = (rows[row][1][span[1] : span[2]], span[0])
    texts, best = zip(*answers)
    return {"answer": texts, "score": best}
