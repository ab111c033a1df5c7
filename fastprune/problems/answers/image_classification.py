"""A label with its probability, and the probabilities of all labels as a JSON object, for the file of an image.

A row is the bytes of the file, or these in base64, as they come over HTTP. A path is none: a server would open its own
files for whoever asks.
"""

import base64
import binascii
import json

from transformers import AutoImageProcessor

COLUMNS = ("image",)
CELL = "binary"
PACKAGES = ("pillow", "torchvision")
EXAMPLE = (
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR42mNg+M/wnwEABgAB/5KZsuwAAAAASUVORK5CYII="
    ),
)
OUTPUTS = {"label": "string", "probability": "double", "probabilities": "string"}


def reader(folder):
    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def cell(inputs, value):
    if isinstance(value, str):
        try:
            value = base64.b64decode("".join(value.split()), validate=True)
        except binascii.Error as error:
            raise ValueError(f"is a text, and no base64 of the file of an image ({error})") from error
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"holds a {type(value).__name__}, not an image; give the bytes of its file, or their base64")
    return inputs.read_image(bytes(value))


def answer(served, rows):
    pixels = served.inputs.pixels_of(served.tokenizer, served.config, [image for (image,) in rows])
    probabilities = served.inputs.softmax(served.run({"pixel_values": pixels}).logits)
    names = [served.config.id2label[index] for index in range(probabilities.shape[1])]
    return {
        "label": [names[index] for index in probabilities.argmax(1)],
        "probability": probabilities.max(1).astype(float),
        "probabilities": [json.dumps(dict(zip(names, map(float, row)))) for row in probabilities],
    }
