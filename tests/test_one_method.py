"""The one call and the stages of a pipeline are the same method: same masks, metrics, seconds, refusals."""

import inspect
import json

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_config import write_config
from tiny_stages import run_stages
from tiny_tables import make_table

import fastprune
from fastprune.cli.main import main
from fastprune.data.preparation import table_task
from fastprune.errors import InputError
from fastprune.importance.selection import Importance, Selection, selection_of
from fastprune.model.checkpoint import load_dense
from fastprune.settings import SELECTIONS, TUNINGS, Budget, Method, settings_of
from fastprune.stages import budget as budget_stage
from fastprune.sweep.reading import read_config

BUDGETS = [
    {"keep_ratio": 0.5},
    {"keep_ratio": 0.6, "constraint": "latency"},
    {"latency_ms": 12.0},
    {"max_accuracy_drop": 0.3},
]
METHODS = [
    {},
    {"selection": "fisher", "tuning": "mask"},
    {"selection": "fisher", "estimator": "per_batch", "tuning": "none"},
    {"tuning": "none", "solver": "piecewise", "effort": "low"},
    {"layout": "portable"},
]
TIMED_ONLY = {"seconds", "latency_ms"}
"""Metrics that are clocks: two runs never agree on them."""


def one_call(source, **given):
    return fastprune.compress(
        source["source"],
        dataset=source["train_file"],
        evaluation=source["eval_file"],
        task=table_task(source["source"], ("sentence",), "label"),
        num_samples=source["num_samples"],
        device="cpu",
        progress=False,
        **given,
    )


@pytest.fixture(scope="module")
def lut(tmp_path_factory):
    path = tmp_path_factory.mktemp("lut") / "lut.json"
    make_table(range(1, 6), [1 + n / 64 for n in range(65)], overhead=0.5, hidden=32).save(path)
    return path


@pytest.mark.filterwarnings("ignore:the look-up table was measured with")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(method.values()) or "default")
@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: Budget(**budget).label)
def test_the_call_and_the_stages_are_one_method(tmp_path, source, lut, budget, method):
    latency = Budget(**budget).constraint == "latency"
    table = {"lut": str(lut)} if latency else {}
    called = one_call(source, **budget, **method, **table)
    asked = {"constraint": "latency"} if latency else {}
    sought = {"set_apart": True} if "max_accuracy_drop" in budget else {}
    made = run_stages(tmp_path, **source, **budget | asked, **method, **table, **sought, device="cpu")
    metrics = json.loads((made["report"] / "metrics.json").read_text())

    masks = load_file(made["tuned"] / "masks.safetensors")
    assert torch.equal(called.masks.heads, masks["heads"]) and torch.equal(called.masks.filters, masks["filters"])
    assert (
        list(called.metrics["seconds"]) == list(metrics["seconds"])
        if not latency
        else (called.metrics["seconds"].keys() == metrics["seconds"].keys())
    )
    shared = called.metrics.keys() - TIMED_ONLY
    assert json.loads(json.dumps({name: called.metrics[name] for name in shared})) == {
        name: metrics[name] for name in shared
    }
    assert metrics.keys() - called.metrics.keys() <= {"params", "megabytes", "stages"}
    saved = load_file(made["pruned"] / "model.safetensors")
    state = called.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())


REFUSED = [
    {},
    {"keep_ratio": 0.9, "max_accuracy_drop": 0.5},
    {"keep_ratio": 0.5, "latency_ms": 3.0},
    {"keep_ratio": 1.0},
    {"keep_ratio": -0.5},
    {"max_accuracy_drop": 1.5},
    {"latency_ms": -3.0},
    {"latency_ms": 3.0, "constraint": "macs"},
]


@pytest.mark.parametrize("budget", REFUSED, ids=str)
def test_a_budget_is_refused_everywhere_with_the_same_words(tmp_path, source, budget):
    with pytest.raises(InputError) as refused:
        Budget(**budget)
    words = str(refused.value)
    with pytest.raises(InputError) as called:
        one_call(source, **budget)
    assert str(called.value) == words
    options = [f"--{name.replace('_', '-')}={value}" for name, value in budget.items()]
    files = ["--train-file", source["train_file"], "--eval-file", source["eval_file"]]
    columns = ["--text-column", "sentence", "--label-column", "label", "--output-dir", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["compress", source["source"], *files, *columns, *options])
    assert done.exit_code == 2 and words in done.output and not (tmp_path / "out").exists()
    with pytest.raises(InputError) as read:
        read_config(write_config(tmp_path / "c.yaml", source, budgets=[budget]))
    assert words in str(read.value) and "line" in str(read.value)


@pytest.mark.parametrize("method", [{"tuning": "mask"}, {"solver": "piecewise"}], ids=str)
def test_what_layout_portable_is_not_for_is_refused_everywhere_with_the_same_words(tmp_path, source, lut, method):
    budget = {"keep_ratio": 0.6, "constraint": "latency"} if "solver" in method else {"keep_ratio": 0.5}
    table = {"lut": str(lut)} if "solver" in method else {}
    with pytest.raises(InputError, match="layout portable .* layout free") as refused:
        Method(layout="portable", **method)
    words = str(refused.value)
    with pytest.raises(InputError) as called:
        one_call(source, **budget, **table, layout="portable", **method)
    assert str(called.value) == words
    given = budget | table | method | {"layout": "portable", "output_dir": tmp_path / "out"}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    files = ["--train-file", source["train_file"], "--eval-file", source["eval_file"]]
    done = CliRunner().invoke(
        main, ["compress", source["source"], *files, "--text-column", "sentence", "--label-column", "label", *options]
    )
    assert done.exit_code == 2 and words in done.output and not (tmp_path / "out").exists()
    settings = {"latency": table | method} if "solver" in method else method
    with pytest.raises(InputError) as read:
        read_config(write_config(tmp_path / "c.yaml", source, budgets=[budget], layout="portable", **settings))
    assert words in str(read.value)
    folders = dict.fromkeys(("model", "sample", "importance", "table", "chosen"), tmp_path)
    with pytest.raises(InputError) as staged:
        inspect.unwrap(budget_stage.budget)(**folders, **budget, **method, layout="portable")
    assert str(staged.value) == words


def test_an_accuracy_drop_under_latency_needs_no_keep_ratio(source, lut):
    with pytest.warns(UserWarning, match="look-up table was measured"):
        result = one_call(source, constraint="latency", lut=lut, max_accuracy_drop=0.5, tuning="none")
    assert 0 < result.metrics["keep_ratio"] < 1 and result.metrics["latency_kept"] <= result.metrics["keep_ratio"]


def test_settings_by_name_or_whole():
    budget, method = settings_of(None, None, {"keep_ratio": 0.5, "fisher": "per_batch", "selection": "fisher"})
    assert (budget, method) == (Budget(keep_ratio=0.5), Method("fisher", "per_batch"))
    assert settings_of(budget, method, {}) == (budget, method)
    with pytest.raises(InputError, match="keep_ratio is given beside budget"):
        settings_of(budget, None, {"keep_ratio": 0.5})
    with pytest.raises(InputError, match="ratio is not a setting"):
        settings_of(None, None, {"ratio": 0.5})
    for name in ("selection", "estimator", "tuning", "solver", "effort", "layout"):
        with pytest.raises(InputError, match=f"{name} 'luck' is not known; use one of"):
            settings_of(None, None, {"keep_ratio": 0.5, name: "luck"})


def test_a_model_in_memory_is_left_as_it_was(source):
    model = load_dense(source["source"]).train()
    model.bert.encoder.layer[0].eval()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    tokenizer = fastprune.model.checkpoint.load_tokenizer(source["source"])
    with torch.no_grad():
        result = fastprune.compress(
            model,
            tokenizer,
            source["train_file"],
            evaluation=source["eval_file"],
            task=table_task(source["source"], ("sentence",), "label"),
            keep_ratio=0.5,
            num_samples=16,
            progress=False,
        )
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(parameter.grad is None for parameter in model.parameters()) and not result.model.training


def test_every_way_is_found_by_its_file():
    assert {"fisher", "surgeon"} <= {*SELECTIONS} and {"mask", "none", "weights"} <= {*TUNINGS}
    assert all(isinstance(selection_of(name), Selection) for name in SELECTIONS)


def test_importance_is_saved_and_loaded(tmp_path):
    importance = Importance(torch.rand(2, 4, dtype=torch.float64), torch.rand(2, 8, dtype=torch.float64))
    importance.save(tmp_path / "i.safetensors")
    again = Importance.load(tmp_path / "i.safetensors")
    assert torch.equal(again.heads, importance.heads) and torch.equal(again.filters, importance.filters)


def test_a_key_of_an_older_version_is_refused_with_its_new_name(tmp_path, source):
    for old, new in (("fisher_shards", "importance_shards"), ("fisher", "estimator")):
        path = write_config(tmp_path / "c.yaml", source)
        path.write_text(path.read_text() + yaml.safe_dump({old: 1}))
        with pytest.raises(InputError, match=f"line [0-9]+: {old}: is called {new} since version 0.2.0"):
            read_config(path)
