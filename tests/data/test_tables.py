import bz2
import gzip
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tiny_data import PAIR, QA, texts

from fastprune.data import Task, encode, glue_task, load_glue, read_table
from fastprune.data import parquet as parquet_files
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
        ("t.jsonl", b'{"a": 1, "a": 2}\n', "line 1 has the key 'a' twice"),
        ("t.jsonl", b'{"a": ' + b"[" * 100_000, "line 1 is nested more than 50 deep"),
        ("t.jsonl", b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "line 1 is nested more than 50 deep"),
        ("t.json", b"[" * 100_000, "the file is nested more than 50 deep"),
        ("t.json", b'[{"text": "x"}]', "not in SQuAD's format"),
        ("t.json", b'{"data": [{"title": "x"}]}', "not in SQuAD's format"),
        ("t.json", b'{"data": ', "the file is not JSON"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def parquet(**options):
    """A function that writes a column of one text, many times, into a small file."""

    def write(path, text, times):
        pq.write_table(pa.table({"text": pa.array([text] * times)}), path, **options)

    return write


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv.gz", gzip.compress(b"text\n" + b"x" * (32 << 20)), "line 2 belongs to a row of more than 16,777,216"),
        ("t.tsv.bz2", bz2.compress(b"text\n" + b"x" * (32 << 20)), "line 2 belongs to a row of more than 16,777,216"),
        ("t.jsonl.gz", gzip.compress(b'{"text": "' + b"x" * (32 << 20)), "line 1 belongs to a row of more than"),
        ("t.json.gz", gzip.compress(b" " * (129 << 20), 1), "has more than 134,217,728 bytes"),
        ("t.csv", b'text\n"' + b"a,b\n" * (5 << 20), "belongs to a row of more than 16,777,216 bytes"),
        ("t.tsv", b"text\n" + b"x" * ((1 << 20) + 1), "row 1 of column 'text' has 1,048,577 bytes"),
        ("t.tsv", b"\t".join(b"%d" % n for n in range(100_000)), "has 100,000 columns, and at most 1,000 are read"),
        ("t.jsonl", json.dumps({str(n): n for n in range(1001)}).encode(), "has 1,001 columns"),
        ("t.jsonl", json.dumps({"a": [{str(n): n} for n in range(1001)]}).encode(), "objects with 1,001 diff"),
        ("t.json", b"[],[],[],[]," * 1_300_000, "has more than 3,000,000 lists and objects"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_beyond_the_bounds_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_table(tmp_path / name)
    assert str(refused.value).startswith(str(tmp_path / name)) and message in str(refused.value)


@pytest.mark.parametrize(
    "bound, most, message",
    [("LINES", 3, "more than 3 lines"), ("ROWS", 2, "more than 2 rows"), ("CELLS", 5, "more than 5 cells")],
)
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_rows_and_cells_are_counted(tmp_path, monkeypatch, bound, most, message, name):
    (tmp_path / name).write_bytes(b"text,label\ta\nx,y\tz\n\nx,y\tz\nx,y\tz\n")
    assert len(read_table(tmp_path / name)) == 3
    monkeypatch.setattr(f"fastprune.data.bounds.{bound}", most)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    "write, message",
    [
        (parquet(), "more than 536,870,912 bytes of text"),
        (parquet(use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}), "DELTA_BYTE_ARRAY, which is not"),
        (parquet(use_dictionary=False), "has more than 536,870,912 bytes, and"),
    ],
    ids=["dictionary", "prefixes", "compressed"],
)
def test_parquet_that_stands_for_gigabytes(tmp_path, write, message):
    write(tmp_path / "t.parquet", "x" * (1 << 20), 513)
    assert (tmp_path / "t.parquet").stat().st_size < 30 << 20
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.parquet")


def test_parquet_of_few_bytes_and_many_values(tmp_path):
    path = tmp_path / "t.parquet"
    for values, message in (
        (pa.array([[0] * 26_000_000]), "more than 25,000,000 values"),
        (pa.nulls(600_000, pa.list_(pa.int8(), 1_000)), "in columns of a fixed size"),
        (pa.nulls(5_000_001), "more than 5,000,000 rows"),
        (pa.array(["x" * ((1 << 20) + 1)]), "row 1 of column 'text' has 1,048,577 bytes"),
    ):
        pq.write_table(pa.table({"text": values}), path)
        with pytest.raises(InputError, match=message):
            read_table(path)


def test_parquet_is_read_as_it_was_written(tmp_path):
    kinds = Features(text=Value("string"), label=ClassLabel(names=["no", "yes"]), answers=[Value("string")])
    rows = {"text": ["a", None, "a"], "label": [0, 1, 1], "answers": [["b"], [], ["b", "b"]]}
    table = Dataset.from_dict(rows, features=kinds)
    table.to_parquet(tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read[:] == rows and read.features == kinds


@pytest.mark.parametrize("name", ["pipe.csv", "link.csv"])
def test_what_is_no_regular_file(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "link.csv").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"{name}: is a (pipe|device)"):
        read_table(tmp_path / name)


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


def test_parquet_that_ends_the_process_of_who_looks_at_it(tmp_path, monkeypatch):
    """pyarrow aborts where a histogram of levels has another length than its column's: a bit of the footer."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "t.parquet")
    assert len(read_table(tmp_path / "t.parquet")) == 1
    monkeypatch.setattr("fastprune.data.parquet.pq.ParquetFile", lambda path: os.abort())
    with pytest.raises(InputError, match=r"t\.parquet: what it says of its columns contradicts itself"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("hanging", [1, 3])
def test_a_fork_that_waits_for_a_thread_is_begun_again(tmp_path, monkeypatch, hanging):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "t.parquet")
    look, fork, begun = parquet_files._look, os.fork, []

    def hang(path):
        if len(begun) < hanging:  # in the fork: those before it
            time.sleep(60)
        look(path)

    def counted():
        if process := fork():
            begun.append(process)
            if len(begun) > hanging:  # a busy machine takes longer
                monkeypatch.setattr(parquet_files, "LOOK_SECONDS", 20)
        return process

    monkeypatch.setattr(parquet_files, "_look", hang)
    monkeypatch.setattr(parquet_files, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(os, "fork", counted)
    if hanging < parquet_files.LOOKS:
        assert len(read_table(tmp_path / "t.parquet")) == 1 and len(begun) == hanging + 1
    else:
        with pytest.raises(InputError, match=r"t\.parquet: its columns cannot be looked at within 0\.2 s"):
            read_table(tmp_path / "t.parquet")
    for process in begun:
        with pytest.raises(ChildProcessError):  # none of them is left
            os.waitpid(process, os.WNOHANG)
