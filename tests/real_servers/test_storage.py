"""Artifacts in S3, against a real server."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_artifacts import numbers
from tiny_tables import make_table, profile_twice

from fastprune.data import read_table
from fastprune.errors import InputError
from fastprune.latency.lut import LatencyTable
from fastprune.model import checkpoint
from fastprune.store import copies, storage
from fastprune.store.s3 import PART
from tests.servers import BUCKET, READER


@pytest.fixture
def root(s3, monkeypatch, request):
    root = f"s3://{BUCKET}/{request.node.name}"
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", root)
    return root


def objects(s3, root):
    prefix = root.removeprefix(f"s3://{BUCKET}/")
    return [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def test_another_machine_takes_what_is_published(root, tmp_path):
    calls = []
    first = numbers(tmp_path / "a", calls=calls)
    assert numbers(tmp_path / "b", calls=calls) == first and len(calls) == 1
    assert (tmp_path / "b" / "numbers.txt").read_text() == (tmp_path / "a" / "numbers.txt").read_text()


def test_a_corrupted_object_is_found_and_not_used(root, tmp_path, s3):
    numbers(tmp_path / "a")
    [key] = [
        key
        for key in objects(s3, root)
        if "/objects/" in key
        and s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == (tmp_path / "a/numbers.txt").read_bytes()
    ]
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"7" * s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"])
    with pytest.raises(InputError, match=f"{key}: fetched twice, and its sha256 is .* remove it there"):
        numbers(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    s3.delete_object(Bucket=BUCKET, Key=key)
    calls = []
    assert numbers(tmp_path / "b", calls=calls) == numbers(tmp_path / "c", calls=calls) and len(calls) == 1


@pytest.mark.parametrize(
    "change, root, message",
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, f"s3://{BUCKET}/x", "refused the secret"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, f"s3://{BUCKET}/x", "does not know the access key"),
        ({}, "s3://no-such-bucket/x", "there is no bucket no-such-bucket"),
        (READER, f"s3://{BUCKET}/x", "no permission"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, f"s3://{BUCKET}/x", r"no whole answer in .* s and \d attempts"),
    ],
)
def test_refusals_are_explained(s3, monkeypatch, tmp_path, change, root, message):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FASTPRUNE_S3_DEADLINE", "4")
    begin = time.monotonic()
    for use in (lambda store: store.create("key", b"content"), lambda store: store.upload(tmp_path / "f", "big", "0")):
        (tmp_path / "f").write_bytes(b"0" * (PART + 1))
        with pytest.raises(InputError, match=message):
            use(storage.open_store(root))
    assert time.monotonic() - begin < 60


def test_a_root_that_may_only_be_read_is_told_before_the_work(s3, root, monkeypatch, tmp_path):
    numbers(tmp_path / "a")
    published = objects(s3, root)
    for name, value in READER.items():
        monkeypatch.setenv(name, value)
    numbers(tmp_path / "b")  # what is there may be read
    with pytest.raises(InputError, match="objects/check: .* no permission .*FASTPRUNE_ARTIFACT_ROOT"):
        numbers(tmp_path / "c", seed=1)
    assert not (tmp_path / "c").exists()
    assert objects(s3, root) == published  # who may write has left nothing either


def test_a_missing_key_is_named(s3):
    with pytest.raises(InputError, match=f"s3://{BUCKET}/no/model: there is nothing"):
        copies.local(f"s3://{BUCKET}/no/model")
    assert storage.open_store(f"s3://{BUCKET}/no").read("key") is None


def test_of_many_writers_of_one_key_one_wins(s3, root):
    store = storage.open_store(root)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.create("key", b"%d" % number), range(8)))
    assert won.count(True) == 1 and store.read("key") == b"%d" % won.index(True)


def test_large_files_go_up_in_parts_and_once(s3, root, tmp_path):
    store, content = storage.open_store(root), os.urandom(2 * PART + 1)
    (tmp_path / "file").write_bytes(content)
    digest = storage.sha256_of(tmp_path / "file")
    store.upload(tmp_path / "file", "big", digest)
    [key] = objects(s3, root)
    head = s3.head_object(Bucket=BUCKET, Key=key)
    assert head["ETag"].strip('"').endswith("-3")
    store.upload(tmp_path / "file", "big", digest)
    assert s3.head_object(Bucket=BUCKET, Key=key)["LastModified"] == head["LastModified"]
    store.download("big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_an_upload_that_is_killed_leaves_nothing_and_the_next_start_completes(s3, root, tmp_path):
    script = tmp_path / "stage.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, time
        from pathlib import Path
        from tiny_artifacts import numbers
        from fastprune.store import s3
        if sys.argv[2:]:
            put = s3.S3Store.upload
            def slow(self, file, key, sha256):  # so that the kill meets it half way
                if file.name == "numbers.txt":
                    send = self.client.meta.events
                    send.register("before-call.s3.UploadPart", lambda **_: time.sleep(1))
                    print("uploading", flush=True)
                put(self, file, key, sha256)
            s3.S3Store.upload = slow
        numbers(Path(sys.argv[1]), count={12 * 2**20})
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."])}
    killed = subprocess.Popen(
        [sys.executable, script, tmp_path / "a", "slow"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout.readline() == "uploading\n"
    end = time.monotonic() + 30
    while not s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads") and time.monotonic() < end:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"], "the upload was under way"
    assert not [key for key in objects(s3, root) if "/artifacts/" in key]
    subprocess.run([sys.executable, script, tmp_path / "a"], env=environment, check=True)
    assert [key for key in objects(s3, root) if "/artifacts/" in key]
    calls = []
    numbers(tmp_path / "b", count=12 * 2**20, calls=calls)
    assert not calls


def test_models_and_tables_are_read_from_s3(s3, tmp_path, tiny_bert, tiny_tokenizer):
    tiny_bert().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "model").iterdir():
        s3.upload_file(str(file), BUCKET, f"models/tiny/{file.name}")
        s3.upload_file(str(file), BUCKET, f"models/tiny-other/{file.name}")
    s3.put_object(Bucket=BUCKET, Key="data/rows.csv", Body=b"sentence,label\ngood film,1\n")
    model = checkpoint.load_dense(f"s3://{BUCKET}/models/tiny/")
    assert checkpoint.digest(model) == checkpoint.digest(checkpoint.load_dense(tmp_path / "model"))
    assert len(checkpoint.load_tokenizer(f"s3://{BUCKET}/models/tiny")) == len(tiny_tokenizer)
    assert read_table(f"s3://{BUCKET}/data/rows.csv")["sentence"] == ["good film"]
    s3.put_object(Bucket=BUCKET, Key="luts/lut.json", Body=make_table([1, 2], [1, 2, 3]).content)
    assert LatencyTable.load(f"s3://{BUCKET}/luts/lut.json") == make_table([1, 2], [1, 2, 3])
    s3.put_object(Bucket=BUCKET, Key="data/rows.csv", Body=b"sentence,label\nbad film,0\n")
    assert read_table(f"s3://{BUCKET}/data/rows.csv")["sentence"] == ["bad film"]


def test_a_team_profiles_once(root, monkeypatch):
    profile_twice(f"{root}/luts", monkeypatch)
