"""Models of images from the folder of files to ONNX Runtime, OpenVINO, the benchmark and the server."""

import json

import numpy as np
import onnx
import onnxruntime
import pandas
import pytest
import torch
import transformers
from click.testing import CliRunner
from PIL import Image
from tiny_images import TESTED

from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.export.runtimes import load_candidate
from fastprune.export.triton import write_repository
from fastprune.releases import verification
from fastprune.tracking import mlflow_store


def call(*arguments, status=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done


@pytest.fixture(scope="module")
def compressed(digits, tmp_path_factory):
    """Pruned and exported in int8 at once."""
    out = tmp_path_factory.mktemp("images") / "out"
    data = ("--train-file", digits / "train", "--eval-file", digits / "test", "--keep-ratio", 0.5)
    call("compress", digits / "model", *data, "--export", "onnx", "--quantize", "int8", "--output-dir", out)
    return out


def classes_of(folder, files):
    """The names that ONNX Runtime gives to files, with what is in the folder alone."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = json.loads((folder / "config.json").read_text())["id2label"]
    found = []
    for first in range(0, len(files), 32):
        pixels = processor([Image.open(file) for file in files[first : first + 32]], return_tensors="np")
        [logits] = session.run(["logits"], {"pixel_values": pixels["pixel_values"]})
        found += [names[str(best)] for best in logits.argmax(1)]
    return found


def test_a_folder_of_images_is_pruned_and_exported_at_once(digits, compressed):
    metrics = json.loads((compressed / "metrics.json").read_text())
    exported, folder = metrics["exported"], compressed / "onnx"
    assert exported["metric"] > metrics["pruned"] - 0.02 > 0.85 and exported["agreement"] > 0.9
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx",
        "config.json",
        "preprocessor_config.json",
        "export.json",
    }
    record = json.loads((folder / "export.json").read_text())
    assert record["inputs"] == ["pixel_values"] and record["problem"] == "image-classification"
    kinds = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    assert kinds.count("Conv") == 1 and "ConvInteger" not in kinds and kinds.count("MatMulInteger") >= 8
    files = sorted((digits / "test").rglob("*.png"))
    right = np.mean([one == file.parent.name for one, file in zip(classes_of(folder, files), files, strict=True)])
    assert right == pytest.approx(exported["metric"], abs=1 / TESTED)  # a batch of others rounds otherwise


def test_bench_holds_dense_pruned_and_exported_models_of_images_against_each_other(digits, compressed, tmp_path):
    """The dense one in OpenVINO and float16, by a command of its own, which measures it on the rows too."""
    halved = tmp_path / "halved"
    given = ("--format", "openvino", "--quantize", "fp16", "--eval-file", digits / "test", "--output-dir", halved)
    said = call("export", digits / "model", *given).output
    assert f"of {TESTED} rows" in said and "saved in" in said
    folders = (digits / "model", compressed, compressed / "onnx", halved)
    done = call("bench", *folders, "--eval-file", digits / "test", "--batches", 2, "--rounds", 1, "--json")
    told = json.loads(done.stdout.splitlines()[-1])["candidates"]
    whats = ["PyTorch", "PyTorch", "ONNX Runtime int8", "OpenVINO fp16"]
    assert [one["what"] for one in told] == whats and all(one["agreement"] > 0.9 for one in told)
    assert told[3]["agreement"] == 1 and all(one["batch"]["8"]["p50_ms"] > 0 for one in told)


def test_without_rows_it_is_checked_and_timed_on_probes(digits, tmp_path):
    call("export", digits / "model", "--output-dir", tmp_path / "onnx")
    record = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert 0 < record["max_difference"] < 1e-4 and record["latency"]["batch_8"]["exported"]["p50_ms"] > 0
    place = write_repository(tmp_path / "onnx", tmp_path / "models", "digits")
    assert (
        "dims: [ 1, 8, 8 ]" in (place / "config.pbtxt").read_text() and (place / "preprocessor_config.json").is_file()
    )
    model = load_candidate(tmp_path / "onnx").model
    for shape, words in (((0, 1, 8, 8), "0 images"), ((2, 3, 8, 8), r"images of \[3, 8, 8\] .* reads \[1, 8, 8\]")):
        with pytest.raises(InputError, match=words):
            model(pixel_values=torch.zeros(shape))


def test_what_is_for_texts_is_refused(digits, material, tmp_path):
    given = ("export", digits / "model", "--quantize", "int8", "--output-dir", tmp_path / "out")
    said = call(*given, "--train-file", digits / "train", "--trim-vocabulary", status=2).output
    assert "reads images and has no vocabulary to trim; leave --trim-vocabulary out" in said
    for option in ("--train-file", "--eval-file"):
        said = call(*given, option, material / "train.tsv", status=2).output
        assert "no column 'image'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_export_is_registered_and_served(digits, compressed, tmp_path):
    """Its answers are ONNX Runtime's own."""
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    given = ("--name", "digits", "--serve", compressed / "onnx", "--eval-file", digits / "test")
    call("register", compressed, *given, "--tracking-uri", uri)
    mlflow.set_tracking_uri(uri)
    served, files = mlflow.pyfunc.load_model("models:/digits/1"), sorted((digits / "test").rglob("*.png"))[:32]
    answers = served.predict(pandas.DataFrame({"image": [file.read_bytes() for file in files]}))
    assert answers["label"].tolist() == classes_of(compressed / "onnx", files)
    assert verification.read_evidence(mlflow_store.connect(uri), "digits", "1").serves == "onnx"
