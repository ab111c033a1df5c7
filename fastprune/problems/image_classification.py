"""One class of several for each image."""

from __future__ import annotations

from fastprune.data.images import encode_images
from fastprune.problems.classification import Classification


class ImageClassification(Classification):
    """As of texts; the table has a column of images, or is a folder with a folder of images for each class."""

    heads = ("ForImageClassification",)
    metrics = ("accuracy", "f1", "matthews_correlation")
    num_texts = (1,)
    columns = ("image",)
    label_column = "label"
    answers = None

    def rows_of(self, table, text_columns):
        """The files of the images, or where they lie: not decoded."""
        (name,) = text_columns
        stored = table.with_format("arrow")[:][name].to_pylist()
        return (((one["bytes"] or one["path"]) if isinstance(one, dict) else one,) for one in stored)

    def encode(self, source, rows, *, labelled, for_evaluation):
        features = encode_images(source, rows)
        return (features.append_column("labels", self.labels(source).take(rows)) if labelled else features), None


PROBLEM = ImageClassification()
