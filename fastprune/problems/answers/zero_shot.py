"""The most probable of the labels that come with each text, parted by ``|``, and the probabilities as a JSON object.

Without any labels the answer is empty.
"""

import json

COLUMNS = ("text", "labels")
EXAMPLE = ("A text to judge.", "sport|politics")
OUTPUTS = {"label": "string", "probability": "double", "probabilities": "string"}


def entailment_of(config):
    """The number of the class that says yes to a hypothesis; None where no name begins like it."""
    names = {int(number): str(name).lower() for number, name in config.id2label.items()}
    return next((number for number, name in names.items() if name.startswith("entail")), None)


def hypothesis(config, label):
    """That a text is of a label, in words."""
    return getattr(config, "hypothesis_template", "This example is {}.").format(label)


def answer(served, rows):
    config = served.config
    told = []
    for text, labels in rows:
        names = [label.strip() for label in labels.split("|") if label.strip()]
        if not names:
            told.append(("", 0.0, "{}"))
            continue
        logits = served.run(served.encode([(text, hypothesis(config, name)) for name in names])).logits
        probabilities = served.inputs.softmax(logits[:, entailment_of(config)]).tolist()
        best = max(range(len(names)), key=probabilities.__getitem__)
        told.append((names[best], probabilities[best], json.dumps(dict(zip(names, probabilities)))))
    return dict(zip(OUTPUTS, zip(*told)))
