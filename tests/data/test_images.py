"""Images from the folder to the pruned model: real digits that a tiny ViT learns, and what is refused."""

import base64
import io
import json

import datasets
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from PIL import Image
from tiny_images import TRAINED
from tiny_models import build
from tiny_stages import run_stages

import fastprune
from fastprune.cli.main import main
from fastprune.data import Split, Task, encode, read_table
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.images import ImageReader
from fastprune.problem import problem_of
from fastprune.releases import registration
from fastprune.stages.export import export
from fastprune.store.artifacts import RECORD

TASK = Task("table", "image-classification", "accuracy", ("image",), "label")


def test_a_command_prunes_a_folder_of_images(digits, tmp_path, monkeypatch):
    """Half of the MACs are cut; what is saved classifies the files without fastprune's reading of them."""
    out = tmp_path / "out"
    arguments = ["--train-file", digits / "train", "--eval-file", digits / "test", "--keep-ratio", 0.5]
    done = CliRunner().invoke(main, ["compress", *map(str, (digits / "model", *arguments, "--output-dir", out))])
    assert done.exit_code == 0, done.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["dense"] > 0.85 and metrics["pruned"] > metrics["dense"] - 0.05 and metrics["macs_kept"] <= 0.5
    assert json.loads((out / "manifest.json").read_text())["problem"] == "image-classification"

    model = transformers.AutoModelForImageClassification.from_pretrained(out, trust_remote_code=True)
    processor, right = transformers.AutoImageProcessor.from_pretrained(out), 0
    files = sorted((digits / "test").rglob("*.png"))
    with torch.no_grad():
        for file in files:
            answer = model(**processor(Image.open(file), return_tensors="pt")).logits.argmax()
            right += model.config.id2label[int(answer)] == file.parent.name
    assert right / len(files) == pytest.approx(metrics["pruned"])
    monkeypatch.setattr(type(problem_of("image-classification")), "answers", None)
    with pytest.raises(InputError, match="a model for image-classification cannot be registered"):
        registration.read_manifest(out)


def test_images_without_labels(digits, tmp_path):
    """A folder of images alone: agreement with the dense model, on a fifth of them."""
    given = [digits / "model", "--train-file", digits / "train", "--metric", "agreement", "--keep-ratio", 0.35]
    done = CliRunner().invoke(main, ["compress", *map(str, [*given, "--output-dir", tmp_path / "out"])])
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["metric"], metrics["dense"], metrics["rows"]) == ("agreement", 1.0, TRAINED // 5)
    assert 0.85 < metrics["pruned"] < 1 and metrics["divergence"] > 0


def test_a_long_file_is_compared_by_a_small_copy():
    draw = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    problem, small = problem_of("image-classification"), png(draw[:8, :8])
    assert base64.b64decode(problem.as_text((small,))[0]) == small
    [text] = problem.as_text((png(draw),))
    assert len(text) < 1 << 17 and Image.open(io.BytesIO(base64.b64decode(text))).size == (85, 128)


def test_stages_give_what_the_command_gives(digits, tmp_path):
    settings = {"num_samples": 200, "seed": 1}
    folders = run_stages(
        tmp_path,
        **settings,
        source=str(digits / "model"),
        train_file=str(digits / "train"),
        eval_file=str(digits / "test"),
        text_columns=("image",),
        label_column="label",
        keep_ratio=0.4,
    )
    whole = fastprune.compress(
        digits / "model",
        dataset=digits / "train",
        evaluation=digits / "test",
        task=TASK,
        keep_ratio=0.4,
        progress=False,
        **settings,
    )
    assert checkpoint.digest(fastprune.load(folders["pruned"])) == checkpoint.digest(whole.model)
    assert Split.load(folders["sample"]).mean_length == 17  # 16 patches and the class token
    inputs = {name: folders[name] for name in ("model", "sample", "evaluation", "pruned")}
    export(**inputs, exported=tmp_path / "exported", quantize="int8")
    told = json.loads((tmp_path / "exported" / RECORD).read_text())["settings"]["exported"]
    assert told["metric"] == pytest.approx(whole.metrics["pruned"], abs=0.02) and told["seq_len"] == 17


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def table():
    """Two images of another size, as datasets, Parquet and plain bytes hold them."""
    pixels = np.random.default_rng(0).integers(0, 255, (2, 9, 12), dtype=np.uint8)
    rows = {"image": [{"bytes": png(one), "path": None} for one in pixels], "label": [3, 7]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict(rows, features=kinds)


def test_an_image_column_in_memory_in_parquet_and_as_bytes(digits, table, tmp_path):
    config, reader = checkpoint.load_config(digits / "model"), checkpoint.load_tokenizer(digits / "model")
    table.to_parquet(tmp_path / "rows.parquet")
    plain = datasets.Dataset.from_dict(
        {"image": [png(np.asarray(image)) for image in table["image"]], "label": table["label"]}
    )
    digests = {
        encode(one, reader, TASK, config).digest for one in (table, read_table(tmp_path / "rows.parquet"), plain)
    }
    split = encode(table, reader, TASK, config)
    assert digests == {split.digest} and split.features["labels"][:] == [3, 7]
    split.save(tmp_path / "split")
    assert Split.load(tmp_path / "split").digest == split.digest
    want = reader.processor(list(table["image"]), return_tensors="pt")["pixel_values"]
    (batch,) = fastprune.data.make_batches(Split.load(tmp_path / "split"), 8, 0)
    assert torch.equal(batch["pixel_values"], want) and batch["attention_mask"].shape == (2, 17)


def test_pixels_are_those_that_the_processor_makes(digits, table, tmp_path):
    """One that neither rescales nor normalizes hands on bytes: the model reads 0 to 255, and so it is evaluated."""
    config, size = checkpoint.load_config(digits / "model"), {"height": 8, "width": 8}
    plain = transformers.ViTImageProcessor(size=size, do_rescale=False, do_normalize=False)
    found = np.array(encode(table, ImageReader(plain), TASK, config).features["pixel_values"][:])
    want = plain(list(table["image"]), return_tensors="np")["pixel_values"]
    assert want.dtype == np.uint8 and (found == want).all() and found.max() > 100


def test_what_is_no_image_is_refused(digits, table, tmp_path):
    config, reader = checkpoint.load_config(digits / "model"), checkpoint.load_tokenizer(digits / "model")

    def refused(rows, message):
        with pytest.raises(InputError, match=message):
            encode(datasets.Dataset.from_dict({"image": rows, "label": [0] * len(rows)}), reader, TASK, config)

    refused(["a text", "another"], "row 1 of column 'image' is 'a text', not an image")
    refused([np.zeros((4, 4), np.uint8)] * 2, "not an image.*become images by PIL.Image.fromarray")
    refused([png(np.zeros((4, 4), np.uint8)), b"broken"], "row 2 of column 'image' cannot be read as an image")
    refused([png(np.zeros((4, 4), np.uint8)), None], "row 2 of column 'image' has no image")
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(InputError, match="empty: is a folder without images"):
        read_table(tmp_path / "empty")
    (tmp_path / "empty" / "class" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"notes.txt: is no image by its name"):
        read_table(tmp_path / "empty")
    with pytest.raises(InputError, match="a bert model reads texts, and the task is of images"):
        encode(table, reader, TASK, build().config)
    other = transformers.ViTImageProcessor(size={"height": 6, "width": 6}, image_mean=[0.5], image_std=[0.5])
    with pytest.raises(InputError, match=r"makes images of \[1, 6, 6\].*reads \[1, 8, 8\]"):
        encode(table, ImageReader(other), TASK, config)
    pair = [png(np.zeros(shape, np.uint8)) for shape in ((8, 8), (8, 9))]
    for options in ({"do_resize": False}, {"image_mean": [0.5] * 3}):
        other = transformers.ViTImageProcessor(**{"size": {"height": 8, "width": 8}, "image_mean": [0.5]} | options)
        with pytest.raises(InputError, match="makes no array of the images .*correct do_resize, size, image_mean"):
            encode(datasets.Dataset.from_dict({"image": pair, "label": [0, 1]}), ImageReader(other), TASK, config)
    (digits / "model" / "preprocessor_config.json").rename(tmp_path / "away.json")
    try:
        with pytest.raises(InputError, match="no preprocessor_config.json"):
            checkpoint.load_tokenizer(digits / "model")
    finally:
        (tmp_path / "away.json").rename(digits / "model" / "preprocessor_config.json")
