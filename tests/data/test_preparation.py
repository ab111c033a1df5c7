"""From what people have in memory to rows."""

import warnings

import datasets
import pandas
import pytest
from tiny_data import SINGLE

from fastprune.data import preparation, read_table
from fastprune.data.preparation import as_table, prepare_rows, rows_to_serve, table_task
from fastprune.errors import InputError
from fastprune.importance.selection import selection_of
from fastprune.problem import problem_of

ROWS = [{"text": "a film", "label": 1}, {"text": "dull", "label": 0}]
CLASSES = problem_of("classification")
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


def test_evaluation_rows_that_are_training_rows_are_told(source, tiny_tokenizer, tiny_bert):
    task = table_task(source["source"], ("sentence",), "label")
    given = {"set_apart": False, "tokenizer": tiny_tokenizer, "config": tiny_bert().config, "task": task}
    given |= {"selection": "surgeon", "num_samples": 8, "seed": 0}
    train, other = (read_table(source[name]) for name in ("train_file", "eval_file"))
    with pytest.warns(UserWarning, match="different evaluation rows are also among the rows that"):
        prepare_rows(train, train, None, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_rows(train, other, None, **given)


@pytest.mark.parametrize(
    "given, size",
    [
        ({"num_samples": None}, 8),  # of 40 rows of 6 tokens
        ({"num_samples": None, "effort": "low"}, 4),
        ({"num_samples": 30, "effort": "low"}, 30),
        ({"num_samples": None, "selection": "fisher"}, 20),
    ],
    ids=str,
)
def test_the_size_of_a_sample_that_is_not_given(monkeypatch, tiny_tokenizer, tiny_bert, given, size):
    """By the effort, and with removal costs by tokens; one that is given is taken."""
    monkeypatch.setattr(preparation, "SAMPLES", {"default": 20, "low": 4})
    monkeypatch.setattr(selection_of("surgeon"), "sample_tokens", 48)
    table = datasets.Dataset.from_dict({"text": [f"good bad the {['film', 'movie'][n % 2]}" for n in range(40)]})
    table = table.add_column("label", [0, 1] * 20)
    settings = {"set_apart": False, "tokenizer": tiny_tokenizer, "config": tiny_bert().config, "task": SINGLE}
    settings |= {"selection": "surgeon", "seed": 0, **given}
    other = datasets.Dataset.from_dict({"text": ["dull"] * 4, "label": [0, 1] * 2})
    sample = prepare_rows(table, other, None, **settings).sample
    assert sample.mean_length == 6 and len(sample) == size


def test_rows_to_serve_are_short_and_long():
    table = datasets.Dataset.from_dict({"text": ["a" * size for size in range(1, 101)], "other": ["b"] * 100})
    rows = rows_to_serve(table, CLASSES, ["text", "other"])
    assert [len(row[0]) for row in rows] == [1, 10, 19, 28, 37, 46, 55, 64, 73, 82, 91, 100]
    assert rows_to_serve(table.select([4]), CLASSES, ["text"]) == [["aaaaa"]]
