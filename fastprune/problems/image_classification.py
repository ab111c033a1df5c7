"""One class of several for each image."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np

from fastprune.data.images import encode_images, read_file
from fastprune.model.losses import stack
from fastprune.model.model_inputs import read_image
from fastprune.problems.classification import Classification

SERVED_BYTES = 64 << 10
"""Of a longer file a small copy is what rows are compared by: the documents that hold it are read within bounds."""

SERVED_SIDE = 128
"""Pixels of the copy's longer side, at most."""


class ImageClassification(Classification):
    """As of texts; the table has a column of images, or is a folder with a folder of images for each class."""

    heads = ("ForImageClassification",)
    metrics = ("accuracy", "f1", "matthews_correlation")
    num_texts = (1,)
    columns = ("image",)
    label_column = "label"
    answers = Path(__file__).with_name("answers") / "image_classification.py"

    def rows_of(self, table, text_columns):
        """The files of the images, or where they lie: not decoded."""
        (name,) = text_columns
        stored = table.with_format("arrow")[:][name].to_pylist()
        return (((one["bytes"] or one["path"]) if isinstance(one, dict) else one,) for one in stored)

    def encode(self, source, rows, *, labelled, for_evaluation):
        features = encode_images(source, rows)
        return (features.append_column("labels", self.labels(source).take(rows)) if labelled else features), None

    def probes(self, text_columns):
        """Noise of three sizes."""
        draw = np.random.default_rng(0)
        return [[_png(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))] for side in (8, 32, 64)]

    def unlike(self, texts):
        """Of other shapes and colours."""
        draw = np.random.default_rng(1)
        return [[_png(draw.integers(0, 256, shape, dtype=np.uint8))] for shape in ((5, 40), (40, 7, 4))]

    def as_text(self, row):
        """In base64."""
        content = read_file(row[0]) if isinstance(row[0], str) else row[0]
        if len(content) > SERVED_BYTES:
            image = read_image(content).convert("RGB")
            image.thumbnail((SERVED_SIDE, SERVED_SIDE))
            content = _file_of(image)
        return [base64.b64encode(content).decode()]

    def row_outputs(self, model, tokenizer, texts, max_length):
        image = read_image(base64.b64decode(texts[0]))
        return self.outputs(self.run(model, stack({"pixel_values": tokenizer([image], model.config)}, 0)))[0]


def _png(pixels: np.ndarray) -> str:
    """Pixels of grey, of three colours or with transparency as a file in base64."""
    from PIL import Image

    return base64.b64encode(_file_of(Image.fromarray(pixels))).decode()


def _file_of(image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


PROBLEM = ImageClassification()
