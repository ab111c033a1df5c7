import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import PAIR, QA, texts

from fastprune.data import Task, encode, glue_task, load_glue, read_table
from fastprune.errors import InputError

# Reading


def test_tsv_as_glue_ships_it(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes(
        '\ufeffQuality\t#1 String\t#2 String\n1\tsaid "yes\tNA\r\n0\tnull\t\n1\tx\u2028y\tnan\n\n'.encode()
    )
    table = read_table(path)
    assert table.column_names == ["Quality", "#1 String", "#2 String"]
    assert table["Quality"][:] == ["1", "0", "1"]
    assert table["#1 String"][:] == ['said "yes', "null", "x\u2028y"]
    assert table["#2 String"][:] == ["NA", "", "nan"]


def test_csv_with_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('text,label\n"a ""good"", long\nfilm",1\nNA,0\n', encoding="utf-8")
    table = read_table(path)
    assert table["text"][:] == ['a "good", long\nfilm', "NA"]
    assert table["label"][:] == ["1", "0"]


@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed(tmp_path, suffix, compress):
    path = tmp_path / f"train.tsv{suffix}"
    path.write_bytes(compress(b"text\tlabel\ngood\t1\n"))
    assert read_table(path)[:] == {"text": ["good"], "label": ["1"]}


def test_jsonl_keeps_null_apart_from_words(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "null", "label": 1}\n\n{"text": null, "label": 0}\n{"label": 1}\n')
    assert read_table(path)[:] == {"text": ["null", None, None], "label": [1, 0, 1]}


def test_every_format_gives_the_same_split(tmp_path, tiny_tokenizer, config):
    rows = list(zip(texts(20, seed=1), texts(20, seed=2), [0, 1] * 10, strict=True))
    header = ["first", "second", "label"]
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        lines = [mark.join(map(str, row)) for row in (header, *rows)]
        (tmp_path / f"t{suffix}").write_text("\n".join(lines))
    records = [dict(zip(header, row, strict=True)) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet")
    digests = {
        encode(read_table(tmp_path / f"t{suffix}"), tiny_tokenizer, PAIR, config()).digest
        for suffix in (".csv", ".tsv", ".jsonl", ".parquet")
    }
    assert len(digests) == 1


def parquet_bytes():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["good"] * 100}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.xlsx", b"x", "unknown file type '.xlsx'; use one of .csv, .tsv, .jsonl, .parquet, .json"),
        ("t.csv", b"", "is empty"),
        ("t.tsv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("t.tsv", b"text\tlabel\ngood\t1\nbad\n", "line 3 has 1 fields where the header has 2"),
        ("t.tsv", b"text\ttext\n", "two columns have the same name"),
        ("t.tsv", "text\ncaf\u00e9\n".encode("latin-1"), "its text UTF-8"),
        ("t.csv", b'text,label\n"good,1\n', "cannot be read as .csv"),
        ("t.csv.gz", gzip.compress(b"text\n" + bytes(range(65, 90)) * 9, mtime=0)[:-12], "cannot be read as .csv"),
        ("t.jsonl", b'{"text": 1}\n{"text": \n', "line 2 is not JSON"),
        ("t.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("t.jsonl", b'{"label": 1}\n{"label": "x"}\n', "column 'label' mixes kinds"),
        ("t.parquet", parquet_bytes()[:-20], "cannot be read as .parquet"),
        ("t.parquet", b"PAR1 nothing PAR1", "cannot be read as .parquet"),
        ("t.json", b'[{"text": "x"}]', "not in SQuAD's format"),
        ("t.json", b'{"data": [{"title": "x"}]}', "not in SQuAD's format"),
        ("t.json", b'{"data": ', "cannot be read as .json"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path)


# Tasks


def test_glue_tasks():
    assert glue_task("mnli").text_columns == ("premise", "hypothesis")
    assert glue_task("stsb").problem == "regression"
    assert (QA.max_length, QA.metric) == (384, "squad_f1")
    with pytest.raises(InputError, match="unknown task 'sst3'; use one of cola, sst2"):
        glue_task("sst3")


def test_glue_comes_from_the_hub(monkeypatch):
    asked = []

    def fetch(*source):
        asked.append(source)
        return {"train": 1, "validation": 2, "validation_matched": 3}

    monkeypatch.setattr("fastprune.data.tasks.load_dataset", fetch)
    assert load_glue("mnli") == (1, 3)
    assert load_glue("squad") == (1, 2)
    assert asked == [("nyu-mll/glue", "mnli"), ("rajpurkar/squad",)]

    def fail(*source):
        raise ConnectionError("no network")

    monkeypatch.setattr("fastprune.data.tasks.load_dataset", fail)
    with pytest.raises(InputError, match="'sst2'.*no network.*give local files"):
        load_glue("sst2")


@pytest.mark.parametrize(
    "options, message",
    [
        (("t", "classification", "pearson", ("a",), "l"), "metric 'pearson' is not one of accuracy"),
        (("t", "ranking", "accuracy", ("a",), "l"), "unknown problem 'ranking'"),
        (("t", "classification", "accuracy", ("a", "b", "c"), "l"), "3 are named"),
        (("t", "question-answering", "squad_f1", ("a",), "l"), "reads 2 text columns"),
    ],
)
def test_impossible_tasks(options, message):
    with pytest.raises(InputError, match=message):
        Task(*options)
