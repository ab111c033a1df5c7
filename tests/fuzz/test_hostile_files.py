"""Every file that fastprune reads, broken in many ways: an InputError or a result, in bounded time and memory.

The ways are drawn by a seed. The long form (``make test-faults``) draws twenty times as many.
"""

import bz2
import gzip
import json
import os
import random
import shutil
from contextlib import suppress

import pytest
import torch
import yaml
from bounded_work import LONG, bounded
from datasets import Dataset
from tiny_config import write_config
from tiny_data import squad_file
from tiny_releases import NAME

from fastprune.data import Split, read_table
from fastprune.errors import InputError
from fastprune.importance.curvature import Curvature
from fastprune.importance.fisher import Fisher
from fastprune.latency.lut import LatencyTable
from fastprune.model import checkpoint
from fastprune.model.masks import Masks
from fastprune.releases import ledger, registration
from fastprune.releases.evidence import Evidence
from fastprune.releases.policy import read_policy
from fastprune.stages import folders as folders_of
from fastprune.stages.failures import Failure, failure_in, mark
from fastprune.store import artifacts
from fastprune.store.bounded import read_bytes
from fastprune.sweep.reading import read_config
from fastprune.tracking.spool import Spool

ROUNDS = 20 if LONG else 1
SECRET = "planted-7f3a9c"


def events(folder):
    return ledger.events(ledger.open_ledger(f"sqlite:///{folder}/mlflow.db"), NAME)


def operations(folder):
    kept = Spool.open(str(folder / "spool"))
    return [kept.read(key) for family in kept.families() for key in kept.keys(family)]


def read_evidence(folder):
    if not (folder / "evidence.json").is_file():  # MLflow downloads nothing else
        raise InputError("no file")
    return Evidence.parse(read_bytes(folder / "evidence.json"), "evidence", "register again")


pytestmark = pytest.mark.faults

READERS = {
    "sweep.yaml": lambda folder: read_config(folder / "sweep.yaml"),
    "policy.yaml": lambda folder: read_policy(folder / "policy.yaml"),
    "rows.csv": lambda folder: read_table(folder / "rows.csv"),
    "rows.tsv": lambda folder: read_table(folder / "rows.tsv"),
    "rows.jsonl": lambda folder: read_table(folder / "rows.jsonl"),
    "rows.parquet": lambda folder: read_table(folder / "rows.parquet"),
    "rows.csv.gz": lambda folder: read_table(folder / "rows.csv.gz"),
    "rows.jsonl.bz2": lambda folder: read_table(folder / "rows.jsonl.bz2"),
    "rows.conll": lambda folder: read_table(folder / "rows.conll"),
    "squad.json": lambda folder: read_table(folder / "squad.json"),
    "lut.json": lambda folder: LatencyTable.load(folder / "lut.json"),
    "model/config.json": lambda folder: checkpoint.load_dense(folder / "model"),
    "model/model.safetensors": lambda folder: checkpoint.load_dense(folder / "model"),
    "model/tokenizer.json": lambda folder: checkpoint.load_tokenizer(folder / "model"),
    "model/tokenizer_config.json": lambda folder: checkpoint.load_tokenizer(folder / "model"),
    "pruned/config.json": lambda folder: checkpoint.load(folder / "pruned"),
    "pruned/model.safetensors": lambda folder: checkpoint.load(folder / "pruned"),
    "pruned/manifest.json": lambda folder: registration.read_manifest(folder / "pruned"),
    "pruned/artifact.json": lambda folder: artifacts.read(folder / "pruned", artifacts.KINDS["pruned"]),
    "evaluation/split.json": lambda folder: Split.load(folder / "evaluation"),
    "evaluation/features.parquet": lambda folder: Split.load(folder / "evaluation"),
    f"releases/{NAME}/00000001.json": events,
    "searched/masks.safetensors": lambda folder: Masks.load(folder / "searched" / "masks.safetensors"),
    "importance/importance.safetensors": lambda folder: folders_of.load_importance(folder / "importance"),
    "importance/fisher.safetensors": lambda folder: Fisher.load(folder / "importance" / "fisher.safetensors"),
    "importance/curvature.safetensors": lambda folder: Curvature.load(folder / "importance" / "curvature.safetensors"),
    "evidence.json": read_evidence,
    "failed/failed.json": lambda folder: failure_in(folder / "failed"),
    "spool/operations/a/000-b.json": operations,
}


@pytest.fixture(scope="session")
def whole(folders, source, tmp_path_factory):
    """A folder with every file as it should be."""
    place = tmp_path_factory.mktemp("whole")
    write_config(place / "sweep.yaml", source, tracking={"uri": "https://mlflow.example"})
    (place / "policy.yaml").write_text("max_accuracy_drop: 0.02\nrequired_tags:\n  owner: '.+'\n")
    rows = Dataset.from_dict({"text": ["good film", 'dull, "bad" film'] * 20, "label": [0, 1] * 20})
    rows.to_csv(place / "rows.csv", index=False)
    rows.to_csv(place / "rows.tsv", sep="\t", index=False)
    rows.to_json(place / "rows.jsonl")
    rows.to_parquet(place / "rows.parquet")
    (place / "rows.conll").write_text("The O\nking B-WHO\n\nfilm O\n" * 20)
    squad_file(place / "squad.json", [("The king was good.", [("a", "who", [("king", 4)])])])
    table = LatencyTable([0.1, 1.0, 2.0], [0.1, 0.5, 1.0, 1.5], 0.5, 16, 8, 128, "float32", "sdpa", "a device")
    table.save(place / "lut.json")
    for name, packed in (("rows.csv", gzip), ("rows.jsonl", bz2)):
        suffix = ".gz" if packed is gzip else ".bz2"
        (place / f"{name}{suffix}").write_bytes(packed.compress((place / name).read_bytes()))
    for name in ("model", "pruned", "evaluation", "searched", "importance"):
        shutil.copytree(folders[name], place / name)
    Fisher(torch.ones(3, 2, 4), torch.ones(3, 2, 6)).save(place / "importance" / "fisher.safetensors")
    counts = dict.fromkeys(("attention_inputs", "attention_gradients", "ffn_inputs", "ffn_gradients"), [5, 5])
    Curvature(*([torch.eye(4), torch.eye(4)] for _ in range(4)), counts).save(
        place / "importance" / "curvature.safetensors"
    )
    known = Evidence(
        metric="accuracy",
        dense=0.9,
        pruned=0.89,
        speedup=2.0,
        megabytes=10.0,
        lineage={"seed": 0},
        artifact_sha256="a",
        weights_sha256="w",
        serving_sha256="s",
        probe={"texts": [["a text"]], "logits": [[0.1, 0.9]]},
    )
    (place / "evidence.json").write_bytes(known.content)
    event = ledger.Event(
        model=NAME,
        number=1,
        after="",
        action="promote",
        from_version=None,
        to_version="1",
        by="ann",
        at="2026-01-01T00:00:00Z",
        why="first",
        verdict_sha256=None,
    )
    (place / "releases" / NAME).mkdir(parents=True)
    (place / "releases" / NAME / "00000001.json").write_bytes(event.content)
    mark(place / "failed", Failure("search", "the budget cannot be met"))
    (place / "spool" / "operations" / "a").mkdir(parents=True)
    (place / "spool" / "operations" / "a" / "000-b.json").write_text('{"does": "log"}')
    return place


VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    float("nan"),
    "",
    " ",
    "x" * 100_000,
    "../../x",
    "/etc/passwd",
    "\x1b[31mred",
    "a\nb",
    "\ud800",
    [],
    {},
    [[[[]]]],
    {"a": {"b": 1}},
    f"https://user:{SECRET}@example/x?password={SECRET}",
    "!!python/object/apply:os.system ['true']",
)


def deep(text):
    return text * 100_000


BYTES_OF = {
    "empty": lambda old, draw: b"",
    "half": lambda old, draw: old[: len(old) // 2],
    "one byte less": lambda old, draw: old[:-1],
    "a bit": lambda old, draw: flip(old, draw, 1),
    "bits": lambda old, draw: flip(old, draw, 40),
    "bytes": lambda old, draw: draw.randbytes(1000),
    "bytes behind": lambda old, draw: old + draw.randbytes(100),
    "no characters": lambda old, draw: b"\0" * 1000,
    "not UTF-8": lambda old, draw: b"\xff\xfe" + old,
    "another order": lambda old, draw: old[len(old) // 2 :] + old[: len(old) // 2],
    "lists": lambda old, draw: deep(b"["),
    "objects": lambda old, draw: deep(b'{"a":'),
    "YAML's lists": lambda old, draw: deep(b"- "),
    "digits": lambda old, draw: b'{"a": ' + deep(b"9") + b"}",
    "null": lambda old, draw: b"null",
    "a list": lambda old, draw: b"[]",
    "a text": lambda old, draw: b'"text"',
    "a number": lambda old, draw: b"NaN",
    "aliases": lambda old, draw: b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a tag": lambda old, draw: b"!!python/object/apply:os.system ['true']\n",
    "twice": lambda old, draw: old + b"\n" + old,
    "a line without an end": lambda old, draw: b"x" * (20 << 20),
    "quotes": lambda old, draw: b'"' * 10_001,
    "separators": lambda old, draw: b"," * 100_000 + b"\n" + b"\t" * 100_000,
}


def flip(content, draw, count):
    changed = bytearray(content)
    for _ in range(count):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def places(document, way=()):
    """Every place in a document, as keys and indices from its top."""
    yield way
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from places(value, (*way, key))


def put(document, way, value):
    if not way:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[way[0]] = put(copy[way[0]], way[1:], value)
    return copy


def another_value(content, draw, name):
    """The document with another value somewhere."""
    read, write = (yaml.safe_load, yaml.safe_dump) if name.endswith(".yaml") else (json.loads, json.dumps)
    document = read(content)
    way = draw.choice(list(places(document))[:200])
    try:
        return write(put(document, way, draw.choice(VALUES))).encode()
    except UnicodeEncodeError:
        return b"\xed\xa0\x80"


def other_files(path, draw):
    """In the place of the file: what is no regular file, in turn."""
    path.unlink()
    yield "nothing there"
    path.mkdir()
    yield "a folder"
    path.rmdir()
    os.mkfifo(path)
    yield "a pipe"
    path.unlink()
    path.symlink_to("/dev/zero")
    yield "a link to /dev/zero"
    path.unlink()
    path.symlink_to(path)
    yield "a link to itself"
    path.unlink()
    with path.open("wb") as file:
        file.truncate(40 << 30)
    yield "40 GiB"


def ways(path, name, draw):
    """Break a file in one way after the other; give the name of each."""
    content = path.read_bytes()
    for kind, change in BYTES_OF.items():
        for _ in range(ROUNDS if kind in ("a bit", "bits", "bytes") else 1):
            path.write_bytes(change(content, draw))
            yield kind
    if name.endswith((".json", ".yaml")):
        for _ in range(12 * ROUNDS):
            path.write_bytes(another_value(content, draw, name))
            yield "another value"
    yield from other_files(path, draw)


def listed(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_broken_file_is_refused_or_read(whole, tmp_path, name, capfd):
    place = tmp_path / "place"
    shutil.copytree(whole, place)
    assert READERS[name](place) is not None  # as it should be
    draw = random.Random(f"0 {name}")
    faults = []
    for kind in ways(place / name, name, draw):
        before = listed(tmp_path)
        said = ""
        try:
            with bounded():
                READERS[name](place)
        except InputError as error:
            said = str(error)
        except BaseException as error:
            faults.append(f"{kind}: {type(error).__name__}: {str(error)[:200]}")
        if SECRET in said + "".join(capfd.readouterr()):
            faults.append(f"{kind}: tells a secret")
        if len(said) > 4000:
            faults.append(f"{kind}: says {len(said)} characters")
        if listed(tmp_path) != before:
            faults.append(f"{kind}: leaves {set(listed(tmp_path)) ^ set(before)}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "folder, load",
    [("model", checkpoint.load_dense), ("model", checkpoint.load_tokenizer), ("pruned", checkpoint.load)],
)
def test_code_beside_a_model_is_not_run(whole, tmp_path, folder, load):
    place, trace = tmp_path / folder, tmp_path / "ran"
    shutil.copytree(whole / folder, place)
    for file in ("modeling_fastprune.py", "modeling_own.py", "tokenization_own.py", "families.py"):
        (place / file).write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModelForSequenceClassification"), "modeling_own.Own")
    classes["AutoTokenizer"] = ["tokenization_own.Own", "tokenization_own.Own"]
    for file in ("config.json", "tokenizer_config.json"):
        known = json.loads((place / file).read_text())
        (place / file).write_text(json.dumps(known | {"auto_map": classes}))
    with suppress(InputError):
        load(place)
    assert not trace.exists()


def test_at_least_five_hundred_are_tried():
    count = sum(len(BYTES_OF) + 6 + 12 * name.endswith((".json", ".yaml")) for name in READERS)
    assert count >= 500
