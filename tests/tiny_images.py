"""scikit-learn's digits as files of images, and a tiny ViT that has learnt them."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

TRAINED, TESTED = 1000, 400


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A ViT that has learnt scikit-learn's digits, its image processor, and the digits in folders of their classes."""
    from sklearn.datasets import load_digits

    folder, found = tmp_path_factory.mktemp("digits"), load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))[: TRAINED + TESTED]
    images, labels = (found.images[order] * 15.9375).astype(np.uint8), found.target[order]
    for row, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / ("train" if row < TRAINED else "test") / f"digit {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{row}.png")
    names = {number: f"digit {number}" for number in range(10)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                image_size=8,
                patch_size=2,
                num_channels=1,
                id2label=names,
                label2id={name: number for number, name in names.items()},
            )
        )
        pixels, targets = torch.tensor(images / 127.5 - 1, dtype=torch.float32)[:, None], torch.tensor(labels)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(12):
            for rows in torch.randperm(TRAINED).split(32):
                loss = model(pixel_values=pixels[rows], labels=targets[rows]).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    model.save_pretrained(folder / "model")
    size = {"height": 8, "width": 8}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder / "model")
    return folder
