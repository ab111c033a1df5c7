"""A label with its probability, and the probabilities of all labels as a JSON object."""

import json

COLUMNS = ()
EXAMPLE = ()
OUTPUTS = {"label": "string", "probability": "double", "probabilities": "string"}


def answer(served, rows):
    probabilities = served.inputs.softmax(served.run(served.encode(rows)).logits)
    names = [served.config.id2label[index] for index in range(probabilities.shape[1])]
    return {
        "label": [names[index] for index in probabilities.argmax(1)],
        "probability": probabilities.max(1).astype(float),
        "probabilities": [json.dumps(dict(zip(names, map(float, row)))) for row in probabilities],
    }
