"""The entities of a text, and the tag of every word with its probability, as JSON lists. Words are parted by blanks."""

import json

COLUMNS = ()
EXAMPLE = ()
OUTPUTS = {"entities": "string", "words": "string"}


def answer(served, rows):
    texts = [row[0].split() for row in rows]
    config, inputs = served.config, served.inputs
    encoded, firsts = inputs.tokenize_words(served.tokenizer, config, texts, served.settings["max_length"])
    probabilities = inputs.softmax(served.run(encoded).logits)
    tags, words = config.id2label, []
    for row, text in enumerate(texts):
        best = [probabilities[row, max(piece, 0)] for piece in firsts[row]]
        words.append(
            [
                # a word behind the end of what the model reads has no tag
                {"word": word, "tag": tags[int(p.argmax())] if piece >= 0 else "O", "probability": float(p.max())}
                for word, piece, p in zip(text, firsts[row], best)
            ]
        )
    spans = [sorted(inputs.entities_of([word["tag"] for word in row]), key=lambda span: span[1:]) for row in words]
    entities = [
        [
            {"type": kind, "text": " ".join(text[first : last + 1]), "first": first, "last": last}
            for kind, first, last in of
        ]
        for text, of in zip(texts, spans)
    ]
    return {"entities": list(map(json.dumps, entities)), "words": list(map(json.dumps, words))}
