"""Images of a table: a column of encoded images, or a folder with a folder of files for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo

from fastprune.data.source import ROWS_AT_ONCE, Source
from fastprune.errors import InputError
from fastprune.model.images import ImageReader, image_tokens
from fastprune.model.model_inputs import read_image
from fastprune.store.bounded import check_regular

IMAGE_BYTES = 256 << 20
"""No file of an image is longer."""

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

_STORED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""As ``datasets`` stores an image: its file, or where that lies."""


def read_image_folder(folder: Path) -> Dataset:
    """A table of the files in the folders of a folder, which are the classes: ``image`` and ``label``.

    Raises
    ------
    InputError
        There are no folders, or no images in them, or other files.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [(path, one.name) for one in classes for path in sorted(one.iterdir()) if not path.name.startswith(".")]
    if not files:
        raise InputError(
            f"{folder}: is a folder without images; give a file, or a folder with a folder of images for each class"
        )
    for path, _ in files:
        if path.suffix.lower() not in ENDINGS:
            raise InputError(f"{path}: is no image by its name; images end in {', '.join(ENDINGS)}")
    images = pa.array([{"bytes": None, "path": str(path)} for path, _ in files], _STORED)
    table = pa.table({"image": images, "label": pa.array([label for _, label in files])})
    return Dataset(table, info=DatasetInfo(dataset_name=str(folder)))


def encode_images(source: Source, rows: np.ndarray) -> pa.Table:
    """Pixels and attention mask of a table's rows; every token of an image is read.

    Raises
    ------
    InputError
        The model reads no images, the column holds none, or a row has none that can be read.
    """
    tokens, (name,) = image_tokens(source.config), source.task.text_columns
    if tokens is None or not isinstance(source.tokenizer, ImageReader):
        raise InputError(f"a {source.config.model_type} model reads texts, and the task is of images")
    column = source.table.with_format("arrow")[:][name]
    stored = pa.types.is_struct(column.type) and {"bytes", "path"} <= {field.name for field in column.type}
    if not (stored or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise InputError(
            f"{source.name}: row 1 of column {name!r} is {str(column[0].as_py())[:80]!r}, not an image; give a Dataset "
            "with an Image column, a Parquet file of one, or a folder with a folder of images for each class; arrays "
            "of pixels become images by PIL.Image.fromarray"
        )
    parts = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[first : first + ROWS_AT_ONCE]
        images = [
            _decoded(value.as_py(), f"{source.name}: row {row + 1} of column {name!r}")
            for row, value in zip(some, column.take(pa.array(some)), strict=True)
        ]
        parts.append(_nested(source.tokenizer(images, source.config)))
    masks = pa.array(np.ones(len(rows) * tokens, dtype=np.int8))
    mask = pa.ListArray.from_arrays(np.arange(0, len(masks) + 1, tokens, dtype=np.int32), masks)
    return pa.table({"pixel_values": pa.chunked_array(parts), "attention_mask": mask})


def _decoded(value: Any, where: str):
    """An image of PIL from its file's bytes, or from a dict of them or of their path."""
    stored: dict[str, Any] = value if isinstance(value, dict) else {"bytes": value, "path": None}
    content, path = stored["bytes"], stored["path"]
    if content is None and path is None:
        raise InputError(f"{where} has no image; drop the row")
    try:
        return read_image(read_file(path) if content is None else content)
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error}); save it again, or drop the row") from error
    except ValueError as error:
        raise InputError(f"{where} {error}; save it again, or drop the row") from error


def read_file(path: str | Path) -> bytes:
    """The file of an image. Raises InputError where it is longer than images are, or no file."""
    check_regular(Path(path), IMAGE_BYTES)
    return Path(path).read_bytes()


def _nested(pixels: np.ndarray) -> pa.Array:
    """[images, channels, height, width] as fixed-size lists of lists."""
    values = pa.array(pixels.ravel())
    for size in reversed(pixels.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values
