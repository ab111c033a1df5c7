"""From what people have in memory to rows."""

import datasets
import pandas
import pytest

from fastprune.data.preparation import as_table
from fastprune.errors import InputError

ROWS = [{"text": "a film", "label": 1}, {"text": "dull", "label": 0}]
TABLE = datasets.Dataset.from_list(ROWS)


@pytest.mark.parametrize(
    "data",
    [
        TABLE,
        TABLE.with_format("numpy"),
        TABLE.with_format("torch"),
        TABLE.to_pandas(),
        ROWS,
        tuple(ROWS),
        {"text": ["a film", "dull"], "label": [1, 0]},
    ],
    ids=["Dataset", "numpy", "torch", "DataFrame", "rows", "tuple", "columns"],
)
def test_tables_of_many_kinds(data):
    assert list(as_table(data, "dataset")) == ROWS


def test_a_file(tmp_path):
    TABLE.to_pandas().to_csv(tmp_path / "t.csv", index=False)
    assert as_table(tmp_path / "t.csv", "dataset")["text"][:] == ["a film", "dull"]


@pytest.mark.parametrize(
    "data, message",
    [
        (datasets.DatasetDict(train=TABLE, test=TABLE), "dataset is a DatasetDict of 'train', 'test'; choose one"),
        (TABLE.to_iterable_dataset(), "dataset is a IterableDataset; give a file"),
        ([1, 2], "dataset is a list; give a file"),
        ([], "dataset is a list"),
        (3, "dataset is a int"),
        ([{"a": 1}, {"a": "x"}], "dataset: its rows cannot be put into columns"),
        (pandas.DataFrame({"a": [1, "x"]}), "dataset: its rows cannot be put into columns"),
    ],
)
def test_what_is_no_table_is_refused_by_name(data, message):
    with pytest.raises(InputError, match=message):
        as_table(data, "dataset")
