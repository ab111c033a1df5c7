"""Look-up tables: what they predict, their file, where they may be used."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import build, random_masks
from tiny_tables import make_table

from fastprune.environment import device_name
from fastprune.errors import InputError
from fastprune.latency.lut import LatencyTable
from fastprune.manifest import compare_latency
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model


def test_a_prediction_adds_blocks_and_overhead_up():
    table = make_table([1, 2, 4], [10, 20, 30, 40], overhead=0.5)
    masks = Masks(torch.tensor([[1.0, 0], [0, 0]]), torch.tensor([[1.0, 2, 1], [0, 0, 0.5]]))
    assert table.of_masks(masks) == 0.5 + 2 + 1 + 40 + 20
    assert table.dense_ms(2) == 0.5 + 2 * (4 + 40)
    assert table.kept(masks) == table.of_masks(masks) / table.dense_ms(2)


def test_a_table_survives_saving(tmp_path):
    table = make_table([1, 2.5], [1, 2, 3])
    table.save(tmp_path / "new" / "lut.json")
    assert LatencyTable.load(tmp_path / "new" / "lut.json") == table
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lut.json"]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"ffn_ms": [1.0]}, "ffn_ms: List should have at least 2 items"),
        ({"attention_ms": [1.0, float("nan")]}, "attention_ms.1: Input should be a finite number"),
        ({"attention_ms": [1.0, "2"]}, "attention_ms.1: Input should be a valid number"),
        ({"attention_ms": [1.0, -2.0]}, "attention_ms.1: Input should be greater than or equal to 0"),
        ({"ffn_ms": "1 2 3"}, "ffn_ms: Input should be a valid array"),
        ({"overhead_ms": -1.0}, "overhead_ms: Input should be greater than or equal to 0"),
        ({"threads": "two"}, "threads: Input should be a valid integer"),
        ({"threads": True}, "threads: Input should be a valid integer"),
        ({"threads": 1_000_000}, "threads: Input should be less than or equal to 1024"),
        ({"seq_len": 0}, "seq_len: Input should be greater than or equal to 1"),
        ({"device": None}, "device: "),
        ({"colour": "red"}, "colour: "),
        ({"ffn_ms": [1.0, 2.0, 1e308]}, "ffn_ms.2: Input should be less than or equal to 1000000000"),
        ({"overhead_ms": float("inf")}, "overhead_ms: Input should be a finite number"),
        ({"attention_ms": [1.0, 0.0], "ffn_ms": [1.0, 0.0]}, "a dense layer takes 0 ms"),
        ({"attention_ms": [0.0, 1e-320], "ffn_ms": [0.0, 1e-320]}, "a dense layer takes 2e-320 ms"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, change, named):
    content = json.loads(make_table([1, 2], [1, 2, 3]).content) | change
    path = tmp_path / "lut.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    with pytest.raises(InputError) as caught:
        LatencyTable.load(path)
    assert str(path) in str(caught.value) and named in str(caught.value) and "fastprune profile" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e308])
def test_a_table_made_in_memory_has_possible_times_too(value):
    with pytest.raises(InputError, match=r"attention_ms\[1\] is .*milliseconds are from 0 to 1e\+09"):
        make_table([1, value, 2], [1, 2])
    with pytest.raises(InputError, match=r"overhead_ms\[0\] is "):
        make_table([1, 2], [1, 2], overhead=value)
    with pytest.raises(InputError, match="a dense layer takes 0 ms"):
        make_table([0, 0], [5, 0])


@pytest.mark.parametrize("content, named", [(b"{", "not JSON"), (b"[]", "not a look-up table"), (None, "no such")])
def test_a_file_that_is_something_else(tmp_path, content, named):
    if content is not None:
        (tmp_path / "lut.json").write_bytes(content)
    with pytest.raises(InputError, match=named):
        LatencyTable.load(tmp_path / "lut.json")


def test_another_shape_is_refused_and_another_device_warned_of():
    table = make_table([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(InputError, match="another shape: 64 hidden size where the model has 16"):
        table.check_shape(describe(build()))
    with pytest.raises(InputError, match="seq_len is 41, and the model takes 40 tokens"):
        replace(make_table(range(1, 6), range(1, 26), hidden=16), seq_len=41).check_shape(describe(build()))
    with pytest.warns(UserWarning, match="measured with device 'a device', and here it is 'another'"):
        table.warn_unless(device="another", attention="sdpa")
    assert table.key != make_table([1, 2, 3], [1, 2, 3]).key


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_both_models_are_timed_in_the_precision_of_the_table(family):
    dense, dtypes = build(family), []
    table = replace(make_table(range(1, 6), range(1, 26), hidden=16), dtype="bfloat16", batch_size=2, seq_len=7)
    pruned = slice_model(describe(dense), random_masks(describe(dense)))
    for model in (dense, pruned):
        model.register_forward_hook(lambda model, _, outputs: dtypes.append(outputs.logits.dtype))
    table = replace(table, device=device_name(dense.device), attention=dense.config._attn_implementation)
    latency = compare_latency(dense, pruned, None, 0, table)
    assert latency["dtype"] == "bfloat16" and set(dtypes) == {torch.bfloat16}
    assert dense.dtype == pruned.dtype == torch.float32 and latency["predicted_dense"] == table.dense_ms(3)
