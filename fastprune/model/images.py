"""The image processor beside a model, where other models have a tokenizer; how many tokens an image makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import transformers

from fastprune.errors import InputError
from fastprune.model.families import FAMILIES
from fastprune.model.model_inputs import pixels_of


def image_tokens(config: Any) -> int | None:
    """Tokens of an image; None of a model that reads texts."""
    family = FAMILIES.get(config.model_type)
    if family is None or not family.image_tokens:
        return None
    height, width = (_both(config.image_size)[side] // _both(config.patch_size)[side] for side in (0, 1))
    return height * width + family.image_tokens


def image_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of what the model reads."""
    return config.num_channels, *_both(config.image_size)


def _both(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@dataclass(frozen=True)
class ImageReader:
    """An image processor in the place of a tokenizer: it is saved beside the model, and images are not padded."""

    processor: Any
    pad_token_id: ClassVar[int] = 0

    def save_pretrained(self, folder: str | Path) -> None:
        self.processor.save_pretrained(folder)

    def __call__(self, images: Sequence[Any], config: Any) -> np.ndarray:
        """Pixels [images, channels, height, width] float32 of images of PIL.

        Raises
        ------
        InputError
            They have another shape than the model reads, or not all of them one shape.
        """
        try:
            pixels = pixels_of(self.processor, config, images)
        except ValueError as error:
            raise InputError(
                f"the image processor makes no array of the images ({str(error).splitlines()[0]}); it must bring all "
                "of them to the size and channels of the model: correct do_resize, size, image_mean and image_std in "
                "preprocessor_config.json"
            ) from error
        if (shape := pixels.shape[1:]) != image_shape(config):
            raise InputError(
                f"the image processor makes images of {list(shape)} (channels, height, width), and the model reads "
                f"{list(image_shape(config))}; use the image processor that belongs to the model"
            )
        return pixels


def reader_of(tokenizer: Any) -> Any:
    """A tokenizer as it is; an image processor in its place."""
    processors = transformers.image_processing_utils.BaseImageProcessor
    return ImageReader(tokenizer) if isinstance(tokenizer, processors) else tokenizer


def load_image_reader(folder: str | Path, name: str | Path) -> ImageReader:
    """The image processor in a folder; ``name`` says in what is refused. Raises InputError when there is none."""
    if Path(folder).is_dir() and not (Path(folder) / "preprocessor_config.json").is_file():
        raise InputError(
            f"{name}: there is no preprocessor_config.json beside the model; save its image processor there"
        )
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError("models of images need Pillow; install it with: pip install 'fastprune[images]'") from error
    return ImageReader(transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False))
