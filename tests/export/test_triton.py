"""An exported model in a model repository of Triton."""

import json

import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.export.exporting import export
from fastprune.export.triton import write_repository

FIELD = descriptor_pb2.FieldDescriptorProto
MESSAGES = {
    "Tensor": {"name": (1, "STRING"), "data_type": (2, "Type"), "dims": (4, "INT64")},
    "Output": {"name": (1, "STRING"), "data_type": (2, "Type"), "dims": (3, "INT64")},
    "Group": {"count": (2, "INT32"), "kind": (4, "Kind")},
    "Batching": {},
    "Config": {
        "name": (1, "STRING"),
        "max_batch_size": (4, "INT32"),
        "input": (5, "Tensor"),
        "output": (6, "Output"),
        "instance_group": (7, "Group"),
        "dynamic_batching": (11, "Batching"),
        "backend": (17, "STRING"),
    },
}
"""The fields of Triton's model_config.proto that are used, with their numbers and types."""

ENUMS = {"Type": {"TYPE_INT64": 9, "TYPE_FP16": 10, "TYPE_FP32": 11}, "Kind": {"KIND_AUTO": 0, "KIND_CPU": 2}}


def config_message():
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="check", syntax="proto2")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            repeated = kind in ("Tensor", "Output", "Group") or field == "dims"
            made = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in ENUMS or kind in MESSAGES:
                made.type = FIELD.TYPE_ENUM if kind in ENUMS else FIELD.TYPE_MESSAGE
                made.type_name = f".check.{kind}"
            else:
                made.type = getattr(FIELD, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("check.Config"))()


@pytest.fixture(scope="module")
def exported(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(material / "model", folder)
    return folder


def test_the_configuration_is_of_the_published_schema_and_tells_the_models_own_tensors(exported, tmp_path):
    repository = tmp_path / "models"
    given = ("triton", exported, "--name", "reviews", "--max-batch-size", "16", "--output-dir", repository)
    done = CliRunner().invoke(main, [str(one) for one in given])
    assert done.exit_code == 0 and f"--model-repository={repository}" in done.output
    config = text_format.Parse((repository / "reviews" / "config.pbtxt").read_text(), config_message())
    assert (config.name, config.backend, config.max_batch_size) == ("reviews", "onnxruntime", 16)
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
        (name, 9, [-1]) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output] == [("logits", 11, [2])]
    assert config.HasField("dynamic_batching") and config.instance_group[0].kind == 2
    model = repository / "reviews" / "1" / "model.onnx"
    assert model.read_bytes() == (exported / "model.onnx").read_bytes()
    write_repository(exported, repository, "others")
    with pytest.raises(InputError, match="reviews"):
        write_repository(exported, repository, "reviews")


def of_before(folder):
    """A damaged export of a version that wrote no digest."""
    record = json.loads((folder / "export.json").read_text())
    del record["sha256"]
    (folder / "export.json").write_text(json.dumps(record))
    (folder / "model.onnx").write_bytes(b"none")


@pytest.mark.parametrize(
    "harm, name, words",
    [
        (lambda folder: (folder / "export.json").unlink(), "reviews", "no export for ONNX Runtime"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"none"), "reviews", "is not the file that was exported"),
        (of_before, "reviews", "cannot be loaded"),
        (lambda folder: None, "../reviews", "no name of a model in Triton"),
    ],
)
def test_what_is_no_export_is_refused_and_nothing_is_written(exported, tmp_path, harm, name, words):
    folder = tmp_path / "onnx"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    harm(folder)
    with pytest.raises(InputError, match=words):
        write_repository(folder, tmp_path / "models", name)
    assert not (tmp_path / "models").exists()
